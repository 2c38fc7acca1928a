//! Flags of `svcproxy top`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::monitor::{BindAddress, DEFAULT_METRICS};
use super::sync::positive;
use super::{Mode, Selection, StatusFormat};

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

    /// Data plane to read [default: iptables if svcproxy has rules there, else ipvs]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    /// Metrics address of the running svcproxy; empty reads the kernel only
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = DEFAULT_METRICS,
        value_parser = BindAddress::parse::<10249>
    )]
    pub(crate) metrics_bind_address: BindAddress,
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
