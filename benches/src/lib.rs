//! Common parts of the benchmarks: a node, and clusters of a given size.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::Ipv4Net;
use proxier::desired::{Config, DesiredState, Touched};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, InvalidName, ObjectName, PortName, Protocol,
    Service, ServicePort,
};
use proxier::store::{Change, Store};

/// The network of the cluster IPs, as the API server or kubeadm knows it: a /12.
const CLUSTER_IPS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);

/// The Services and endpoint slices of a cluster: one port and one slice per Service.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The Services.
    pub services: Vec<Service>,
    /// Their slices, in the same order.
    pub slices: Vec<EndpointSlice>,
}

impl Cluster {
    /// A cluster of `services` Services with `endpoints` endpoints each.
    ///
    /// # Errors
    ///
    /// None in practice: the names are valid.
    pub fn new(services: u32, endpoints: u32) -> Result<Self, InvalidName> {
        let port = |number| NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN);
        let http = PortName::new("http")?;
        let mut cluster = Self {
            services: Vec::new(),
            slices: Vec::new(),
        };
        for index in 0..services {
            let namespace = format!("team-{}", index % 100);
            let name = ObjectName::new(&namespace, &format!("service-{index}"))?;
            let mut service = Service::new(name.clone());
            service.cluster_ips = [address(CLUSTER_IPS.octets(), index + 1)].into();
            service.ports = [ServicePort::new(http.clone(), Protocol::Tcp, port(80))].into();
            let slice_name = ObjectName::new(&namespace, &format!("service-{index}-abcde"))?;
            let mut slice = EndpointSlice::new(slice_name, name, Family::V4);
            slice.ports = [EndpointPort::new(http.clone(), Protocol::Tcp, port(8080))].into();
            slice.endpoints = (0..endpoints)
                .map(|n| {
                    let mut endpoint =
                        Endpoint::new(address([10, 128, 0, 0], index * endpoints + n + 1));
                    // A hundred nodes.
                    endpoint.node = Some(format!("node-{}", (index * endpoints + n) % 100).into());
                    endpoint
                })
                .collect();
            cluster.services.push(service);
            cluster.slices.push(slice);
        }
        Ok(cluster)
    }

    /// The changes that a source yields for this cluster at its first list.
    pub fn changes(&self) -> [Change; 2] {
        [
            Change::ServicesReplaced(self.services.clone()),
            Change::EndpointSlicesReplaced(self.slices.clone()),
        ]
    }

    /// A store with this cluster.
    pub fn store(&self) -> Store {
        let mut store = Store::default();
        let changes = self.changes().into_iter();
        changes.for_each(|change| store.apply(change));
        store.take_touched();
        store
    }

    /// Endless changes that remove and add an endpoint of one Service.
    pub fn flapping(&self) -> impl Iterator<Item = Change> {
        let full = self.slices.get(self.slices.len() / 2).cloned();
        let short = full.clone().map(|mut slice| {
            slice.endpoints = slice.endpoints.iter().skip(1).cloned().collect();
            slice
        });
        let versions = [short, full].into_iter().flatten();
        let changes: Vec<_> = versions.map(Change::EndpointSliceApplied).collect();
        changes.into_iter().cycle()
    }
}

/// The settings of a node.
pub fn config() -> Arc<Config> {
    let mut config = Config::new("node-1", vec![IpAddr::from([192, 0, 2, 1])]);
    config.service_cidrs = Ipv4Net::new(CLUSTER_IPS, 12)
        .into_iter()
        .map(Into::into)
        .collect();
    Arc::new(config)
}

/// Applies a change, and returns what it touched.
pub fn update(store: &mut Store, desired: &mut DesiredState, change: Change) -> Touched {
    store.apply(change);
    let mut touched = Touched::default();
    for name in store.take_touched() {
        desired.update(&name, store.get(&name), &mut touched);
    }
    touched
}

/// The n-th address after a network's.
fn address(network: [u8; 4], n: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::from(network).to_bits() + n).into()
}
