//! The first root file system: busybox, the modules that 9p and overlay need, and a script.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::guest;
use super::kernel::Kernel;
use crate::{apt, paths, process};

/// What the machine needs before it can read its root: the rest comes from there.
const MODULES: [&str; 5] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// Builds the image for `kernel`, unless it is there already.
pub(super) fn prepare(kernel: &Kernel) -> Result<PathBuf> {
    let image = kernel.directory.join("initramfs.cpio");
    // The script is part of the image, and the only part that changes with this program.
    let script = kernel.directory.join("initramfs.sh");
    if image.is_file() && fs::read_to_string(&script).is_ok_and(|built| built == guest::INIT) {
        return Ok(image);
    }
    let mut archive = Cpio::default();
    for directory in [
        "bin", "dev", "lower", "modules", "new", "proc", "sys", "upper",
    ] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", &fs::read(busybox()?)?);
    archive.file("init", guest::INIT.as_bytes());
    let root = kernel.modules.join(&kernel.release);
    let dependencies = fs::read_to_string(root.join("modules.dep"))
        .with_context(|| format!("no modules.dep in {}", root.display()))?;
    for (number, module) in load_order(&dependencies, &MODULES).into_iter().enumerate() {
        archive.file(
            &format!("modules/{number:02}.ko"),
            &read_module(&root.join(module))?,
        );
    }
    fs::write(&image, archive.finish())?;
    fs::write(&script, guest::INIT)?;
    Ok(image)
}

/// A statically linked busybox, unpacked from its package.
fn busybox() -> Result<PathBuf> {
    let directory = paths::vm().join("busybox");
    let program = |top: &Path| {
        ["bin/busybox", "usr/bin/busybox"]
            .map(|path| top.join(path))
            .into_iter()
            .find(|p| p.is_file())
    };
    if let Some(program) = program(&directory) {
        return Ok(program);
    }
    let only = |names: &str| {
        names
            .lines()
            .filter(|name| *name == "busybox-static")
            .map(str::to_owned)
            .collect()
    };
    apt::unpack("busybox-static", only, &directory)?;
    program(&directory).with_context(|| format!("no busybox in {}", directory.display()))
}

/// The files of `wanted` and all they depend on, dependencies first.
///
/// Modules that are built into the kernel are in no line of modules.dep.
fn load_order<'a>(modules_dep: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let lines: HashMap<String, (&str, &str)> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module_name(file), (file, needs)))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        let Some(&(file, needs)) = lines.get(*name) else {
            continue;
        };
        // modules.dep lists the whole closure, the deepest dependency last.
        for module in needs.split_whitespace().rev().chain([file]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    order
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        process::output(
            Command::new("xz")
                .args(["--decompress", "--stdout"])
                .arg(file),
        )
    } else {
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))
    }
}

/// A cpio archive in the only format that the kernel reads, `newc`: see cpio(5).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let inode = self.entries;
        let (size, name_size) = (content.len(), name.len() + 1);
        // magic, inode, mode, uid, gid, links, mtime, size, four device numbers, name, checksum
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let dep = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
            kernel/net/9p/9pnet.ko.xz:\n\
            kernel/net/9p/9pnet_virtio.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/net/9p/9pnet.ko.xz\n";
        assert_eq!(
            load_order(dep, &["9pnet_virtio", "built_in", "9p"])
                .iter()
                .map(|f| module_name(f))
                .collect::<Vec<_>>(),
            ["9pnet", "virtio", "9pnet_virtio", "netfs", "9p"]
        );
    }
}
