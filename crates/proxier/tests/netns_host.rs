//! What other programs on a host do to Service traffic, in network namespaces of this machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

use proxier::desired::Config;
use proxier::host::{Concern, ConcernKind, Facts, Host, Role, judge};
use proxier::mode::probe::Mode;
use testbed::Namespace;

fn facts(namespace: &Namespace, asks_programs: bool) -> Facts {
    namespace.enter(|| {
        let mut host = Host::open(Path::new("/proc/sys")).unwrap();
        let mut facts = host.facts();
        if asks_programs {
            host.ask_programs(&mut facts);
        }
        assert_eq!(facts.unknown, [""; 0]);
        facts
    })
}

fn judged(namespace: &Namespace, mode: Mode, asks_programs: bool) -> Vec<Concern> {
    let config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    judge(&facts(namespace, asks_programs), &Role::new(mode, &config))
}

fn nft(namespace: &Namespace, rules: &str) {
    namespace.run_with_input(["nft", "-f", "-"], rules).unwrap();
}

/// A hand-written ruleset, as Debian's and the nftables wiki's examples are.
const HAND_WRITTEN: &str = r#"
table inet filter {
    chain inbound { tcp dport 22 accept; }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        iifname vmap { "eth0" : jump inbound }
        log prefix "dropped: " counter
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
    }
    chain output { type filter hook output priority filter; policy drop; accept; }
}
"#;

/// What firewalld 1.3 creates, in short.
const FIREWALLD: &str = r#"
table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT_ZONES { iifname "eth0" goto filter_IN_public; goto filter_IN_public; }
    chain filter_IN_public { tcp dport 22 accept; }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        reject with icmpx admin-prohibited
    }
}
"#;

/// kubernetes/kubernetes#59656: the remedy that is printed ends the condition.
#[test]
#[ignore = "netns: needs root"]
fn filters_of_nftables_are_named_with_the_rule_that_helps() {
    let mut ipvs_input = 0;
    for (rules, mode, path) in [
        (HAND_WRITTEN, Mode::Ipvs, "inet filter input"),
        (HAND_WRITTEN, Mode::Iptables, "inet filter forward"),
        (FIREWALLD, Mode::Ipvs, "inet firewalld filter_INPUT"),
    ] {
        let namespace = Namespace::new("host").unwrap();
        assert_eq!(judged(&namespace, mode, false), []);
        nft(&namespace, rules);
        let found = judged(&namespace, mode, false);
        let [concern] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (concern.kind, concern.is_note),
            (ConcernKind::Firewall, false)
        );
        assert!(concern.message.contains(path), "{concern:?}");
        let (_, remedy) = concern
            .remedy
            .as_deref()
            .unwrap()
            .split_once("nft ")
            .unwrap();
        let (command, _) = remedy.split_once(" (").unwrap();
        nft(&namespace, command);
        assert_eq!(judged(&namespace, mode, false), [], "after {command}");
        ipvs_input += 1;
    }
    assert_eq!(ipvs_input, 3);
    let namespace = Namespace::new("host").unwrap();
    nft(&namespace, FIREWALLD);
    assert_eq!(judged(&namespace, Mode::Iptables, false), []);
}

/// kubernetes/kubernetes#59656, #97225: Docker and ufw.
#[test]
#[ignore = "netns: needs root"]
fn filters_of_iptables_are_svcproxys_own_business_unless_they_come_first() {
    let dropping = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n\
                    -A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n\
                    -A INPUT -m comment --comment \"ssh\" -p tcp --dport 22 -j ACCEPT\nCOMMIT\n";
    let before = "*filter\n:SVCPASS-INPUT - [0:0]\n:SVCPASS-FORWARD - [0:0]\n\
                  -A INPUT -j REJECT\n-A INPUT -j SVCPASS-INPUT\n\
                  -A FORWARD -j SVCPASS-FORWARD\nCOMMIT\n";
    for flavour in ["nft", "legacy"] {
        let namespace = Namespace::new("host").unwrap();
        let restore = |rules: &str| {
            let program = format!("iptables-{flavour}-restore");
            let restored = namespace.run_with_input([&program, "--noflush"], rules);
            restored.unwrap();
        };
        restore(dropping);
        let found = judged(&namespace, Mode::Ipvs, true);
        assert_eq!(found.len(), 2, "{flavour}: {found:?}");
        assert!(found.iter().all(|concern| concern.is_note), "{found:?}");
        restore(before);
        let found = judged(&namespace, Mode::Ipvs, true);
        let [concern] = &found[..] else {
            panic!("{flavour}: {found:?}")
        };
        assert!(
            !concern.is_note && concern.message.contains("INPUT"),
            "{concern:?}"
        );
        assert!(concern.message.contains("rejects"), "{concern:?}");
    }
}

#[test]
#[ignore = "netns: needs root"]
fn rules_in_both_iptables_are_found_by_check_only() {
    let namespace = Namespace::new("host").unwrap();
    let rules = "*nat\n-A PREROUTING -j RETURN\nCOMMIT\n";
    for flavour in ["nft", "legacy"] {
        let program = format!("iptables-{flavour}-restore");
        namespace
            .run_with_input([&program, "--noflush"], rules)
            .unwrap();
    }
    assert_eq!(judged(&namespace, Mode::Ipvs, false), []);
    let found = judged(&namespace, Mode::Ipvs, true);
    assert_eq!(found[0].kind, ConcernKind::Iptables, "{found:?}");
}

#[test]
#[ignore = "netns: needs root"]
fn other_service_proxies_leave_traces_on_the_host() {
    let namespace = Namespace::new("host").unwrap();
    assert_eq!(facts(&namespace, false).traces, []);
    let kinds = |namespace: &Namespace| {
        let found = judged(namespace, Mode::Ipvs, false);
        let found = found
            .into_iter()
            .map(|concern| (concern.kind, concern.message));
        found.collect::<Vec<_>>()
    };
    namespace
        .run_with_input(
            ["iptables-nft-restore", "--noflush"],
            "*filter\n:KUBE-FIREWALL - [0:0]\nCOMMIT\n*nat\n:KUBE-MARK-MASQ - [0:0]\nCOMMIT\n",
        )
        .unwrap();
    assert_eq!(kinds(&namespace), [], "the kubelet's chains");
    for (rules, name) in [
        ("*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", "kube-proxy"),
        (
            "*filter\n:KUBE-ROUTER-SERVICES - [0:0]\nCOMMIT\n",
            "kube-router",
        ),
    ] {
        let namespace = Namespace::new("host").unwrap();
        let restore = ["iptables-nft-restore", "--noflush"];
        namespace.run_with_input(restore, rules).unwrap();
        let found = kinds(&namespace);
        assert!(found.len() == 1 && found[0].1.contains(name), "{found:?}");
    }
    nft(&namespace, "table ip kube-proxy { chain services { }; }");
    assert_eq!(kinds(&namespace)[0].0, ConcernKind::ServiceProxy);
}

/// A bridge of pods, on a machine with the module br_netfilter.
#[test]
#[ignore = "netns: needs root"]
fn a_bridge_of_pods_whose_packets_pass_the_filters_by_is_named() {
    let namespace = Namespace::new("host").unwrap();
    namespace
        .ip(&[
            "link add cni0 type bridge",
            "address add 10.244.1.1/24 dev cni0",
        ])
        .unwrap();
    for (value, is_named) in [("1", false), ("0", true)] {
        let sysctl = "net/bridge/bridge-nf-call-iptables";
        namespace.sysctl(sysctl, value).unwrap();
        let found = judged(&namespace, Mode::Ipvs, false);
        assert_eq!(found.len(), usize::from(is_named), "{found:?}");
        assert!(
            found
                .iter()
                .all(|concern| concern.kind == ConcernKind::Bridge)
        );
    }
}

/// Values of sysctls that a test cannot set.
#[test]
#[ignore = "netns: needs root"]
fn sysctls_are_those_of_the_directory_given() {
    let namespace = Namespace::new("host").unwrap();
    let proc_sys = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &str| {
        let path = proc_sys.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value).unwrap();
    };
    let facts = || {
        let read = || Host::open(proc_sys.path()).unwrap().facts();
        namespace.enter(read)
    };
    write("net/netfilter/nf_conntrack_max", "1000\n");
    for (count, nearly_full) in [("899\n", None), ("900\n", Some(1000))] {
        write("net/netfilter/nf_conntrack_count", count);
        assert_eq!(facts().nearly_full, nearly_full, "{count}");
    }
    assert_eq!(
        (facts().src_valid_mark, facts().bridged),
        (false, [None, None])
    );
    write("net/ipv4/conf/all/src_valid_mark", "1\n");
    write("net/bridge/bridge-nf-call-ip6tables", "1\n");
    assert_eq!(
        (facts().src_valid_mark, facts().bridged),
        (true, [None, Some(true)])
    );
}

/// Devices that this machine's kernel may lack: NodeLocal DNSCache's, kube-proxy's, kube-router's.
#[test]
#[ignore = "kernel: needs dummy devices"]
fn kernel_names_the_devices_of_others() {
    for (device, address, kind, part) in [
        (
            "nodelocaldns",
            "10.96.0.10",
            ConcernKind::VipDevice,
            "device nodelocaldns has the address",
        ),
        (
            "kube-ipvs0",
            "10.96.0.10",
            ConcernKind::ServiceProxy,
            "kube-proxy has rules",
        ),
        (
            "kube-dummy-if",
            "10.96.0.10",
            ConcernKind::ServiceProxy,
            "kube-router serves",
        ),
        ("nodelocaldns", "169.254.20.10", ConcernKind::VipDevice, ""),
    ] {
        let namespace = Namespace::new("host").unwrap();
        let lines = [
            format!("link add {device} type dummy"),
            format!("address add {address}/32 dev {device}"),
        ];
        namespace.ip(&lines).unwrap();
        let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        let found = judge(&facts(&namespace, false), &Role::new(Mode::Ipvs, &config));
        let is_it = |concern: &Concern| concern.kind == kind && concern.message.contains(part);
        assert_eq!(
            found.iter().any(is_it),
            !part.is_empty(),
            "{device}: {found:?}"
        );
    }
}
