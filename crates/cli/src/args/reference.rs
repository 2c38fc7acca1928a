//! The flags as a page: `docs/configure.md` ends with what this module writes. A test compares them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, Command};

use super::command;

/// Begins the part of the page that is written by the test.
const BEGIN: &str = "<!-- From here on written by `INSTA_UPDATE=always cargo nextest run -p svcproxy reference`. -->\n";

#[test]
fn the_page_lists_all_flags() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configure.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, _) = text
        .split_once(BEGIN)
        .expect("docs/configure.md has no mark");
    let expected = format!("{before}{BEGIN}{}", tables());
    if std::env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
        fs::write(&page, expected).unwrap();
    } else {
        assert!(
            text == expected,
            "docs/configure.md is not what the flags say: update it with INSTA_UPDATE=always"
        );
    }
}

/// A table of the flags of `svcproxy` for each heading, then those that only a subcommand has.
fn tables() -> String {
    let command = command();
    let mut tables = String::new();
    let mut headings = Vec::new();
    for arg in shown(&command) {
        let heading = arg.get_help_heading().unwrap_or("What to run");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let of_heading = shown(&command)
            .filter(|arg| arg.get_help_heading().unwrap_or("What to run") == heading);
        table(&mut tables, &format!("## {heading}"), of_heading);
    }
    tables += "\n## Subcommands\n\nEach takes the flags above that it uses: `svcproxy help COMMAND` lists them. Its own are:\n";
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let is_global = |arg: &Arg| {
            command
                .get_arguments()
                .any(|other| other.get_id() == arg.get_id())
        };
        let own: Vec<_> = shown(subcommand).filter(|arg| !is_global(arg)).collect();
        if !own.is_empty() {
            let title = format!("### `svcproxy {}`", subcommand.get_name());
            table(&mut tables, &title, own.into_iter());
        }
    }
    tables
}

/// The flags of a command that its help shows.
fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_usual = |arg: &Arg| matches!(arg.get_id().as_str(), "help" | "version");
    command
        .get_arguments()
        .filter(move |arg| !arg.is_hide_set() && !is_usual(arg))
}

fn table<'a>(tables: &mut String, title: &str, args: impl Iterator<Item = &'a Arg>) {
    *tables += &format!("\n{title}\n\n| flag | what it does | default |\n| --- | --- | --- |\n");
    for arg in args {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let (help, default) = split(&help, arg);
        writeln!(
            tables,
            "| {} | {} | {} |",
            name(arg),
            cell(&help),
            cell(&default)
        )
        .unwrap();
    }
}

/// `--flag VALUE`, or the name of a positional argument.
fn name(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default();
    let value = values.first().map(ToString::to_string).unwrap_or_default();
    let Some(long) = arg.get_long() else {
        return format!("`{value}`");
    };
    let short = arg.get_short();
    let short = short
        .map(|short| format!("`-{short}`, "))
        .unwrap_or_default();
    if !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        return format!("{short}`--{long}`");
    }
    match arg.get_num_args() {
        Some(range) if range.min_values() == 0 => format!("{short}`--{long}[={value}]`"),
        _ => format!("{short}`--{long} {value}`"),
    }
}

/// What a flag does, with its possible values; and its default, which the help of some names.
fn split(help: &str, arg: &Arg) -> (String, String) {
    let (mut what, mut default) = (help.to_owned(), String::new());
    if let Some((before, rest)) = help.split_once(" [default: ")
        && let Some((named, after)) = rest.split_once(']')
    {
        what = format!("{before}{after}");
        named.clone_into(&mut default);
    } else if !arg.is_hide_default_value_set() {
        let given = arg.get_default_values().iter();
        let given: Vec<_> = given.map(|value| value.to_string_lossy()).collect();
        default = match given.join(",") {
            empty if empty.is_empty() => empty,
            given => format!("`{given}`"),
        };
    }
    if !arg.is_hide_possible_values_set() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        for value in arg.get_possible_values() {
            match value.get_help() {
                _ if value.is_hide_set() => {}
                Some(help) => write!(what, "<br>`{}`: {help}", value.get_name()).unwrap(),
                None => write!(what, "<br>`{}`", value.get_name()).unwrap(),
            }
        }
    }
    (what, default)
}

/// Text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
