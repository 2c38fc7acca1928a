//! Nodes, pods and a client outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use crate::command::{Error, ip};
use crate::namespace::Namespace;

/// The default network of cluster IPs. The client reaches it through the first node.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/12";
/// The IPv6 counterpart of [`SERVICE_CIDR_V4`].
pub const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";
/// The network of load-balancer and external IPs. The client reaches it through the first node.
pub const EXTERNAL_CIDR_V4: &str = "203.0.113.0/24";
/// The IPv6 counterpart of [`EXTERNAL_CIDR_V4`].
pub const EXTERNAL_CIDR_V6: &str = "2001:db8:203::/64";
/// The network of all pods. The client has no route to it.
pub const POD_CIDR_V4: &str = "10.244.0.0/16";
/// The IPv6 counterpart of [`POD_CIDR_V4`].
pub const POD_CIDR_V6: &str = "fd00:10:244::/48";

/// The hardware address of the node's end of every pod's link, and the pods' gateways: as in
/// Calico, which connects pods in this way.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
const GATEWAY_V4: &str = "169.254.1.1";
const GATEWAY_V6: &str = "fe80::1";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A namespace with an address of each family.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    fn new(prefix: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self, Error> {
        Ok(Self {
            namespace: Namespace::new(prefix)?,
            v4,
            v6,
        })
    }

    /// Its address of `family`.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// A node and the pods that run on it.
#[derive(Debug)]
pub struct Node {
    /// The host on which svcproxy runs. It forwards packets.
    pub host: Host,
    /// The pods. Each has a link only to the node, so all its packets go through the node.
    pub pods: Vec<Host>,
}

/// Nodes and a client on one network segment, `172.18.0.0/16` and `fd00:172:18::/64`.
///
/// Nodes reach each other's pods. The client reaches [`SERVICE_CIDR_V4`], [`EXTERNAL_CIDR_V4`] and
/// their IPv6 counterparts through the first node, no pod, and is the nodes' default gateway.
#[derive(Debug)]
pub struct Topology {
    /// A client outside the cluster.
    pub client: Host,
    /// The nodes; at least one.
    pub nodes: Vec<Node>,
    /// The segment's switch.
    lan: Namespace,
}

impl Topology {
    /// Creates a node for each element of `pods`, with this number of pods, numbered from 1.
    ///
    /// # Errors
    ///
    /// As [`Topology::with_pods`].
    ///
    /// # Panics
    ///
    /// As [`Topology::with_pods`].
    pub fn new(prefix: &str, pods: &[u8]) -> Result<Self, Error> {
        let numbers: Vec<Vec<u8>> = pods.iter().map(|&count| (1..=count).collect()).collect();
        Self::with_pods(prefix, &numbers)
    }

    /// Creates a node for each element of `pods`, with pods of these numbers. `prefix` is the
    /// prefix of the namespaces' names.
    ///
    /// The first node's pod number 60 has the addresses `10.244.1.60` and `fd00:10:244:1::60`.
    ///
    /// # Errors
    ///
    /// Without root, without `ip`, or with a kernel that lacks bridges or veth devices.
    ///
    /// # Panics
    ///
    /// If `pods` is empty.
    pub fn with_pods(prefix: &str, pods: &[Vec<u8>]) -> Result<Self, Error> {
        assert!(!pods.is_empty(), "a topology needs a node");
        let lan = Namespace::bare(&format!("{prefix}-lan"))?;
        let client = Host::new(
            &format!("{prefix}-client"),
            Ipv4Addr::new(172, 18, 0, 100),
            Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0x100),
        )?;
        let nodes = (1..)
            .zip(pods)
            .map(|(number, pods)| Node::new(prefix, number, pods))
            .collect::<Result<Vec<_>, _>>()?;
        let topology = Self { client, nodes, lan };
        topology.wire()?;
        Ok(topology)
    }

    /// The pod with the address `ip`.
    #[must_use]
    pub fn pod(&self, ip: IpAddr) -> Option<&Host> {
        let mut pods = self.nodes.iter().flat_map(|node| &node.pods);
        pods.find(|pod| IpAddr::V4(pod.v4) == ip || IpAddr::V6(pod.v6) == ip)
    }

    /// The first node.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "made with one at least")]
    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }

    /// Starting a program is slow in an emulated machine, so this starts one for all links and one
    /// per namespace.
    fn wire(&self) -> Result<(), Error> {
        let lan = &self.lan;
        let hosts = || {
            [&self.client]
                .into_iter()
                .chain(self.nodes.iter().map(|node| &node.host))
        };
        let pods = || {
            self.nodes
                .iter()
                .flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
        };

        let to_lan = (0..)
            .zip(hosts())
            .map(|(port, host)| veth(lan, &format!("port{port}"), host));
        let to_pods = pods().map(|(node, pod)| {
            let device = format!("{} address {GATEWAY_MAC}", pod_device(pod));
            veth(&node.host, &device, pod)
        });
        ip(None, &to_lan.chain(to_pods).collect::<Vec<_>>())?;

        let mut switch = vec![
            "link add lan type bridge".to_owned(),
            "link set lan up".to_owned(),
        ];
        switch.extend(
            (0..)
                .zip(hosts())
                .map(|(n, _)| format!("link set port{n} master lan up")),
        );
        lan.ip(&switch)?;

        let mut client = on_lan(&self.client);
        client.extend(virtual_ips_through(&self.node().host));
        self.client.ip(&client)?;

        for Node { host, .. } in &self.nodes {
            let mut lines = on_lan(host);
            lines.push(format!("route add default via {}", self.client.v4));
            lines.push(format!("route add default via {}", self.client.v6));
            for (of, pod) in pods() {
                let device = pod_device(pod);
                let via = if of.host.v4 == host.v4 {
                    lines.push(format!("link set {device} up"));
                    [format!("dev {device}"), format!("dev {device}")]
                } else {
                    [format!("via {}", of.host.v4), format!("via {}", of.host.v6)]
                };
                lines.push(format!("route add {} {}", pod.v4, via[0]));
                lines.push(format!("route add {} {}", pod.v6, via[1]));
            }
            host.ip(&lines)?;
        }
        pods().try_for_each(|(_, pod)| pod.ip(&in_pod(pod)))
    }
}

impl Node {
    fn new(prefix: &str, number: u8, pods: &[u8]) -> Result<Self, Error> {
        let low = u16::from(number);
        let host = Host::new(
            &format!("{prefix}-node{number}"),
            Ipv4Addr::new(172, 18, 0, number),
            Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, low),
        )?;
        for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.sysctl(name, "1")?;
        }
        let pods = pods.iter().map(|&pod| {
            Host::new(
                &format!("{prefix}-pod{number}-{pod}"),
                Ipv4Addr::new(10, 244, number, pod),
                Ipv6Addr::new(0xfd00, 0x10, 0x244, low, 0, 0, 0, looks_like(pod)),
            )
        });
        Ok(Self {
            host,
            pods: pods.collect::<Result<_, _>>()?,
        })
    }
}

/// The number whose hexadecimal digits are the decimal digits of `decimal`.
fn looks_like(decimal: u8) -> u16 {
    let digit = |place| u16::from(decimal / place % 10);
    digit(100) << 8 | digit(10) << 4 | digit(1)
}

/// A command that creates a link from `device`, with its options, to `eth0` in the other namespace.
fn veth(near: &Namespace, device: &str, far: &Namespace) -> String {
    format!(
        "link add {device} netns {} type veth peer name eth0 netns {}",
        near.name(),
        far.name()
    )
}

/// The node's end of a pod's link.
pub(crate) fn pod_device(pod: &Host) -> String {
    let [.., last] = pod.v4.octets();
    format!("pod{last}")
}

fn on_lan(host: &Host) -> Vec<String> {
    vec![
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("address add {}/16 dev eth0", host.v4),
        format!("address add {}/64 dev eth0 nodad", host.v6),
    ]
}

/// Routes for a host on the segment.
pub(crate) fn virtual_ips_through(node: &Host) -> [String; 4] {
    [
        format!("route add {SERVICE_CIDR_V4} via {}", node.v4),
        format!("route add {SERVICE_CIDR_V6} via {}", node.v6),
        format!("route add {EXTERNAL_CIDR_V4} via {}", node.v4),
        format!("route add {EXTERNAL_CIDR_V6} via {}", node.v6),
    ]
}

fn in_pod(pod: &Host) -> Vec<String> {
    vec![
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("address add {}/32 dev eth0", pod.v4),
        format!("address add {}/128 dev eth0 nodad", pod.v6),
        format!("neighbour add {GATEWAY_V4} lladdr {GATEWAY_MAC} dev eth0 nud permanent"),
        format!("neighbour add {GATEWAY_V6} lladdr {GATEWAY_MAC} dev eth0 nud permanent"),
        format!("route add default via {GATEWAY_V4} dev eth0 onlink"),
        format!("route add default via {GATEWAY_V6} dev eth0"),
    ]
}
