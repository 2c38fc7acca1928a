//! Real clients and endpoints, which test the table.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::services::{ANOTHER_PORT, IN_NO_RANGE, NODES_OWN_PORT, PORTS, Place, Port, all_ports};
use super::table::{Cell, Client, Expected, Seen, Service, Way, Who};
use crate::command::Error;
use crate::topology::{pod_device, virtual_ips_through};
use crate::{Answer, AskError, Backend, Family, Host, Node, Protocol, Topology};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Much longer than anything takes on an emulated and busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a refusal to arrive.
const SILENCE: Duration = Duration::from_secs(3);
/// Most workers wait.
const WORKERS: usize = 24;
/// Enough for round robin to reach a second endpoint.
const LEAST_REQUESTS: usize = 2;
/// Maximum number of requests until all endpoints have answered.
const MOST_REQUESTS: usize = 40;

/// Endpoints on two nodes, and clients at every place.
#[derive(Debug)]
pub struct Cluster<'a> {
    here: Half<'a>,
    there: Half<'a>,
    outside: &'a Host,
    protocols: &'a [Protocol],
    _backends: Vec<Backend>,
}

/// A node with a client pod and an endpoint pod.
#[derive(Debug)]
struct Half<'a> {
    node: &'a Host,
    pod: &'a Host,
    endpoint: &'a Host,
}

/// One try of a cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) cell: Cell,
    pub(super) family: Family,
    pub(super) port: Port,
}

impl<'a> Cluster<'a> {
    /// Starts the endpoints, and routes virtual IPs to the first node for all clients.
    ///
    /// # Errors
    ///
    /// If the kernel lacks a protocol.
    ///
    /// # Panics
    ///
    /// If `topology` has fewer than two nodes of two pods.
    pub fn new(topology: &'a Topology) -> Result<Self, Error> {
        Self::with_protocols(topology, &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
    }

    /// The same, with these protocols only.
    ///
    /// # Errors
    ///
    /// As [`Cluster::new`].
    ///
    /// # Panics
    ///
    /// As [`Cluster::new`].
    pub fn with_protocols(
        topology: &'a Topology,
        protocols: &'a [Protocol],
    ) -> Result<Self, Error> {
        let [here, there, ..] = &topology.nodes[..] else {
            #[expect(clippy::panic, reason = "see above")]
            {
                panic!("two nodes")
            }
        };
        let outside = &topology.client;
        let (here, there) = (Half::of(here), Half::of(there));
        route(outside, &here, &there)?;
        let mut backends = Vec::new();
        for (half, place) in [(&here, Place::Here), (&there, Place::There)] {
            for family in FAMILIES {
                for port in all_ports().filter(|port| protocols.contains(&port.protocol)) {
                    let address = (half.endpoint.address(family), port.target).into();
                    let name = name(place, port.name);
                    backends.push(Backend::start(
                        half.endpoint,
                        port.protocol,
                        address,
                        &name,
                    )?);
                }
                for port in PORTS
                    .iter()
                    .filter(|port| protocols.contains(&port.protocol))
                {
                    let address = (half.node.address(family), NODES_OWN_PORT).into();
                    let name = name(place, "owner");
                    backends.push(Backend::start(half.node, port.protocol, address, &name)?);
                }
            }
        }
        Ok(Self {
            here,
            there,
            outside,
            protocols,
            _backends: backends,
        })
    }

    /// Tests each cell with every protocol and both families. Returns the deviations.
    #[must_use]
    pub fn failures(&self, cells: &[Cell]) -> Vec<String> {
        let jobs = Mutex::new(jobs(cells, self.protocols));
        let failures = Mutex::new(Vec::new());
        let next = || lock(&jobs).pop();
        let work = || {
            while let Some(job) = next() {
                let failed = job.into_iter().filter_map(|one| self.attempt(one).err());
                let failed: Vec<_> = failed.collect();
                lock(&failures).extend(failed);
            }
        };
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(work);
            }
        });
        let mut failures = failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        failures.sort();
        failures
    }

    fn attempt(&self, one: Try) -> Result<(), String> {
        let to = one.cell.service.address(one.cell.way, one.family, one.port);
        let ask = |timeout| {
            let client = crate::Client::new(one.port.protocol, to).timeout(timeout);
            match (one.cell.from, one.family) {
                (Client::OutsideRanges, Family::V4) => client.from((IN_NO_RANGE.0, 0).into()),
                (Client::OutsideRanges, Family::V6) => client.from((IN_NO_RANGE.1, 0).into()),
                _ => client,
            }
            .ask(self.client(one.cell.from))
        };
        // The error of a sender on the host whose packet filter rejected or dropped a datagram.
        let own_filter = |error: &AskError| {
            one.cell.from == Client::Node
                && *error == AskError::Unreachable(io::ErrorKind::PermissionDenied)
        };
        let result = match one.cell.expected {
            Expected::Refused => match ask(PATIENCE) {
                Err(error) if error == AskError::Refused || own_filter(&error) => Ok(()),
                other => Err(reported(other)),
            },
            Expected::Reset => match ask(PATIENCE) {
                Err(AskError::Failed(error)) if error.contains("reset by peer") => Ok(()),
                // The reset came before the client noticed that it was connected.
                Err(AskError::Refused) => Ok(()),
                other => Err(reported(other)),
            },
            Expected::Dropped => match ask(SILENCE) {
                Err(error) if error == AskError::TimedOut || own_filter(&error) => Ok(()),
                other => Err(reported(other)),
            },
            Expected::Reached { who, see, itself } => {
                self.all_get_their_turn(one, who, see, itself, || ask(PATIENCE))
            }
        };
        result.map_err(|got| {
            let (cell, protocol, expected) = (one.cell, one.port.name, one.cell.expected);
            format!("{cell}, {protocol} {to}: expected {expected:?}, got {got}")
        })
    }

    fn all_get_their_turn(
        &self,
        one: Try,
        who: Who,
        see: Seen,
        itself: Seen,
        ask: impl Fn() -> Result<Answer, AskError>,
    ) -> Result<(), String> {
        let expected = one.expected_names(who);
        let own = matches!(one.cell.from, Client::Itself).then(|| name(Place::Here, one.port.name));
        let mut answered = BTreeSet::new();
        for request in 0..MOST_REQUESTS {
            let enough = answered == expected || who == Who::One;
            if enough && request >= LEAST_REQUESTS {
                return Ok(());
            }
            let Answer {
                backend,
                seen_source,
            } = ask().map_err(|error| format!("{error}, after {answered:?} had answered"))?;
            let see = if own.as_ref() == Some(&backend) {
                itself
            } else {
                see
            };
            let source = self.source(see, one);
            if !expected.contains(&backend) || seen_source.ip() != source {
                return Err(format!("{backend} saw {seen_source}"));
            }
            answered.insert(backend);
            if request > LEAST_REQUESTS {
                // Two clients that take turns would get one endpoint each, for ever.
                let random = RandomState::new().build_hasher().finish();
                thread::sleep(Duration::from_millis(random % 16));
            }
            if who == Who::One && answered.len() > 1 {
                return Err(format!("{answered:?} answered"));
            }
        }
        Err(format!("only {answered:?} answered"))
    }

    /// Every try of these cells.
    pub(super) fn tries(&self, cells: &[Cell]) -> Vec<Try> {
        jobs(cells, self.protocols).into_iter().flatten().collect()
    }

    /// The address of the endpoint at a place.
    pub(super) fn endpoint(&self, place: Place, family: Family) -> IpAddr {
        let half = match place {
            Place::Here => &self.here,
            Place::There => &self.there,
        };
        half.endpoint.address(family)
    }

    fn client(&self, from: Client) -> &Host {
        match from {
            Client::PodHere => self.here.pod,
            Client::Node => self.here.node,
            Client::PodThere => self.there.pod,
            Client::Outside | Client::OutsideRanges => self.outside,
            Client::Itself => self.here.endpoint,
        }
    }

    pub(super) fn source(&self, see: Seen, one: Try) -> IpAddr {
        match (see, one.cell.from, one.family) {
            (Seen::Node, ..) => self.here.node.address(one.family),
            (_, Client::OutsideRanges, Family::V4) => IN_NO_RANGE.0.into(),
            (_, Client::OutsideRanges, Family::V6) => IN_NO_RANGE.1.into(),
            (_, from, family) => self.client(from).address(family),
        }
    }
}

impl<'a> Half<'a> {
    fn of(Node { host, pods }: &'a Node) -> Self {
        let [pod, endpoint, ..] = &pods[..] else {
            #[expect(clippy::panic, reason = "see Cluster::new")]
            {
                panic!("two pods a node")
            }
        };
        Self {
            node: host,
            pod,
            endpoint,
        }
    }
}

impl Try {
    /// The names of the backends that may answer.
    fn expected_names(&self, who: Who) -> BTreeSet<String> {
        let places = self.cell.service.places();
        let (places, listener) = match (who, self.cell.way) {
            (Who::Owner, Way::OtherNodesPort) => (&[Place::There][..], "owner"),
            (Who::Owner, _) => (&[Place::Here][..], "owner"),
            (Who::Local, _) => (&[Place::Here][..], self.port.name),
            (Who::All | Who::One, _) => (places, self.port.name),
        };
        places.iter().map(|place| name(*place, listener)).collect()
    }
}

/// Jobs that can run at the same time. The tries of a job run one after another, so that they do
/// not disturb round robin. Jobs that wait are last, because workers take from the end.
fn jobs(cells: &[Cell], protocols: &[Protocol]) -> Vec<Vec<Try>> {
    let mut jobs: BTreeMap<(bool, SocketAddr, &str), Vec<Try>> = BTreeMap::new();
    for (number, &cell) in (0..).zip(cells) {
        // One Service is enough to show that each port has its own targets.
        let another = (cell.service == Service::Cluster).then_some(ANOTHER_PORT);
        let ports = PORTS.into_iter().chain(another);
        for port in ports.filter(|port| protocols.contains(&port.protocol)) {
            for family in FAMILIES {
                let one = Try { cell, family, port };
                let waits = cell.expected == Expected::Dropped;
                // With affinity, iptables remembers a client for all addresses together: two first
                // connections at the same time could get two endpoints.
                let way = match cell.service {
                    Service::Affinity | Service::AffinityLocal => Way::ClusterIp,
                    _ => cell.way,
                };
                let mut of = cell.service.address(way, family, port);
                if waits {
                    // A separate job each.
                    of = (of.ip(), number).into();
                }
                jobs.entry((waits, of, port.name)).or_default().push(one);
            }
        }
    }
    jobs.into_values().collect()
}

/// The name of a backend.
fn name(place: Place, listener: &str) -> String {
    format!("{}-{listener}", place.word())
}

fn reported(result: Result<Answer, AskError>) -> String {
    match result {
        Ok(Answer {
            backend,
            seen_source,
        }) => format!("{backend} saw {seen_source}"),
        Err(error) => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No proxy runs on the other node: its pods reach virtual IPs through the first node, and its
/// endpoint's answers go the same way. The client reaches the other node through the first one, as
/// if they were on different segments.
fn route(client: &Host, here: &Half<'_>, there: &Half<'_>) -> Result<(), Error> {
    there.node.ip(&virtual_ips_through(here.node))?;
    client.ip(&[
        format!("address add {}/16 dev eth0", IN_NO_RANGE.0),
        format!(
            "address add {}/64 dev eth0 nodad preferred_lft 0",
            IN_NO_RANGE.1
        ),
        format!("route add {} via {}", there.node.v4, here.node.v4),
        format!("route add {} via {}", there.node.v6, here.node.v6),
    ])?;
    for (family, via) in [
        ("-4", IpAddr::from(here.node.v4)),
        ("-6", here.node.v6.into()),
    ] {
        let device = pod_device(there.endpoint);
        let via = via.to_string();
        let node = there.node;
        node.run(["ip", family, "rule", "add", "iif", &device, "lookup", "100"])?;
        node.run([
            "ip", family, "route", "add", "default", "via", &via, "table", "100",
        ])?;
    }
    Ok(())
}
