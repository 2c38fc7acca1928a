//! A data plane, as a value: that of a plan, or the kernel's.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;
use ipvs::VirtualServerKey;
use proxier::desired::{Config, DesiredState, FrontendKey};
use proxier::host::{Host, Route};
use proxier::mode::iptables::{self, IptablesKernel};
use proxier::mode::ipvs as ipvs_mode;
use proxier::mode::ipvs::plan::{Element, NodeState, Obstacle, Plan, Purpose, Scope};
use proxier::mode::ipvs::rules::Ruleset;
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::{self, NftablesKernel};
use proxier::mode::trace::{Packet, Surroundings, Trace};
use proxier::mode::userspace::{self, Served, Socket};

use crate::args::Mode;
use crate::commands::proxy::{self, ProxyNode};
use crate::inventory::in_use;
use crate::running::Client;

/// The state that a packet meets.
#[derive(Debug, Clone)]
pub(super) enum DataPlane {
    /// IPVS with svcproxy's rules.
    Ipvs(Rules<Ruleset>, Box<NodeState>),
    /// iptables.
    Iptables(Box<iptables::NodeState>),
    /// nftables.
    Nftables(Rules<nftables::Ruleset>, Box<nftables::NodeState>),
    /// svcproxy's sockets, and the routes to them.
    Userspace(Box<Sockets>),
}

/// What mode userspace has.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    pub(super) node: userspace::NodeState,
    /// Those of other programs. `None` if they are not known.
    pub(super) others: Option<Vec<Socket>>,
    /// Why it is not known what svcproxy serves, if no process says so.
    pub(super) silence: Option<String>,
    /// Whether the destination is in `--listen`, but the node has no route that makes it local.
    pub(super) is_unrouted: bool,
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
    /// The plan's, from scratch. `listen` are the networks of `--listen`. In mode userspace, it depends on
    /// the node's addresses: those of `kernel`, if it is known.
    pub(super) fn planned(
        mode: Mode,
        desired: &DesiredState,
        listen: &[IpNet],
        kernel: Option<&Self>,
    ) -> Self {
        match mode {
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
            Mode::Userspace => Self::Userspace(Box::new(Sockets::planned(desired, listen, kernel))),
        }
    }

    /// The kernel's, with the real servers that matter to a packet. Without a mode, that of a running
    /// svcproxy in mode userspace, or else of the mode whose rules the node has.
    pub(super) fn of_kernel(
        mode: Option<Mode>,
        config: &Config,
        packet: &Packet,
        look: &Look<'_>,
    ) -> anyhow::Result<Self> {
        let (mode, iptables) = in_use(proxy::mode_of(mode, look.client))?;
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
            Mode::Userspace => {
                let node = proxy::read(look.client, look.listen)?;
                Self::Userspace(Box::new(Sockets::of_kernel(node, packet, look)?))
            }
        })
    }

    pub(super) const fn mode(&self) -> Mode {
        match self {
            Self::Ipvs(..) => Mode::Ipvs,
            Self::Iptables(_) => Mode::Iptables,
            Self::Nftables(..) => Mode::Nftables,
            Self::Userspace(_) => Mode::Userspace,
        }
    }

    /// Follows a packet.
    pub(super) fn trace(&self, packet: &Packet, is_own: &dyn Fn(IpAddr) -> bool) -> Trace {
        let around = Surroundings::new(is_own);
        match self {
            Self::Ipvs(rules, node) => ipvs_mode::trace(rules.ruleset(), node, packet, around),
            Self::Iptables(node) => iptables::trace(node.rules(packet.family()), packet, around),
            Self::Nftables(rules, node) => nftables::trace(rules.ruleset(), node, packet, around),
            Self::Userspace(of) => userspace::trace(&of.node, of.others.as_deref(), packet, around),
        }
    }

    /// Routes of other programs in the way of svcproxy's.
    pub(super) fn obstacles(&self) -> impl Iterator<Item = &Obstacle> {
        let obstacles = match self {
            Self::Ipvs(_, node) => Some(&node.obstacles),
            Self::Userspace(of) => Some(&of.node.obstacles),
            Self::Iptables(_) | Self::Nftables(..) => None,
        };
        obstacles.into_iter().flatten()
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

/// How to look at the kernel in mode userspace.
pub(super) struct Look<'a> {
    /// The running svcproxy.
    pub(super) client: Option<&'a Client>,
    /// The networks of `--listen`.
    pub(super) listen: &'a [IpNet],
    pub(super) proc_sys: &'a Path,
}

impl Sockets {
    fn planned(desired: &DesiredState, listen: &[IpNet], kernel: Option<&DataPlane>) -> Self {
        let mut node = userspace::NodeState::default();
        let mut others = None;
        if let Some(DataPlane::Userspace(kernel)) = kernel {
            node.may_route = kernel.node.may_route;
            node.addresses.clone_from(&kernel.node.addresses);
            node.given = kernel.node.given.clone();
            others.clone_from(&kernel.others);
        } else {
            node.may_route = true;
            let addresses = desired.config().node_ips.iter();
            node.addresses = addresses.map(|ip| (*ip).into()).collect();
            node.given = listen.into();
        }
        node.record(&userspace::Plan::new(desired, &node, Scope::Full), &[]);
        Self {
            node,
            others,
            silence: None,
            is_unrouted: false,
        }
    }

    /// The sockets that may get the packet are named with their programs.
    fn of_kernel(found: ProxyNode, packet: &Packet, look: &Look<'_>) -> anyhow::Result<Self> {
        let ProxyNode {
            mut node,
            mut others,
            answers,
        } = found;
        let destination = packet.destination;
        let to = SocketAddr::new(destination, packet.port.get());
        let taking = others.iter_mut().filter(|of| of.takes(packet.protocol, to));
        taking.for_each(|of| of.holder = crate::lock::holder(of.inode));
        let is_unrouted = node.is_given(destination) && {
            let ways = Host::open(look.proc_sys)?.ways([destination])?;
            ways.routes.get(&destination) != Some(&Route::Local)
        };
        if is_unrouted {
            let given = node.given.iter().copied();
            node.given = given.filter(|of| !of.contains(&destination)).collect();
        }
        Ok(Self {
            node,
            others: Some(others),
            silence: (!answers).then(proxy::silence),
            is_unrouted,
        })
    }

    /// The frontend of a destination that svcproxy serves, and does not listen for there.
    pub(super) fn not_listening(&self, packet: &Packet, is_node_port: bool) -> Option<&Served> {
        let key = match is_node_port {
            true => packet.node_port(),
            false => packet.key(),
        };
        let to = SocketAddr::new(packet.destination, packet.port.get());
        let mut listeners = self.node.listeners.get(&key).into_iter().flatten();
        let is_there = listeners.any(|at| *at == to);
        let served = self.node.served.get(&key);
        served.filter(|_| !is_there).map(AsRef::as_ref)
    }

    /// A socket of another program that keeps svcproxy from listening at a destination.
    pub(super) fn in_the_way(&self, packet: &Packet) -> Option<&Socket> {
        let to = SocketAddr::new(packet.destination, packet.port.get());
        let mut others = self.others.iter().flatten();
        others.find(|of| of.takes(packet.protocol, to))
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
