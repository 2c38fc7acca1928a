//! What the node has loaded.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::{fmt, fs};

use proxier::desired::DesiredState;
use proxier::mode::iptables::{IptablesKernel, Plan as IptablesPlan};
use proxier::mode::ipvs::plan::{Plan, Scope, Step};
use proxier::mode::ipvs::rules::{Ruleset, TABLE};
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::{NftablesKernel, Plan as NftablesPlan, TABLE as NFTABLES_TABLE};
use proxier::mode::{ApplyReport, Sysctl};
use testbed::Host;

use crate::Result;
use crate::cluster::{config, desired, desired_of_all_kinds};

/// The fewest Services of a row.
pub(crate) const FEW: u32 = 10;
const MANY: u32 = 1_000;
const VERY_MANY: u32 = 10_000;
/// As many as the largest known clusters have.
const MOST: u32 = 50_000;

/// The base chains of mode `nftables` that translate nothing.
const NFTABLES_FILTERS: [&str; 4] = ["admit", "filter-input", "filter-forward", "filter-output"];

/// What the node has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Load {
    Nothing,
    /// Connection tracking for one rule, in a chain that is at no hook.
    Conntrack,
    /// And an empty chain of type nat.
    ConntrackNat,
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
    /// svcproxy in mode `nftables` with few Services, without one of its chains.
    NftablesWithout(&'static str),
    /// svcproxy in mode `ipvs` with few Services, and changes of its rules for `nft -f`.
    Patched(PathBuf),
    /// The rules of another program, as `nft list ruleset` printed them. They must serve the
    /// measured Service.
    Dump(PathBuf),
}

impl Load {
    /// svcproxy with few Services, by mode.
    pub(crate) const MODES: [(&'static str, Self); 3] = [
        ("ipvs", Self::SvcproxyIpvs(FEW)),
        ("nftables", Self::SvcproxyNftables(FEW)),
        ("iptables", Self::SvcproxyIptables(FEW)),
    ];

    /// The rows of the table.
    pub(crate) fn all(quick: bool, large: bool, files: Vec<Self>) -> Vec<Self> {
        let mut all = vec![
            Self::Conntrack,
            Self::ConntrackNat,
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
        let more = Self::without_each().into_iter();
        let more: Vec<_> = more.filter(|load| !all.contains(load)).collect();
        all.extend(more);
        all
    }

    /// The rows that show what each chain costs.
    pub(crate) fn without_each() -> Vec<Self> {
        let chains = Ruleset::new(&config()).base_chain_names().into_iter();
        let ipvs = [Self::AllParts].into_iter();
        let ipvs = ipvs.chain(chains.map(Self::Without));
        let nftables = [Self::SvcproxyNftables(FEW)].into_iter();
        let nftables = nftables.chain(NFTABLES_FILTERS.map(Self::NftablesWithout));
        ipvs.chain(nftables).collect()
    }

    /// The load of which this one lacks a chain, and the chain.
    pub(crate) fn lacks(&self) -> Option<(Self, &'static str)> {
        match self {
            Self::Without(chain) => Some((Self::AllParts, chain)),
            Self::NftablesWithout(chain) => Some((Self::SvcproxyNftables(FEW), chain)),
            _ => None,
        }
    }

    /// Whether the cluster IP is served.
    pub(crate) fn serves(&self) -> bool {
        !matches!(self, Self::Nothing | Self::Conntrack | Self::ConntrackNat)
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
        let state = |services| desired(services, pod);
        let is_base = |step: &&Step| matches!(step, Step::Ipvs(_) | Step::AddRoute(_));
        match self {
            Self::Nothing => {}
            Self::Conntrack => track(node, "")?,
            Self::ConntrackNat => track(node, EMPTY_NAT)?,
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
            Self::NftablesWithout(chain) => {
                nftables(node, &state(FEW)?)?;
                for command in ["flush", "delete"] {
                    node.run(["nft", command, "chain", "ip", NFTABLES_TABLE, chain])?;
                }
            }
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
            Self::ConntrackNat => f.write_str("connection tracking + empty nat chain"),
            Self::Ipvs => f.write_str("IPVS"),
            Self::IpvsConntrack => f.write_str("IPVS + conntrack"),
            Self::IpvsNat => f.write_str("IPVS + conntrack + empty nat chain"),
            Self::SvcproxyIpvs(services) => write!(f, "svcproxy ipvs, {services} Services"),
            Self::AllParts => f.write_str("svcproxy ipvs, all parts of the rules"),
            Self::Without(chain) => write!(f, "– without `{chain}`"),
            Self::SvcproxyIptables(services) => write!(f, "svcproxy iptables, {services} Services"),
            Self::SvcproxyNftables(services) => write!(f, "svcproxy nftables, {services} Services"),
            Self::NftablesWithout(chain) => write!(f, "– nftables without `{chain}`"),
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

pub(crate) fn ipvs(
    node: &Host,
    desired: &DesiredState,
    keep: impl Fn(&&Step) -> bool + Send,
) -> Result<()> {
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
    ipvs(node, &desired_of_all_kinds(FEW, pod)?, |_| true)?;
    node.run(["nft", "delete", "table", "inet", "other"])?;
    Ok(())
}

pub(crate) fn iptables(node: &Host, desired: &DesiredState) -> Result<()> {
    node.enter(|| {
        let mut kernel = IptablesKernel::open()?;
        let plan = IptablesPlan::new(desired, &kernel.observe()?, Scope::Full);
        check(&kernel.apply(&plan))
    })
}

pub(crate) fn nftables(node: &Host, desired: &DesiredState) -> Result<()> {
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
