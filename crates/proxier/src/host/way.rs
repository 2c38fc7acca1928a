//! The way of a connection to an endpoint through the hooks of the node, and what is on it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipvs::Family;
use netlink::filter::Hook;

use super::firewall::remedy;
use super::passing::{Passing, obstructions};
use super::{Facts, Role};
use crate::mode::ipvs::rules::{ADMIT, INPUT};
use crate::mode::probe::Mode;
use crate::mode::trace::{Answer, Origin, Packet};

/// The priority at which destinations are translated, and those next to it.
const BEFORE_NAT: i32 = -101;
const AFTER_NAT: i32 = -99;
/// IPVS takes packets in the hook input at 98, and answers in the hook forward at 100.
const BEFORE_IPVS: i32 = 97;
const BEFORE_IPVS_ANSWERS: i32 = 99;
/// Sources are translated at 100.
const BEFORE_MASQUERADING: i32 = 99;

/// Where the kernel sends packets to some addresses, and whether it forwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The way to each address that was asked for.
    pub routes: BTreeMap<IpAddr, Route>,
    /// Why packets of a family are not forwarded: the sysctl that is 0.
    pub closed: BTreeMap<Family, String>,
}

/// Where the kernel sends packets to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// By this interface.
    By(String),
    /// To this node.
    Local,
    /// Nowhere, and why.
    None(String),
}

/// Something that keeps a connection from an endpoint, or the answers from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Obstacle {
    /// What it is.
    pub kind: ObstacleKind,
    /// Whether it surely does so.
    pub is_certain: bool,
    /// What was found. It may quote rules of the host, unescaped.
    pub message: String,
}

/// The kind of an [`Obstacle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ObstacleKind {
    /// A packet filter.
    Firewall,
    /// There is no route.
    NoRoute,
    /// The node forwards no packets.
    NotForwarded,
}

/// What keeps a connection from an endpoint.
pub fn obstacles(
    packet: &Packet,
    answer: &Answer,
    facts: &Facts,
    ways: &Ways,
    role: &Role<'_>,
) -> Vec<Obstacle> {
    let way = Way {
        packet,
        answer,
        ways,
        role,
    };
    let mut found: Vec<_> = way.routes().chain(way.forwarding()).collect();
    for (passing, what) in way.passings() {
        let obstructions = obstructions(&facts.filters, &passing).into_iter();
        found.extend(obstructions.map(|(filter, of)| {
            // Elsewhere, hardly anything but the rule itself can be changed.
            let is_known = matches!(passing.hook, Hook::Input | Hook::Forward);
            let remedy = is_known.then(|| format!(". {}", remedy(filter, role)));
            Obstacle {
                kind: ObstacleKind::Firewall,
                is_certain: of.is_certain,
                message: format!("{what}: {of}{}", remedy.unwrap_or_default()),
            }
        }));
    }
    found
}

struct Way<'a> {
    packet: &'a Packet,
    answer: &'a Answer,
    ways: &'a Ways,
    role: &'a Role<'a>,
}

impl Way<'_> {
    fn endpoint(&self) -> IpAddr {
        self.answer.endpoint.ip()
    }

    fn is_from_node(&self) -> bool {
        self.packet.origin == Origin::Node
    }

    fn is_local(&self) -> bool {
        self.ways.routes.get(&self.endpoint()) == Some(&Route::Local)
    }

    /// The interface by which packets to an address leave.
    fn by(&self, address: IpAddr) -> Option<String> {
        match self.ways.routes.get(&address)? {
            Route::By(interface) => Some(interface.clone()),
            Route::Local => Some("lo".to_owned()),
            Route::None(_) => None,
        }
    }

    fn routes(&self) -> impl Iterator<Item = Obstacle> {
        let from_node = self.is_from_node();
        // In these modes a packet of the node itself is routed before its destination is translated.
        let is_routed = from_node && !matches!(self.role.mode, Mode::Ipvs | Mode::Userspace);
        let ends = [
            is_routed.then_some(("virtual IP", self.packet.destination)),
            Some(("endpoint", self.endpoint())),
            (!from_node).then_some(("client", self.packet.source)),
        ];
        ends.into_iter().flatten().filter_map(|(what, address)| {
            let Route::None(why) = self.ways.routes.get(&address)? else {
                return None;
            };
            Some(Obstacle {
                kind: ObstacleKind::NoRoute,
                is_certain: true,
                message: format!("this node has no route to {what} {address}: {why}"),
            })
        })
    }

    /// Mode userspace forwards nothing. IPVS sends packets on as the node's own, but the answers are
    /// forwarded.
    fn forwarding(&self) -> Option<Obstacle> {
        let is_forwarded = !self.is_from_node() && !self.is_local();
        if !is_forwarded || self.role.mode == Mode::Userspace {
            return None;
        }
        let sysctl = self.ways.closed.get(&self.packet.family())?;
        let what = match self.role.mode {
            Mode::Ipvs => "the answers of endpoints",
            _ => "packets to endpoints",
        };
        Some(Obstacle {
            kind: ObstacleKind::NotForwarded,
            is_certain: true,
            message: format!(
                "{sysctl} is 0: this node does not forward {what}. A running svcproxy sets it to 1 at \
                 its next audit"
            ),
        })
    }

    /// The packets at the hooks, in order, each with a name for people.
    fn passings(&self) -> Vec<(Passing, String)> {
        let to = self.packet.destination;
        let (endpoint, port) = (self.endpoint(), self.packet.port);
        let to_vip = |passing| (passing, format!("packet to {}", self.packet.key()));
        let on = |passing| {
            (
                passing,
                format!("packet to endpoint {}", self.answer.endpoint),
            )
        };
        let back = |passing| {
            (
                passing,
                format!("answer of endpoint {}", self.answer.endpoint),
            )
        };
        let vip = |hook, first, last| self.request(hook, [first, last], to, port.get());
        let sent = |hook, first, last| {
            let port = self.answer.endpoint.port();
            self.request(hook, [first, last], endpoint, port)
        };
        let translated = |passing| Passing {
            is_translated: true,
            ..passing
        };
        let mark = self.role.config.marks.own();
        let admitted = |passing| Passing { mark, ..passing };
        let (all, end) = (i32::MIN, i32::MAX);
        let from_node = self.is_from_node();
        let mut found = Vec::new();
        match self.role.mode {
            Mode::Ipvs if from_node => {
                found.push(to_vip(vip(Hook::Output, all, BEFORE_NAT)));
                found.push(on(sent(Hook::Output, all, end)));
            }
            Mode::Ipvs => {
                found.push(to_vip(vip(Hook::Prerouting, all, end)));
                found.push(to_vip(vip(Hook::Input, all, ADMIT)));
                found.push(to_vip(admitted(vip(Hook::Input, ADMIT, INPUT))));
                found.push(to_vip(vip(Hook::Input, INPUT, BEFORE_IPVS)));
                found.push(on(sent(Hook::Output, all, end)));
            }
            // The proxy is a program of the node, and makes a connection of its own.
            Mode::Userspace => {
                // The node's own packets come back through lo.
                let arriving = |hook| {
                    let passing = vip(hook, all, end);
                    let lo = from_node.then(|| "lo".to_owned());
                    Passing {
                        inbound: lo.or_else(|| passing.inbound.clone()),
                        ..passing
                    }
                };
                if from_node {
                    found.push(to_vip(vip(Hook::Output, all, end)));
                    found.push(to_vip(vip(Hook::Postrouting, all, end)));
                }
                found.push(to_vip(arriving(Hook::Prerouting)));
                found.push(to_vip(arriving(Hook::Input)));
                let own = |passing| Passing {
                    source: None,
                    inbound: Some(String::new()),
                    ..passing
                };
                found.push(on(own(sent(Hook::Output, all, end))));
                found.push(on(own(sent(Hook::Postrouting, all, end))));
                // What the endpoint answers goes to an address of this node that is not known here.
                for hook in [Hook::Output, Hook::Postrouting] {
                    let answer = self.proxy_answer(hook);
                    found.push((answer, format!("answer of {}", self.packet.key())));
                }
                return found;
            }
            _ => {
                let hook = if from_node {
                    Hook::Output
                } else {
                    Hook::Prerouting
                };
                found.push(to_vip(vip(hook, all, BEFORE_NAT)));
                found.push(on(translated(sent(hook, AFTER_NAT, end))));
                match (self.is_local(), from_node) {
                    (true, _) => found.push(on(translated(sent(Hook::Input, all, end)))),
                    (false, false) => found.push(on(translated(sent(Hook::Forward, all, end)))),
                    (false, true) => {}
                }
            }
        }
        let is_translated = self.role.mode != Mode::Ipvs;
        let mark_translated = |passing| Passing {
            is_translated,
            ..passing
        };
        if !self.is_local() {
            let leaving = sent(Hook::Postrouting, all, BEFORE_MASQUERADING);
            found.push(on(mark_translated(leaving)));
        }
        let (hook, last) = match (self.is_local(), from_node) {
            (true, _) => (Hook::Output, end),
            (false, true) => (Hook::Input, BEFORE_IPVS),
            (false, false) => (Hook::Forward, BEFORE_IPVS_ANSWERS),
        };
        found.push(back(mark_translated(self.answer(hook, last))));
        found
    }

    /// The first packet at a hook, to an address and port.
    fn request(&self, hook: Hook, priorities: [i32; 2], to: IpAddr, port: u16) -> Passing {
        let inbound = match &self.packet.origin {
            Origin::Node => Some(String::new()),
            Origin::Interface(name) => Some(name.clone()).filter(|name| !name.is_empty()),
        };
        let outbound = match hook {
            Hook::Prerouting | Hook::Input => Some(String::new()),
            _ => self.by(to),
        };
        Passing {
            hook,
            priorities,
            source: Some(self.packet.source),
            destination: to,
            protocol: self.packet.protocol,
            source_port: None,
            destination_port: Some(port),
            inbound: match hook {
                Hook::Output | Hook::Postrouting => Some(String::new()),
                _ => inbound,
            },
            outbound,
            is_answer: false,
            is_translated: false,
            mark: 0,
        }
    }

    /// The first answer of the proxy of mode userspace at a hook: from the virtual IP.
    fn proxy_answer(&self, hook: Hook) -> Passing {
        Passing {
            source: Some(self.packet.destination),
            source_port: Some(self.packet.port.get()),
            inbound: Some(String::new()),
            outbound: self.by(self.packet.source),
            ..self.answer(hook, i32::MAX)
        }
    }

    /// The endpoint's first answer at a hook.
    fn answer(&self, hook: Hook, last: i32) -> Passing {
        let client = self.packet.source;
        let is_sent = hook == Hook::Output;
        Passing {
            hook,
            priorities: [i32::MIN, last],
            source: Some(self.endpoint()),
            destination: client,
            protocol: self.packet.protocol,
            source_port: Some(self.answer.endpoint.port()),
            destination_port: None,
            inbound: match is_sent {
                true => Some(String::new()),
                false => self.by(self.endpoint()),
            },
            outbound: match hook {
                Hook::Input => Some(String::new()),
                _ => self.by(client),
            },
            is_answer: true,
            is_translated: false,
            mark: 0,
        }
    }
}
