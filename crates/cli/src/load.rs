//! How busy Services and endpoints are, from two readings of the kernel. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use serde::Serialize;

use crate::args::TopSort;
use crate::inventory::{Inventory, Rates, RealServerStatus, ServiceStatus};

/// What passes, and what is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Load {
    pub(crate) active_connections: u64,
    pub(crate) inactive_connections: u64,
    pub(crate) connections_per_second: f64,
    pub(crate) packets_per_second: u64,
    pub(crate) bytes_per_second: u64,
    /// Since the endpoints were added.
    pub(crate) total_connections: u64,
}

impl Load {
    fn add(&mut self, other: &Self) {
        self.active_connections += other.active_connections;
        self.inactive_connections += other.inactive_connections;
        self.connections_per_second += other.connections_per_second;
        self.packets_per_second += other.packets_per_second;
        self.bytes_per_second += other.bytes_per_second;
        self.total_connections += other.total_connections;
    }

    /// The number to sort by; higher is busier.
    fn rank(&self, sort: TopSort) -> u64 {
        match sort {
            // In thousandths, so that slow ones are in order too.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates; a rate is not negative"
            )]
            TopSort::Rate => (self.connections_per_second * 1000.0) as u64,
            TopSort::Active => self.active_connections,
            TopSort::Packets => self.packets_per_second,
            TopSort::Bytes => self.bytes_per_second,
            TopSort::Total => self.total_connections,
            TopSort::Draining | TopSort::Name => 0,
        }
    }
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceLoad {
    pub(crate) service: String,
    pub(crate) endpoints: usize,
    pub(crate) draining: usize,
    #[serde(flatten)]
    pub(crate) load: Load,
}

/// An endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointLoad {
    pub(crate) service: String,
    pub(crate) address: SocketAddr,
    pub(crate) draining: bool,
    #[serde(flatten)]
    pub(crate) load: Load,
}

/// Connections by Service, place among its VIPs, and endpoint; to compare two readings.
type Totals = HashMap<(String, String, SocketAddr), u64>;

/// The loads of one reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Loads {
    pub(crate) services: Vec<ServiceLoad>,
    pub(crate) endpoints: Vec<EndpointLoad>,
    pub(crate) all: Load,
    totals: Totals,
}

impl Loads {
    /// The loads. Where the kernel has no rates, those since the earlier reading, so many seconds ago.
    pub(crate) fn new(inventory: &Inventory, before: Option<(&Self, f64)>) -> Self {
        let mut loads = Self::default();
        for ServiceStatus { service, vips } in &inventory.services {
            let mut endpoints = BTreeMap::<SocketAddr, (bool, Load)>::new();
            for vip in vips {
                let place = format!("{} {:?}", vip.key, vip.clients);
                for server in &vip.real_servers {
                    let address = SocketAddr::new(server.address, server.port);
                    let key = (service.clone(), place.clone(), address);
                    let total = server.total_connections.unwrap_or(0);
                    let since = before.and_then(|(before, seconds)| {
                        let earlier = before.totals.get(&key)?;
                        // A counter that fell is one of a new rule.
                        Some((total.saturating_sub(*earlier), seconds))
                    });
                    let load = load(server, total, since);
                    loads.totals.insert(key, total);
                    let (drains, sum) = endpoints.entry(address).or_insert((true, Load::default()));
                    *drains &= server.drains();
                    sum.add(&load);
                }
            }
            let mut sum = Load::default();
            let draining = endpoints.values().filter(|(drains, _)| *drains).count();
            for (address, (drains, load)) in &endpoints {
                sum.add(load);
                loads.endpoints.push(EndpointLoad {
                    service: service.clone(),
                    address: *address,
                    draining: *drains,
                    load: *load,
                });
            }
            loads.all.add(&sum);
            loads.services.push(ServiceLoad {
                service: service.clone(),
                endpoints: endpoints.len() - draining,
                draining,
                load: sum,
            });
        }
        loads
    }

    /// Sorts both lists, the busiest first; equal ones by name.
    pub(crate) fn sort(&mut self, sort: TopSort) {
        self.services.sort_by(|a, b| {
            let rank = |of: &ServiceLoad| match sort {
                TopSort::Draining => u64::try_from(of.draining).unwrap_or(u64::MAX),
                sort => of.load.rank(sort),
            };
            let key = |of: &ServiceLoad| Reverse(rank(of));
            key(a).cmp(&key(b)).then_with(|| a.service.cmp(&b.service))
        });
        self.endpoints.sort_by(|a, b| {
            let rank = |of: &EndpointLoad| match sort {
                TopSort::Draining => u64::from(of.draining),
                sort => of.load.rank(sort),
            };
            let key = |of: &EndpointLoad| Reverse(rank(of));
            let name = |of: &EndpointLoad| (of.service.clone(), of.address);
            key(a).cmp(&key(b)).then_with(|| name(a).cmp(&name(b)))
        });
    }
}

fn load(server: &RealServerStatus, total: u64, since: Option<(u64, f64)>) -> Load {
    match server.scheduled {
        Some(scheduled) => {
            let rates = scheduled.rates;
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let by_kernel = rates.connections_per_second as f64;
            // Mode userspace counts, but has no averages.
            let connections_per_second = match rates == Rates::default() {
                true => per_second(since),
                false => by_kernel,
            };
            Load {
                active_connections: scheduled.now.active_connections,
                inactive_connections: scheduled.now.inactive_connections,
                connections_per_second,
                packets_per_second: rates.packets_per_second,
                bytes_per_second: rates.bytes_per_second,
                total_connections: total,
            }
        }
        None => Load {
            connections_per_second: per_second(since),
            total_connections: total,
            ..Load::default()
        },
    }
}

/// A number in so many seconds, per second.
fn per_second(since: Option<(u64, f64)>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    match since {
        Some((count, seconds)) if seconds > 0.0 => count as f64 / seconds,
        _ => 0.0,
    }
}
