//! `discovery.k8s.io/v1/EndpointSlice`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU64};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Family, InvalidName, ObjectName, PortName, Protocol, Service, ServicePort};

/// A slice of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: ObjectName,
    /// `addressType`.
    pub family: Family,
    /// `ports`: every endpoint of the slice serves all of them.
    pub ports: Box<[EndpointPort]>,
    /// `endpoints`.
    pub endpoints: Box<[Endpoint]>,
    /// `endpoints[].hostname`, by the endpoint's address, sorted, each once. Only for discovery: most
    /// endpoints have none, so they cost no memory.
    pub hostnames: Box<[(IpAddr, Arc<str>)]>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`: when the pod or Service
    /// changed whose change led to this version of the slice.
    pub last_change: Option<Timestamp>,
}

/// The host names with this address, of sorted ones.
pub(crate) fn names_of(
    hostnames: &[(IpAddr, Arc<str>)],
    address: IpAddr,
) -> impl Iterator<Item = &Arc<str>> {
    let first = hostnames.partition_point(|(of, _)| *of < address);
    let names = hostnames.iter().skip(first);
    let names = names.take_while(move |(of, _)| *of == address);
    names.map(|(_, name)| name)
}

impl EndpointSlice {
    /// A slice without ports or endpoints.
    pub fn new(name: ObjectName, service: ObjectName, family: Family) -> Self {
        Self {
            name,
            service,
            family,
            ports: Box::default(),
            endpoints: Box::default(),
            hostnames: Box::default(),
            last_change: None,
        }
    }

    /// The host names of the endpoints with this address. Pods on the node's network share its
    /// address.
    pub fn hostnames_of(&self, address: IpAddr) -> impl Iterator<Item = &Arc<str>> {
        names_of(&self.hostnames, address)
    }

    /// The slices of one port of a Service, for endpoints that each have a port number of their own:
    /// one slice for each family and port number, with a name such as
    /// `web.tcp-80.ipv4-8080`.
    ///
    /// An endpoint of a family that the Service does not have goes into a slice of the family of the
    /// Service's first address, where it is a [`Problem`](crate::desired::Problem).
    ///
    /// ```
    /// use proxier::model::{
    ///     Endpoint, EndpointSlice, ObjectName, PortName, Protocol, Service, ServicePort,
    /// };
    ///
    /// let mut web = Service::new(ObjectName::new("shop", "web")?);
    /// web.cluster_ips = ["10.96.0.80".parse()?].into();
    /// let http = ServicePort::new(PortName::new("http")?, Protocol::Tcp, 80.try_into()?);
    /// web.ports = [http.clone()].into();
    /// let endpoint = Endpoint::new("10.244.1.7".parse()?).with_weight(3);
    /// let slices = EndpointSlice::of_port(&web, &http, [(8080.try_into()?, endpoint)])?;
    /// assert_eq!(slices[0].name.to_string(), "shop/web.tcp-80.ipv4-8080");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the Service's name is too long to be part of a slice's name, of 253 bytes.
    pub fn of_port(
        service: &Service,
        port: &ServicePort,
        endpoints: impl IntoIterator<Item = (NonZeroU16, Endpoint)>,
    ) -> Result<Vec<Self>, InvalidName> {
        let families: Vec<_> = service.cluster_ips.iter().map(Family::of).collect();
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for (number, endpoint) in endpoints {
            let own = Family::of(&endpoint.address);
            let family = match families.first() {
                Some(first) if !families.contains(&own) => *first,
                _ => own,
            };
            groups.entry((family, number)).or_default().push(endpoint);
        }
        let slice = |((family, number), endpoints): (_, Vec<_>)| {
            // Two labels after the Service's name, which may have dots: no two ports, of any
            // Services, have slices of the same name.
            let (own, protocol) = (service.name.name(), port.protocol);
            let name = format!("{own}.{protocol}-{}.{family}-{number}", port.port);
            let name = ObjectName::new(service.name.namespace(), &name)?;
            let mut slice = Self::new(name, service.name.clone(), family);
            slice.ports = [EndpointPort::new(port.name.clone(), port.protocol, number)].into();
            slice.endpoints = endpoints.into();
            Ok(slice)
        };
        groups.into_iter().map(slice).collect()
    }
}

/// One port of a slice. The Service's port with the same name maps to this port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the endpoint.
    pub port: NonZeroU16,
}

impl EndpointPort {
    /// A port of a slice.
    pub fn new(name: PortName, protocol: Protocol, port: NonZeroU16) -> Self {
        Self {
            name,
            protocol,
            port,
        }
    }
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The first of `addresses`. The API gives further ones no meaning.
    pub address: IpAddr,
    /// `conditions`.
    pub conditions: EndpointConditions,
    /// Its share of new connections, relative to the other endpoints of the port. Annotation
    /// `svcproxy.io/weight` of the slice.
    ///
    /// With 0 it gets no new connections and drains, as if it were no longer in the slice. If all
    /// endpoints have 0, the Service has none. Of the schedulers of IPVS, `rr`, `lc` and `dh` ignore
    /// other weights; a Service that chooses no scheduler gets `wrr` for `rr` and `wlc` for `lc`
    /// while the weights of its endpoints differ.
    pub weight: u16,
    /// `nodeName`, if known.
    pub node: Option<Arc<str>>,
    /// `zone`, if known.
    pub zone: Option<Arc<str>>,
    /// `hints`: the clients that should use the endpoint; `None` means all.
    pub hints: Option<Box<Hints>>,
}

impl Endpoint {
    /// A ready endpoint of weight 1 on an unknown node.
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            conditions: EndpointConditions::default(),
            weight: 1,
            node: None,
            zone: None,
            hints: None,
        }
    }

    /// Sets [`weight`](Self::weight).
    #[must_use]
    pub fn with_weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }
}

/// `endpoints[].hints`: the zones and nodes whose traffic an endpoint should take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Box<[Arc<str>]>,
    /// `forNodes[].name`.
    pub nodes: Box<[Arc<str>]>,
}

impl Hints {
    /// Hints for these zones and these nodes.
    pub fn new(zones: impl Into<Box<[Arc<str>]>>, nodes: impl Into<Box<[Arc<str>]>>) -> Self {
        Self {
            zones: zones.into(),
            nodes: nodes.into(),
        }
    }
}

/// `endpoints[].conditions`, with the API's defaults for unset fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointConditions {
    /// Accepts new connections; unset means true.
    pub ready: bool,
    /// Answers connections, even while it terminates; unset means the value of `ready`.
    pub serving: bool,
    /// Is being deleted; unset means false.
    pub terminating: bool,
}

impl EndpointConditions {
    /// Conditions from the API's optional fields.
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        Self {
            ready,
            serving: serving.unwrap_or(ready),
            terminating: terminating.unwrap_or(false),
        }
    }
}

impl Default for EndpointConditions {
    fn default() -> Self {
        Self::new(None, None, None)
    }
}

/// A time after 1970 in nanoseconds. It takes 8 bytes, also in an `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The time this long after 1970. `None` if it is zero, or too long for 64 bits (year 2554).
    ///
    /// ```
    /// use std::time::Duration;
    /// use proxier::model::Timestamp;
    ///
    /// let moment = Timestamp::after_epoch(Duration::from_millis(1500)).unwrap();
    /// assert_eq!(moment.since_epoch(), Duration::from_millis(1500));
    /// assert_eq!(Timestamp::after_epoch(Duration::ZERO), None);
    /// ```
    pub fn after_epoch(time: Duration) -> Option<Self> {
        let nanoseconds = u64::try_from(time.as_nanos()).ok()?;
        NonZeroU64::new(nanoseconds).map(Self)
    }

    /// The duration since 1970.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + timestamp.since_epoch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_share_a_slice_by_family_and_port_number() {
        let mut service = Service::new(ObjectName::new("shop", "web").unwrap());
        let port = ServicePort::new(PortName::UNNAMED, Protocol::Udp, NonZeroU16::MIN);
        let slices = |service: &Service, endpoints: &[(u16, &str)]| {
            let endpoints = endpoints.iter().map(|(number, address)| {
                let endpoint = Endpoint::new(address.parse().unwrap());
                (NonZeroU16::new(*number).unwrap(), endpoint)
            });
            let slices = EndpointSlice::of_port(service, &port, endpoints).unwrap();
            let text = |slice: &EndpointSlice| {
                let addresses = slice.endpoints.iter();
                let addresses: Vec<_> = addresses.map(|e| e.address.to_string()).collect();
                format!("{} {}", slice.name.name(), addresses.join(" "))
            };
            slices.iter().map(text).collect::<Vec<_>>()
        };
        let endpoints = [
            (90, "10.0.0.1"),
            (80, "10.0.0.2"),
            (90, "fd00::1"),
            (80, "10.0.0.3"),
        ];
        service.cluster_ips = ["10.96.0.1".parse().unwrap(), "fd00::".parse().unwrap()].into();
        let both = [
            "web.udp-1.ipv4-80 10.0.0.2 10.0.0.3",
            "web.udp-1.ipv4-90 10.0.0.1",
            "web.udp-1.ipv6-90 fd00::1",
        ];
        assert_eq!(slices(&service, &endpoints), both);
        // The service has no IPv6: the endpoint stays to be reported.
        service.cluster_ips = ["10.96.0.1".parse().unwrap()].into();
        let v4 = [both[0], "web.udp-1.ipv4-90 10.0.0.1 fd00::1"];
        assert_eq!(slices(&service, &endpoints), v4);
        assert_eq!(slices(&service, &[]), [""; 0]);
    }
}
