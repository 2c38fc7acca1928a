//! The Service ports of the examples with their backends, as in the manifests.

use std::net::SocketAddr;

use testbed::Protocol::{Http, Sctp, Tcp, Udp};
use testbed::{Family, Protocol};

/// A VIP's port and its backends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    vip: &'static str,
    backends: &'static [&'static str],
}

impl Port {
    pub(crate) fn vip(&self) -> SocketAddr {
        self.vip.parse().unwrap()
    }

    pub(crate) fn family(&self) -> Family {
        if self.vip().is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    pub(crate) fn backends(&self) -> impl ExactSizeIterator<Item = SocketAddr> {
        self.backends.iter().map(|address| address.parse().unwrap())
    }
}

pub(crate) const fn port(
    protocol: Protocol,
    vip: &'static str,
    backends: &'static [&'static str],
) -> Port {
    Port {
        protocol,
        vip,
        backends,
    }
}

pub(crate) const API_SERVER: &[Port] = &[port(Tcp, "10.96.0.1:443", &["10.244.2.3:6443"])];

pub(crate) const DNS: &[Port] = &[
    port(Udp, "10.96.0.10:53", &["10.244.1.2:53", "10.244.2.2:53"]),
    port(Tcp, "10.96.0.10:53", &["10.244.1.2:53", "10.244.2.2:53"]),
    port(
        Http,
        "10.96.0.10:9153",
        &["10.244.1.2:9153", "10.244.2.2:9153"],
    ),
];

pub(crate) const DUAL_STACK: &[Port] = &[
    port(
        Http,
        "10.96.0.84:80",
        &["10.244.1.60:8080", "10.244.2.60:8080"],
    ),
    port(
        Http,
        "[fd00:10:96::84]:80",
        &["[fd00:10:244:1::60]:8080", "[fd00:10:244:2::60]:8080"],
    ),
];

pub(crate) const ENDPOINTS_BY_HAND: &[Port] =
    &[port(Tcp, "10.96.0.82:5432", &["10.244.2.30:5432"])];

pub(crate) const MULTI_PORT: &[Port] = &[
    port(
        Http,
        "10.96.0.81:80",
        &["10.244.1.20:8080", "10.244.2.20:8080"],
    ),
    port(
        Http,
        "10.96.0.81:443",
        &["10.244.1.20:8443", "10.244.2.20:8443"],
    ),
    port(
        Sctp,
        "10.96.0.81:3868",
        &["10.244.1.20:3868", "10.244.2.20:3868"],
    ),
];

pub(crate) const SELECTOR: &[Port] = &[port(
    Http,
    "10.96.0.85:80",
    &["10.244.1.70:8080", "10.244.2.70:9090"],
)];

/// The example with session affinity.
pub(crate) const CART: Port = port(
    Http,
    "10.96.0.83:80",
    &["10.244.1.40:8080", "10.244.1.41:8080", "10.244.2.40:8080"],
);

pub(crate) const WEB: Port = port(
    Http,
    "10.96.0.80:80",
    &["10.244.1.10:8080", "10.244.1.11:8080", "10.244.2.10:8080"],
);

/// Every kind of address of one Service.
pub(crate) const SHOP: &[Port] = &[
    port(Http, "10.96.0.90:80", SHOPS),
    port(Http, "172.18.0.1:30090", SHOPS),
    port(Http, "203.0.113.90:80", SHOPS),
];

/// The same over UDP.
pub(crate) const SHOP_UDP: &[Port] = &[
    port(Udp, "10.96.0.90:80", SHOPS),
    port(Udp, "172.18.0.1:30090", SHOPS),
    port(Udp, "203.0.113.90:80", SHOPS),
];

const SHOPS: &[&str] = &["10.244.1.10:8080", "10.244.1.11:8080", "10.244.2.10:8080"];

/// For each family and protocol, every address of two Services with the same endpoint.
pub(crate) fn same_endpoint() -> Vec<[Port; 5]> {
    let v4 = [
        "10.96.0.21:80",
        "10.96.0.22:80",
        "172.18.0.1:30021",
        "172.18.0.1:30022",
        "203.0.113.22:80",
    ];
    let v6 = [
        "[fd00:10:96::21]:80",
        "[fd00:10:96::22]:80",
        "[fd00:172:18::1]:30021",
        "[fd00:172:18::1]:30022",
        "[2001:db8:203::22]:80",
    ];
    let families: [(_, &[_]); 2] = [
        (v4, &["10.244.2.22:8080"]),
        (v6, &["[fd00:10:244:2::22]:8080"]),
    ];
    let over =
        |protocol| families.map(|(vips, backends)| vips.map(|vip| port(protocol, vip, backends)));
    [Tcp, Udp].into_iter().flat_map(over).collect()
}

/// The node ports of [`DOOR_MANIFEST`].
pub(crate) const DOOR: &[Port] = &[
    port(Tcp, "172.18.0.1:30070", &["10.244.1.10:8080"]),
    port(Tcp, "[fd00:172:18::1]:30070", &["[fd00:10:244:1::10]:8080"]),
];

pub(crate) const DOOR_MANIFEST: &str = r"
apiVersion: v1
kind: Service
metadata: {name: door}
spec:
  type: NodePort
  clusterIPs: [10.96.0.70, 'fd00:10:96::70']
  clusterIP: 10.96.0.70
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  ports: [{port: 80, targetPort: 8080, nodePort: 30070}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: door-v4, labels: {kubernetes.io/service-name: door}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.10], nodeName: node-a}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: door-v6, labels: {kubernetes.io/service-name: door}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ['fd00:10:244:1::10'], nodeName: node-a}]
";

/// Of [`IPV6_MANIFEST`]: every protocol.
pub(crate) const IPV6: &[Port] = &[
    port(
        Tcp,
        "[fd00:10:96::7]:7",
        &["[fd00:10:244:1::70]:7000", "[fd00:10:244:2::70]:7000"],
    ),
    port(
        Udp,
        "[fd00:10:96::7]:7",
        &["[fd00:10:244:1::70]:7000", "[fd00:10:244:2::70]:7000"],
    ),
    port(
        Sctp,
        "[fd00:10:96::7]:7",
        &["[fd00:10:244:1::70]:7000", "[fd00:10:244:2::70]:7000"],
    ),
];

pub(crate) const IPV6_MANIFEST: &str = r"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: fd00:10:96::7
  ipFamilies: [IPv6]
  ports:
  - {name: tcp, port: 7, protocol: TCP}
  - {name: udp, port: 7, protocol: UDP}
  - {name: sctp, port: 7, protocol: SCTP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo, labels: {kubernetes.io/service-name: echo}}
addressType: IPv6
ports:
- {name: tcp, port: 7000, protocol: TCP}
- {name: udp, port: 7000, protocol: UDP}
- {name: sctp, port: 7000, protocol: SCTP}
endpoints:
- {addresses: ['fd00:10:244:1::70'], nodeName: node-a}
- {addresses: ['fd00:10:244:2::70'], nodeName: node-b}
";
