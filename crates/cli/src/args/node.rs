//! Flags of this node and of its virtual IPs.

use std::ffi::OsStr;
use std::net::IpAddr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, ArgAction, Args, Command, Error, ValueEnum};
use ipnet::IpNet;
use ipvs::{Scheduler, Timeouts};
use proxier::desired::InterfaceName;

use super::{KubeProxyArgs, MonitorArgs, SourceArgs, SyncArgs, go_bool, go_int};
use crate::kube_proxy::GoDuration;

pub(super) const NODE: &str = "This node";
const PODS: &str = "Pods and masquerading";
const SERVICES: &str = "Services";
const IPVS: &str = "IPVS";

/// The Services and the node.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    // Must be first: it asks which arguments were given, and clap forgets that for arguments that
    // it has already parsed.
    #[command(flatten)]
    pub(crate) monitor: MonitorArgs,

    #[command(flatten)]
    pub(crate) kube_proxy: KubeProxyArgs,

    #[command(flatten)]
    pub(crate) source: SourceArgs,

    /// Name of this node; decides which endpoints are local [default: the host name]
    #[arg(
        long,
        alias = "hostname-override",
        value_name = "NAME",
        value_parser = node_name,
        help_heading = NODE
    )]
    pub(crate) node_name: Option<String>,

    /// Addresses of this node, one per family; the source of its own connections to VIPs [default:
    /// those of its Node object, or the first of each family that is neither loopback nor
    /// link-local]
    #[arg(long = "node-ip", value_name = "IP", value_delimiter = ',', help_heading = NODE)]
    pub(crate) node_ips: Vec<IpAddr>,

    /// Zone of this node, for endpoints with zone hints [default: that of its Node object]
    #[arg(long, value_name = "ZONE", help_heading = NODE)]
    pub(crate) zone: Option<String>,

    /// Answer ARP requests only for addresses of the interface that receives them (arp_ignore 1,
    /// arp_announce 2); load balancers that announce VIPs by ARP need it
    #[arg(
        long,
        alias = "ipvs-strict-arp",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false,
        hide_possible_values = true,
        hide_default_value = true,
        value_name = "BOOL",
        value_parser = go_bool,
        action = ArgAction::Set,
        help_heading = NODE
    )]
    pub(crate) strict_arp: bool,

    /// How to detect pod traffic
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        ignore_case = true,
        default_value_t = DetectLocal::ClusterCidr,
        help_heading = PODS
    )]
    pub(crate) detect_local_mode: DetectLocal,

    /// Pod networks, one per family; connections to cluster IPs from anywhere else are masqueraded
    #[arg(long = "cluster-cidr", value_name = "CIDR", value_delimiter = ',', help_heading = PODS)]
    pub(crate) cluster_cidrs: Vec<IpNet>,

    /// Bridge that pods are attached to, for --detect-local-mode BridgeInterface
    #[arg(
        long,
        value_name = "NAME",
        required_if_eq("detect_local_mode", "BridgeInterface"),
        help_heading = PODS
    )]
    pub(crate) pod_bridge_interface: Option<InterfaceName>,

    /// Prefix of the names of pod interfaces, for --detect-local-mode InterfaceNamePrefix
    #[arg(
        long,
        value_name = "PREFIX",
        required_if_eq("detect_local_mode", "InterfaceNamePrefix"),
        help_heading = PODS
    )]
    pub(crate) pod_interface_name_prefix: Option<InterfaceName>,

    /// Masquerade all connections to cluster IPs, also those from pods
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false,
        hide_possible_values = true,
        hide_default_value = true,
        value_name = "BOOL",
        value_parser = go_bool,
        action = ArgAction::Set,
        help_heading = PODS
    )]
    pub(crate) masquerade_all: bool,

    /// Bit of the packet mark, 0 to 31, for connections to masquerade; change it if other software
    /// uses this bit
    #[arg(
        long,
        value_name = "BIT",
        default_value_t = 14,
        value_parser = masquerade_bit,
        alias = "iptables-masquerade-bit",
        help_heading = PODS
    )]
    pub(crate) masquerade_bit: u8,

    /// Bits of the packet mark that svcproxy may use: the lowest marks packets for this node, the
    /// others number virtual servers; change it if other software uses these bits
    #[arg(
        long,
        value_name = "MASK",
        default_value = "0xffff2000",
        value_parser = mask,
        help_heading = PODS
    )]
    pub(crate) mark_mask: u32,

    /// Networks of cluster IPs; may be repeated. The node routes them to itself, and rejects
    /// packets to addresses without a Service. A family that this node's kernel does not have
    /// is left out, with a warning [default: the API's ServiceCIDRs, or kubeadm's ClusterConfiguration, or
    /// none: one route per cluster IP]
    #[arg(
        long = "service-cidr",
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = SERVICES
    )]
    pub(crate) service_cidrs: Vec<IpNet>,

    /// Networks of the node's addresses that serve node ports; or "primary" for the node IP,
    /// "localhost", "all" [default: all addresses except loopback; with --config in mode nftables,
    /// primary]
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = node_port_addresses,
        help_heading = SERVICES
    )]
    pub(crate) nodeport_addresses: Vec<NodePortAddresses>,

    /// Networks of VIPs that svcproxy leaves to other software
    #[arg(
        long = "exclude-cidrs",
        alias = "ipvs-exclude-cidrs",
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = SERVICES
    )]
    pub(crate) exclude_cidrs: Vec<IpNet>,

    /// Virtual IPs, for mode userspace, that you route to this node yourself; svcproxy listens on
    /// them and adds no route
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = address_or_network,
        help_heading = SERVICES
    )]
    pub(crate) listen: Vec<IpNet>,

    /// Do not serve external IPs. Otherwise anyone who may create Services can take traffic for any
    /// address (CVE-2020-8554)
    #[arg(long, help_heading = SERVICES)]
    pub(crate) deny_external_ips: bool,

    /// Networks whose addresses are never used as endpoints; may be repeated. Otherwise anyone who
    /// may create EndpointSlices can reach what is closed to pods (CVE-2021-25740)
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = SERVICES
    )]
    pub(crate) deny_endpoints: Vec<IpNet>,

    /// Scheduler of Services without the annotation svcproxy.io/scheduler: rr, wrr, lc, wlc, lblc,
    /// lblcr, dh, sh, mh, sed, nq, fo, ovf
    #[arg(
        long,
        value_name = "NAME",
        default_value = "rr",
        hide_possible_values = true,
        value_parser = SchedulerParser,
        help_heading = IPVS
    )]
    pub(crate) ipvs_scheduler: Scheduler,

    /// Timeout of idle TCP connections in IPVS (30s, 15m, 2h); 0 keeps the kernel's value
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = timeout,
        help_heading = IPVS
    )]
    pub(crate) ipvs_tcp_timeout: Timeout,

    /// Timeout of TCP connections in IPVS after a FIN; 0 keeps the kernel's value
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = timeout,
        help_heading = IPVS
    )]
    pub(crate) ipvs_tcpfin_timeout: Timeout,

    /// Timeout of UDP flows in IPVS; 0 keeps the kernel's value
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = timeout,
        help_heading = IPVS
    )]
    pub(crate) ipvs_udp_timeout: Timeout,

    /// Seconds that connections to a removed endpoint may continue; 0 cuts them at once, and so
    /// does --once
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = IPVS)]
    pub(crate) drain_timeout: u64,

    #[command(flatten)]
    pub(crate) sync: SyncArgs,
}

/// How to detect pod traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DetectLocal {
    /// By --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By the pod CIDRs of this node's Node object; by --cluster-cidr until it is known
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// By --pod-bridge-interface
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// By --pod-interface-name-prefix
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

/// Which addresses serve node ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodePortAddresses {
    /// The node's address of each family.
    Primary,
    /// Addresses of loopback interfaces. They never serve node ports.
    Localhost,
    /// All.
    All,
    /// The node's addresses in a network.
    In(IpNet),
}

/// A timeout of IPVS in whole seconds; none keeps the kernel's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<u32>);

/// Normalises a node name as the kubelet does.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the node name is empty".to_owned()),
        name => Ok(name.to_lowercase()),
    }
}

pub(crate) fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    let network = || text.parse().map(NodePortAddresses::In);
    match text {
        "primary" => Ok(NodePortAddresses::Primary),
        "localhost" => Ok(NodePortAddresses::Localhost),
        "all" => Ok(NodePortAddresses::All),
        _ => network().map_err(|_| {
            "neither a network (192.0.2.0/24) nor \"primary\", \"localhost\", \"all\"".to_owned()
        }),
    }
}

/// A network; an address stands for itself.
fn address_or_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok();
    let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| "neither a network (203.0.113.0/24) nor an address".to_owned())
}

fn masquerade_bit(text: &str) -> Result<u8, String> {
    let bit = u8::try_from(go_int(text)?).ok().filter(|bit| *bit < 32);
    bit.ok_or_else(|| "must be within 0 and 31".to_owned())
}

fn mask(text: &str) -> Result<u32, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    u32::from_str_radix(digits, radix).map_err(|error| error.to_string())
}

fn timeout(text: &str) -> Result<Timeout, String> {
    let duration: GoDuration = text.parse().map_err(|error| format!("{error}"))?;
    Timeout::of(duration)
}

impl Timeout {
    pub(crate) fn of(duration: GoDuration) -> Result<Self, String> {
        if duration.is_zero() {
            return Ok(Self(None));
        }
        let seconds = duration.whole_seconds();
        let seconds = seconds.filter(|seconds| *seconds <= Timeouts::MAX);
        seconds
            .map(|seconds| Self(Some(seconds)))
            .ok_or_else(|| format!("IPVS accepts whole seconds, at most {}", Timeouts::MAX))
    }
}

/// The names of [`known_schedulers`], for completion.
const SCHEDULERS: [&str; 14] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos",
];

/// As [`scheduler`], and offers the names for completion.
#[derive(Debug, Clone)]
struct SchedulerParser;

impl TypedValueParser for SchedulerParser {
    type Value = Scheduler;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Scheduler, Error> {
        scheduler.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = SCHEDULERS.into_iter().map(PossibleValue::new);
        Some(Box::new(names))
    }
}

fn known_schedulers() -> impl Iterator<Item = Scheduler> {
    Scheduler::known().filter(|scheduler| scheduler.as_str() != "none")
}

/// Accepts only names that the kernel knows: for an unknown name, the kernel tries to load a
/// module. Rejects "none", which would leave a virtual server without a scheduler.
pub(crate) fn scheduler(name: &str) -> Result<Scheduler, String> {
    // kube-proxy's spelling of the default.
    if name.is_empty() {
        return Ok(Scheduler::RoundRobin);
    }
    known_schedulers()
        .find(|scheduler| scheduler.as_str() == name)
        .ok_or_else(|| {
            let names: Vec<_> = known_schedulers().map(|s| s.as_str().to_owned()).collect();
            format!("unknown scheduler; the known ones are {}", names.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_offers_the_known_schedulers() {
        let mut known: Vec<_> = known_schedulers().map(|s| s.as_str().to_owned()).collect();
        let mut offered = SCHEDULERS.map(str::to_owned);
        known.sort();
        offered.sort();
        assert_eq!(known, offered);
    }
}
