//! Traffic of Services, from the kernel's counters of their virtual servers.
//!
//! A virtual server's counters start at zero when it is created again, but a Service's counters
//! must never decrease. So this module sums up the increase of each reading. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipvs::{Statistics, VirtualServerKey};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::mode::Carried;
use crate::model::ObjectName;

/// The traffic of a Service since it is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) connections: u64,
    pub(super) incoming_packets: u64,
    pub(super) outgoing_packets: u64,
    pub(super) incoming_bytes: u64,
    pub(super) outgoing_bytes: u64,
}

impl From<Statistics> for Totals {
    fn from(statistics: Statistics) -> Self {
        let Statistics {
            connections,
            incoming_packets,
            outgoing_packets,
            incoming_bytes,
            outgoing_bytes,
            ..
        } = statistics;
        Self {
            connections,
            incoming_packets,
            outgoing_packets,
            incoming_bytes,
            outgoing_bytes,
        }
    }
}

impl Totals {
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> Option<u64>) -> Option<Self> {
        Some(Self {
            connections: f(self.connections, other.connections)?,
            incoming_packets: f(self.incoming_packets, other.incoming_packets)?,
            outgoing_packets: f(self.outgoing_packets, other.outgoing_packets)?,
            incoming_bytes: f(self.incoming_bytes, other.incoming_bytes)?,
            outgoing_bytes: f(self.outgoing_bytes, other.outgoing_bytes)?,
        })
    }

    /// The increase since an earlier reading; the whole value if the counters were reset.
    fn since(self, former: Self) -> Self {
        self.zip(former, u64::checked_sub).unwrap_or(self)
    }

    fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| Some(a.saturating_add(b)))
            .unwrap_or(self)
    }
}

/// The Services that are counted.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    services: BTreeMap<ObjectName, Totals>,
    /// The last reading of each of their virtual servers.
    servers: HashMap<VirtualServerKey, (ObjectName, Totals)>,
    left_out: usize,
}

impl Traffic {
    /// Counts these Services and no others, up to a limit. Services that are already counted keep
    /// their place.
    pub(super) fn choose(&mut self, mut wanted: BTreeSet<ObjectName>, limit: usize) {
        let all = wanted.len();
        self.services.retain(|service, _| wanted.remove(service));
        while self.services.len() > limit {
            self.services.pop_last();
        }
        let room = limit.saturating_sub(self.services.len());
        let new = wanted.into_iter().take(room);
        self.services
            .extend(new.map(|name| (name, Totals::default())));
        self.left_out = all - self.services.len();
        let services = &self.services;
        self.servers
            .retain(|_, (service, _)| services.contains_key(service));
    }

    /// Adds the increase of these readings. A kernel listing can miss a virtual server, so its last
    /// reading is kept as long as it exists.
    pub(super) fn add(
        &mut self,
        readings: impl IntoIterator<Item = Carried>,
        exists: impl Fn(&VirtualServerKey) -> bool,
    ) {
        self.servers.retain(|key, _| exists(key));
        for Carried {
            key,
            service,
            statistics,
        } in readings
        {
            let Some(totals) = self.services.get_mut(&service) else {
                continue;
            };
            let now = Totals::from(statistics);
            let former = self.servers.insert(key, (service.clone(), now));
            let former = former.filter(|(owner, _)| *owner == service);
            *totals = totals.plus(now.since(former.map(|(_, totals)| totals).unwrap_or_default()));
        }
    }

    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }
}

/// The metrics of [`Traffic`]. A lock prevents a scrape from seeing half a reading.
#[derive(Debug)]
pub(super) struct TrafficCollector(pub(super) std::sync::Arc<std::sync::Mutex<Traffic>>);

/// A value of the label `direction`, if the metric has it, and the value to export.
type Series = (Option<&'static str>, fn(&Totals) -> u64);
/// Name, help, and series of each Service.
type Metric = (&'static str, &'static str, &'static [Series]);

impl Collector for TrafficCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let traffic = super::lock(&self.0);
        if traffic.services.is_empty() {
            return Ok(());
        }
        let families: [Metric; 3] = [
            (
                "svcproxy_service_connections",
                "Connections that IPVS scheduled, or that mode userspace passed on",
                &[(None, |totals| totals.connections)],
            ),
            (
                "svcproxy_service_packets",
                "Packets from clients (in) and to them (out)",
                &[
                    (Some("in"), |totals| totals.incoming_packets),
                    (Some("out"), |totals| totals.outgoing_packets),
                ],
            ),
            (
                "svcproxy_service_bytes",
                "Bytes from clients (in) and to them (out)",
                &[
                    (Some("in"), |totals| totals.incoming_bytes),
                    (Some("out"), |totals| totals.outgoing_bytes),
                ],
            ),
        ];
        for (name, help, counters) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (service, totals) in &traffic.services {
                for (direction, get) in counters {
                    let mut labels = vec![
                        ("namespace", service.namespace()),
                        ("service", service.name()),
                    ];
                    labels.extend(direction.map(|direction| ("direction", direction)));
                    let counter = ConstCounter::new(get(totals));
                    counter.encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::new("default", text).unwrap()
    }

    fn names(texts: &[&str]) -> BTreeSet<ObjectName> {
        texts.iter().map(|text| name(text)).collect()
    }

    fn key(port: u16) -> VirtualServerKey {
        VirtualServerKey::tcp(([10, 96, 0, 1], port).into())
    }

    fn reading(port: u16, service: &str, connections: u64) -> Carried {
        let mut statistics = Statistics::default();
        statistics.connections = connections;
        statistics.incoming_bytes = connections * 100;
        Carried {
            key: key(port),
            service: name(service),
            statistics,
        }
    }

    fn connections(traffic: &Traffic, service: &str) -> u64 {
        traffic.services[&name(service)].connections
    }

    #[test]
    fn a_service_is_the_sum_of_its_virtual_servers_and_never_falls() {
        let mut traffic = Traffic::default();
        traffic.choose(names(&["web"]), 10);
        traffic.add([reading(80, "web", 5), reading(443, "web", 7)], |_| true);
        assert_eq!(connections(&traffic, "web"), 12);
        traffic.add([reading(80, "web", 6), reading(443, "web", 7)], |_| true);
        assert_eq!(connections(&traffic, "web"), 13);
        // One was created again; the listing missed the other.
        traffic.add([reading(80, "web", 2)], |_| true);
        assert_eq!(connections(&traffic, "web"), 15);
        traffic.add([reading(443, "web", 8)], |_| true);
        assert_eq!(connections(&traffic, "web"), 16);
        assert_eq!(traffic.services[&name("web")].incoming_bytes, 1600);
        // It is deleted, and created again.
        traffic.add([], |_| false);
        traffic.add([reading(443, "web", 9)], |_| true);
        assert_eq!(connections(&traffic, "web"), 25);
    }

    #[test]
    fn a_virtual_server_that_changes_hands_counts_for_each_in_turn() {
        let mut traffic = Traffic::default();
        traffic.choose(names(&["a", "b"]), 10);
        traffic.add([reading(80, "a", 5)], |_| true);
        traffic.add([reading(80, "b", 2)], |_| true);
        assert_eq!(
            (connections(&traffic, "a"), connections(&traffic, "b")),
            (5, 2)
        );
    }

    #[test]
    fn the_limit_holds_however_many_services_come_and_go() {
        let mut traffic = Traffic::default();
        for round in 0..100u16 {
            let all: Vec<_> = (0..50).map(|n| format!("s{round}-{n:02}")).collect();
            traffic.choose(all.iter().map(|text| name(text)).collect(), 10);
            let readings = (1..).zip(&all).map(|(port, text)| reading(port, text, 1));
            traffic.add(readings, |_| true);
            assert_eq!((traffic.services.len(), traffic.left_out), (10, 40));
            assert!(traffic.servers.len() <= 10);
        }
        // Counted Services keep their place.
        traffic.choose(names(&["a", "s99-09", "z"]), 2);
        assert_eq!(traffic.left_out, 1);
        assert_eq!(connections(&traffic, "s99-09"), 1);
        traffic.choose(names(&["a", "s99-09", "z"]), 1);
        assert_eq!((traffic.services.len(), traffic.left_out), (1, 2));
    }
}
