//! Switching modes and back, with new and existing connections.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testbed::eventually;

use crate::lab::{Lab, PATIENCE, client, succeed};
use crate::load::{
    Datagrams, nothing_left, of_iptables_mode, of_nftables_mode, start, under_load,
    under_load_except,
};
use crate::ports::{Port, SHOP, SHOP_UDP};
use crate::shop::{FIRST, Lasting, SECOND, THIRD, shop};

/// The state of IPVS mode on the node.
fn of_ipvs_mode(lab: &Lab) -> Vec<String> {
    let node = lab.node();
    let mut found = lab.ipvsadm();
    let run = |command: &str| node.run(command.split(' ')).unwrap();
    for command in [
        "ip rule show",
        "ip -6 rule show",
        "ip route show table all",
        "ip -6 route show table all",
    ] {
        let lines = run(command);
        let own = lines.lines().filter(|line| {
            ["proto 73", "lookup 73", "fwmark 0x2000"]
                .iter()
                .any(|word| line.contains(word))
        });
        found.extend(own.map(str::to_owned));
    }
    let tables = run("nft list tables");
    let own = tables.lines().filter(|line| line.contains("inet svcproxy"));
    found.extend(own.map(str::to_owned));
    found
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn modes_are_switched_under_load_and_nothing_is_left() {
    let lab = Lab::new("switch", &[SHOP, SHOP_UDP].concat());
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = lab.follow();
    let mut on_ipvs = Lasting::open(&lab, SHOP);
    let mut datagrams = Datagrams::open(&lab);

    let svcproxy = under_load(&lab, "ipvs to iptables", || {
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=iptables", "--drain-timeout=45"]);
        svcproxy.wait("IPVS to keep its connections", |event| {
            let message = event["message"].as_str();
            message.is_some_and(|message| message.contains("existing connections stay on IPVS"))
        });
        // IPVS still has these connections; the clients end them.
        on_ipvs.hold();
        datagrams.go_on();
        drop(on_ipvs);
        nothing_left(&svcproxy, || of_ipvs_mode(&lab));
        svcproxy
    });
    assert!(!of_iptables_mode(&lab).is_empty());
    datagrams.go_on();
    let mut on_iptables = Lasting::open(&lab, SHOP);

    let svcproxy = under_load(&lab, "iptables to ipvs", || {
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=ipvs"]);
        nothing_left(&svcproxy, || of_iptables_mode(&lab));
        svcproxy
    });
    assert!(!of_ipvs_mode(&lab).is_empty());
    lab.converges();
    // Connection tracking keeps translating them.
    on_iptables.hold();
    datagrams.go_on();
    svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ipvs_and_nftables_are_switched_under_load_and_nothing_is_left() {
    let lab = Lab::new("switch", &[SHOP, SHOP_UDP].concat());
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = lab.follow();
    let mut on_ipvs = Lasting::open(&lab, SHOP);
    let mut datagrams = Datagrams::open(&lab);

    let svcproxy = under_load(&lab, "ipvs to nftables", || {
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=nftables", "--drain-timeout=45"]);
        svcproxy.wait("IPVS to keep its connections", |event| {
            let message = event["message"].as_str();
            message.is_some_and(|message| message.contains("new ones use nftables"))
        });
        on_ipvs.hold();
        datagrams.go_on();
        drop(on_ipvs);
        nothing_left(&svcproxy, || of_ipvs_mode(&lab));
        svcproxy
    });
    assert_eq!(of_nftables_mode(&lab).len(), 2);
    datagrams.go_on();
    let mut on_nftables = Lasting::open(&lab, SHOP);

    // In three of eight runs, one connection of the client outside to the node port was refused. The
    // cause is unknown; while `nft monitor trace` ran beside five runs, there was none.
    let svcproxy = under_load_except(3, &lab, "nftables to ipvs", || {
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=ipvs"]);
        nothing_left(&svcproxy, || of_nftables_mode(&lab));
        svcproxy
    });
    lab.converges();
    // Connection tracking keeps translating them.
    on_nftables.hold();
    datagrams.go_on();
    svcproxy.terminate();
}

/// IPVS sees packets before a listener does, so all of it but the routes goes at once.
#[test]
#[ignore = "kernel: needs IPVS"]
fn userspace_and_ipvs_replace_each_other() {
    let lab = Lab::new("touser", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let everyone_is_served = || {
        for port in SHOP {
            for from in [lab.probe(), lab.node(), lab.client()] {
                lab.ask(from, port).unwrap();
            }
        }
    };
    let svcproxy = lab.follow();
    everyone_is_served();
    let without_routes = || {
        let mut found = of_ipvs_mode(&lab);
        found.retain(|line| !line.contains("proto 73"));
        found
    };
    svcproxy.terminate();

    let svcproxy = start(&lab, &["--mode=userspace"]);
    nothing_left(&svcproxy, without_routes);
    assert!(!of_ipvs_mode(&lab).is_empty());
    everyone_is_served();
    svcproxy.terminate();

    let svcproxy = start(&lab, &["--mode=ipvs"]);
    lab.converges();
    everyone_is_served();
    svcproxy.terminate();
}

/// Connections that are left at the timeout are cut, and no others.
#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_of_the_other_mode_have_a_bound() {
    let lab = Lab::new("bound", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = lab.follow();
    let mut cut: Vec<_> = SHOP
        .iter()
        .map(|port| {
            let to = client(testbed::Protocol::Tcp, port.vip()).timeout(Duration::from_secs(3));
            to.connect(lab.client()).unwrap()
        })
        .collect();
    for connection in &mut cut {
        connection.ask().unwrap();
    }
    svcproxy.terminate();
    let svcproxy = start(&lab, &["--mode=iptables", "--drain-timeout=3"]);
    nothing_left(&svcproxy, || of_ipvs_mode(&lab));
    for connection in &mut cut {
        connection.ask().unwrap_err();
    }
    Lasting::open(&lab, SHOP).hold();
}

/// Sysctls without those of IPVS, as if its module were not loaded.
fn sysctls_without_ipvs(directory: &Path) {
    let [net, ipv4] = ["net", "net/ipv4"].map(|path| directory.join(path));
    fs::create_dir_all(&ipv4).unwrap();
    let link = |place: &Path, name: &str, within: &str| {
        let target = format!("/proc/sys/{within}/{name}");
        symlink(target, place.join(name)).unwrap();
    };
    for name in ["ipv6", "netfilter"] {
        link(&net, name, "net");
    }
    for name in ["ip_forward", "conf"] {
        link(&ipv4, name, "net/ipv4");
    }
}

fn ipvs_appears(directory: &Path) {
    symlink("/proc/sys/net/ipv4/vs", directory.join("net/ipv4/vs")).unwrap();
}

fn reported(log: &[Value], reason: &str) -> usize {
    log.iter().filter(|event| event["reason"] == reason).count()
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn available_ipvs_is_reported_and_switched_to_on_request() {
    for (how, switches) in [("auto", false), ("auto-upgrade", true)] {
        let lab = Lab::new("appears", SHOP);
        lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
        let sysctls = tempfile::tempdir().unwrap();
        sysctls_without_ipvs(sysctls.path());
        let proc_sys = format!("--proc-sys={}", sysctls.path().display());
        let fallback = format!("--fallback={how}");
        let svcproxy = start(&lab, &["--audit-interval=1s", &proc_sys, &fallback]);
        assert_eq!(reported(&svcproxy.log(), "ModeFallback"), 1);
        assert_eq!(of_ipvs_mode(&lab), [""; 0]);
        assert!(!of_iptables_mode(&lab).is_empty());
        let mut lasting = Lasting::open(&lab, SHOP);

        under_load(&lab, "IPVS appears", || {
            ipvs_appears(sysctls.path());
            svcproxy.wait("IPVS", |event| event["reason"] == "IpvsAvailable");
            if switches {
                nothing_left(&svcproxy, || of_iptables_mode(&lab));
            } else {
                let before = svcproxy.syncs();
                let audits = || {
                    let more = svcproxy.syncs() > before + 2;
                    more.then_some(()).ok_or("no audit")
                };
                eventually(PATIENCE, audits).unwrap();
            }
        });
        lasting.hold();
        assert_eq!(of_ipvs_mode(&lab).is_empty(), !switches);
        assert_eq!(of_iptables_mode(&lab).is_empty(), switches);
        // It continues to follow the manifests.
        lab.write("shop.yaml", &shop(&[SECOND], "", ""));
        let only = |port: &Port| match lab.ask(lab.probe(), port) {
            Ok(answer) if answer.backend.starts_with(SECOND) => Ok(()),
            other => Err(other),
        };
        for port in SHOP {
            eventually(PATIENCE, || (0..5).try_for_each(|_| only(port))).unwrap();
        }
        let log = svcproxy.terminate();
        assert_eq!(reported(&log, "IpvsAvailable"), 1, "{log:#?}");
        assert_eq!(reported(&log, "ModeFallback"), 1, "{log:#?}");
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn check_finds_all_and_leaves_nothing() {
    let lab = Lab::new("check", &[]);
    let rest = || {
        [
            "ip route show table all",
            "ip rule",
            "nft list ruleset",
            "ipvsadm -Sn",
        ]
        .map(|command| lab.node().run(command.split(' ')).unwrap())
    };
    let before = rest();
    let check = |arguments: &[&str]| {
        let mut command = lab.svcproxy(&["check", "-o=json"]);
        let settings = lab.settings().into_iter().skip(1);
        command.args(settings).args(arguments).output().unwrap()
    };
    for mode in ["ipvs", "iptables", "nftables"] {
        let output = check(&[&format!("--mode={mode}")]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap();
        assert!(findings.len() > 10, "{found:#}");
        let missing: Vec<_> = findings.iter().filter(|f| f["result"] != "ok").collect();
        assert_eq!(missing, Vec::<&Value>::new());
        assert_eq!(output.status.code(), Some(0));
    }
    assert_eq!(rest(), before);

    // Beside a running svcproxy, nothing changes.
    lab.use_all_examples();
    lab.once();
    let before = rest();
    assert_eq!(check(&[]).status.code(), Some(0));
    assert_eq!(rest(), before);
    assert_eq!(lab.steps(), [""; 0]);

    // Without the privilege, and as root of only a user namespace.
    for prefix in [
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all"][..],
        &["unshare", "--user", "--map-root-user", "--net"],
    ] {
        let mut command = lab.node().command(prefix[0]);
        command.args(&prefix[1..]);
        command.args([env!("CARGO_BIN_EXE_svcproxy"), "check", "-o=json"]);
        let output = command
            .args(lab.settings().iter().skip(1))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let ipvs = &found["findings"][0];
        assert_eq!(ipvs["name"], "ipvs", "{found:#}");
        assert_eq!(ipvs["reason"], "permission", "{found:#}");
        assert_eq!(ipvs["errno"], 1, "{found:#}");
        let remedy = ipvs["remedy"].as_str().unwrap();
        assert!(remedy.contains("CAP_NET_ADMIN in the initial user namespace"));
    }
    succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
}
