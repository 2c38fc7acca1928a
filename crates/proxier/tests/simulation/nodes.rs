//! The nodes in memory, one for each mode: how they break, and what becomes of packets on them. The
//! latter uses no code of the data planes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipvs::{Connections, FakeClient, RealServerKey, VirtualServerKey};
use proxier::Proxier;
use proxier::desired::{Config, FrontendKey};
use proxier::mode::iptables::{self, FakeIptables, Iptables, ProgramFault};
use proxier::mode::ipvs::plan::{Audience, Element as IpvsElement, NodeState};
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs, Replacement, Retiring};
use proxier::mode::nftables::{self, Chooser, Element, FakeNftables, Nftables};
use std::sync::Arc;

use crate::life::{Life, Loop};
use crate::oracle::{self, Client, Outcome};
use crate::packet::Tables;
use crate::script::{Drift, Fault, Mode};

/// A real server of a virtual server.
pub(crate) type Server = (VirtualServerKey, RealServerKey);

/// A real server's weight and its active connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) weight: u32,
    pub(crate) connections: u32,
}

pub(crate) trait Node {
    fn mode(&self) -> Mode;

    /// Starts svcproxy.
    fn start(&self, config: Arc<Config>, now: Instant) -> Box<dyn Life>;

    /// Reads the node, for the questions below.
    fn look(&mut self);

    /// What becomes of a client's first packet.
    fn meets(&self, key: FrontendKey, client: Client, config: &Config) -> Outcome;

    /// The destinations that new connections may be sent to, where it is known from where.
    fn endpoints(&self) -> Vec<(Option<FrontendKey>, IpAddr, u16)>;

    /// The destinations that something is there for, where it is known.
    fn keys(&self) -> BTreeSet<FrontendKey>;

    /// The addresses of `keys`, or those that the rules name.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.keys().into_iter().map(|key| key.address).collect()
    }

    fn drift(&mut self, drift: Drift);

    /// Faults of the next turn of the loop.
    fn arm(&mut self, fault: Fault);

    fn disarm(&mut self);

    /// Whether an armed fault has not happened yet.
    fn is_armed(&self) -> bool;

    /// The words by which steps name a destination.
    fn names(&self, key: FrontendKey) -> Vec<String> {
        match key.is_node_port() {
            true => vec![key.port.to_string()],
            false => vec![key.address.to_string()],
        }
    }

    /// The real servers, in a mode that has some.
    fn servers(&self) -> BTreeMap<Server, Load> {
        BTreeMap::new()
    }

    fn connect(&mut self, _: usize, _: u32) {}

    /// The destination whose packets a virtual server gets, or got last.
    fn destination(&self, _: &VirtualServerKey) -> Option<FrontendKey> {
        None
    }

    /// The destinations of which the node does not say that they are svcproxy's.
    fn unrecorded(&self) -> BTreeSet<FrontendKey> {
        BTreeSet::new()
    }

    /// Removes what svcproxy has left, as another mode does that has begun. Returns whether it is
    /// done.
    fn retire(&mut self, config: &Config, now: Instant) -> bool;

    /// This mode begins again before it is removed.
    fn keep(&mut self) {}

    fn is_empty(&self) -> bool;

    /// A measure of what is there.
    fn size(&self) -> usize;
}

pub(crate) struct IpvsNode {
    node: FakeNode,
    eye: FakeIpvs,
    client: FakeClient,
    state: NodeState,
    servers: BTreeMap<Server, Load>,
    retiring: Option<Retiring>,
    /// The destinations of firewall-mark virtual servers.
    marked: BTreeMap<VirtualServerKey, FrontendKey>,
}

impl Default for IpvsNode {
    fn default() -> Self {
        let node = FakeNode::default();
        Self {
            eye: node.kernel().unwrap(),
            client: node.ipvs().client().unwrap(),
            node,
            state: NodeState::default(),
            servers: BTreeMap::new(),
            retiring: None,
            marked: BTreeMap::new(),
        }
    }
}

impl IpvsNode {
    fn nth(&self, nth: u8) -> Option<Server> {
        let count = self.servers.len().max(1);
        self.servers.keys().nth(usize::from(nth) % count).copied()
    }
}

impl Node for IpvsNode {
    fn mode(&self) -> Mode {
        Mode::Ipvs
    }

    fn start(&self, config: Arc<Config>, now: Instant) -> Box<dyn Life> {
        let plane = Ipvs::new(self.node.kernel().unwrap());
        Box::new(Loop::new(Proxier::new(config, plane), now))
    }

    fn look(&mut self) {
        self.state = self.node.snapshot();
        self.servers.clear();
        for (server, real_servers) in self.node.ipvs().table() {
            for entry in real_servers {
                let load = Load {
                    weight: entry.server.weight,
                    connections: entry.connections.unwrap_or_default().active,
                };
                let key = (server.server.key, entry.server.key);
                self.servers.insert(key, load);
            }
        }
        for element in self.state.elements.keys() {
            if let (IpvsElement::Mark { key, .. }, Some(server)) = (element, element.recorded()) {
                self.marked.insert(server, *key);
            }
        }
    }

    fn meets(&self, key: FrontendKey, client: Client, config: &Config) -> Outcome {
        oracle::met(&self.state, key, client, config)
    }

    fn endpoints(&self) -> Vec<(Option<FrontendKey>, IpAddr, u16)> {
        let taking = self.servers.iter().filter(|(_, load)| load.weight > 0);
        let of = |server: &VirtualServerKey| {
            let marked = |element: &IpvsElement| match element {
                IpvsElement::Mark { key, .. } if element.recorded() == Some(*server) => Some(*key),
                _ => None,
            };
            let mut elements = self.state.elements.keys();
            FrontendKey::of(server).or_else(|| elements.find_map(marked))
        };
        taking
            .map(|((server, real), _)| (of(server), real.address, real.port))
            .collect()
    }

    fn keys(&self) -> BTreeSet<FrontendKey> {
        let elements = self.state.elements.keys();
        let servers = self.state.virtual_servers.keys();
        let of_elements = elements.filter_map(IpvsElement::frontend);
        of_elements
            .chain(servers.filter_map(FrontendKey::of))
            .collect()
    }

    fn drift(&mut self, drift: Drift) {
        match drift {
            Drift::Rules => self.node.flush_ruleset(),
            Drift::SomeRules(nth) => {
                let sysctl = proxier::mode::Sysctl::VS_CONNTRACK;
                self.node
                    .set_sysctl(sysctl, ["0", "1"][usize::from(nth % 2)]);
            }
            Drift::Routes => self.node.flush_routes(),
            Drift::VirtualServer(nth) => {
                if let Some((server, _)) = self.nth(nth) {
                    self.client.delete_virtual_server(&server).unwrap();
                }
            }
            Drift::RealServer(nth) => {
                if let Some((server, real)) = self.nth(nth) {
                    self.client.delete_real_server(&server, &real).unwrap();
                }
            }
            Drift::Weight(nth) => {
                if let Some((server, real)) = self.nth(nth) {
                    let state = &self.state.virtual_servers[&server];
                    let there = state.real_servers.iter().find(|there| there.key == real);
                    let mut there = *there.unwrap();
                    there.weight += 1;
                    self.client.update_real_server(&server, &there).unwrap();
                }
            }
        }
    }

    fn arm(&mut self, fault: Fault) {
        match fault {
            Fault::Step(nth, errno) => self.node.fail_step(nth.into(), errno),
            Fault::Request(nth, errno) => self.node.ipvs().fail_request(nth.into(), errno),
            Fault::LostReply(nth) | Fault::Killed(nth) => self.node.ipvs().lose_reply(nth.into()),
            Fault::Interrupted(count) => self.node.ipvs().interrupt_listings(count.into()),
            Fault::Unreadable(errno) => self.node.fail_observe(errno),
            Fault::VirtualServer(nth, errno) => {
                if let Some((server, _)) = self.nth(nth) {
                    self.node.fail_virtual_server(server, Some(errno));
                }
            }
        }
    }

    fn disarm(&mut self) {
        self.node.clear_faults();
    }

    fn is_armed(&self) -> bool {
        self.node.pending_faults() > 0
    }

    fn names(&self, key: FrontendKey) -> Vec<String> {
        let text = match key.is_node_port() {
            true => key.port.to_string(),
            false => key.address.to_string(),
        };
        let marked = self.marked.iter().filter(|(_, of)| **of == key);
        let marked = marked.map(|(server, _)| server.to_string());
        marked.chain([text]).collect()
    }

    fn servers(&self) -> BTreeMap<Server, Load> {
        self.servers.clone()
    }

    fn connect(&mut self, nth: usize, count: u32) {
        let count_all = self.servers.len().max(1);
        if let Some(((server, real), load)) = self.servers.iter().nth(nth % count_all) {
            // A real server that drains gets no new connections.
            if load.weight > 0 || count < load.connections {
                let connections = Connections::new(count, 0, 0);
                self.node.ipvs().set_connections(server, real, connections);
            }
        }
    }

    fn destination(&self, server: &VirtualServerKey) -> Option<FrontendKey> {
        FrontendKey::of(server).or_else(|| self.marked.get(server).copied())
    }

    fn unrecorded(&self) -> BTreeSet<FrontendKey> {
        let recorded = |key: &FrontendKey| {
            self.state
                .elements
                .contains(&IpvsElement::VirtualServer(*key))
        };
        let servers = self.state.virtual_servers.keys();
        let keys = servers.filter_map(FrontendKey::of);
        keys.filter(|key| !recorded(key)).collect()
    }

    fn retire(&mut self, config: &Config, now: Instant) -> bool {
        if self.retiring.is_none() {
            let replacement = Replacement::Translation(config);
            let timeout = config.drain_timeout;
            let begun = Retiring::begin(&mut self.eye, replacement, timeout, now);
            self.retiring = Some(begun.unwrap().0);
        }
        let retiring = self.retiring.as_mut().unwrap();
        let is_done = retiring.finish(&mut self.eye, now).unwrap().is_some();
        if is_done {
            self.retiring = None;
        }
        is_done
    }

    fn keep(&mut self) {
        self.retiring = None;
    }

    fn is_empty(&self) -> bool {
        let state = &self.state;
        let has_routes = !state.routes.is_empty() || !state.policy_routes.is_empty();
        !has_routes && state.virtual_servers.is_empty() && state.elements.is_empty()
    }

    fn size(&self) -> usize {
        let state = &self.state;
        let servers = self.servers.len() + state.virtual_servers.len();
        servers + state.elements.len() + state.routes.len()
    }
}

#[derive(Default)]
pub(crate) struct NftablesNode {
    node: FakeNftables,
    state: nftables::NodeState,
}

impl Node for NftablesNode {
    fn mode(&self) -> Mode {
        Mode::Nftables
    }

    fn start(&self, config: Arc<Config>, now: Instant) -> Box<dyn Life> {
        let plane = Nftables::new(self.node.clone());
        Box::new(Loop::new(Proxier::new(config, plane), now))
    }

    fn look(&mut self) {
        self.state = self.node.state();
    }

    fn meets(&self, key: FrontendKey, client: Client, _: &Config) -> Outcome {
        assert!(self.state.ruleset.is_some(), "the rules are missing");
        let source = client.address(key.family());
        let all: Vec<_> = self.state.elements.of(&key).map(|(e, _)| *e).collect();
        let has = |element| all.contains(&element);
        let lets_in = |element: &Element| match element {
            Element::SourceRange(_, range) => range.contains(&source),
            _ => false,
        };
        if has(Element::Restricted(key)) && !all.iter().any(lets_in) {
            return Outcome::Dropped;
        }
        if client.is_outside() {
            if let Some(by) = self.served(&all, key, Audience::External) {
                let masqueraded = false;
                return Outcome::Served { by, masqueraded };
            }
            if has(Element::Dropped(key, Audience::External)) {
                return Outcome::Dropped;
            }
        }
        if let Some(by) = self.served(&all, key, Audience::All) {
            let masqueraded = client.is_outside();
            return Outcome::Served { by, masqueraded };
        }
        if has(Element::NoEndpoints(key)) {
            return Outcome::Refused;
        }
        assert!(
            has(Element::Dropped(key, Audience::All)),
            "{key} is not there"
        );
        Outcome::Dropped
    }

    fn endpoints(&self) -> Vec<(Option<FrontendKey>, IpAddr, u16)> {
        let elements = self.state.elements.frontends();
        let elements = elements.flat_map(|key| self.state.elements.of(key));
        let endpoint = |(element, _): (&Element, _)| match element {
            Element::Endpoint { key, to, .. } => Some((Some(*key), to.address, to.port.get())),
            _ => None,
        };
        elements.filter_map(endpoint).collect()
    }

    fn keys(&self) -> BTreeSet<FrontendKey> {
        self.state.elements.frontends().copied().collect()
    }

    fn drift(&mut self, drift: Drift) {
        match drift {
            Drift::Rules | Drift::Routes => self.node.flush(),
            Drift::SomeRules(nth)
            | Drift::VirtualServer(nth)
            | Drift::RealServer(nth)
            | Drift::Weight(nth) => self.node.remove_element(nth.into()),
        }
    }

    fn arm(&mut self, fault: Fault) {
        match fault {
            Fault::Unreadable(errno) => self.node.fail_observe(errno),
            Fault::Step(nth, errno) | Fault::Request(nth, errno) => {
                self.node.fail_step(nth.into(), errno);
            }
            Fault::LostReply(nth) | Fault::Killed(nth) => self.node.lose_answer(nth.into()),
            _ => {}
        }
    }

    fn disarm(&mut self) {
        self.node.clear_faults();
    }

    fn is_armed(&self) -> bool {
        self.node.pending_faults() > 0
    }

    fn retire(&mut self, _: &Config, _: Instant) -> bool {
        self.node.flush();
        true
    }

    fn is_empty(&self) -> bool {
        self.state.elements.is_empty() && self.state.ruleset.is_none()
    }

    fn size(&self) -> usize {
        self.state.elements.len()
    }
}

impl NftablesNode {
    /// The endpoints that the numbers of a destination lead to, if it has some.
    fn served(
        &self,
        all: &[Element],
        key: FrontendKey,
        audience: Audience,
    ) -> Option<BTreeSet<(IpAddr, u16)>> {
        let choice = all.iter().find_map(|element| match element {
            Element::Service {
                audience: of,
                choice,
                ..
            } if *of == audience => Some(*choice),
            _ => None,
        })?;
        let chooser = Chooser {
            family: key.family(),
            is_node_port: key.is_node_port(),
            audience,
            choice,
        };
        assert!(self.state.choosers.contains(&chooser), "no chain {chooser}");
        let lasting = |drawn| {
            let number = all.iter().find_map(|element| match element {
                Element::Number {
                    audience: of,
                    number,
                    lasting,
                    ..
                } if (*of, *number) == (audience, drawn) => Some(*lasting),
                _ => None,
            });
            number.unwrap_or_else(|| panic!("{key}: number {drawn} is missing"))
        };
        let endpoint = |number| {
            let to = all.iter().find_map(|element| match element {
                Element::Endpoint {
                    audience: of,
                    number: is,
                    to,
                    ..
                } if (*of, *is) == (audience, number) => Some((to.address, to.port.get())),
                _ => None,
            });
            to.unwrap_or_else(|| panic!("{key}: number {number} leads nowhere"))
        };
        let numbers = (0..choice.count.get()).map(|drawn| match choice.affinity {
            Some(_) => lasting(drawn),
            None => drawn,
        });
        Some(numbers.map(endpoint).collect())
    }
}

#[derive(Default)]
pub(crate) struct IptablesNode {
    node: FakeIptables,
    state: iptables::NodeState,
}

impl IptablesNode {
    fn words(&self) -> impl Iterator<Item = Vec<&str>> {
        let rules = [&self.state.v4, &self.state.v6].into_iter();
        let chains = rules.flat_map(|rules| rules.chains().map(move |at| (rules, at)));
        let all = chains.flat_map(|(rules, (table, name))| rules.chain(table, name));
        all.map(|rule| rule.as_str().split(' ').collect())
    }
}

impl Node for IptablesNode {
    fn mode(&self) -> Mode {
        Mode::Iptables
    }

    fn start(&self, config: Arc<Config>, now: Instant) -> Box<dyn Life> {
        let plane = Iptables::new(self.node.clone());
        Box::new(Loop::new(Proxier::new(config, plane), now))
    }

    fn look(&mut self) {
        self.state = self.node.state();
    }

    fn meets(&self, key: FrontendKey, client: Client, config: &Config) -> Outcome {
        let rules = self.state.rules(key.family());
        Tables::new(rules).met(key, client, config)
    }

    fn endpoints(&self) -> Vec<(Option<FrontendKey>, IpAddr, u16)> {
        let to = self.words().filter_map(|words| {
            let at = words.iter().position(|word| *word == "--to-destination")?;
            let to: std::net::SocketAddr = words.get(at + 1)?.parse().unwrap();
            Some((None, to.ip(), to.port()))
        });
        to.collect()
    }

    fn keys(&self) -> BTreeSet<FrontendKey> {
        BTreeSet::new()
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        let single = self.words().filter_map(|words| match words.as_slice() {
            // Rules with a port are those of a frontend.
            ["-d", network, rest @ ..] if rest.contains(&"--dport") => {
                let network: ipnet::IpNet = network.parse().unwrap();
                let is_single = network.prefix_len() == network.max_prefix_len();
                is_single.then_some(network.addr())
            }
            _ => None,
        });
        single.collect()
    }

    fn drift(&mut self, drift: Drift) {
        match drift {
            Drift::Rules | Drift::Routes => self.node.flush(),
            _ => self.node.flush_jumps(),
        }
    }

    fn arm(&mut self, fault: Fault) {
        let fault = match fault {
            Fault::Step(nth, _) | Fault::Request(nth, _) => (nth, ProgramFault::Exit),
            Fault::Killed(nth) | Fault::LostReply(nth) => (nth, ProgramFault::Killed),
            _ => (1, ProgramFault::Unreadable),
        };
        self.node.fail_run(Some((usize::from(fault.0), fault.1)));
    }

    fn disarm(&mut self) {
        self.node.fail_run(None);
    }

    fn is_armed(&self) -> bool {
        self.node.has_pending_fault()
    }

    fn retire(&mut self, _: &Config, _: Instant) -> bool {
        let removed = self.node.remove_all();
        assert!(removed.failures.is_empty(), "{removed:?}");
        true
    }

    fn is_empty(&self) -> bool {
        self.state.v4.is_empty() && self.state.v6.is_empty()
    }

    fn size(&self) -> usize {
        self.words().count()
    }
}

/// How long a drain may last beyond its timeout: what has drained for long is counted less often.
pub(crate) fn longest_drain(timeout: Duration) -> Duration {
    timeout + timeout / 8 + Duration::from_secs(2)
}
