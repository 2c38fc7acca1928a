//! Taking over from kube-proxy and back, without losing connections.

use std::net::IpAddr;

use serde_json::Value;
use testbed::{KubeProxy, ServicePort};

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, run_logged};
use crate::ports::{Port, SHOP};
use crate::shop::Lasting;

const SHOP_MANIFEST: &str = "apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.90
  ports: [{port: 80, targetPort: 8080, nodePort: 30090}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.90}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.1.10], nodeName: node-a}
- {addresses: [10.244.1.11], nodeName: node-a}
- {addresses: [10.244.2.10], nodeName: node-b}
";

/// A virtual server as keepalived creates it.
const FOREIGN: &str =
    "-A -t 198.51.100.7:80 -s wrr\n-a -t 198.51.100.7:80 -r 10.244.9.9:80 -m -w 3";

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name, SHOP);
    lab.write("shop.yaml", SHOP_MANIFEST);
    lab
}

/// kube-proxy on the node, with the Service of [`SHOP`] and a deleted one.
fn kube_proxy(lab: &Lab) -> KubeProxy<'_> {
    let endpoints: Vec<_> = SHOP[0].backends().collect();
    let mut shop = ServicePort::new("tcp", SHOP[0].vip(), endpoints.clone());
    shop.node_port = Some(SHOP[1].vip().port());
    shop.load_balancer = Some(SHOP[2].vip().ip());
    let gone = ServicePort::new("tcp", "10.96.0.99:80".parse().unwrap(), endpoints);
    let addresses = vec![lab.node().v4.into(), IpAddr::from(lab.node().v6)];
    KubeProxy::new(lab.node(), addresses, vec![shop, gone])
}

/// The sysctls of its IPVS mode.
fn sysctls(lab: &Lab) {
    for (name, value) in [
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
        ("net/ipv4/ip_forward", "1"),
    ] {
        lab.node().sysctl(name, value).unwrap();
    }
}

fn is_removal(event: &Value) -> bool {
    event["reason"] == "PredecessorRemoved"
}

/// kube-proxy's state on the node.
fn left(lab: &Lab) -> String {
    let mut left = String::new();
    for command in [
        "ip -o link show",
        "iptables-nft-save",
        "iptables-legacy-save",
        "ip6tables-nft-save",
        "ip6tables-legacy-save",
        "ipset list -n",
        "nft list tables",
    ] {
        let text = lab.node().run(command.split(' ')).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.contains("KUBE-") || line.contains("kube-"));
        left.extend(lines.map(|line| format!("{command}: {line}\n")));
    }
    left
}

/// Connections of pods, the node and a client outside to every kind of address, while svcproxy
/// takes over.
fn take_over(name: &str, write: impl Fn(&Lab)) {
    let lab = lab(name);
    write(&lab);
    let mut lasting = Lasting::open(&lab, SHOP);
    let svcproxy = lasting.through(|lab| {
        let svcproxy = lab.follow_with(&["--audit-interval=2s", "--drain-timeout=3600"]);
        svcproxy.wait("a removal", is_removal);
        let is_foreign = |event: &Value| event["reason"] == "ForeignVirtualServer";
        assert!(!svcproxy.log().iter().any(is_foreign));
        svcproxy
    });
    lasting.hold();
    for port in SHOP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            lab.ask(from, port).unwrap();
        }
    }
    drop(lasting);
    is_gone(&lab);
    svcproxy.terminate();
}

/// After the last connection, nothing of kube-proxy is left.
fn is_gone(lab: &Lab) {
    let gone = || {
        let left = left(lab);
        if left.is_empty() { Ok(()) } else { Err(left) }
    };
    testbed::eventually(PATIENCE, gone).unwrap();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ipvs_mode_is_taken_over() {
    take_over("from-ipvs", |lab| {
        sysctls(lab);
        let foreign = FOREIGN;
        lab.node()
            .run_with_input(["ipvsadm", "-R"], foreign)
            .unwrap();
        kube_proxy(lab).write_ipvs("nft").unwrap();
    });
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn iptables_mode_is_taken_over() {
    take_over("from-nft", |lab| {
        sysctls(lab);
        kube_proxy(lab).write_iptables("nft").unwrap();
    });
    take_over("from-legacy", |lab| {
        sysctls(lab);
        kube_proxy(lab).write_iptables("legacy").unwrap();
    });
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn nftables_mode_is_taken_over() {
    take_over("from-nftables", |lab| {
        sysctls(lab);
        kube_proxy(lab).write_nftables().unwrap();
    });
}

/// With `--once`, virtual servers with connections are removed as well.
#[test]
#[ignore = "kernel: needs IPVS"]
fn state_of_other_programs_stays() {
    let lab = lab("foreign");
    sysctls(&lab);
    lab.node()
        .run_with_input(["ipvsadm", "-R"], FOREIGN)
        .unwrap();
    lab.node()
        .ip(&["address add 198.51.100.7/32 dev lo"])
        .unwrap();
    kube_proxy(&lab).write_ipvs("legacy").unwrap();
    // Another program has a virtual server at an address of kube-proxy.
    let excluded = "10.96.0.99/32";
    let arguments = [format!("--exclude-cidrs={excluded}")];
    let (log, code) = run_logged(lab.once_command().args(arguments));
    assert_eq!(code, 0, "{log:#?}");
    assert!(log.iter().any(is_removal), "{log:#?}");
    let servers = lab.ipvsadm().join("\n");
    assert!(
        servers.contains("-A -t 198.51.100.7:80 -s wrr"),
        "{servers}"
    );
    assert!(servers.contains("-A -t 10.96.0.99:80 -s rr"), "{servers}");
    assert!(!servers.contains(":30090"), "{servers}");
    assert_eq!(left(&lab), "");
    // Nothing is reported again.
    let (log, code) = run_logged(&mut lab.once_command());
    assert_eq!(code, 0);
    assert!(!log.iter().any(is_removal), "{log:#?}");
}

/// kube-proxy writes its state over svcproxy's, and cleanup then removes svcproxy's. Virtual
/// servers that kube-proxy has taken over stay; firewall-mark virtual servers drain.
#[test]
#[ignore = "kernel: needs IPVS"]
fn kube_proxys_ipvs_mode_takes_over_again() {
    const CLUSTER_IP: &[Port] = &[SHOP[0]];
    let lab = lab("back-to-ipvs");
    lab.follow().terminate();
    let mut lasting = Lasting::open(&lab, CLUSTER_IP);
    let mut through_a_mark = lab.connect(lab.client(), &SHOP[1]);
    through_a_mark.ask().unwrap();
    lasting.through(|lab| kube_proxy(lab).write_ipvs("nft").unwrap());

    let mut command = lab.svcproxy(&["cleanup", "--log-format=json", "--drain-timeout=3600"]);
    let cleanup = Follower::start(&mut command);
    let table_is_gone = || {
        let tables = lab.node().run(["nft", "list", "tables"]).unwrap();
        if tables.contains("svcproxy") {
            Err(tables)
        } else {
            Ok(())
        }
    };
    testbed::eventually(PATIENCE, table_is_gone).unwrap();
    through_a_mark.ask().unwrap();
    lasting.through(|_| ());
    for port in SHOP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            lab.ask(from, port).unwrap();
        }
    }
    // After its last connection, the firewall-mark virtual server is removed, and cleanup ends.
    drop(through_a_mark);
    cleanup.ends();
    lasting.through(|_| ());
    let servers = lab.ipvsadm().join("\n");
    assert!(!servers.contains("-f "), "{servers}");
    for port in SHOP {
        assert!(
            servers.contains(&format!("-A -t {} ", port.vip())),
            "{servers}"
        );
    }
    assert!(!routes(&lab).contains("proto 73"), "{}", routes(&lab));
}

/// kube-proxy adds its addresses one by one. Before it serves all, `cleanup` would take virtual
/// servers away that kube-proxy is about to take over.
#[test]
#[ignore = "kernel: needs IPVS"]
fn cleanup_waits_for_kube_proxys_first_sync() {
    const KEPT: &[Port] = &[SHOP[0], SHOP[2]];
    let lab = lab("first-sync");
    lab.follow().terminate();
    let mut lasting = Lasting::open(&lab, KEPT);
    lasting.through(|lab| {
        lab.node()
            .ip(&[
                "link add kube-ipvs0 type dummy",
                "address add 10.96.0.90/32 dev kube-ipvs0",
            ])
            .unwrap();
    });
    let arguments = ["cleanup", "--log-format=json", "--drain-timeout=0"];
    let cleanup = Follower::start(&mut lab.svcproxy(&arguments));
    cleanup.wait("a wait", |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("waiting for the first sync of kube-proxy")
    });
    lasting.through(|lab| kube_proxy(lab).write_ipvs("nft").unwrap());
    cleanup.ends();
    lasting.through(|_| ());
    let servers = lab.ipvsadm().join("\n");
    for port in KEPT {
        let server = format!("-A -t {} ", port.vip());
        assert!(servers.contains(&server), "{servers}");
    }
    assert!(!servers.contains("-f "), "{servers}");
}

fn routes(lab: &Lab) -> String {
    lab.node()
        .run(["ip", "route", "show", "table", "all"])
        .unwrap()
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kube_proxys_iptables_mode_takes_over_again() {
    let lab = lab("back-to-nft");
    lab.follow().terminate();
    let mut lasting = Lasting::open(&lab, SHOP);
    lasting.through(|lab| kube_proxy(lab).write_iptables("nft").unwrap());
    let mut command = lab.svcproxy(&["cleanup", "--log-format=json", "--drain-timeout=3600"]);
    let cleanup = Follower::start(&mut command);
    cleanup.wait("kube-proxy noticed", |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("kube-proxy is running on this node")
    });
    lasting.through(|_| ());
    drop(lasting);
    cleanup.ends();
    assert_eq!(lab.ipvsadm(), [""; 0]);
    for port in SHOP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            lab.ask(from, port).unwrap();
        }
    }
}
