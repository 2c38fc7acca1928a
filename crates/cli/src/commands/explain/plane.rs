//! A data plane, as a value: that of a plan, or the kernel's.

use std::net::IpAddr;

use anyhow::bail;
use ipvs::VirtualServerKey;
use proxier::desired::{Config, DesiredState, FrontendKey};
use proxier::mode::iptables::{self, IptablesKernel};
use proxier::mode::ipvs as ipvs_mode;
use proxier::mode::ipvs::plan::{Element, NodeState, Plan, Purpose, Scope};
use proxier::mode::ipvs::rules::Ruleset;
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::{self, NftablesKernel};
use proxier::mode::trace::{Packet, Surroundings, Trace};

use crate::args::Mode;
use crate::inventory::in_use;

/// Mode userspace has nothing that a packet passes.
const NO_RULES: &str = "explain follows rules, and mode userspace has none; `svcproxy describe` says \
                        what a Service has";

/// The state that a packet meets.
#[derive(Debug, Clone)]
pub(super) enum DataPlane {
    /// IPVS with svcproxy's rules.
    Ipvs(Rules<Ruleset>, Box<NodeState>),
    /// iptables.
    Iptables(Box<iptables::NodeState>),
    /// nftables.
    Nftables(Rules<nftables::Ruleset>, Box<nftables::NodeState>),
}

/// svcproxy's nftables rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rules<R> {
    /// Those of known settings.
    Known(R),
    /// Missing, or changed by another program.
    Missing,
    /// Complete, but of other settings than the known ones, which are assumed.
    Assumed(R),
}

impl DataPlane {
    /// The plan's, from scratch.
    pub(super) fn planned(mode: Mode, desired: &DesiredState) -> anyhow::Result<Self> {
        Ok(match mode {
            Mode::Ipvs => {
                let mut node = NodeState::default();
                node.record(&Plan::new(desired, &node, Scope::Full), &[]);
                Self::Ipvs(
                    Rules::Known(Ruleset::needed(desired, node.is_filtered)),
                    Box::new(node),
                )
            }
            Mode::Iptables => {
                let mut node = iptables::NodeState::default();
                node.record(&iptables::Plan::new(desired, &node, Scope::Full), &[]);
                Self::Iptables(Box::new(node))
            }
            Mode::Nftables => {
                let mut node = nftables::NodeState::default();
                node.record(&nftables::Plan::new(desired, &node, Scope::Full), &[]);
                let ruleset = nftables::Ruleset::new(desired.config());
                Self::Nftables(Rules::Known(ruleset), Box::new(node))
            }
            Mode::Userspace => bail!(NO_RULES),
        })
    }

    /// The kernel's, with the real servers that matter to a packet.
    pub(super) fn of_kernel(
        mode: Option<Mode>,
        config: &Config,
        packet: &Packet,
    ) -> anyhow::Result<Self> {
        let (mode, iptables) = in_use(mode)?;
        Ok(match mode {
            Mode::Ipvs => {
                let mut kernel = IpvsKernel::open()?;
                let mut node = kernel.outline()?;
                let keys = servers(&node, packet);
                kernel.read_real_servers(&mut node, &keys)?;
                Self::Ipvs(Rules::of(&node, config), Box::new(node))
            }
            Mode::Iptables => {
                let mut kernel = iptables.map_or_else(IptablesKernel::open, Ok)?;
                Self::Iptables(Box::new(kernel.observe()?))
            }
            Mode::Nftables => {
                let node = NftablesKernel::open()?.observe()?;
                Self::Nftables(Rules::of_nftables(&node, config), Box::new(node))
            }
            Mode::Userspace => bail!(NO_RULES),
        })
    }

    pub(super) const fn mode(&self) -> Mode {
        match self {
            Self::Ipvs(..) => Mode::Ipvs,
            Self::Iptables(_) => Mode::Iptables,
            Self::Nftables(..) => Mode::Nftables,
        }
    }

    /// Follows a packet.
    pub(super) fn trace(&self, packet: &Packet, is_own: &dyn Fn(IpAddr) -> bool) -> Trace {
        let around = Surroundings::new(is_own);
        match self {
            Self::Ipvs(rules, node) => ipvs_mode::trace(rules.ruleset(), node, packet, around),
            Self::Iptables(node) => iptables::trace(node.rules(packet.family()), packet, around),
            Self::Nftables(rules, node) => nftables::trace(rules.ruleset(), node, packet, around),
        }
    }

    /// The virtual server of a packet's address that svcproxy has not recorded.
    pub(super) fn foreign(&self, key: FrontendKey) -> Option<VirtualServerKey> {
        let Self::Ipvs(_, node) = self else {
            return None;
        };
        let server = key.virtual_server()?;
        let is_foreign = node.virtual_servers.contains_key(&server)
            && !node.elements.contains(&Element::VirtualServer(key));
        is_foreign.then_some(server)
    }
}

impl Rules<Ruleset> {
    pub(super) fn of(node: &NodeState, config: &Config) -> Self {
        let Some(fingerprint) = node.ruleset else {
            return Self::Missing;
        };
        match Ruleset::with_fingerprint(config, fingerprint) {
            Some(ruleset) => Self::Known(ruleset),
            None => Self::Assumed(Ruleset::new(config)),
        }
    }
}

impl Rules<nftables::Ruleset> {
    pub(super) fn of_nftables(node: &nftables::NodeState, config: &Config) -> Self {
        let ruleset = nftables::Ruleset::new(config);
        match node.ruleset {
            None => Self::Missing,
            Some(fingerprint) if fingerprint == ruleset.fingerprint() => Self::Known(ruleset),
            Some(_) => Self::Assumed(ruleset),
        }
    }
}

impl<R> Rules<R> {
    const fn ruleset(&self) -> Option<&R> {
        match self {
            Self::Known(ruleset) | Self::Assumed(ruleset) => Some(ruleset),
            Self::Missing => None,
        }
    }
}

/// The virtual servers that a packet may reach.
fn servers(node: &NodeState, packet: &Packet) -> Vec<VirtualServerKey> {
    let (key, node_port) = (packet.key(), packet.node_port());
    let marks = [
        (key, Purpose::External),
        (node_port, Purpose::NodePort),
        (node_port, Purpose::External),
    ];
    let marks = marks
        .into_iter()
        .filter_map(|(key, purpose)| node.elements.mark(key, purpose));
    let family = packet.family();
    let by_mark = marks.map(|mark| VirtualServerKey::firewall_mark(mark, family));
    key.virtual_server().into_iter().chain(by_mark).collect()
}
