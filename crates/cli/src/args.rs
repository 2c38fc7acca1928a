//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use ipvs::Scheduler;

/// Makes Kubernetes Services work on this node, with the kernel's IPVS.
///
/// Reads Services and their endpoints from manifests, programs IPVS, a packet filter table of its
/// own and local routes, and follows the manifests' changes until it is told to stop. The data
/// plane stays when it stops, and the next start adopts it.
#[derive(Debug, Parser)]
#[command(
    name = "svcproxy",
    version,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
        svcproxy --mode ipvs --manifests examples/ --cluster-cidr 10.244.0.0/16\n  \
        svcproxy --mode ipvs --manifests services.yaml --once\n  \
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
    Plan(PlanArgs),
    /// Show what this node carries: Services, VIPs, real servers, connections
    ///
    /// Reads the kernel, whether svcproxy is running or not.
    Status(StatusArgs),
    /// Remove everything svcproxy made on this node, and nothing else
    ///
    /// Removes its virtual servers, routes and packet filter table. Sysctls stay as they are,
    /// since others may rely on them by now.
    Cleanup,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The main job.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Data plane
    #[arg(long, value_enum, default_value_t = Mode::Ipvs)]
    pub(crate) mode: Mode,

    /// Bring the node in line with the manifests and exit
    #[arg(long)]
    pub(crate) once: bool,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// The data planes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The kernel's IPVS
    Ipvs,
}

/// The Services and the node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Files or directories of YAML or JSON: Service, EndpointSlice, Endpoints, Pod, Node
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub(crate) manifests: Vec<PathBuf>,

    /// This node's name, by which endpoints on it are known [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,

    /// This node's address, once a family; the source of its own connections to VIPs
    /// [default: the first of each family that is neither loopback nor link-local]
    #[arg(long = "node-ip", value_name = "IP", value_delimiter = ',')]
    pub(crate) node_ips: Vec<IpAddr>,

    /// Where pods live, once or several times: connections to VIPs from elsewhere are masqueraded
    #[arg(long = "cluster-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) cluster_cidrs: Vec<IpNet>,

    /// Where cluster IPs live, once or several times: made local as a whole, and refused where no
    /// Service answers [default: 10.96.0.0/12]
    #[arg(long = "service-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) service_cidrs: Vec<IpNet>,

    /// How virtual servers choose a real server: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, mh, sed,
    /// nq, fo, ovf
    #[arg(long, value_name = "NAME", default_value = "rr", value_parser = scheduler)]
    pub(crate) ipvs_scheduler: Scheduler,

    /// How long the connections of an endpoint that has gone may last; with 0, and with --once,
    /// they are cut at once
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,
}

/// `svcproxy plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
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

/// `svcproxy status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
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
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Form of the log, which goes to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub(crate) log_format: LogFormat,
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

/// Only names the kernel knows: it answers an unknown one by looking for a module of that name.
/// Not "none", which leaves a virtual server without any.
fn scheduler(name: &str) -> Result<Scheduler, String> {
    let known = || Scheduler::known().filter(|scheduler| scheduler.as_str() != "none");
    known()
        .find(|scheduler| scheduler.as_str() == name)
        .ok_or_else(|| {
            let names: Vec<_> = known().map(|s| s.as_str().to_owned()).collect();
            format!("no scheduler of that name; there are {}", names.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
