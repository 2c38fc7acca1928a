//! Flags of `svcproxy migrate`.

use clap::{Args, ValueEnum};

use super::{Mode, ModeArgs, NodeArgs, chosen};

/// `svcproxy migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The ConfigMap with kube-proxy's configuration in its key config.conf, if neither --config nor
    /// flags of kube-proxy are given
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "kube-system/kube-proxy"
    )]
    pub(crate) config_map: String,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub(crate) output: ReportFormat,

    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Output formats of `svcproxy migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Text for people
    Text,
    /// Markdown, to attach to a change request
    Markdown,
    /// JSON for programs
    Json,
}

impl MigrateArgs {
    /// The mode that svcproxy would use with these settings.
    pub(crate) fn mode(&self, node: &NodeArgs) -> Mode {
        chosen(self.mode.mode, node)
    }
}
