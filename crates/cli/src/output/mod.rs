//! What commands print on standard output: stable and sorted.

mod check;
mod plan;
mod status;

pub(crate) use check::{Verdict, check_json, check_text};
#[cfg(test)]
pub(crate) use plan::{Steps, Text, virtual_servers};
pub(crate) use plan::{
    desired_ipvsadm, desired_json, desired_text, restores_json, restores_text, steps_json,
    steps_text,
};
pub(crate) use status::{
    Clients, RealServerStatus, Status, VipState, VipStatus, status_json, status_text,
};

use std::io::{self, Write};

use serde::Serialize;

/// One JSON document and a line break.
fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
