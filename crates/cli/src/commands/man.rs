//! `svcproxy man`: the man pages, for packages. `cargo xtask man` runs it.

use std::path::Path;

use anyhow::Context;

use crate::Ending;
use crate::args::command;

/// Writes `svcproxy.1` and a page for each subcommand into a directory. Hidden flags are left out.
pub(crate) fn man(directory: &Path) -> anyhow::Result<Ending> {
    let what = || format!("cannot write man pages to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(what)?;
    clap_mangen::generate_to(command(), directory).with_context(what)?;
    Ok(Ending::Done)
}
