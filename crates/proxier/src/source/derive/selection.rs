//! How a Service selects its Pods.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::{ContainerPort, Pod};
use crate::model::{Family, PortName, Service, ServicePort};

/// The parts of a Service with a selector that its slices depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// `spec.selector`: the labels that a Pod must have.
    pub labels: BTreeMap<String, String>,
    /// `targetPort` of each of `spec.ports`.
    pub targets: Box<[TargetPort]>,
    /// `spec.ipFamilies`.
    pub families: Box<[Family]>,
    /// `spec.publishNotReadyAddresses`: every Pod counts as ready.
    pub publish_not_ready_addresses: bool,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
}

impl Selection {
    /// Selects Pods with these labels; without ports or address families.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let labels = labels.into_iter();
        Self {
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            targets: Box::default(),
            families: Box::default(),
            publish_not_ready_addresses: false,
            traffic_distribution: None,
        }
    }

    /// Whether a Pod of the Service's namespace has all labels.
    pub fn selects(&self, pod: &Pod) -> bool {
        let mut labels = self.labels.iter();
        labels.all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// The port number in this Pod for each port of the Service; none for a named one that the Pod
    /// does not have.
    pub(super) fn ports_of(&self, service: &Service, pod: &Pod) -> Vec<Option<NonZeroU16>> {
        let ports = service.ports.iter().zip(&self.targets);
        let number = |(port, target): (&ServicePort, &TargetPort)| match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let named =
                    |own: &&ContainerPort| own.name == *name && own.protocol == port.protocol;
                pod.ports.iter().find(named).map(|own| own.port)
            }
        };
        ports.map(number).collect()
    }
}

/// `spec.ports[].targetPort`: the port in the Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetPort {
    /// A number, the same in each Pod.
    Number(NonZeroU16),
    /// The port of a container with this name and the Service port's protocol.
    Name(PortName),
}

/// `spec.trafficDistribution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrafficDistribution {
    /// Endpoints of the client's zone; `PreferClose` means the same.
    PreferSameZone,
    /// Endpoints of the client's node, else of its zone.
    PreferSameNode,
}
