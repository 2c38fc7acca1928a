//! The command line.

mod kube_proxy;
mod mode;
mod monitor;
mod node;
mod source;

#[cfg(test)]
pub(crate) use kube_proxy::COVERED;
pub(crate) use kube_proxy::{ConntrackArgs, KubeProxyArgs};
pub(crate) use mode::{Fallback, Mode, ModeArgs};
pub(crate) use monitor::{
    BindAddress, DEFAULT_HEALTHZ, DEFAULT_METRICS, MonitorArgs, ServiceMetrics,
};
pub(crate) use node::{DetectLocal, NodeArgs, NodePortAddresses, Timeout};
pub(crate) use node::{node_name, node_port_addresses, scheduler};
pub(crate) use source::SourceArgs;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

/// Makes Kubernetes Services work on this node, with the kernel's IPVS.
///
/// Reads Services and their endpoints from the cluster's API server or from manifests, programs
/// IPVS, a packet filter table of its own and local routes, and follows the changes until it is
/// told to stop. The data plane stays when it stops, and the next start adopts it.
#[derive(Debug, Parser)]
#[command(
    name = "svcproxy",
    version,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
        svcproxy --mode ipvs --manifests examples/ --cluster-cidr 10.244.0.0/16\n  \
        svcproxy --mode ipvs --manifests services.yaml --once\n  \
        svcproxy --mode ipvs --kubeconfig /etc/kubernetes/proxy.conf\n  \
        svcproxy --mode ipvs --fallback never --kubeconfig /etc/kubernetes/proxy.conf\n  \
        svcproxy check\n  \
        svcproxy plan --manifests examples/ -o ipvsadm\n  \
        svcproxy status\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage or invalid manifests.\n\
        Environment: SVCPROXY_LOG sets what is logged (info, debug, proxier=trace, ...); \
        NO_COLOR turns colour off."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: RunArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What to do instead of running.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what the node should have, or the steps that lead there
    ///
    /// Needs neither privileges nor IPVS, except with --against kernel.
    Plan(Box<PlanArgs>),
    /// Show whether this node has what a mode needs, and what to do about what is missing
    ///
    /// Tries what mode ipvs and mode iptables need with the settings given, and changes nothing.
    /// Exits with 1 where the chosen mode cannot run, also if svcproxy would fall back.
    #[command(after_help = "Examples:\n  \
        svcproxy check\n  \
        svcproxy check --mode iptables\n  \
        svcproxy check --config /var/lib/kube-proxy/config.conf -o json")]
    Check(Box<CheckArgs>),
    /// Show what this node carries: Services, VIPs, real servers, connections
    ///
    /// Reads the kernel, whether svcproxy is running or not.
    Status(StatusArgs),
    /// Remove everything svcproxy made on this node, and nothing else
    ///
    /// Removes its virtual servers, routes, packet filter table and iptables chains. Sysctls stay
    /// as they are, since others may rely on them by now. Where kube-proxy is at work again, what it
    /// has taken over stays.
    Cleanup(CleanupArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The main job.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    /// Bring the node in line with what there is now, and exit
    #[arg(long)]
    pub(crate) once: bool,

    /// The command cleanup, as kube-proxy has it
    #[arg(long, hide = true)]
    pub(crate) cleanup: bool,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

impl RunArgs {
    /// The data plane that was chosen: by us, else by kube-proxy's word for it.
    pub(crate) fn mode(&self) -> Mode {
        chosen(self.mode.mode, &self.node)
    }
}

impl PlanArgs {
    /// As [`RunArgs::mode`].
    pub(crate) fn mode(&self) -> Mode {
        chosen(self.mode, &self.node)
    }
}

fn chosen(mode: Option<Mode>, node: &NodeArgs) -> Mode {
    let theirs = node.kube_proxy.proxy_mode.as_deref();
    mode.unwrap_or(match theirs {
        Some("iptables") => Mode::Iptables,
        _ => Mode::Ipvs,
    })
}

impl Cli {
    /// Those of the command that say what the node is and how it is to serve, if it has some.
    pub(crate) fn node_mut(&mut self) -> Option<&mut NodeArgs> {
        match &mut self.command {
            None => Some(&mut self.run.node),
            Some(Command::Plan(plan)) => Some(&mut plan.node),
            Some(Command::Check(check)) => Some(&mut check.node),
            Some(_) => None,
        }
    }
}

/// `svcproxy plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Data plane [default: ipvs, or what --config says]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Show the steps that would be taken now from what is there
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) against: Option<Against>,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub(crate) output: PlanFormat,
}

/// What a plan is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// What this node's kernel has now
    Kernel,
}

/// Forms of `svcproxy plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// For people
    Text,
    /// For programs
    Json,
    /// As `ipvsadm -Sn` prints and `ipvsadm -R` reads
    Ipvsadm,
}

/// `svcproxy check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = CheckFormat::Text)]
    pub(crate) output: CheckFormat,
}

impl CheckArgs {
    /// As [`RunArgs::mode`].
    pub(crate) fn mode(&self) -> Mode {
        chosen(self.mode.mode, &self.node)
    }
}

/// Forms of `svcproxy check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `svcproxy cleanup`.
#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Where kube-proxy carries the traffic by now, how long connections may last that go through
    /// what is removed
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,
}

/// `svcproxy status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Data plane [default: iptables where it has rules of svcproxy's, else ipvs]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = StatusFormat::Text)]
    pub(crate) output: StatusFormat,
}

/// Forms of `svcproxy status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How to log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// Form of the log, which goes to standard error [default: text]
    #[arg(long, alias = "logging-format", value_enum, global = true)]
    pub(crate) log_format: Option<LogFormat>,

    /// Log more: 4 for what is done and why, 6 for all; SVCPROXY_LOG goes before it
    #[arg(short, long = "v", value_name = "LEVEL", global = true)]
    pub(crate) verbosity: Option<u32>,
}

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Ends the program as clap does when an argument is wrong.
pub(crate) fn usage_error(message: &str) -> ! {
    Cli::command()
        .error(ErrorKind::ArgumentConflict, message)
        .exit()
}

/// Reads the command line. What stands before a subcommand and is not for all of them is wrong,
/// where clap alone would take no notice of it.
pub(crate) fn parse() -> Cli {
    let mut command = Cli::command();
    let matches = command.get_matches_mut();
    if matches.subcommand_name().is_some() {
        let given = |arg: &&Arg| {
            matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let mut own = command.get_arguments().filter(|arg| !arg.is_global_set());
        if let Some(arg) = own.find(given) {
            usage_error(&format!("'{arg}' goes without a subcommand, or after it"));
        }
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
