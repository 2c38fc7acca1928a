//! The module graph: no module uses a sibling that uses it, directly or through others.
//!
//! A path from one module into another is an edge between the two children of their closest common
//! parent: `mode::ipvs::plan` using `desired::Config` lets `mode` use `desired`. Paths between a
//! module and its own parents are no edges, since every module is in its parents. So a path through
//! a parent's re-export does not count. Test code does not count either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

/// Names from the root of the crate, which is empty.
type Module = Vec<String>;

/// Checks the crates below `crates/`, and xtask itself.
///
/// # Errors
///
/// If a source cannot be read or parsed, or if modules use each other.
pub(super) fn check(workspace: &Path) -> Result<()> {
    let mut roots = vec![workspace.join("xtask/src")];
    for entry in fs::read_dir(workspace.join("crates")).context("cannot list the crates")? {
        roots.push(entry?.path().join("src"));
    }
    roots.sort();
    let mut found = Vec::new();
    for root in roots {
        let start = ["lib.rs", "main.rs"].map(|name| root.join(name));
        let start = start.into_iter().find(|file| file.is_file());
        let start = start.with_context(|| format!("{}: no crate", root.display()))?;
        let mut modules = BTreeMap::new();
        read(Module::new(), &start, &root, &mut modules)?;
        let cycles = cycles(&modules);
        found.extend(
            cycles
                .iter()
                .map(|edge| format!("{}: {edge}", root.display())),
        );
    }
    if !found.is_empty() {
        bail!("modules use each other:\n{}", found.join("\n"));
    }
    Ok(())
}

/// Reads a module and those below it.
fn read(
    module: Module,
    file: &Path,
    directory: &Path,
    modules: &mut BTreeMap<Module, syn::File>,
) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
    for item in &parsed.items {
        let Item::Mod(child) = item else { continue };
        if child.content.is_some() || is_test(&child.attrs) {
            continue;
        }
        let name = child.ident.to_string();
        let below = directory.join(&name);
        let files: [PathBuf; 2] = [below.with_extension("rs"), below.join("mod.rs")];
        // A file that a `path` attribute names belongs to another place.
        if let Some(file) = files.iter().find(|file| file.is_file()) {
            let child = [module.clone(), vec![name]].concat();
            read(child, file, &below, modules)?;
        }
    }
    modules.insert(module, parsed);
    Ok(())
}

/// Whether it is compiled for tests alone.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// The edges between modules that use each other, as text.
fn cycles(modules: &BTreeMap<Module, syn::File>) -> Vec<String> {
    // For each parent: from which child to which, and an example.
    let mut graphs = BTreeMap::<&[String], BTreeMap<(&str, &str), String>>::new();
    for (from, file) in modules {
        let mut paths = Paths::default();
        paths.visit_file(file);
        for path in paths.0 {
            let Some(to) = resolve(from, &path, modules) else {
                continue;
            };
            let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            let children = from.get(common).zip(to.get(common));
            if let (Some((a, b)), Some(parent)) = (children, from.get(..common)) {
                let example = || format!("{} uses {}", from.join("::"), to.join("::"));
                let graph = graphs.entry(parent).or_default();
                graph.entry((a, b)).or_insert_with(example);
            }
        }
    }
    let mut left = Vec::new();
    for mut graph in graphs.into_values() {
        // Modules that use none of the rest, or that none of the rest uses, are in no cycle.
        loop {
            let users: BTreeSet<_> = graph.keys().map(|(from, _)| *from).collect();
            let used: BTreeSet<_> = graph.keys().map(|(_, to)| *to).collect();
            let before = graph.len();
            graph.retain(|(from, to), _| used.contains(from) && users.contains(to));
            if graph.len() == before {
                break;
            }
        }
        left.extend(graph.into_values());
    }
    left
}

/// The module that a path of `from` leads into; `None` for other crates.
fn resolve<'a>(
    from: &[String],
    path: &[String],
    modules: &'a BTreeMap<Module, syn::File>,
) -> Option<&'a Module> {
    let (first, mut rest) = path.split_first()?;
    let mut module = match first.as_str() {
        "crate" => Module::new(),
        "self" => from.to_vec(),
        "super" => from.split_last()?.1.to_vec(),
        _ => return None,
    };
    while let Some((name, after)) = rest.split_first() {
        if name == "super" {
            module.pop()?;
        } else {
            module.push(name.clone());
            if !modules.contains_key(&module) {
                module.pop();
                break;
            }
        }
        rest = after;
    }
    modules.get_key_value(&module).map(|(module, _)| module)
}

/// All paths of a file, but for those in code for tests and in macros.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.0.push(with(&name.ident)),
            UseTree::Rename(rename) => self.0.push(with(&rename.ident)),
            UseTree::Glob(_) => self.0.push(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|part| part.ident.to_string());
        self.0.push(names.collect());
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let parse = |(module, text): &(&str, &str)| {
            let names = module.split("::").filter(|name| !name.is_empty());
            let module = names.map(str::to_owned).collect();
            (module, syn::parse_file(text).unwrap())
        };
        cycles(&files.iter().map(parse).collect())
    }

    #[test]
    fn modules_that_use_each_other_are_found() {
        let files = [
            ("", "mod a; mod b; mod c;"),
            ("a", "mod inner;"),
            ("a::inner", "use crate::{other, b::{B, X as Y}};"),
            ("b", "fn f() { crate::c::run(); }"),
            ("c", "fn run(a: super::a::A) {}"),
        ];
        let expected = ["a::inner uses b", "b uses c", "c uses a"];
        assert_eq!(found(&files), expected);
        // Without one of the edges there is none.
        assert_eq!(found(&files[..4]), [""; 0]);
    }

    #[test]
    fn parents_and_tests_do_not_count() {
        let files = [
            ("", "mod a; mod b;"),
            ("a", "pub use inner::Inner; mod inner; mod other;"),
            ("a::inner", "use super::other::Other; use crate::b::B;"),
            ("a::other", "use super::Inner; use super::super::a::Inner;"),
            ("b", "#[cfg(test)] mod tests { use crate::a::Inner; }"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }
}
