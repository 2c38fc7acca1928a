//! Flags of `svcproxy top`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::sync::positive;
use super::{DataPlaneArgs, Selection, StatusFormat};

/// `svcproxy top`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Order of the lines, the busiest first
    #[arg(long, value_enum, default_value_t = TopSort::Rate)]
    pub(crate) sort: TopSort,

    /// Time between two readings; a reading that takes longer delays the next one
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive)]
    pub(crate) interval: Duration,

    /// Print one reading and exit; where the kernel has no rates, reads twice
    #[arg(long)]
    pub(crate) once: bool,

    /// Output format of --once
    #[arg(short, long, value_enum, default_value_t = StatusFormat::Text, requires = "once")]
    pub(crate) output: StatusFormat,

    #[command(flatten)]
    pub(crate) from: DataPlaneArgs,
}

/// The order of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopSort {
    /// New connections per second
    Rate,
    /// Active connections
    Active,
    /// Packets per second
    Packets,
    /// Bytes per second
    Bytes,
    /// Connections since the endpoints were added
    Total,
    /// Draining endpoints
    Draining,
    /// Name
    Name,
}
