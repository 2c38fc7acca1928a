//! The command line.

mod compat;
mod dns;
mod env;
mod explain;
mod look;
mod migrate;
mod mode;
mod monitor;
mod node;
mod pflag;
#[cfg(test)]
mod reference;
mod support_bundle;
mod sync;
mod top;
mod verify;

#[cfg(test)]
pub(crate) use compat::COVERED;
pub(crate) use compat::{ConntrackArgs, KubeProxyArgs};
pub(crate) use dns::DnsArgs;
pub(crate) use env::{EnvArgs, EnvFormat};
pub(crate) use explain::{ExplainArgs, Target};
pub(crate) use look::{
    DataPlaneArgs, DescribeArgs, Selection, ServicesArgs, ServicesFormat, SortBy, StatusArgs,
    StatusFormat,
};
pub(crate) use migrate::{MigrateArgs, ReportFormat};
pub(crate) use mode::{Fallback, Mode, ModeArgs};
pub(crate) use monitor::{
    BindAddress, DEFAULT_HEALTHZ, DEFAULT_METRICS, MonitorArgs, ServiceMetrics,
};
pub(crate) use node::{
    DetectLocal, NodeArgs, NodePortAddresses, Timeout, node_name, node_port_addresses, scheduler,
};
pub(crate) use pflag::{go_bool, go_int};
pub(crate) use support_bundle::SupportBundleArgs;
pub(crate) use sync::{Periods, SourceArgs, SyncArgs, content_type};
pub(crate) use top::{TopArgs, TopSort};
pub(crate) use verify::{VerifyArgs, VerifyFormat};

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{Error, ErrorKind};
use clap::parser::ValueSource;
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use ipnet::IpNet;
use ipvs::Family;

/// Kubernetes service proxy for this node, over IPVS, iptables, nftables, or by itself
///
/// Reads Services and their endpoints from the API server or from manifests, programs IPVS, an
/// nftables table and local routes, and follows changes until it gets SIGTERM. The data plane stays
/// in place when svcproxy stops; the next start adopts it.
#[derive(Debug, Parser)]
#[command(
    name = "svcproxy",
    version,
    subcommand_negates_reqs = true,
    args_override_self = true,
    after_help = "Examples:\n  \
        svcproxy --mode ipvs --manifests examples/ --cluster-cidr 10.244.0.0/16\n  \
        svcproxy --mode ipvs --manifests services.yaml --once\n  \
        svcproxy --mode ipvs --kubeconfig /etc/kubernetes/proxy.conf\n  \
        svcproxy --mode ipvs --fallback never --kubeconfig /etc/kubernetes/proxy.conf\n  \
        svcproxy check\n  \
        svcproxy plan --manifests examples/ -o ipvsadm\n  \
        svcproxy status\n\n\
        Exit codes: 0 success, 1 failure, 2 wrong usage or invalid manifests.\n\
        Environment: SVCPROXY_LOG filters the log by level and module (info, debug, \
        proxier=trace, ...), but never hides errors; NO_COLOR turns colour off."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: RunArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the state this node should have, or the steps that lead to it
    ///
    /// Needs neither privileges nor IPVS, except with --against kernel.
    Plan(Box<PlanArgs>),
    /// Check whether this node can run a mode, and print a remedy for everything that is missing
    ///
    /// Probes what each mode needs with the given settings, and changes nothing.
    /// Exits with 1 if the chosen mode cannot run, even if svcproxy would fall back to
    /// another one.
    #[command(after_help = "Examples:\n  \
        svcproxy check\n  \
        svcproxy check --mode iptables\n  \
        svcproxy check --config /var/lib/kube-proxy/config.conf -o json")]
    Check(Box<CheckArgs>),
    /// Summarise this node: process, mode, source, last sync, what is served, conditions
    ///
    /// Asks the svcproxy that runs on this node, and reads the kernel. Without a running svcproxy,
    /// shows what the kernel has. Exits with 1 if the kernel cannot be read.
    #[command(after_help = "Examples:\n  \
        svcproxy status\n  \
        svcproxy status --services\n  \
        svcproxy status -o json")]
    Status(StatusArgs),
    /// List the Services that this node serves, one line per port
    ///
    /// Reads the kernel, whether svcproxy is running or not. A running svcproxy adds why a port has
    /// no endpoints.
    #[command(after_help = "Examples:\n  \
        svcproxy services\n  \
        svcproxy services web -n shop -o wide\n  \
        svcproxy services --vip 10.96.0.80:80\n  \
        svcproxy services --endpoint 10.244.1.10 -o name\n  \
        svcproxy services --sort rate --watch\n\n\
        Exit codes: 0 success, 1 failure or a NAME that this node does not serve, 2 wrong usage.")]
    Services(ServicesArgs),
    /// Show one Service: its addresses, policies and endpoints, and why each endpoint is used or not
    ///
    /// Asks the svcproxy that runs on this node, and reads the kernel. Without a running svcproxy,
    /// shows what the kernel has.
    #[command(after_help = "Examples:\n  \
        svcproxy describe web -n shop\n  \
        svcproxy describe shop/web -o json")]
    Describe(DescribeArgs),
    /// Explain what happens to a connection: its way hook by hook, who may answer, who refuses or
    /// drops it, and why
    ///
    /// Without a source (--manifests, --kubeconfig, --master), reads the kernel, and asks the
    /// svcproxy that runs on this node for its settings and Services. With a source, explains the
    /// plan, and needs no privileges; with --against kernel also the kernel, and where the two
    /// differ. Evaluates svcproxy's own rules, and judges the filters of other programs.
    #[command(after_help = "Examples:\n  \
        svcproxy explain 10.96.0.80:80\n  \
        svcproxy explain 10.96.0.10:53/udp --from 10.244.1.7\n  \
        svcproxy explain node-port:30080 --from 198.51.100.7\n  \
        svcproxy explain 10.96.0.80:80 --manifests examples/ --cluster-cidr 10.244.0.0/16\n\n\
        Exit codes: 0 the connection is served, 1 it is not or something failed, 2 wrong usage or \
        invalid manifests.")]
    Explain(Box<ExplainArgs>),
    /// Show live which Services and endpoints are busy: connections, packets, bytes, drains
    ///
    /// Reads the kernel again and again, whether svcproxy is running or not; a running one adds its
    /// state and conditions. Press ? for the keys. With --once, prints one reading.
    #[command(after_help = "Examples:\n  \
        svcproxy top\n  \
        svcproxy top -n shop --sort bytes\n  \
        svcproxy top --once -o json\n\n\
        Mode iptables counts connections only, mode nftables counts nothing.")]
    Top(TopArgs),
    /// Compare the kernel with the plan, one verdict per Service
    ///
    /// Reads the kernel, and the Services from the source. A running svcproxy supplies its settings
    /// and its source, except for a source on the command line. With --connect, also opens TCP
    /// connections from this node to each VIP and each endpoint, and closes them at once. Changes
    /// nothing.
    #[command(after_help = "Examples:\n  \
        svcproxy verify\n  \
        svcproxy verify web -n shop --connect\n  \
        svcproxy verify --wait 30s -o json\n  \
        svcproxy verify --mode iptables --manifests examples/ --cluster-cidr 10.244.0.0/16\n\n\
        Exit codes: 0 everything is as planned and every connection was made, 1 something is not or \
        a NAME is unknown, 2 wrong usage or invalid manifests.")]
    Verify(Box<VerifyArgs>),
    /// Report what a switch from kube-proxy to svcproxy would change on this node, and what is at
    /// risk
    ///
    /// Reads kube-proxy's configuration: from --config, else from kube-proxy's flags on this command
    /// line, else from its ConfigMap in the cluster. Reads what kube-proxy has in the kernel, probes
    /// the mode that svcproxy would use, and reads the Services if it can. Changes nothing.
    #[command(after_help = "Examples:\n  \
        svcproxy migrate --config /var/lib/kube-proxy/config.conf\n  \
        svcproxy migrate --kubeconfig /etc/kubernetes/admin.conf -o markdown\n  \
        svcproxy migrate --proxy-mode ipvs --ipvs-scheduler wrr --cluster-cidr 10.244.0.0/16\n\n\
        Exit codes: 0 nothing is at risk, 1 something is, or svcproxy cannot run, 2 wrong usage or \
        a configuration that kube-proxy rejects.")]
    Migrate(Box<MigrateArgs>),
    /// Collect what a maintainer needs to understand a problem on this node, without secrets
    ///
    /// Writes a compressed archive with the version, the settings, the conditions, the metrics, the
    /// plan, the state of the kernel, the differences between the two, and what check finds. Masks
    /// tokens, passwords and certificates, and collects no kubeconfig. MANIFEST.txt in it says what
    /// it holds, and what could not be had and why. Changes nothing.
    #[command(after_help = "Examples:\n  \
        svcproxy support-bundle\n  \
        svcproxy support-bundle -o node-a.tar.gz --log /var/log/svcproxy.log\n  \
        kubectl --namespace kube-system exec POD -- svcproxy support-bundle -o - > node-a.tar.gz\n\n\
        Exit codes: 0 the archive was written, even if parts are missing; 1 it was not.")]
    SupportBundle(Box<SupportBundleArgs>),
    /// Print the environment variables by which a container finds Services, as a kubelet sets them
    ///
    /// For containers that no kubelet starts. Needs no privileges.
    #[command(after_help = "Examples:\n  \
        eval \"$(svcproxy env -n shop --manifests services/)\"\n  \
        svcproxy env -n shop -o docker --manifests services/ > shop.env; \
        docker run --env-file shop.env IMAGE\n  \
        svcproxy env --service-links=false --kubeconfig /etc/kubernetes/proxy.conf\n\n\
        Exit codes: 0 success, 1 failure, 2 wrong usage or invalid manifests.")]
    Env(EnvArgs),
    /// Remove everything that svcproxy created on this node, and nothing else
    ///
    /// Removes svcproxy's virtual servers, routes, nftables table and iptables chains. Does not
    /// reset sysctls, because other software may rely on them. If kube-proxy runs again, what it
    /// has taken over stays.
    #[command(after_help = "Examples:\n  \
        svcproxy cleanup --dry-run\n  \
        svcproxy cleanup -o json")]
    Cleanup(CleanupArgs),
    /// Print a completion script for a shell
    ///
    /// In bash, zsh and fish, the script also offers the names of the Services that this node serves.
    #[command(after_help = "Examples:\n  \
        source <(svcproxy completion bash)\n  \
        svcproxy completion fish > ~/.config/fish/completions/svcproxy.fish")]
    Completion {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory, for packages
    #[command(hide = true)]
    Man {
        /// The directory; it is created if it does not exist
        directory: PathBuf,
    },
}

/// The main command: run the proxy.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    /// Sync the node once and exit
    #[arg(long)]
    pub(crate) once: bool,

    /// Same as the command cleanup
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false,
        value_parser = go_bool,
        action = ArgAction::Set,
        hide = true
    )]
    pub(crate) cleanup: bool,

    #[command(flatten)]
    pub(crate) lock: LockArgs,

    #[command(flatten)]
    pub(crate) dns: DnsArgs,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// The lock that allows one writer per network namespace.
#[derive(Debug, Clone, Args)]
pub(crate) struct LockArgs {
    /// How long to wait for another svcproxy that manages this network namespace to end; by
    /// default, fail at once and name it
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = sync::not_negative
    )]
    pub(crate) wait_lock: Duration,
}

impl RunArgs {
    /// The chosen mode: from `--mode`, else from kube-proxy's `--proxy-mode`.
    pub(crate) fn mode(&self) -> Mode {
        chosen(self.mode.mode, &self.node)
    }

    /// The periods of the chosen mode.
    pub(crate) fn periods(&self) -> Periods {
        self.node.sync.periods(self.mode())
    }
}

impl PlanArgs {
    /// As [`RunArgs::mode`].
    pub(crate) fn mode(&self) -> Mode {
        chosen(self.mode, &self.node)
    }
}

/// The given mode, or else that of kube-proxy's settings.
fn chosen(mode: Option<Mode>, node: &NodeArgs) -> Mode {
    let theirs = node.kube_proxy.proxy_mode.as_deref();
    mode.unwrap_or(match theirs {
        Some("iptables") => Mode::Iptables,
        Some("nftables") => Mode::Nftables,
        Some("userspace") => Mode::Userspace,
        _ => Mode::Ipvs,
    })
}

impl Cli {
    /// The node settings of the command, if it has any.
    pub(crate) fn node_mut(&mut self) -> Option<&mut NodeArgs> {
        match &mut self.command {
            None => Some(&mut self.run.node),
            Some(Command::Plan(plan)) => Some(&mut plan.node),
            Some(Command::Check(check)) => Some(&mut check.node),
            Some(Command::Explain(explain)) => Some(&mut explain.node),
            Some(Command::Verify(verify)) => Some(&mut verify.node),
            Some(Command::SupportBundle(bundle)) => Some(&mut bundle.node),
            Some(_) => None,
        }
    }
}

/// `svcproxy plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Data plane [default: ipvs, or the mode in --config]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Print the steps from this state to the desired one, instead of the desired state
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) against: Option<Against>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub(crate) output: PlanFormat,
}

/// The state that a plan is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// The current state of this node's kernel
    Kernel,
}

/// Output formats of `svcproxy plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// Text for people
    Text,
    /// JSON for programs
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

    /// Output format
    #[arg(short, long, value_enum, default_value_t = CheckFormat::Text)]
    pub(crate) output: CheckFormat,
}

impl CheckArgs {
    /// As [`RunArgs::mode`].
    pub(crate) fn mode(&self) -> Mode {
        chosen(self.mode.mode, &self.node)
    }
}

/// Output formats of `svcproxy check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// Text for people
    Text,
    /// JSON for programs
    Json,
}

/// `svcproxy cleanup`.
#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    pub(crate) lock: LockArgs,

    /// Seconds to wait for connections through virtual servers that cleanup removes, if kube-proxy
    /// has taken over
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,

    /// Print what would be removed, and change nothing; works while svcproxy runs
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Output format of what was removed, or would be [default: the log; with --dry-run, text]
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<StatusFormat>,

    /// Do not wait until kube-proxy, if it runs again, has completed its first sync. This cuts the
    /// connections of Services that kube-proxy does not serve yet
    #[arg(long)]
    pub(crate) now: bool,
}

/// Settings of the log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// Log format; the log goes to standard error [default: text]
    #[arg(long, alias = "logging-format", value_enum, global = true)]
    pub(crate) log_format: Option<LogFormat>,

    /// Log verbosity: 4 logs each change of a Service and its cause, 6 everything; SVCPROXY_LOG
    /// takes precedence
    #[arg(short, long = "v", value_name = "LEVEL", global = true)]
    pub(crate) verbosity: Option<u32>,
}

/// Formats of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

/// Flags of the main command that plan and check accept but do not use.
const RUNNING_ONLY: [&str; 8] = [
    "metrics_bind_address",
    "page",
    "healthz_bind_address",
    "service_metrics",
    "service_metrics_limit",
    "audit_interval",
    "ipvs_min_sync_period",
    "iptables_min_sync_period",
];
/// Flags that `explain` accepts but does not use.
const UNEXPLAINED: [&str; 14] = [
    "page",
    "healthz_bind_address",
    "service_metrics",
    "service_metrics_limit",
    "audit_interval",
    "ipvs_min_sync_period",
    "iptables_min_sync_period",
    "fallback",
    "fallback_modes",
    "strict_arp",
    "ipvs_tcp_timeout",
    "ipvs_tcpfin_timeout",
    "ipvs_udp_timeout",
    "drain_timeout",
];
/// Flags that `verify` and `support-bundle` accept but do not use.
const UNVERIFIED: [&str; 10] = [
    "page",
    "healthz_bind_address",
    "service_metrics",
    "service_metrics_limit",
    "audit_interval",
    "ipvs_min_sync_period",
    "iptables_min_sync_period",
    "fallback",
    "fallback_modes",
    "drain_timeout",
];
/// Flags that `migrate` accepts but does not use.
const UNMIGRATED: [&str; 4] = [
    "page",
    "service_metrics",
    "service_metrics_limit",
    "audit_interval",
];
/// Flags of a source. `check` accepts but does not use them.
const SOURCE: [&str; 5] = [
    "manifests",
    "kubeconfig",
    "master",
    "kube_api_content_type",
    "timeout",
];

/// The command line. Subcommands accept all flags of the node, and show those they use.
pub(crate) fn command() -> clap::Command {
    let hide = |command: clap::Command, ids: &[&'static str]| {
        let ids = ids.iter();
        ids.fold(command, |command, id| {
            command.mut_arg(*id, |arg| arg.hide(true))
        })
    };
    Cli::command()
        .mut_subcommand("plan", |plan| hide(plan, &RUNNING_ONLY))
        .mut_subcommand("check", |check| hide(hide(check, &RUNNING_ONLY), &SOURCE))
        .mut_subcommand("explain", |explain| hide(explain, &UNEXPLAINED))
        .mut_subcommand("migrate", |migrate| hide(migrate, &UNMIGRATED))
        .mut_subcommand("support-bundle", |bundle| hide(bundle, &UNVERIFIED))
        .mut_subcommand("verify", |verify| hide(verify, &UNVERIFIED))
}

/// The command line without its hidden flags, for completion.
pub(crate) fn visible(command: &clap::Command) -> clap::Command {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let subcommands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    // clap needs `'static` names. The leak is harmless: the process ends after `completion`.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut visible = clap::Command::new(name)
        .args(args.cloned())
        .subcommands(subcommands.map(visible));
    if let Some(about) = command.get_about() {
        visible = visible.about(about.clone());
    }
    visible
}

/// Prints the message and exits as clap does for a wrong argument.
pub(crate) fn usage_error(message: &str) -> ! {
    command().error(ErrorKind::ArgumentConflict, message).exit()
}

/// Reads the command line of this process; exits if it is wrong.
pub(crate) fn parse() -> Cli {
    try_parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Reads a command line, the program's name first.
///
/// # Errors
///
/// If it is wrong. A flag of the main command before a subcommand is an error too, where clap
/// alone would ignore it.
pub(crate) fn try_parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Error> {
    let mut command = command();
    let words = pflag::rewrite(&mut command, words)?;
    let matches = command.try_get_matches_from_mut(words)?;
    if matches.subcommand_name().is_some() {
        let given = |arg: &&Arg| {
            matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let mut own = command.get_arguments().filter(|arg| !arg.is_global_set());
        if let Some(arg) = own.find(given).map(ToString::to_string) {
            drop(own);
            let message = format!("'{arg}' cannot be combined with a subcommand");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
    }
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let own = matches.subcommand().map_or(&matches, |(_, own)| own);
    if let (Some(node), Some(networks)) = (cli.node_mut(), cluster_cidrs(own)) {
        node.cluster_cidrs = networks;
    }
    Ok(cli)
}

/// The networks of `--cluster-cidr`. kube-proxy has one value, and the last flag wins. svcproxy
/// also accepts one flag per family, so a flag replaces the networks of its families only.
fn cluster_cidrs(matches: &ArgMatches) -> Option<Vec<IpNet>> {
    let given = matches
        .try_get_occurrences::<IpNet>("cluster_cidrs")
        .ok()??;
    let mut networks: Vec<IpNet> = Vec::new();
    for flag in given {
        let new: Vec<_> = flag.copied().collect();
        let is_new = |old: &IpNet| {
            let mut new = new.iter();
            new.any(|new| Family::of(&new.addr()) == Family::of(&old.addr()))
        };
        networks.retain(|old| !is_new(old));
        networks.extend(new);
    }
    Some(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
        visible(&command()).debug_assert();
    }
}
