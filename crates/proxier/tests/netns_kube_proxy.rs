//! Removal of kube-proxy's state, in network namespaces of this machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::time::Instant;

use proxier::takeover::{KubeProxy, NewProxy, Removal};
use testbed::{Namespace, ServicePort};

fn namespace() -> Namespace {
    Namespace::new("kube-proxy").unwrap()
}

/// kube-proxy's state for some Services of both families.
fn kube_proxy(namespace: &Namespace) -> testbed::KubeProxy<'_> {
    let socket = |text: &str| text.parse().unwrap();
    let port = |protocol, vip, endpoints: &[&str]| {
        let endpoints = endpoints.iter().map(|text| socket(text)).collect();
        ServicePort::new(protocol, socket(vip), endpoints)
    };
    let mut web = port(
        "tcp",
        "10.96.0.80:80",
        &["10.244.1.10:8080", "10.244.2.10:8080"],
    );
    web.node_port = Some(30080);
    web.load_balancer = Some("203.0.113.80".parse().unwrap());
    let dns = port("udp", "10.96.0.10:53", &["10.244.1.2:53"]);
    let web6 = port("tcp", "[fd00:10:96::80]:80", &["[fd00:10:244:1::10]:8080"]);
    testbed::KubeProxy::new(
        namespace,
        vec!["192.0.2.1".parse().unwrap()],
        vec![web, dns, web6],
    )
}

/// Foreign iptables rules: of the kubelet, a network plugin, the administrator.
const OTHERS: &str = "*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:cali-INPUT - [0:0]
-A INPUT -m comment --comment \"see -j KUBE-FORWARD\" -j cali-INPUT
-A INPUT -j KUBE-ROUTER-INPUT
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-ROUTER-INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*nat
:KUBE-MARK-DROP - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
COMMIT
";

fn restore(namespace: &Namespace, flavour: &str, text: &str) {
    for program in ["iptables", "ip6tables"] {
        let program = format!("{program}-{flavour}-restore");
        namespace
            .run_with_input([&program, "--noflush"], text)
            .unwrap();
    }
}

/// The state of iptables and ipset, without counters, dates and empty tables.
fn state(namespace: &Namespace) -> String {
    let mut text = String::new();
    for program in ["iptables", "ip6tables"] {
        for flavour in ["nft", "legacy"] {
            let program = format!("{program}-{flavour}-save");
            let saved = namespace.run([&program]).unwrap();
            let lines = saved.lines().filter(|line| !line.starts_with('#'));
            // Listing creates built-in chains.
            let lines = lines.filter(|line| !line.contains(" ACCEPT ") && !line.starts_with('*'));
            let lines = lines.filter(|line| *line != "COMMIT");
            text.extend(lines.map(|line| format!("{program}: {line}\n")));
        }
    }
    text + &namespace.run(["ipset", "list", "-n"]).unwrap()
}

fn remove(namespace: &Namespace) -> Removal {
    namespace.enter(|| {
        let new_proxy = NewProxy::new(&|_| false, &|_| false);
        KubeProxy::open()
            .unwrap()
            .remove(&new_proxy, Instant::now())
    })
}

/// Checks that everything of kube-proxy is removed and nothing else, and that a second removal
/// finds nothing.
fn only_kube_proxy_is_removed(flavours: &[&str], write: impl Fn(&Namespace, &str)) -> Removal {
    let namespace = namespace();
    for flavour in flavours {
        restore(&namespace, flavour, OTHERS);
    }
    namespace
        .run(["ipset", "create", "KUBE-DST-ABC", "hash:ip"])
        .unwrap();
    let before = state(&namespace);
    for flavour in flavours {
        write(&namespace, flavour);
    }
    assert_ne!(state(&namespace), before);
    let removal = remove(&namespace);
    assert!(
        removal.is_complete() && removal.in_use.is_empty(),
        "{removal:#?}"
    );
    assert_eq!(state(&namespace), before);
    let again = remove(&namespace);
    assert!(
        again.is_complete() && again.removed.is_empty(),
        "{again:#?}"
    );
    removal
}

#[test]
#[ignore = "netns: needs root"]
fn chains_of_the_iptables_mode_are_removed_from_both_iptables() {
    for flavours in [&["nft"][..], &["legacy"], &["nft", "legacy"]] {
        let removal = only_kube_proxy_is_removed(flavours, |namespace, flavour| {
            kube_proxy(namespace).write_iptables(flavour).unwrap();
        });
        // IPv4: 12, and those of 2 Services with 3 endpoints and one external address; IPv6: 12 and
        // 2.
        assert_eq!(removal.removed.chains, flavours.len() * (12 + 6 + 12 + 2));
    }
}

#[test]
#[ignore = "netns: needs root"]
fn chains_and_sets_of_the_ipvs_mode_are_removed() {
    for flavour in ["nft", "legacy"] {
        let removal = only_kube_proxy_is_removed(&[flavour], |namespace, flavour| {
            kube_proxy(namespace).write_ipvs_chains(flavour).unwrap();
        });
        assert_eq!((removal.removed.chains, removal.removed.sets), (22, 34));
    }
}

#[test]
#[ignore = "netns: needs root"]
fn chains_that_foreign_rules_jump_to_stay() {
    let namespace = namespace();
    kube_proxy(&namespace).write_ipvs_chains("nft").unwrap();
    let theirs = "*nat\n:CNI-SETMARK - [0:0]\n-A CNI-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n\
                  *filter\n-A FORWARD -m set --match-set KUBE-IPVS-IPS dst -j ACCEPT\nCOMMIT\n";
    namespace
        .run_with_input(["iptables-nft-restore", "--noflush"], theirs)
        .unwrap();
    let removal = remove(&namespace);
    assert!(removal.is_complete(), "{removal:#?}");
    let in_use: Vec<_> = removal.in_use.iter().map(String::as_str).collect();
    assert_eq!(in_use, ["chain KUBE-MARK-MASQ", "ipset KUBE-IPVS-IPS"]);
    let left = namespace.run(["iptables-nft-save"]).unwrap();
    for line in [
        "-A CNI-SETMARK -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A FORWARD -m set --match-set KUBE-IPVS-IPS dst -j ACCEPT",
    ] {
        assert!(left.contains(line), "{left}");
    }
    assert!(!left.contains("KUBE-SERVICES"), "{left}");
    assert_eq!(
        namespace.run(["ipset", "list", "-n"]).unwrap(),
        "KUBE-IPVS-IPS\n"
    );
}

#[test]
#[ignore = "netns: needs root"]
fn tables_of_the_nftables_mode_are_removed_and_others_stay() {
    let namespace = namespace();
    let others = "table ip kube-proxy-like {\n}\ntable inet kube-proxy {\n}\n";
    namespace
        .run_with_input(["nft", "-f", "-"], others)
        .unwrap();
    let before = namespace.run(["nft", "list", "ruleset"]).unwrap();
    kube_proxy(&namespace).write_nftables().unwrap();
    let removal = remove(&namespace);
    assert!(removal.is_complete(), "{removal:?}");
    assert_eq!(removal.removed.to_string(), "2 nftables tables");
    assert_eq!(namespace.run(["nft", "list", "ruleset"]).unwrap(), before);
    let again = remove(&namespace);
    assert!(again.is_complete() && again.removed.is_empty(), "{again:?}");
}
