//! The Services of the measured node.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use proxier::desired::{Config, DesiredState};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::store::Change;
use svcproxy_benches::Cluster;
use testbed::{POD_CIDR_V4, POD_CIDR_V6, SERVICE_CIDR_V4, SERVICE_CIDR_V6};

use crate::Result;

/// Of the measured Service.
pub(crate) const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
/// Its port.
pub(crate) const PORT: u16 = 80;
/// Its endpoint's port.
pub(crate) const SERVICE_PORT: u16 = 8080;
/// The node port of a Service that has one.
pub(crate) const NODE_PORT: u16 = 30_080;
/// The external IP of a Service that has one.
pub(crate) const EXTERNAL_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// The settings of the node.
pub(crate) fn config() -> Config {
    let mut config = Config::new("node-1", vec![[172, 18, 0, 1].into()]);
    let networks = |texts: [&str; 2]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    config.service_cidrs = networks([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config.cluster_cidrs = networks([POD_CIDR_V4, POD_CIDR_V6]);
    config
}

/// A cluster of so many Services, one of which has the pod as its only endpoint.
pub(crate) fn desired(services: u32, pod: Ipv4Addr) -> Result<DesiredState> {
    state(services, pod, |_| {}, Vec::new())
}

/// The same, where that Service is changed before.
pub(crate) fn desired_with(
    services: u32,
    pod: Ipv4Addr,
    change: impl Fn(&mut Service),
) -> Result<DesiredState> {
    state(services, pod, change, Vec::new())
}

/// A cluster with the measured Service, one with a node port and an external IP, and one without
/// endpoints.
pub(crate) fn desired_of_all_kinds(services: u32, pod: Ipv4Addr) -> Result<DesiredState> {
    let (service, slice) = measured(pod)?;
    let name = |name: &str| ObjectName::new("default", name);
    let mut of_all_kinds = Service::new(name("of-all-kinds")?);
    let mut port = ServicePort::new(PortName::new("tcp")?, Protocol::Tcp, number(PORT));
    port.node_port = NonZeroU16::new(NODE_PORT);
    of_all_kinds.ports = [port].into();
    of_all_kinds.cluster_ips = [Ipv4Addr::new(10, 100, 0, 2).into()].into();
    of_all_kinds.external_ips = [EXTERNAL_IP.into()].into();
    let mut its_slice = slice;
    its_slice.name = name("of-all-kinds-abcde")?;
    its_slice.service = name("of-all-kinds")?;
    let mut empty = of_all_kinds.clone();
    empty.name = name("empty")?;
    empty.ports = service.ports;
    empty.cluster_ips = [Ipv4Addr::new(10, 100, 0, 3).into()].into();
    empty.external_ips = [].into();
    let more = vec![
        Change::ServiceApplied(of_all_kinds),
        Change::EndpointSliceApplied(its_slice),
        Change::ServiceApplied(empty),
    ];
    state(services, pod, |_| {}, more)
}

fn state(
    services: u32,
    pod: Ipv4Addr,
    change: impl Fn(&mut Service),
    more: Vec<Change>,
) -> Result<DesiredState> {
    let mut store = Cluster::new(services.saturating_sub(1), 3)?.store();
    let (mut service, slice) = measured(pod)?;
    change(&mut service);
    more.into_iter().for_each(|change| store.apply(change));
    store.apply(Change::ServiceApplied(service));
    store.apply(Change::EndpointSliceApplied(slice));
    Ok(DesiredState::from_store(Arc::new(config()), &store))
}

/// The measured Service: TCP and UDP at one port, with the pod as its only endpoint.
fn measured(pod: Ipv4Addr) -> Result<(Service, EndpointSlice)> {
    let name = ObjectName::new("default", "measured")?;
    let mut service = Service::new(name.clone());
    service.cluster_ips = [CLUSTER_IP.into()].into();
    let slice_name = ObjectName::new("default", "measured-abcde")?;
    let mut slice = EndpointSlice::new(slice_name, name, Family::V4);
    let ports = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let ports = ports.map(|(name, protocol)| Ok((PortName::new(name)?, protocol)));
    let ports = ports.into_iter().collect::<Result<Vec<_>>>()?;
    let service_port = |(name, protocol): &(PortName, Protocol)| {
        ServicePort::new(name.clone(), *protocol, number(PORT))
    };
    service.ports = ports.iter().map(service_port).collect();
    let endpoint_port = |(name, protocol): &(PortName, Protocol)| {
        EndpointPort::new(name.clone(), *protocol, number(SERVICE_PORT))
    };
    slice.ports = ports.iter().map(endpoint_port).collect();
    slice.endpoints = [Endpoint::new(pod.into())].into();
    Ok((service, slice))
}

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN)
}
