//! Printing on standard output.

use std::io::{self, Write};

use serde::Serialize;

use crate::logging::write_json;

/// Prints one JSON document and a line break. Hidden characters in its strings are JSON escapes.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::from)?;
    let mut shown = Vec::with_capacity(text.len());
    write_json(&mut shown, &text);
    let mut out = io::stdout().lock();
    out.write_all(&shown)?;
    writeln!(out)?;
    Ok(())
}
