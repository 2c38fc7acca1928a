//! A cluster: its objects, and the watches that tell the node about them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use fastrand::Rng;
use proxier::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, Hints, Node, ObjectName,
    PortName, Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy,
};
use proxier::store::Change;

use crate::script::{HOSTS, Happening, Kind};

/// One kind of object: the first `arrived` events of `log` have been told.
#[derive(Debug)]
pub(crate) struct Watch<T> {
    base: BTreeMap<ObjectName, T>,
    log: Vec<(ObjectName, Option<T>)>,
    arrived: usize,
}

impl<T> Default for Watch<T> {
    fn default() -> Self {
        Self {
            base: BTreeMap::new(),
            log: Vec::new(),
            arrived: 0,
        }
    }
}

impl<T: Clone + PartialEq> Watch<T> {
    /// The objects after so many events.
    fn after(&self, events: usize) -> BTreeMap<ObjectName, T> {
        let mut objects = self.base.clone();
        for (name, object) in self.log.iter().take(events) {
            match object {
                Some(object) => _ = objects.insert(name.clone(), object.clone()),
                None => _ = objects.remove(name),
            }
        }
        objects
    }

    fn now(&self, name: &ObjectName) -> Option<&T> {
        let last = self.log.iter().rfind(|(of, _)| of == name);
        last.map_or_else(|| self.base.get(name), |(_, object)| object.as_ref())
    }

    fn put(&mut self, name: &ObjectName, object: Option<T>) {
        if self.now(name) != object.as_ref() {
            self.log.push((name.clone(), object));
        }
    }

    fn is_behind(&self) -> bool {
        self.arrived < self.log.len()
    }

    fn deliver(&mut self, count: usize) -> Vec<(ObjectName, Option<T>)> {
        let until = self.log.len().min(self.arrived + count);
        let events = self.log.get(self.arrived..until).unwrap_or_default();
        self.arrived = until;
        events.to_vec()
    }

    fn back(&mut self, events: u8) {
        self.arrived = self.arrived.saturating_sub(events.into());
    }

    fn list(&self) -> BTreeMap<ObjectName, T> {
        self.after(self.arrived)
    }

    /// Forgets the history that has been told.
    fn compact(&mut self) {
        self.base = self.after(self.arrived);
        self.log.drain(..self.arrived);
        self.arrived = 0;
    }
}

/// A pod behind a Service.
#[derive(Debug, Clone, Copy, Default)]
struct Pod {
    is_there: bool,
    is_terminating: bool,
    /// Decides its other fields.
    number: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pods: BTreeMap<u8, [Pod; HOSTS as usize]>,
    services: Watch<Service>,
    slices: Watch<EndpointSlice>,
    nodes: Watch<Node>,
}

impl Cluster {
    /// The cluster's part of a happening, with what the node learns at once.
    pub(crate) fn take(&mut self, happening: &Happening) -> Vec<Change> {
        match *happening {
            Happening::Service(n, number) => {
                let name = service_name(n);
                self.services.put(&name, Some(service(n, number)));
                self.publish(n);
            }
            Happening::Gone(n) => {
                self.services.put(&service_name(n), None);
                self.pods.remove(&n);
                self.publish(n);
            }
            Happening::Scale(n, bits) => {
                for (host, pod) in self.pods.entry(n).or_default().iter_mut().enumerate() {
                    pod.is_there = bits >> host & 1 == 1;
                    pod.is_terminating = false;
                }
                self.publish(n);
            }
            Happening::Roll(n) => {
                let pods = self.pods.entry(n).or_default();
                if let Some(gone) = pods.iter_mut().find(|pod| pod.is_terminating) {
                    *gone = Pod::default();
                }
                let leaves = pods
                    .iter_mut()
                    .find(|pod| pod.is_there && !pod.is_terminating);
                if let Some(leaves) = leaves {
                    leaves.is_terminating = true;
                }
                if let Some(comes) = pods.iter_mut().rfind(|pod| !pod.is_there) {
                    comes.is_there = true;
                }
                self.publish(n);
            }
            Happening::Pod(n, host, number) => {
                let pods = self.pods.entry(n).or_default();
                if let Some(pod) = pods.get_mut(usize::from(host)) {
                    pod.number = number;
                }
                self.publish(n);
            }
            Happening::Zone(zone) => {
                let node = zone.map(|zone| {
                    let mut node = Node::new("here");
                    node.zone = Some(["a", "b"][usize::from(zone)].into());
                    node
                });
                self.nodes.put(&node_name(), node);
            }
            Happening::Deliver(kind, count) => return self.deliver(kind, count.into()),
            Happening::Replay(kind, events) => match kind {
                Kind::Service => self.services.back(events),
                Kind::Slice => self.slices.back(events),
                Kind::Node => self.nodes.back(events),
            },
            Happening::Relist(kind, events) => {
                match kind {
                    Kind::Service => self.services.back(events),
                    Kind::Slice => self.slices.back(events),
                    Kind::Node => {}
                }
                return vec![self.list(kind)];
            }
            _ => {}
        }
        Vec::new()
    }

    pub(crate) fn deliver(&mut self, kind: Kind, count: usize) -> Vec<Change> {
        match kind {
            Kind::Service => {
                let events = self.services.deliver(count).into_iter();
                let change = |(name, service): (_, Option<_>)| match service {
                    Some(service) => Change::ServiceApplied(service),
                    None => Change::ServiceDeleted(name),
                };
                events.map(change).collect()
            }
            Kind::Slice => {
                let events = self.slices.deliver(count).into_iter();
                let change = |(name, slice): (_, Option<_>)| match slice {
                    Some(slice) => Change::EndpointSliceApplied(slice),
                    None => Change::EndpointSliceDeleted(name),
                };
                events.map(change).collect()
            }
            Kind::Node => {
                let events = self.nodes.deliver(count).into_iter();
                events.map(|(_, node)| Change::NodeReplaced(node)).collect()
            }
        }
    }

    /// The list of a kind as of the last event that arrived.
    pub(crate) fn list(&self, kind: Kind) -> Change {
        match kind {
            Kind::Service => Change::ServicesReplaced(self.services.list().into_values().collect()),
            Kind::Slice => {
                Change::EndpointSlicesReplaced(self.slices.list().into_values().collect())
            }
            Kind::Node => Change::NodeReplaced(self.nodes.list().into_values().next()),
        }
    }

    pub(crate) fn is_behind(&self, kind: Kind) -> bool {
        match kind {
            Kind::Service => self.services.is_behind(),
            Kind::Slice => self.slices.is_behind(),
            Kind::Node => self.nodes.is_behind(),
        }
    }

    pub(crate) fn compact(&mut self) {
        self.services.compact();
        self.slices.compact();
        self.nodes.compact();
    }

    /// What the control plane's controller does after a change of a Service or its pods: at most
    /// three pods a slice, and a slice of IPv6.
    fn publish(&mut self, n: u8) {
        let service = service_name(n);
        let ports: Box<[_]> = match self.services.now(&service) {
            Some(service) => service.ports.iter().map(target_port).collect(),
            None => Box::default(),
        };
        let pods = self.pods.get(&n).copied().unwrap_or_default();
        let there = pods.iter().enumerate().filter(|(_, pod)| pod.is_there);
        let there: Vec<_> = there.collect();
        let chunks = [
            (0, Family::V4, 0..3),
            (1, Family::V4, 3..8),
            (2, Family::V6, 0..8),
        ];
        for (place, family, range) in chunks {
            let name = ObjectName::new("default", &format!("slice-{n}-{place}")).unwrap();
            let range = range.start..range.end.min(there.len());
            let part = there.get(range).unwrap_or_default();
            let slice = (!ports.is_empty() && !part.is_empty()).then(|| {
                let mut slice = EndpointSlice::new(name.clone(), service.clone(), family);
                slice.ports.clone_from(&ports);
                let part = part.iter();
                let endpoints = part.map(|(host, pod)| endpoint(*host, **pod, family));
                slice.endpoints = endpoints.collect();
                slice
            });
            self.slices.put(&name, slice);
        }
    }
}

pub(crate) fn service_name(n: u8) -> ObjectName {
    let namespace = ["default", "kube-system"][usize::from(n % 2)];
    ObjectName::new(namespace, &format!("service-{n}")).unwrap()
}

fn node_name() -> ObjectName {
    ObjectName::new("nodes", "here").unwrap()
}

fn target_port(port: &ServicePort) -> EndpointPort {
    let number = NonZeroU16::new(8_000 + port.port.get()).unwrap();
    EndpointPort::new(port.name.clone(), port.protocol, number)
}

fn endpoint(host: usize, pod: Pod, family: Family) -> Endpoint {
    let mut rng = Rng::with_seed(pod.number);
    let text = match family {
        Family::V4 => format!("10.244.0.{}", host + 1),
        Family::V6 => format!("fd00:10:244::{}", host + 1),
    };
    let mut endpoint = Endpoint::new(text.parse().unwrap());
    let is_ready = !pod.is_terminating && rng.u8(..8) > 0;
    let is_serving = is_ready || rng.bool();
    let (ready, serving) = (Some(is_ready), Some(is_serving));
    endpoint.conditions = EndpointConditions::new(ready, serving, Some(pod.is_terminating));
    endpoint.node =
        [Some("here"), Some("there"), Some("there"), None][rng.usize(..4)].map(Into::into);
    if rng.u8(..4) == 0 {
        endpoint.weight = rng.u16(..4);
    }
    if rng.u8(..4) == 0 {
        let zone = ["a", "b"][rng.usize(..2)];
        endpoint.hints = Some(Box::new(Hints::new([zone.into()], [])));
    }
    endpoint
}

fn addresses(all: &[&str], rng: &mut Rng) -> Box<[IpAddr]> {
    let some = all.iter().filter(|_| rng.u8(..4) == 0);
    some.map(|ip| ip.parse().unwrap()).collect()
}

/// A Service whose fields the number decides. Most have a cluster IP of their own.
fn service(n: u8, number: u64) -> Service {
    let mut rng = Rng::with_seed(number);
    let mut service = Service::new(service_name(n));
    let v4 = match rng.u8(..8) {
        0 => "10.96.0.200".to_owned(),
        1 => format!("172.20.0.{n}"),
        _ => format!("10.96.0.{}", n + 1),
    };
    let mut ips = vec![v4.parse().unwrap()];
    if rng.u8(..3) == 0 {
        ips.push(format!("fd00:10:96::{}", n + 1).parse().unwrap());
    }
    service.cluster_ips = ips.into();
    let protocols = [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let ports = [("", 80_u16), ("metrics", 81)];
    let ports = ports
        .into_iter()
        .filter(|(name, _)| name.is_empty() || rng.bool());
    let ports: Vec<_> = ports.collect();
    let ports = ports.into_iter().map(|(name, number)| {
        let number = NonZeroU16::new(number).unwrap();
        let protocol = protocols[rng.usize(..4)];
        let mut port = ServicePort::new(PortName::new(name).unwrap(), protocol, number);
        port.node_port = match rng.u8(..3) {
            0 => NonZeroU16::new(30_080 + rng.u16(..3)),
            _ => None,
        };
        port
    });
    service.ports = ports.collect();
    service.external_ips = addresses(&["192.0.2.2", "198.51.100.9", "2001:db8::2"], &mut rng);
    service.load_balancer_ips = addresses(&["203.0.113.1", "2001:db8::3"], &mut rng);
    if rng.u8(..4) == 0 {
        let ranges = ["198.18.0.0/15", "2001:db8:1::/48"];
        service.load_balancer_source_ranges = ranges.map(|range| range.parse().unwrap()).into();
    }
    let policies = [
        TrafficPolicy::Cluster,
        TrafficPolicy::Cluster,
        TrafficPolicy::Local,
    ];
    service.internal_traffic_policy = policies[rng.usize(..3)];
    service.external_traffic_policy = policies[rng.usize(..3)];
    if rng.u8(..4) == 0 {
        let seconds = NonZeroU32::new(rng.u32(1..100)).unwrap();
        service.session_affinity = SessionAffinity::ClientIp(seconds);
    }
    service.created = Some(i64::from(n));
    service
}
