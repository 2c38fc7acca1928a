//! Every kind of address, from every client, as in docs/traffic.md.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use testbed::traffic::{self, Cluster, NEW_ADDRESS_V4, NEW_ADDRESS_V6, table};
use testbed::{AskError, Backend, Family, Namespace, Protocol, Topology, eventually, ping};

use crate::lab::{Lab, client, succeed};

const V4: Family = Family::V4;
const V6: Family = Family::V6;
const FAMILIES: [Family; 2] = [V4, V6];

/// Adds an address of each family to the node, without making it the source of the node's own
/// connections.
fn add_addresses(lab: &Lab) {
    lab.node()
        .ip(&[
            format!("address add {NEW_ADDRESS_V4}/16 dev eth0"),
            format!("address add {NEW_ADDRESS_V6}/64 dev eth0 nodad preferred_lft 0"),
        ])
        .unwrap();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn whole_table() {
    let lab = Lab::over(Topology::new("table", &[2, 2]).unwrap());
    let cluster = Cluster::new(&lab.topology).unwrap();
    lab.write("services.yaml", &traffic::manifest());
    let _svcproxy = lab.follow();
    add_addresses(&lab);
    let failures = cluster.failures(&table().unwrap());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(complaints(), [""; 0]);

    // If an external IP is a node's address, only the Service's port is captured.
    for family in FAMILIES {
        for node in &lab.topology.nodes {
            let address = node.host.address(family);
            assert_eq!(ping(lab.client(), address), Ok(()), "{address}");
        }
    }

    let node_ports = |address: IpAddr| {
        let to = client(Protocol::Tcp, (address, 30001).into());
        to.timeout(Duration::from_secs(5)).ask(lab.client())
    };
    for address in [NEW_ADDRESS_V4.into(), NEW_ADDRESS_V6.into()] {
        node_ports(address).unwrap();
        let prefix = if address.is_ipv4() { 16 } else { 64 };
        let delete = format!("address delete {address}/{prefix} dev eth0");
        lab.node().ip(&[delete]).unwrap();
        let answer = node_ports(address);
        assert!(answer.is_err(), "{address} is gone: {answer:?}");
    }
}

/// kubernetes/kubernetes#59656 and #97225: Docker sets the policy of FORWARD, hardened hosts that of
/// INPUT.
#[test]
#[ignore = "kernel: needs IPVS"]
fn whole_table_under_policies_that_drop() {
    let lab = Lab::over(Topology::new("drop", &[2, 2]).unwrap());
    let cluster = Cluster::new(&lab.topology).unwrap();
    lab.write("services.yaml", &traffic::manifest());
    lab.write("health.yaml", HEALTH_CHECK);
    for (program, family) in [("iptables-nft-restore", V4), ("ip6tables-nft-restore", V6)] {
        let firewall = traffic::firewall(family);
        lab.node().run_with_input([program], &firewall).unwrap();
    }
    let svcproxy = lab.follow();
    svcproxy.wait("rules in iptables", |event| {
        event["message"] == "Service traffic passes iptables' filter"
    });
    add_addresses(&lab);
    let failures = cluster.failures(&table().unwrap());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for family in FAMILIES {
        let to = |port| client(Protocol::Http, (lab.node().address(family), port).into());
        // It answers, though not as a backend does.
        let answer = to(30999).ask(lab.client());
        assert!(matches!(answer, Err(AskError::Failed(_))), "{answer:?}");
        // Nothing else is opened: the host firewall drops packets to a port without a listener.
        let closed = to(30998).timeout(Duration::from_millis(500));
        assert_eq!(closed.ask(lab.client()), Err(AskError::TimedOut));
    }
    let rules = || {
        lab.node()
            .run(["iptables-nft-save", "-t", "filter"])
            .unwrap()
    };
    lab.node().run(["iptables-nft", "-F", "FORWARD"]).unwrap();
    let is_back = || match rules() {
        rules if rules.contains("-A FORWARD -j SVCPASS-FORWARD") => Ok(()),
        rules => Err(rules),
    };
    eventually(Duration::from_secs(60), is_back).unwrap();
    svcproxy.terminate();
    succeed(&mut lab.svcproxy(&["cleanup"]));
    assert!(!rules().contains("SVCPASS"), "{}", rules());
}

const HEALTH_CHECK: &str = r"
apiVersion: v1
kind: Service
metadata: {name: checked}
spec:
  type: LoadBalancer
  clusterIP: 10.96.61.1
  externalTrafficPolicy: Local
  healthCheckNodePort: 30999
  ports: [{port: 80, targetPort: 8080, nodePort: 30061}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checked-1, labels: {kubernetes.io/service-name: checked}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.250], nodeName: node-a}]
";

/// IPVS's messages in the kernel's log about virtual servers without real servers: those of the
/// table, and firewall-mark virtual servers, which the messages do not distinguish.
fn complaints() -> Vec<String> {
    let log = succeed(&mut Command::new("dmesg"));
    let theirs = [
        "10.96.50.",
        "fd00:10:96::500",
        "203.0.113.",
        "2001:db8:203",
        "FWM",
    ];
    log.lines()
        .filter(|line| line.contains("no destination available"))
        .filter(|line| theirs.iter().any(|name| line.contains(name)))
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn node_ports_at_some_addresses_only() {
    let lab = Lab::over(Topology::new("some", &[2, 2]).unwrap());
    let _cluster = Cluster::new(&lab.topology).unwrap();
    lab.write("services.yaml", &traffic::manifest());
    let others: [IpAddr; 2] = ["198.51.100.7", "2001:db8:51::7"].map(|ip| ip.parse().unwrap());
    let add = others.map(|address| format!("address add {address} dev lo"));
    lab.node().ip(&add).unwrap();
    let routes = others.map(|address| {
        let family = if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        format!("route add {address} via {}", lab.node().address(family))
    });
    lab.client().ip(&routes).unwrap();

    let ask = |address: IpAddr| client(Protocol::Tcp, (address, 30001).into()).ask(lab.client());
    let svcproxy = lab.follow();
    for address in others {
        ask(address).unwrap();
    }
    svcproxy.terminate();
    let _svcproxy = lab.follow_with(&["--nodeport-addresses=172.18.0.0/16,fd00:172:18::/64"]);
    for address in others {
        assert_eq!(ask(address), Err(AskError::Refused), "{address}");
    }
    for family in FAMILIES {
        ask(lab.node().address(family)).unwrap();
    }
}

/// Longer than several packets.
const LONG: usize = 6000;

#[test]
#[ignore = "kernel: needs IPVS"]
fn path_with_a_small_mtu() {
    let lab = Lab::over(Topology::new("mtu", &[1, 0]).unwrap());
    let far = Namespace::new("mtu-far").unwrap();
    behind_the_client(&lab, &far);
    let pod = &lab.topology.node().pods[0];
    let name = "x".repeat(LONG);
    let _backends = FAMILIES.map(|family| {
        let address = (pod.address(family), 8080).into();
        Backend::start(pod, Protocol::Http, address, &name).unwrap()
    });
    lab.write("long.yaml", LONG_ANSWERS);
    let _svcproxy = lab.follow();
    let ways = [
        "10.96.60.1:80",
        "[fd00:10:96::6001]:80",
        "172.18.0.1:30060",
        "[fd00:172:18::1]:30060",
        "203.0.113.60:80",
        "[2001:db8:203::60]:80",
        "203.0.113.61:80",
        "[2001:db8:203::61]:80",
    ];
    for policy in ["Cluster", "Local"] {
        if policy == "Local" {
            lab.edit("long.yaml", "Policy: Cluster", "Policy: Local");
            lab.converges();
        }
        for way in ways {
            // Forget the path MTU: a known one needs no ICMP error.
            for name in ["net/ipv4/route/flush", "net/ipv6/route/flush"] {
                pod.sysctl(name, "1").unwrap();
            }
            let answer = client(Protocol::Http, way.parse().unwrap()).ask(&far);
            let answer = answer.unwrap_or_else(|error| panic!("{way}, policy {policy}: {error}"));
            assert_eq!(answer.backend.len(), LONG);
        }
    }
}

/// A host with an MTU of 1500, behind a client that forwards packets of up to 1280 bytes and sends
/// ICMP errors for longer ones.
fn behind_the_client(lab: &Lab, far: &Namespace) {
    let client = lab.client();
    for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        client.sysctl(name, "1").unwrap();
    }
    client
        .ip(&[
            format!(
                "link add far mtu 1280 type veth peer name eth0 mtu 1500 netns {}",
                far.name()
            ),
            "link set far up".to_owned(),
            "address add 198.51.100.1/24 dev far".to_owned(),
            "address add 2001:db8:51::1/64 dev far nodad".to_owned(),
        ])
        .unwrap();
    // No default route: IPVS must also see packets that the node cannot forward.
    lab.node()
        .ip(&[
            format!("route replace 198.51.100.0/24 via {}", client.v4),
            format!("route replace 2001:db8:51::/64 via {}", client.v6),
            format!("route delete default via {}", client.v4),
            format!("route delete default via {}", client.v6),
        ])
        .unwrap();
    far.ip(&[
        "link set eth0 up",
        "address add 198.51.100.2/24 dev eth0",
        "address add 2001:db8:51::2/64 dev eth0 nodad",
        "route add default via 198.51.100.1",
        "route add default via 2001:db8:51::1",
    ])
    .unwrap();
}

const LONG_ANSWERS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: long}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.60.1, 'fd00:10:96::6001']
  clusterIP: 10.96.60.1
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalIPs: [203.0.113.61, '2001:db8:203::61']
  externalTrafficPolicy: Cluster
  ports: [{port: 80, targetPort: 8080, nodePort: 30060}]
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.60}, {ip: '2001:db8:203::60'}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: long-v4, labels: {kubernetes.io/service-name: long}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.1], nodeName: node-a}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: long-v6, labels: {kubernetes.io/service-name: long}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ['fd00:10:244:1::1'], nodeName: node-a}]
";
