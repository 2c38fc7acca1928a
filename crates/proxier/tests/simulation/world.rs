//! A cluster, a node and a clock; and the invariants, which are checked after every turn of the loop
//! against what the API objects say.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipvs::Protocol;
use proxier::desired::{Config, FrontendKey};
use proxier::model::{EndpointSlice, Node as NodeObject, ObjectName, Service};
use proxier::reconcile::{Event, Intervals, Settings};
use proxier::store::Change;

use crate::cluster::Cluster;
use crate::life::{Life, Turn};
use crate::nodes::{IptablesNode, IpvsNode, Load, NftablesNode, Node, Server, longest_drain};
use crate::oracle::{self, Reach};
use crate::script::{Fault, Happening, Kind, Mode};

const KINDS: [Kind; 3] = [Kind::Node, Kind::Service, Kind::Slice];
/// The place of mode ipvs among the nodes.
const IPVS: usize = 0;
/// The most turns that the loop may take for one happening; more would be spinning.
const TURNS: usize = 2_000;

/// What has been told to svcproxy, kept without its code.
#[derive(Debug, Default)]
struct Mirror {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    node: Option<NodeObject>,
    has: BTreeSet<Kind>,
    /// The Services that had a destination at some time, and their endpoints.
    ever_owners: BTreeMap<FrontendKey, BTreeSet<ObjectName>>,
    ever_endpoints: HashSet<(ObjectName, IpAddr, u16)>,
}

impl Mirror {
    fn take(&mut self, change: &Change) {
        match change.clone() {
            Change::ServiceApplied(service) => {
                self.note_service(&service);
                self.services.insert(service.name.clone(), service);
            }
            Change::ServiceDeleted(name) => _ = self.services.remove(&name),
            Change::ServicesReplaced(list) => {
                let named = |service: Service| (service.name.clone(), service);
                self.services = list.into_iter().map(named).collect();
                self.has.insert(Kind::Service);
                self.note();
            }
            Change::EndpointSliceApplied(slice) => {
                self.note_slice(&slice);
                self.slices.insert(slice.name.clone(), slice);
            }
            Change::EndpointSliceDeleted(name) => _ = self.slices.remove(&name),
            Change::EndpointSlicesReplaced(list) => {
                let named = |slice: EndpointSlice| (slice.name.clone(), slice);
                self.slices = list.into_iter().map(named).collect();
                self.has.insert(Kind::Slice);
                self.note();
            }
            Change::NodeReplaced(node) => self.node = node,
            other => panic!("{other:?}"),
        }
    }

    /// svcproxy starts again. The node still has what there was.
    fn forget(&mut self) {
        self.services.clear();
        self.slices.clear();
        self.node = None;
        self.has.clear();
    }

    fn is_ready(&self) -> bool {
        self.has.contains(&Kind::Service) && self.has.contains(&Kind::Slice)
    }

    fn objects(&self) -> impl Iterator<Item = (&Service, Vec<&EndpointSlice>)> {
        self.services.values().map(|service| {
            let slices = self.slices.values();
            let own = slices.filter(|slice| slice.service == service.name);
            (service, own.collect())
        })
    }

    /// Notes all that is there now.
    fn note(&mut self) {
        let services: Vec<_> = self.services.values().cloned().collect();
        services
            .iter()
            .for_each(|service| self.note_service(service));
        let slices: Vec<_> = self.slices.values().cloned().collect();
        slices.iter().for_each(|slice| self.note_slice(slice));
    }

    fn note_service(&mut self, service: &Service) {
        let any = [IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])];
        let all = service.cluster_ips.iter().chain(&service.external_ips);
        let all: Vec<_> = all.chain(&service.load_balancer_ips).copied().collect();
        for port in &service.ports {
            let at = all.iter().map(|address| (*address, port.port));
            let node_ports = port.node_port.into_iter();
            let node_ports = node_ports.flat_map(|number| any.map(|any| (any, number)));
            for (address, number) in at.chain(node_ports) {
                let key = FrontendKey {
                    protocol: port.protocol,
                    address,
                    port: number,
                };
                let owners = self.ever_owners.entry(key).or_default();
                owners.insert(service.name.clone());
            }
        }
    }

    fn note_slice(&mut self, slice: &EndpointSlice) {
        for endpoint in &slice.endpoints {
            for port in &slice.ports {
                let at = (slice.service.clone(), endpoint.address, port.port.get());
                self.ever_endpoints.insert(at);
            }
        }
    }

    fn had(&self, key: Option<FrontendKey>, address: IpAddr, port: u16) -> bool {
        let has = |owner: &ObjectName| {
            let at = (owner.clone(), address, port);
            self.ever_endpoints.contains(&at)
        };
        match key {
            Some(key) => self
                .ever_owners
                .get(&key)
                .is_some_and(|all| all.iter().any(has)),
            None => self.ever_owners.values().flatten().any(has),
        }
    }
}

pub(crate) struct World {
    cluster: Cluster,
    mirror: Mirror,
    /// The settings, without what the Node overrides.
    settings: Config,
    nodes: Vec<Box<dyn Node>>,
    active: usize,
    /// The other modes that have left something.
    leaving: BTreeSet<usize>,
    life: Box<dyn Life>,
    start: Instant,
    now: Instant,
    inbox: Vec<Event>,
    fault: Option<(Fault, u8)>,
    /// A fault that waits for its call, and whether the node knows of it.
    held: Option<(Fault, bool)>,
    hit: Option<Hit>,
    /// Whether the node may differ from what was told, until the next settlement.
    is_disturbed: bool,
    /// Whether svcproxy has read the node since its start.
    has_read: bool,
    /// Destinations that may stay although no Service has them: their records were lost while
    /// svcproxy did not run, so they count as another program's (ARCHITECTURE.md, "Ownership is
    /// recorded in the kernel").
    orphans: BTreeSet<FrontendKey>,
    /// When another mode began to remove mode ipvs.
    retires_since: Option<Instant>,
    /// When a real server was first seen with weight 0.
    drains_since: BTreeMap<Server, Instant>,
    loads: BTreeMap<Server, Load>,
    /// The turns since the last settlement began.
    turns: Vec<(Instant, Turn)>,
    /// What the outcome for every client should be, by what was told.
    expected: Option<Reach>,
    pub(crate) counts: Counts,
}

/// What came of a fault, at the end of the turn in which it happened.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) errors: Vec<String>,
    /// The steps that failed.
    pub(crate) failed: Vec<String>,
    /// The destinations that are not as they should be.
    pub(crate) wrong: Vec<FrontendKey>,
    /// Those of them that no failed step names.
    pub(crate) unrelated: Vec<FrontendKey>,
}

/// How much happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) happenings: u64,
    pub(crate) turns: u64,
    pub(crate) failed_turns: u64,
    pub(crate) exact_checks: u64,
    pub(crate) settlements: u64,
    pub(crate) seconds: u64,
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            happenings: self.happenings + other.happenings,
            turns: self.turns + other.turns,
            failed_turns: self.failed_turns + other.failed_turns,
            exact_checks: self.exact_checks + other.exact_checks,
            settlements: self.settlements + other.settlements,
            seconds: self.seconds + other.seconds,
        }
    }
}

fn settings() -> Config {
    let node_ips = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    let mut config = Config::new("here", node_ips.into());
    let cidrs = ["10.96.0.0/12", "fd00:10:96::/112"];
    config.service_cidrs = cidrs.map(|cidr| cidr.parse().unwrap()).into();
    let pods = ["10.244.0.0/16", "fd00:10:244::/56"];
    config.cluster_cidrs = pods.map(|cidr| cidr.parse().unwrap()).into();
    let excluded = "198.51.100.0/24".parse().unwrap();
    config.exclude_cidrs.push(excluded);
    config.follow_node.zone = true;
    config.validate().unwrap();
    config
}

impl World {
    pub(crate) fn new() -> Self {
        let settings = settings();
        let nodes: Vec<Box<dyn Node>> = vec![
            Box::new(IpvsNode::default()),
            Box::new(NftablesNode::default()),
            Box::new(IptablesNode::default()),
        ];
        let start = Instant::now();
        let life = nodes[0].start(Arc::new(settings.clone()), start);
        let mut world = Self {
            cluster: Cluster::default(),
            mirror: Mirror::default(),
            settings,
            nodes,
            active: 0,
            leaving: BTreeSet::new(),
            life,
            start,
            now: start,
            inbox: Vec::new(),
            fault: None,
            held: None,
            hit: None,
            is_disturbed: false,
            has_read: false,
            orphans: BTreeSet::new(),
            retires_since: None,
            drains_since: BTreeMap::new(),
            loads: BTreeMap::new(),
            turns: Vec::new(),
            expected: None,
            counts: Counts::default(),
        };
        world.begin_life();
        world.drive(start);
        world
    }

    pub(crate) fn step(&mut self, happening: &Happening) {
        self.counts.happenings += 1;
        let mut until = self.now;
        match *happening {
            Happening::Wait(ms) => until += Duration::from_millis(ms.into()),
            Happening::Restart => self.begin_life(),
            Happening::Switch(to) => self.switch(to),
            Happening::DrainTimeout(seconds) => {
                self.settings.drain_timeout = Duration::from_secs(seconds.into());
                self.reconfigure();
            }
            Happening::Drift(drift, is_noticed) => {
                self.nodes[self.active].drift(drift);
                self.look();
                self.note_orphans();
                self.is_disturbed = true;
                if is_noticed {
                    self.inbox.push(Event::Drift);
                }
            }
            Happening::Fault(fault, turns) => self.fault = Some((fault, turns)),
            Happening::Connect(nth, count) => {
                // In another mode, IPVS gets no new connections.
                let count = if self.active == IPVS { count } else { 0 };
                self.nodes[IPVS].connect(nth.into(), count.into());
                self.look();
            }
            Happening::Settle => {
                self.settle();
                return;
            }
            _ => {
                let changes = self.cluster.take(happening);
                self.tell(changes);
            }
        }
        self.drive(until);
        self.check_exactly();
    }

    /// svcproxy starts, and gets all lists in an order that differs.
    fn begin_life(&mut self) {
        self.mirror.forget();
        self.expected = None;
        self.inbox.clear();
        self.has_read = false;
        self.nodes[self.active].look();
        self.note_orphans();
        let settings = Arc::new(self.settings.clone());
        self.life = self.nodes[self.active].start(settings, self.now);
        let what = |world: &Self| {
            let node = &world.nodes[world.active];
            let endpoints = BTreeSet::from_iter(node.endpoints());
            (node.servers(), endpoints, node.size())
        };
        let before = what(self);
        let first = self.counts.turns as usize % KINDS.len();
        for place in 0..KINDS.len() {
            let kind = KINDS[(first + place) % KINDS.len()];
            let list = self.cluster.list(kind);
            self.tell(vec![list]);
            self.drive(self.now + Duration::from_secs(61));
            if !self.mirror.is_ready() {
                self.look();
                let after = what(self);
                assert_eq!(after, before, "changed before all lists have arrived");
            }
        }
    }

    /// Reads the nodes after something else than svcproxy has changed them.
    fn look(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.look());
        self.loads = self.nodes[IPVS].servers();
    }

    fn note_orphans(&mut self) {
        if !self.has_read {
            self.orphans.extend(self.nodes[self.active].unrecorded());
        }
    }

    fn switch(&mut self, to: Mode) {
        let of = |node: &dyn Node| node.mode() == to;
        let next = self
            .nodes
            .iter()
            .position(|node| of(node.as_ref()))
            .unwrap();
        if next == self.active {
            return;
        }
        self.leaving.insert(self.active);
        self.look();
        self.orphans.extend(self.nodes[self.active].unrecorded());
        self.leaving.remove(&next);
        self.active = next;
        self.nodes[next].keep();
        if next == IPVS {
            self.retires_since = None;
        }
        self.begin_life();
    }

    fn reconfigure(&mut self) {
        let config = Arc::new(self.settings.clone());
        let settings = Settings::new(config, Intervals::default());
        self.inbox.push(Event::Settings(settings));
        self.expected = None;
    }

    fn tell(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            self.mirror.take(change);
        }
        self.expected = None;
        self.inbox.push(Event::Changes(changes));
    }

    /// The settings with what the Node says.
    fn config(&self) -> Config {
        let mut config = self.settings.clone();
        let zone = self.mirror.node.as_ref().and_then(|node| node.zone.clone());
        config.zone = zone.or(config.zone);
        config
    }

    /// Runs the loop until nothing is due before a moment.
    fn drive(&mut self, until: Instant) {
        for turn in 0.. {
            assert!(turn < TURNS, "the loop spins");
            let (pause, deadline) = (self.life.pause(self.now), self.life.deadline(self.now));
            let next = match pause {
                Some(pause) => self.now + pause,
                None if !self.inbox.is_empty() => self.now,
                None => deadline.max(self.now),
            };
            if next > until.max(self.now) {
                break;
            }
            self.now = next;
            self.turn();
        }
        self.counts.seconds = self.now.max(until).duration_since(self.start).as_secs();
        self.now = self.now.max(until);
    }

    fn turn(&mut self) {
        self.counts.turns += 1;
        let lasts = Duration::from_micros(200 + self.counts.turns % 7 * 300);
        if let Some((fault, turns)) = self.fault.take() {
            self.nodes[self.active].arm(fault);
            self.is_disturbed = true;
            self.fault = (turns > 1).then(|| (fault, turns - 1));
        }
        let events = std::mem::take(&mut self.inbox);
        if let Some((fault, is_armed @ false)) = &mut self.held {
            self.nodes[self.active].arm(*fault);
            *is_armed = true;
            self.is_disturbed = true;
        }
        let done = self.life.turn(events, self.now, lasts);
        self.now += lasts;
        match self.held {
            Some(_) if self.nodes[self.active].is_armed() => {}
            Some(_) => {
                self.held = None;
                self.hit = Some(self.consequences(done.as_ref()));
            }
            None => self.nodes[self.active].disarm(),
        }
        if let Some(done) = done {
            self.counts.failed_turns += u64::from(!done.errors.is_empty());
            if done.errors.is_empty() && self.life.is_ready() {
                self.has_read = true;
                self.retire_others();
            }
            self.turns.push((self.now, done));
            self.check_always();
        }
    }

    /// Happenings during which a fault waits for its call.
    pub(crate) fn fails_during(&mut self, fault: Fault, happenings: &[Happening]) -> Option<Hit> {
        self.held = Some((fault, false));
        happenings.iter().for_each(|happening| self.step(happening));
        self.held = None;
        self.nodes[self.active].disarm();
        self.hit.take()
    }

    fn consequences(&mut self, turn: Option<&Turn>) -> Hit {
        self.look();
        let config = self.config();
        let expected = oracle::expected(self.mirror.objects(), &config);
        let node = &self.nodes[self.active];
        let is_right = |key: &FrontendKey| {
            let mut clients = expected[key].iter();
            clients.all(|(client, outcome)| {
                let met = catch_unwind(AssertUnwindSafe(|| node.meets(*key, *client, &config)));
                met.is_ok_and(|met| met == *outcome)
            })
        };
        let wrong = expected.keys().filter(|key| !is_right(key)).copied();
        let wrong: Vec<_> = wrong.collect();
        let failed = turn.map(|turn| turn.failed.clone()).unwrap_or_default();
        let is_named = |key: &FrontendKey| {
            let names = node.names(*key);
            let mut steps = failed.iter();
            steps.any(|step| names.iter().any(|name| step.contains(name)))
        };
        Hit {
            errors: turn.map(|turn| turn.errors.clone()).unwrap_or_default(),
            unrelated: wrong.iter().filter(|key| !is_named(key)).copied().collect(),
            wrong,
            failed,
        }
    }

    fn retire_others(&mut self) {
        let config = self.config();
        let now = self.now;
        let nodes = &mut self.nodes;
        if self.leaving.contains(&IPVS) {
            self.retires_since.get_or_insert(now);
        }
        self.leaving
            .retain(|other| !nodes[*other].retire(&config, now));
    }

    /// What holds at any moment, whatever fails.
    fn check_always(&mut self) {
        let config = self.config();
        let node = &mut self.nodes[self.active];
        node.look();
        for (key, address, port) in node.endpoints() {
            let is_orphan = key.is_some_and(|key| self.orphans.contains(&key));
            let had = is_orphan || self.mirror.had(key, address, port);
            assert!(had, "{key:?} leads to {address}:{port}, which it never had");
        }
        for key in node.keys() {
            let is_known = self.mirror.ever_owners.contains_key(&key);
            assert!(is_known, "{key} is no Service's and never was");
        }
        self.check_connections(&config);
    }

    /// A connection is cut only if its drain has timed out, or nothing may drain.
    fn check_connections(&mut self, config: &Config) {
        if self.active != IPVS {
            self.nodes[IPVS].look();
        }
        let node = &self.nodes[IPVS];
        let loads = node.servers();
        let is_cut = |(server, before): &(&Server, &Load)| {
            before.connections > 0 && !loads.contains_key(server)
        };
        for (server, before) in self.loads.iter().filter(is_cut) {
            let expected = oracle::expected(self.mirror.objects(), config);
            let of = node.destination(&server.0);
            // Another program may use the address at once.
            let address_is_gone =
                of.is_some_and(|key| !key.is_node_port() && !expected.contains_key(&key));
            let since = self.drains_since.get(server);
            let since = since.into_iter().chain(&self.retires_since).min();
            let drained = since.map(|since| self.now.saturating_duration_since(*since));
            let timeout = config
                .drain_timeout
                .saturating_sub(Duration::from_millis(50));
            assert!(
                of.is_some_and(|key| key.protocol == Protocol::Udp)
                    || address_is_gone
                    || config.drain_timeout.is_zero()
                    || drained.is_some_and(|drained| drained >= timeout),
                "{} of {} had {} connections, drains since {drained:?}, and was cut",
                server.1,
                server.0,
                before.connections
            );
        }
        self.drains_since
            .retain(|server, _| loads.get(server).is_some_and(|load| load.weight == 0));
        for (server, _) in loads.iter().filter(|(_, load)| load.weight == 0) {
            self.drains_since.entry(*server).or_insert(self.now);
        }
        self.loads = loads;
    }

    /// What holds whenever nothing failed and nothing waits: every client meets what the objects say.
    fn check_exactly(&mut self) {
        let waits = !self.inbox.is_empty()
            || self.life.pause(self.now).is_some()
            || self.life.deadline(self.now) <= self.now;
        if self.is_disturbed || waits || !self.mirror.is_ready() || self.expected.is_some() {
            return;
        }
        let config = self.config();
        let expected = oracle::expected(self.mirror.objects(), &config);
        self.counts.exact_checks += 1;
        let node = &self.nodes[self.active];
        for (key, clients) in &expected {
            for (client, outcome) in clients {
                let met = node.meets(*key, *client, &config);
                assert_eq!(met, *outcome, "{client:?} to {key}");
            }
        }
        self.expected = Some(expected);
    }

    /// Faults end, all events arrive, and time passes. Then everything is as the objects say, and
    /// nothing is left to do.
    fn settle(&mut self) {
        self.counts.settlements += 1;
        self.fault = None;
        for kind in KINDS {
            while self.cluster.is_behind(kind) {
                let changes = self.cluster.deliver(kind, 3);
                self.tell(changes);
            }
        }
        self.cluster.compact();
        self.turns.clear();
        let longest = longest_drain(self.settings.drain_timeout);
        // The longest back-off, then two audits.
        let rest = Duration::from_secs(30 + 2 * 61);
        let until = self.now + longest + rest;
        self.drive(until);
        self.is_disturbed = false;
        self.expected = None;
        self.check_settled(until);
        self.mirror.ever_owners.clear();
        self.mirror.ever_endpoints.clear();
        self.mirror.note();
        for orphan in &self.orphans {
            self.mirror.ever_owners.entry(*orphan).or_default();
        }
    }

    fn check_settled(&mut self, until: Instant) {
        let nothing_waits = self.inbox.is_empty() && self.life.pause(self.now).is_none();
        assert!(nothing_waits && self.life.deadline(self.now) > self.now);
        self.nodes.iter_mut().for_each(|node| node.look());
        self.check_exactly();
        let expected = self.expected.take().unwrap();
        let node = &self.nodes[self.active];
        let keys = node.keys();
        // Only mode ipvs has orphans, also while another mode runs.
        let there = self.nodes[IPVS].keys();
        self.orphans.retain(|key| there.contains(key));
        let is_left =
            |key: &&FrontendKey| !expected.contains_key(key) && !self.orphans.contains(key);
        let left: Vec<_> = keys.iter().filter(is_left).collect();
        assert!(left.is_empty(), "nobody's: {left:?}");
        let known = expected.keys().chain(&self.orphans);
        let addresses: BTreeSet<_> = known.map(|key| key.address).collect();
        let left: Vec<_> = node.addresses().difference(&addresses).copied().collect();
        assert!(left.is_empty(), "nobody's: {left:?}");
        let drains = |(server, load): &(Server, Load)| {
            let key = FrontendKey::of(&server.0);
            load.weight == 0 && key.is_none_or(|key| !self.orphans.contains(&key))
        };
        let draining: Vec<_> = node.servers().into_iter().filter(drains).collect();
        assert!(draining.is_empty(), "drains for ever: {draining:?}");
        for (place, other) in self.nodes.iter().enumerate() {
            assert!(
                place == self.active || other.is_empty() || other.keys().is_subset(&self.orphans),
                "left by mode {:?}",
                other.mode()
            );
        }
        // The work is bounded by what there is, and the last audit finds nothing.
        let steps: usize = self.turns.iter().map(|(_, turn)| turn.steps.len()).sum();
        let most = 4 * node.size() + 400;
        assert!(steps <= most, "{steps} steps for {} objects", node.size());
        let last = until - Duration::from_secs(61);
        for (_, turn) in self.turns.iter().filter(|(at, _)| *at >= last) {
            let is_idle = turn.steps.is_empty() && turn.errors.is_empty();
            assert!(
                is_idle,
                "still at work after everything has settled: {turn:?}"
            );
        }
    }
}
