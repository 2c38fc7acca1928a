//! What the benchmarks have in common: clusters of a given size.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, InvalidName, ObjectName, PortName, Protocol,
    Service, ServicePort,
};
use proxier::store::Change;

/// The Services and endpoint slices of a cluster: one port a Service, one slice a Service.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The Services.
    pub services: Vec<Service>,
    /// Their slices, in the same order.
    pub slices: Vec<EndpointSlice>,
}

impl Cluster {
    /// A cluster of so many Services with so many endpoints each.
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
            service.cluster_ips = [address([10, 96, 0, 0], index + 1)].into();
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
}

/// The n-th address after a network's.
fn address(network: [u8; 4], n: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::from(network).to_bits() + n).into()
}
