//! Printing on standard output.

use std::io::{self, Write};

use serde::Serialize;

/// Prints one JSON document and a line break.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
