//! The records of one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;

use crate::model::{EndpointSlice, PortName, Protocol, Service, Unproxied, names_of};

/// What the zone needs of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// One with cluster IPs, whoever serves them.
    ClusterIp {
        addresses: Box<[IpAddr]>,
        ports: Box<[Port]>,
    },
    Headless {
        publish_not_ready_addresses: bool,
    },
    ExternalName(Name),
}

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: PortName,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

impl Kind {
    /// `None` for a Service without any name in DNS.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let addresses = match service.unproxied.as_deref() {
            Some(Unproxied::Headless {
                publish_not_ready_addresses,
            }) => {
                return Some(Self::Headless {
                    publish_not_ready_addresses: *publish_not_ready_addresses,
                });
            }
            Some(Unproxied::ExternalName(name)) => {
                let name = Name::from_ascii(format!("{name}.")).ok()?;
                return Some(Self::ExternalName(name));
            }
            Some(Unproxied::OtherProxy(addresses)) => addresses,
            None => &service.cluster_ips,
        };
        let named = service.ports.iter().filter(|port| !port.name.is_unnamed());
        let port = |port: &crate::model::ServicePort| Port {
            name: port.name.clone(),
            protocol: port.protocol,
            number: port.port.get(),
        };
        (!addresses.is_empty()).then(|| Self::ClusterIp {
            addresses: addresses.clone(),
            ports: named.map(port).collect(),
        })
    }
}

/// The endpoints of a slice that the zone may need. Slices can arrive before their Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    ports: Box<[Port]>,
    ready: Box<[IpAddr]>,
    not_ready: Box<[IpAddr]>,
    hostnames: Box<[(IpAddr, Arc<str>)]>,
}

impl Endpoints {
    pub(super) fn of(slice: &EndpointSlice) -> Self {
        let named = slice.ports.iter().filter(|port| !port.name.is_unnamed());
        let port = |port: &crate::model::EndpointPort| Port {
            name: port.name.clone(),
            protocol: port.protocol,
            number: port.port.get(),
        };
        let with = |ready: bool| {
            let endpoints = slice.endpoints.iter();
            let endpoints = endpoints.filter(move |endpoint| endpoint.conditions.ready == ready);
            endpoints.map(|endpoint| endpoint.address).collect()
        };
        Self {
            ports: named.map(port).collect(),
            ready: with(true),
            not_ready: with(false),
            hostnames: slice.hostnames.clone(),
        }
    }

    /// The labels of an address: the host names of its endpoints, or else the address with dashes.
    fn labels(&self, address: IpAddr) -> Vec<Arc<str>> {
        let names: Vec<_> = names_of(&self.hostnames, address).cloned().collect();
        match names.is_empty() {
            true => vec![address.to_string().replace(['.', ':'], "-").into()],
            false => names,
        }
    }
}

/// The records of a Service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Records {
    ClusterIp {
        addresses: Box<[IpAddr]>,
        ports: Box<[Port]>,
    },
    Headless(Headless),
    ExternalName(Name),
}

/// The records of a headless Service with at least one address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Headless {
    /// Of all endpoints, sorted.
    pub(super) addresses: Box<[IpAddr]>,
    /// By label.
    pub(super) hosts: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// The hosts that serve a port, by protocol and name of the port.
    pub(super) servers: BTreeMap<(Protocol, PortName), BTreeSet<Server>>,
}

/// The label of a host, and the number of its port.
pub(super) type Server = (Arc<str>, u16);

impl Records {
    /// The records of a Service with these slices. `None` if no name exists: a headless Service
    /// without endpoints is `NXDOMAIN`.
    pub(super) fn new<'a>(
        kind: &Kind,
        slices: impl IntoIterator<Item = &'a Endpoints>,
    ) -> Option<Self> {
        let all = match kind {
            Kind::ClusterIp { addresses, ports } => {
                return Some(Self::ClusterIp {
                    addresses: addresses.clone(),
                    ports: ports.clone(),
                });
            }
            Kind::ExternalName(name) => return Some(Self::ExternalName(name.clone())),
            Kind::Headless {
                publish_not_ready_addresses,
            } => *publish_not_ready_addresses,
        };
        let mut headless = Headless::default();
        let mut addresses = BTreeSet::new();
        for slice in slices {
            let not_ready = slice.not_ready.iter().filter(|_| all);
            for address in slice.ready.iter().chain(not_ready).copied() {
                addresses.insert(address);
                for label in slice.labels(address) {
                    for port in &slice.ports {
                        let key = (port.protocol, port.name.clone());
                        let servers = headless.servers.entry(key).or_default();
                        servers.insert((label.clone(), port.number));
                    }
                    headless.hosts.entry(label).or_default().insert(address);
                }
            }
        }
        headless.addresses = addresses.into_iter().collect();
        (!headless.addresses.is_empty()).then_some(Self::Headless(headless))
    }

    /// The addresses that lead back to the Service, each with the label of its host, if it has one.
    pub(super) fn pointers(&self) -> Vec<(IpAddr, Option<Arc<str>>)> {
        match self {
            Self::ClusterIp { addresses, .. } => {
                addresses.iter().map(|address| (*address, None)).collect()
            }
            Self::ExternalName(_) => Vec::new(),
            Self::Headless(headless) => {
                let hosts = headless.hosts.iter();
                let pointers = hosts.flat_map(|(label, addresses)| {
                    let label = Some(label.clone());
                    addresses
                        .iter()
                        .map(move |address| (*address, label.clone()))
                });
                pointers.collect()
            }
        }
    }
}
