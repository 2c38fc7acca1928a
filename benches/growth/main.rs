//! What svcproxy's work costs as clusters grow: one line of JSON for each row and size.
//!
//! `cargo xtask bench` runs it in a VM whose clock counts instructions, and makes one table of it. Elsewhere
//! the figures are processor time in nanoseconds, and rows that need IPVS or root are skipped.
#![deny(unsafe_op_in_unsafe_fn)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod api;
mod kernel;
mod lists;
mod measure;
mod objects;
mod row;
mod stages;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use row::{Row, Size};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", count, endpoints] => api::serve(size(count, endpoints)?)?,
        ["rest", count, endpoints, url] => api::rest(size(count, endpoints)?, url)?,
        names => return rows(names),
    }
    Ok(ExitCode::SUCCESS)
}

fn size(count: &str, endpoints: &str) -> Result<Size> {
    let (count, endpoints) = (count.parse()?, endpoints.parse()?);
    Ok(Size { count, endpoints })
}

/// Runs the rows whose name begins with one of `names`; all if there are none. With `--here`, only those
/// that need not be counted; without it, only the others. With `--largest=N`, only sizes up to that.
fn rows(names: &[&str]) -> Result<ExitCode> {
    let here = names.contains(&"--here");
    let largest = names
        .iter()
        .find_map(|name| name.strip_prefix("--largest="));
    let largest = largest.map_or(Ok(u32::MAX), str::parse)?;
    // Cargo passes flags for its own harness.
    let names: Vec<_> = names.iter().filter(|name| !name.starts_with('-')).collect();
    let all = [stages::ROWS, lists::ROWS, api::ROWS, kernel::ROWS];
    let chosen = |row: &&Row| {
        let is_here = matches!(row.goal, row::Goal::Memory(_));
        is_here == here
            && (names.is_empty() || names.iter().any(|name| row.name.starts_with(**name)))
    };
    let mut code = ExitCode::SUCCESS;
    for row in all.into_iter().flatten().filter(chosen) {
        if !run(row, largest)? {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Prints the lines of a row. Returns whether it could be measured, or cannot be measured here.
fn run(row: &Row, largest: u32) -> Result<bool> {
    let missing = match row.needs {
        row::Needs::Nothing => None,
        row::Needs::Ipvs => kernel::missing(),
    };
    let print = |key: &str, value: Value| -> Result<()> {
        let line = json!({
            "row": row.name, "about": row.about, "of": row.sizes_of, "goal": row.goal, key: value,
        });
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    };
    if let Some(reason) = missing {
        print("skipped", json!(reason))?;
        return Ok(true);
    }
    for &size in row.sizes.iter().filter(|size| size.count <= largest) {
        let sample = match (row.run)(size) {
            Ok(sample) => sample,
            Err(error) => {
                print("failed", json!(error.to_string()))?;
                return Ok(false);
            }
        };
        let size = json!({"count": size.count, "endpoints": size.endpoints});
        print("sample", json!({"size": size, "figures": sample}))?;
    }
    Ok(true)
}

/// Fails if nothing was done: then the figure of a row means nothing.
pub(crate) fn some(count: usize) -> Result<()> {
    match count {
        0 => Err("there was nothing to do".into()),
        _ => Ok(()),
    }
}
