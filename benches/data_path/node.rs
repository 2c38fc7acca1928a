//! What the node has loaded.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fmt, fs};

use proxier::desired::{Config, DesiredState};
use proxier::mode::iptables::{IptablesKernel, Plan as IptablesPlan};
use proxier::mode::ipvs::plan::{Plan, Scope, Step};
use proxier::mode::ipvs::rules::{Ruleset, TABLE};
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::{NftablesKernel, Plan as NftablesPlan};
use proxier::mode::{ApplyReport, Sysctl};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::store::Change;
use svcproxy_benches::Cluster;
use testbed::{Host, POD_CIDR_V4, POD_CIDR_V6, SERVICE_CIDR_V4, SERVICE_CIDR_V6};

use crate::Result;

/// Of the measured Service.
pub(crate) const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
/// Its port.
pub(crate) const PORT: u16 = 80;
/// Its endpoint's port.
pub(crate) const SERVICE_PORT: u16 = 8080;

const FEW: u32 = 10;
const MANY: u32 = 1_000;
const VERY_MANY: u32 = 10_000;
/// As many as the largest known clusters have.
const MOST: u32 = 50_000;

/// What the node has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Load {
    Nothing,
    /// Connection tracking for one rule, in a chain that is at no hook.
    Conntrack,
    /// Virtual servers alone.
    Ipvs,
    /// Both.
    IpvsConntrack,
    /// And an empty chain of type nat.
    IpvsNat,
    /// svcproxy in mode `ipvs` with this number of Services.
    SvcproxyIpvs(u32),
    /// And Services, and for a moment a filter, that need every part of the rules.
    AllParts,
    /// The same without one of its chains.
    Without(&'static str),
    /// svcproxy in mode `iptables`.
    SvcproxyIptables(u32),
    /// svcproxy in mode `nftables`.
    SvcproxyNftables(u32),
    /// svcproxy in mode `ipvs` with few Services, and changes of its rules for `nft -f`.
    Patched(PathBuf),
    /// The rules of another program, as `nft list ruleset` printed them. They must serve the
    /// measured Service.
    Dump(PathBuf),
}

impl Load {
    /// The rows of the table.
    pub(crate) fn all(quick: bool, large: bool, files: Vec<Self>) -> Vec<Self> {
        let mut all = vec![
            Self::Conntrack,
            Self::IpvsConntrack,
            Self::SvcproxyIpvs(FEW),
            Self::SvcproxyNftables(FEW),
        ];
        all.extend(files);
        if quick {
            return all;
        }
        all.splice(..0, [Self::Nothing, Self::Ipvs, Self::IpvsNat]);
        let sizes = [MANY, VERY_MANY].into_iter();
        let sizes: Vec<_> = sizes.filter(|size| large || *size < VERY_MANY).collect();
        all.extend(sizes.iter().copied().map(Self::SvcproxyIpvs));
        all.extend(sizes.iter().copied().map(Self::SvcproxyNftables));
        all.extend(large.then_some(Self::SvcproxyNftables(MOST)));
        all.extend([FEW, MANY].map(Self::SvcproxyIptables));
        all.extend(Self::without_each());
        all
    }

    /// The rows that show what each chain costs.
    pub(crate) fn without_each() -> Vec<Self> {
        let chains = Ruleset::new(&config()).base_chain_names().into_iter();
        let without = chains.map(Self::Without);
        [Self::AllParts].into_iter().chain(without).collect()
    }

    /// Whether the cluster IP is served.
    pub(crate) fn serves(&self) -> bool {
        !matches!(self, Self::Nothing | Self::Conntrack)
    }

    /// Whether it is a whole proxy.
    pub(crate) fn is_proxy(&self) -> bool {
        matches!(
            self,
            Self::SvcproxyIpvs(_)
                | Self::AllParts
                | Self::SvcproxyIptables(_)
                | Self::SvcproxyNftables(_)
                | Self::Patched(_)
                | Self::Dump(_)
        )
    }

    /// Loads it; the Service's only endpoint is `pod`.
    pub(crate) fn apply(&self, node: &Host, pod: Ipv4Addr) -> Result<()> {
        let state = |services| desired(services, pod, false);
        let is_base = |step: &&Step| matches!(step, Step::Ipvs(_) | Step::AddRoute(_));
        match self {
            Self::Nothing => {}
            Self::Conntrack => track(node, "")?,
            Self::Ipvs => ipvs(node, &state(FEW)?, is_base)?,
            Self::IpvsConntrack | Self::IpvsNat => {
                let is_used = |step: &&Step| {
                    is_base(step) || matches!(step, Step::SetSysctl(Sysctl::VS_CONNTRACK, _))
                };
                ipvs(node, &state(FEW)?, is_used)?;
                track(
                    node,
                    if *self == Self::IpvsNat {
                        EMPTY_NAT
                    } else {
                        ""
                    },
                )?;
            }
            Self::SvcproxyIpvs(services) => ipvs(node, &state(*services)?, |_| true)?,
            Self::AllParts => with_all_parts(node, pod)?,
            Self::Without(chain) => {
                with_all_parts(node, pod)?;
                for command in ["flush", "delete"] {
                    node.run(["nft", command, "chain", "inet", TABLE, chain])?;
                }
            }
            Self::SvcproxyIptables(services) => iptables(node, &state(*services)?)?,
            Self::SvcproxyNftables(services) => nftables(node, &state(*services)?)?,
            Self::Patched(path) => {
                ipvs(node, &state(FEW)?, |_| true)?;
                node.run_with_input(["nft", "-f", "-"], &fs::read_to_string(path)?)?;
            }
            Self::Dump(path) => {
                node.run_with_input(["nft", "-f", "-"], &fs::read_to_string(path)?)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Conntrack => f.write_str("connection tracking"),
            Self::Ipvs => f.write_str("IPVS"),
            Self::IpvsConntrack => f.write_str("IPVS + conntrack"),
            Self::IpvsNat => f.write_str("IPVS + conntrack + empty nat chain"),
            Self::SvcproxyIpvs(services) => write!(f, "svcproxy ipvs, {services} Services"),
            Self::AllParts => f.write_str("svcproxy ipvs, all parts of the rules"),
            Self::Without(chain) => write!(f, "– without `{chain}`"),
            Self::SvcproxyIptables(services) => write!(f, "svcproxy iptables, {services} Services"),
            Self::SvcproxyNftables(services) => write!(f, "svcproxy nftables, {services} Services"),
            Self::Patched(path) => {
                let name = path.file_stem().unwrap_or_default();
                write!(f, "svcproxy ipvs, {FEW} Services, {}", name.display())
            }
            Self::Dump(path) => path.file_stem().unwrap_or_default().display().fmt(f),
        }
    }
}

const EMPTY_NAT: &str = "chain nat { type nat hook postrouting priority srcnat; };";

/// Has the kernel track connections in a namespace.
fn track(node: &Host, more: &str) -> Result<()> {
    let table = format!("table inet track {{ chain any {{ ct state new; }}; {more} }}");
    node.run_with_input(["nft", "-f", "-"], &table)?;
    Ok(())
}

fn ipvs(node: &Host, desired: &DesiredState, keep: impl Fn(&&Step) -> bool + Send) -> Result<()> {
    node.enter(|| {
        let mut kernel = IpvsKernel::open()?;
        let plan = Plan::new(desired, &kernel.observe()?, Scope::Full);
        let plan: Plan = plan.into_iter().filter(keep).cloned().collect();
        check(&kernel.apply(&plan))
    })
}

/// The filter of another program is there until the rules are installed: its own cost does not count.
fn with_all_parts(node: &Host, pod: Ipv4Addr) -> Result<()> {
    let filter = "table inet other { chain input { type filter hook input priority 0; }; }";
    node.run_with_input(["nft", "-f", "-"], filter)?;
    ipvs(node, &desired(FEW, pod, true)?, |_| true)?;
    node.run(["nft", "delete", "table", "inet", "other"])?;
    Ok(())
}

fn iptables(node: &Host, desired: &DesiredState) -> Result<()> {
    node.enter(|| {
        let mut kernel = IptablesKernel::open()?;
        let plan = IptablesPlan::new(desired, &kernel.observe()?, Scope::Full);
        check(&kernel.apply(&plan))
    })
}

fn nftables(node: &Host, desired: &DesiredState) -> Result<()> {
    node.enter(|| {
        let mut kernel = NftablesKernel::open()?;
        let plan = NftablesPlan::new(desired, &kernel.observe()?, Scope::Full);
        check(&kernel.apply(&plan))
    })
}

fn check(report: &ApplyReport) -> Result<()> {
    match report.failures.first() {
        Some(failure) => Err(format!("{failure:?}").into()),
        None => Ok(()),
    }
}

fn config() -> Config {
    let mut config = Config::new("node-1", vec![[172, 18, 0, 1].into()]);
    let networks = |texts: [&str; 2]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    config.service_cidrs = networks([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config.cluster_cidrs = networks([POD_CIDR_V4, POD_CIDR_V6]);
    config
}

/// A cluster of so many Services, one of which has the pod as its only endpoint. With `all_parts`,
/// there are another one with a node port and an external IP, and one without endpoints.
fn desired(services: u32, pod: Ipv4Addr, all_parts: bool) -> Result<DesiredState> {
    let mut store = Cluster::new(services.saturating_sub(1), 3)?.store();
    let name = ObjectName::new("default", "measured")?;
    let mut service = Service::new(name.clone());
    service.cluster_ips = [CLUSTER_IP.into()].into();
    let slice_name = ObjectName::new("default", "measured-abcde")?;
    let mut slice = EndpointSlice::new(slice_name, name, Family::V4);
    let number = |port| NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN);
    let ports = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let ports = ports.map(|(name, protocol)| Ok((PortName::new(name)?, protocol)));
    let ports = ports.into_iter().collect::<Result<Vec<_>>>()?;
    let service_port = |(name, protocol): &(PortName, Protocol)| {
        ServicePort::new(name.clone(), *protocol, number(PORT))
    };
    service.ports = ports.iter().map(service_port).collect();
    let endpoint_port = |(name, protocol): &(PortName, Protocol)| {
        EndpointPort::new(name.clone(), *protocol, number(SERVICE_PORT))
    };
    slice.ports = ports.iter().map(endpoint_port).collect();
    slice.endpoints = [Endpoint::new(pod.into())].into();
    if all_parts {
        let name = |name: &str| ObjectName::new("default", name);
        let mut of_all_kinds = Service::new(name("of-all-kinds")?);
        let mut port = ServicePort::new(PortName::new("tcp")?, Protocol::Tcp, number(PORT));
        port.node_port = NonZeroU16::new(30_080);
        of_all_kinds.ports = [port].into();
        of_all_kinds.cluster_ips = [Ipv4Addr::new(10, 100, 0, 2).into()].into();
        of_all_kinds.external_ips = [Ipv4Addr::new(203, 0, 113, 1).into()].into();
        let mut its_slice = slice.clone();
        its_slice.name = name("of-all-kinds-abcde")?;
        its_slice.service = name("of-all-kinds")?;
        let mut empty = of_all_kinds.clone();
        empty.name = name("empty")?;
        empty.ports = service.ports.clone();
        empty.cluster_ips = [Ipv4Addr::new(10, 100, 0, 3).into()].into();
        empty.external_ips = [].into();
        store.apply(Change::ServiceApplied(of_all_kinds));
        store.apply(Change::EndpointSliceApplied(its_slice));
        store.apply(Change::ServiceApplied(empty));
    }
    store.apply(Change::ServiceApplied(service));
    store.apply(Change::EndpointSliceApplied(slice));
    Ok(DesiredState::from_store(Arc::new(config()), &store))
}
