//! The other ways to a Service: node ports, external IPs (load-balancer IPs take the same way) and
//! session affinity, each beside the least that the kernel needs for it, without svcproxy.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};

use proxier::model::{Service, SessionAffinity};
use testbed::{Host, Topology};

use crate::cluster::{CLUSTER_IP, EXTERNAL_IP, NODE_PORT, PORT, SERVICE_PORT, desired_with};
use crate::node::{FEW, iptables, ipvs, nftables};
use crate::traffic::{Cost, Server};
use crate::{Result, remove};

/// How long a client keeps its endpoint, in seconds: Kubernetes' default.
const AFFINITY: NonZeroU32 = NonZeroU32::new(10_800).unwrap();

/// A way to the measured Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// From outside to a port of the node; masqueraded.
    NodePort,
    /// From outside to an external IP; masqueraded.
    ExternalIp,
    /// From a pod to a cluster IP with session affinity.
    Affinity,
}

/// What the node has loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// A virtual server, connection tracking, and a rule that masquerades where that is needed.
    Ipvs,
    /// svcproxy in mode `ipvs`.
    SvcproxyIpvs,
    /// One rule of nftables for each protocol that translates, and one that masquerades.
    Rules,
    /// svcproxy in mode `nftables`.
    SvcproxyNftables,
    /// svcproxy in mode `iptables`.
    SvcproxyIptables,
}

/// Each load follows that to which it is compared.
const LOADS: [Load; 5] = [
    Load::Ipvs,
    Load::SvcproxyIpvs,
    Load::Rules,
    Load::SvcproxyNftables,
    Load::SvcproxyIptables,
];

/// Prints a table for each path.
pub(crate) fn measure() -> Result<()> {
    for path in [Path::NodePort, Path::ExternalIp, Path::Affinity] {
        println!();
        println!("| {path} | connection | TCP | UDP | ratio: connection | TCP | UDP |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        let mut bare = None;
        for load in LOADS {
            let cost = cost(path, load)?;
            match (&bare, load.is_bare()) {
                (Some(bare), false) => println!("| {load} | {cost} | {:.2} |", cost.ratio(bare)),
                _ => {
                    println!("| {load} | {cost} | | | |");
                    bare = Some(cost);
                }
            }
        }
    }
    Ok(())
}

fn cost(path: Path, load: Load) -> Result<Cost> {
    let topology = Topology::new("path", &[2])?;
    let node = topology.node();
    let [inside, pod] = node.pods.as_slice() else {
        return Err("the node has not two pods".into());
    };
    let client = match path {
        Path::Affinity => inside,
        Path::NodePort | Path::ExternalIp => &topology.client,
    };
    load.apply(path, &node.host, pod.v4)?;
    let server = Server::start(pod, (pod.v4, SERVICE_PORT).into())?;
    let cost = client.enter(|| server.cost(path.destination(&node.host)));
    drop(server);
    remove(topology);
    Ok(cost?)
}

impl Path {
    fn destination(self, node: &Host) -> SocketAddr {
        match self {
            Self::NodePort => (node.v4, NODE_PORT).into(),
            Self::ExternalIp => (EXTERNAL_IP, PORT).into(),
            Self::Affinity => (CLUSTER_IP, PORT).into(),
        }
    }

    /// Makes the Service one that has this path.
    fn open(self, service: &mut Service) {
        match self {
            Self::NodePort => {
                for port in &mut service.ports {
                    port.node_port = NonZeroU16::new(NODE_PORT);
                }
            }
            Self::ExternalIp => service.external_ips = [EXTERNAL_IP.into()].into(),
            Self::Affinity => service.session_affinity = SessionAffinity::ClientIp(AFFINITY),
        }
    }

    fn is_masqueraded(self) -> bool {
        self != Self::Affinity
    }
}

impl Load {
    fn is_bare(self) -> bool {
        matches!(self, Self::Ipvs | Self::Rules)
    }

    /// Loads it; the Service's only endpoint is `pod`.
    fn apply(self, path: Path, node: &Host, pod: Ipv4Addr) -> Result<()> {
        let state = || desired_with(FEW, pod, |service| path.open(service));
        match self {
            Self::Ipvs => virtual_server(path, node, pod),
            Self::SvcproxyIpvs => ipvs(node, &state()?, |_| true),
            Self::Rules => rules(path, node, pod),
            Self::SvcproxyNftables => nftables(node, &state()?),
            Self::SvcproxyIptables => iptables(node, &state()?),
        }
    }
}

fn virtual_server(path: Path, node: &Host, pod: Ipv4Addr) -> Result<()> {
    let to = path.destination(node);
    let persistence = match path {
        Path::Affinity => format!("-p {AFFINITY}"),
        Path::NodePort | Path::ExternalIp => String::new(),
    };
    let server = |protocol: &str| {
        format!(
            "-A -{protocol} {to} -s rr {persistence}\n-a -{protocol} {to} -r {pod}:{SERVICE_PORT} -m\n"
        )
    };
    node.run_with_input(["ipvsadm", "-R"], &["t", "u"].map(server).concat())?;
    node.sysctl("net/ipv4/vs/conntrack", "1")?;
    if path != Path::NodePort {
        node.ip(&[format!("route add local {} dev lo", to.ip())])?;
    }
    let masquerade = match path.is_masqueraded() {
        true => "ip daddr {pod} masquerade;".replace("{pod}", &pod.to_string()),
        false => String::new(),
    };
    let nat = "type nat hook postrouting priority srcnat;";
    let table = format!(
        "table ip bare {{ chain any {{ ct state new; }}; chain nat {{ {nat} {masquerade} }}; }}"
    );
    node.run_with_input(["nft", "-f", "-"], &table)?;
    Ok(())
}

fn rules(path: Path, node: &Host, pod: Ipv4Addr) -> Result<()> {
    let to = path.destination(node);
    let client = match path {
        Path::Affinity => "update @clients { ip saddr }",
        Path::NodePort | Path::ExternalIp => "",
    };
    let rule = |protocol: &str| {
        let (address, port) = (to.ip(), to.port());
        format!("ip daddr {address} {protocol} dport {port} {client} dnat to {pod}:{SERVICE_PORT};")
    };
    let rules = ["tcp", "udp"].map(rule).concat();
    let masquerade = match path.is_masqueraded() {
        true => "ct status dnat masquerade;",
        false => "",
    };
    let set = format!(
        "set clients {{ type ipv4_addr; size 65535; flags dynamic; timeout {AFFINITY}s; }};"
    );
    let table = format!(
        "table ip bare {{ {set}
         chain in {{ type nat hook prerouting priority dstnat; {rules} }};
         chain out {{ type nat hook postrouting priority srcnat; {masquerade} }}; }}"
    );
    node.run_with_input(["nft", "-f", "-"], &table)?;
    Ok(())
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodePort => "node port, from outside",
            Self::ExternalIp => "external IP, from outside",
            Self::Affinity => "cluster IP with session affinity, from a pod",
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipvs => "IPVS + conntrack",
            Self::SvcproxyIpvs => "svcproxy ipvs",
            Self::Rules => "rules of nftables",
            Self::SvcproxyNftables => "svcproxy nftables",
            Self::SvcproxyIptables => "svcproxy iptables",
        })
    }
}
