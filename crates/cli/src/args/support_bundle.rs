//! Flags of `svcproxy support-bundle`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::sync::positive;
use super::{ModeArgs, NodeArgs};

/// `svcproxy support-bundle`.
#[derive(Debug, Args)]
pub(crate) struct SupportBundleArgs {
    /// File to write, which must not exist, or - for standard output [default:
    /// svcproxy-support-NODE-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Log file to add, of which the last mebibyte is taken; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Vec<PathBuf>,

    /// How long each part may take; one that takes longer is left out
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = positive)]
    pub(crate) part_timeout: Duration,

    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
