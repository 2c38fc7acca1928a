//! A node with pods, and a Service that a proxier serves there, in any mode.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::DataPlane;
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::store::Change;
use testbed::{
    Backend, Client, Host, POD_CIDR_V4, POD_CIDR_V6, Protocol as Transport, SERVICE_CIDR_V4,
    SERVICE_CIDR_V6, Topology,
};

pub(crate) fn port(number: u16) -> NonZeroU16 {
    number.try_into().unwrap()
}

/// The node that svcproxy runs on.
pub(crate) fn settings(topology: &Topology) -> Config {
    let node = &topology.node().host;
    let mut config = Config::new("node-a", vec![node.v4.into(), node.v6.into()]);
    let cidrs = |cidrs: [&str; 2]| cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    config.cluster_cidrs = cidrs([POD_CIDR_V4, POD_CIDR_V6]);
    config.service_cidrs = cidrs([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config
}

/// The Service has the cluster IP 10.96.0.10, and a node port that is 30,000 higher than its port.
pub(crate) struct Lab<'a, D: DataPlane> {
    pub(crate) topology: &'a Topology,
    pub(crate) proxier: Proxier<D>,
    pub(crate) service: Service,
    pub(crate) slice: EndpointSlice,
}

impl<'a, D> Lab<'a, D>
where
    D: DataPlane + Send,
    D::Plan: Send,
{
    pub(crate) fn new(
        topology: &'a Topology,
        config: Config,
        data_plane: D,
        protocol: Protocol,
        number: u16,
    ) -> Self {
        let name = ObjectName::new("default", "web").unwrap();
        let mut service = Service::new(name.clone());
        let mut of = ServicePort::new(PortName::UNNAMED, protocol, port(number));
        of.node_port = Some(port(30_000 + number));
        service.cluster_ips = [[10, 96, 0, 10].into()].into();
        service.ports = [of].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        slice.ports = [EndpointPort::new(PortName::UNNAMED, protocol, port(5353))].into();
        let mut lab = Self {
            topology,
            proxier: Proxier::new(Arc::new(config), data_plane),
            service,
            slice,
        };
        lab.handle(vec![
            Change::ServicesReplaced(vec![]),
            Change::EndpointSlicesReplaced(vec![]),
        ]);
        lab
    }

    /// Returns the number of flows that were deleted.
    pub(crate) fn handle(&mut self, changes: Vec<Change>) -> u64 {
        let node = &self.topology.node().host;
        let report = node
            .enter(|| self.proxier.handle(changes))
            .unwrap()
            .unwrap();
        let failures = &report.applied.failures;
        assert!(report.is_success(), "{failures:#?}");
        report.applied.counts.flows
    }

    /// As [`handle`](Self::handle), for the Service with these endpoints.
    pub(crate) fn serve(&mut self, pods: &[&Host]) -> u64 {
        let endpoints = pods.iter().map(|pod| Endpoint::new(pod.v4.into()));
        self.slice.endpoints = endpoints.collect();
        self.handle(vec![
            Change::ServiceApplied(self.service.clone()),
            Change::EndpointSliceApplied(self.slice.clone()),
        ])
    }
}

/// The servers of these endpoints, which answer with their names.
pub(crate) fn backends(pods: &[&Host], protocol: Transport) -> Vec<Backend> {
    let start =
        |pod: &&Host| Backend::start(pod, protocol, (pod.v4, 5353).into(), pod.name()).unwrap();
    pods.iter().map(start).collect()
}

/// How often each endpoint answers.
pub(crate) fn answers(from: &Host, client: &Client, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers
            .entry(client.ask(from).unwrap().backend)
            .or_default() += 1;
    }
    answers
}
