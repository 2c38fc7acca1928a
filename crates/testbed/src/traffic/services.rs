//! The Services of the table: their addresses and their manifest.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::table::{Service, Way};
use crate::{Family, Protocol};

/// An address to add to the first node after the proxy has started, before the test of the cells.
pub const NEW_ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 50);
/// The IPv6 counterpart of [`NEW_ADDRESS_V4`].
pub const NEW_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0x50);

/// A port on which both nodes listen themselves.
pub(super) const NODES_OWN_PORT: u16 = 10250;

/// The addresses of the first two nodes of a [`Topology`](crate::Topology), the client's, and the
/// endpoints'.
const THIS_NODE: (Ipv4Addr, Ipv6Addr) = on_lan(1);
pub(super) const OTHER_NODE: (Ipv4Addr, Ipv6Addr) = on_lan(2);
const IN_RANGES: (Ipv4Addr, Ipv6Addr) = on_lan(0x100);
pub(super) const IN_NO_RANGE: (Ipv4Addr, Ipv6Addr) = on_lan(0x101);

/// The host number `0x100` is written like the IPv4 address's `.100`.
const fn on_lan(host: u16) -> (Ipv4Addr, Ipv6Addr) {
    #[expect(clippy::cast_possible_truncation, reason = "two digits each")]
    let [hundreds, rest] = [(host >> 8) as u8, host as u8];
    (
        Ipv4Addr::new(172, 18, 0, hundreds * 100 + rest),
        Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, host),
    )
}

/// One port of each Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) protocol: Protocol,
    /// The Service's port and node port are these plus its number.
    port: u16,
    node_port: u16,
    pub(super) target: u16,
}

const fn port(name: &'static str, protocol: Protocol) -> Port {
    Port {
        name,
        protocol,
        port: 80,
        node_port: 30000,
        target: 8080,
    }
}

/// One port for each protocol, all with the same numbers.
pub(super) const PORTS: [Port; 3] = [
    port("tcp", Protocol::Tcp),
    port("udp", Protocol::Udp),
    port("sctp", Protocol::Sctp),
];
/// A port with other numbers.
pub(super) const ANOTHER_PORT: Port = Port {
    port: 180,
    node_port: 30100,
    target: 8081,
    ..port("another", Protocol::Tcp)
};

impl Service {
    /// The Service's number in its addresses and ports.
    const fn number(self) -> u16 {
        self as u16 + 1
    }

    /// The nodes that have an endpoint.
    pub(super) const fn places(self) -> &'static [Place] {
        match self {
            Self::Nobody | Self::NobodyLocal => &[],
            Self::Elsewhere => &[Place::There],
            Self::Cluster | Self::Local | Self::Ranges | Self::Affinity | Self::AffinityLocal => {
                &[Place::Here, Place::There]
            }
        }
    }

    /// The address that a client connects to.
    pub(super) fn address(self, way: Way, family: Family, port: Port) -> SocketAddr {
        let n = self.number();
        let by_family = |(v4, v6): (Ipv4Addr, Ipv6Addr)| match family {
            Family::V4 => IpAddr::V4(v4),
            Family::V6 => IpAddr::V6(v6),
        };
        let address = match way {
            Way::ClusterIp | Way::ClusterIpNodePort => by_family(self.cluster_ips()),
            Way::LoadBalancerIp => by_family(external(n)),
            Way::ExternalIp => by_family(external(100 + n)),
            Way::NodePort | Way::ThisNodesIp | Way::ThisNodesPort => by_family(THIS_NODE),
            Way::OtherNodesIp | Way::OtherNodesPort => by_family(OTHER_NODE),
            Way::NewAddress => by_family((NEW_ADDRESS_V4, NEW_ADDRESS_V6)),
            Way::Loopback => by_family((Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)),
        };
        let number = match way {
            Way::ThisNodesPort | Way::OtherNodesPort => NODES_OWN_PORT,
            Way::NodePort | Way::NewAddress | Way::ClusterIpNodePort | Way::Loopback => {
                port.node_port + n
            }
            Way::ClusterIp
            | Way::LoadBalancerIp
            | Way::ExternalIp
            | Way::ThisNodesIp
            | Way::OtherNodesIp => port.port + n,
        };
        (address, number).into()
    }

    fn cluster_ips(self) -> (Ipv4Addr, Ipv6Addr) {
        let n = self.number();
        let [_, low] = n.to_be_bytes();
        (
            Ipv4Addr::new(10, 96, 50, low),
            Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x5000 + n),
        )
    }

    fn manifest(self) -> String {
        let (name, n) = (self.word(), self.number());
        let policy = match self {
            Self::Local | Self::Elsewhere | Self::NobodyLocal | Self::AffinityLocal => "Local",
            Self::Cluster | Self::Nobody | Self::Ranges | Self::Affinity => "Cluster",
        };
        let more = match self {
            Self::Ranges => {
                let (v4, v6) = IN_RANGES;
                format!("\n  loadBalancerSourceRanges: [{v4}/32, '{v6}/128']")
            }
            Self::Affinity | Self::AffinityLocal => "\n  sessionAffinity: ClientIP".to_owned(),
            _ => String::new(),
        };
        let cluster = self.cluster_ips();
        let balancer = external(n);
        let ips: Vec<_> = [external(100 + n), THIS_NODE, OTHER_NODE]
            .iter()
            .map(|(v4, v6)| format!("{v4}, '{v6}'"))
            .collect();
        let ips = ips.join(", ");
        let ports: String = all_ports()
            .map(|port| {
                format!(
                    "\n  - {{name: {}, protocol: {}, port: {}, targetPort: {}, nodePort: {}}}",
                    port.name,
                    api_name(port.protocol),
                    port.port + n,
                    port.target,
                    port.node_port + n,
                )
            })
            .collect();
        let mut text = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: LoadBalancer
  clusterIP: {v4}
  clusterIPs: [{v4}, '{v6}']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalIPs: [{ips}]
  internalTrafficPolicy: {policy}
  externalTrafficPolicy: {policy}{more}
  ports:{ports}
status:
  loadBalancer:
    ingress: [{{ip: {lb_v4}}}, {{ip: '{lb_v6}'}}]
",
            v4 = cluster.0,
            v6 = cluster.1,
            lb_v4 = balancer.0,
            lb_v6 = balancer.1,
        );
        for family in [Family::V4, Family::V6] {
            text.push_str(&self.slice(family));
        }
        text
    }

    fn slice(self, family: Family) -> String {
        let name = self.word();
        let (kind, suffix) = match family {
            Family::V4 => ("IPv4", "v4"),
            Family::V6 => ("IPv6", "v6"),
        };
        let mut text = format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{suffix}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {kind}
ports:
"
        );
        // Writing to a string cannot fail.
        for Port {
            name,
            protocol,
            target,
            ..
        } in all_ports()
        {
            let protocol = api_name(protocol);
            let _ = writeln!(
                text,
                "- {{name: {name}, protocol: {protocol}, port: {target}}}"
            );
        }
        if self.places().is_empty() {
            text.push_str("endpoints: []\n");
        } else {
            text.push_str("endpoints:\n");
        }
        for place in self.places() {
            let (node, address) = (place.node_name(), place.endpoint(family));
            let _ = writeln!(text, "- {{addresses: ['{address}'], nodeName: {node}}}");
        }
        text
    }
}

/// The node of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The node with the proxy.
    Here,
    There,
}

impl Place {
    /// The word in backends' names.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::There => "there",
        }
    }

    const fn node_name(self) -> &'static str {
        match self {
            Self::Here => "node-a",
            Self::There => "node-b",
        }
    }

    /// The address of the node's second pod in a [`Topology`](crate::Topology).
    fn endpoint(self, family: Family) -> IpAddr {
        let node = match self {
            Self::Here => 1,
            Self::There => 2,
        };
        match family {
            Family::V4 => Ipv4Addr::new(10, 244, node, 2).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, 2).into(),
        }
    }
}

/// All Services and their endpoints, on nodes named `node-a` (the first) and `node-b`.
#[must_use]
pub fn manifest() -> String {
    Service::ALL
        .iter()
        .map(|service| service.manifest())
        .collect()
}

pub(super) fn all_ports() -> impl Iterator<Item = Port> {
    PORTS.into_iter().chain([ANOTHER_PORT])
}

fn external(number: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [_, low] = number.to_be_bytes();
    (
        Ipv4Addr::new(203, 0, 113, low),
        Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, number),
    )
}

fn api_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}
