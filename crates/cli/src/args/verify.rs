//! Flags of `svcproxy verify`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::sync::{not_negative, positive};
use super::{Mode, ModeArgs, NodeArgs, Selection, chosen};

/// `svcproxy verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Also connect to each TCP port of each VIP and endpoint, from this node
    #[arg(long)]
    pub(crate) connect: bool,

    /// How long one connection may take
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        value_parser = positive,
        requires = "connect"
    )]
    pub(crate) connect_timeout: Duration,

    /// How many connections are attempted at one time
    #[arg(long, value_name = "COUNT", default_value = "32", requires = "connect")]
    pub(crate) connect_at_once: NonZeroUsize,

    /// How long all connections together may take; what was not tried by then counts as failed
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1m",
        value_parser = positive,
        requires = "connect"
    )]
    pub(crate) connect_within: Duration,

    /// Compare again until nothing differs, for at most this long
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = not_negative)]
    pub(crate) wait: Duration,

    /// Output format [default: a table, and what differs]
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<VerifyFormat>,

    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Output formats of `svcproxy verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyFormat {
    /// The table, and every connection with its time
    Wide,
    /// JSON for programs
    Json,
}

impl VerifyArgs {
    /// The mode of the command line, if it names one.
    pub(crate) fn mode(&self) -> Option<Mode> {
        let theirs = self.node.kube_proxy.proxy_mode.as_ref();
        (self.mode.mode.is_some() || theirs.is_some()).then(|| chosen(self.mode.mode, &self.node))
    }
}
