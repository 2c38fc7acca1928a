//! Modes iptables and nftables: switching between them, and what belongs to nftables.

use std::process::Command;

use serde_json::Value;
use testbed::eventually;

use crate::lab::{Lab, PATIENCE, run_logged, succeed};
use crate::load::{Datagrams, nothing_left, of_iptables_mode, of_nftables_mode, start, under_load};
use crate::ports::{SHOP, SHOP_UDP};
use crate::repair::{NO_AUDITS, is_undone};
use crate::shop::{FIRST, Lasting, SECOND, THIRD, shop};

#[test]
#[ignore = "netns: needs root"]
fn iptables_and_nftables_are_switched_under_load_and_nothing_is_left() {
    let lab = Lab::new("switch", &[SHOP, SHOP_UDP].concat());
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let mut svcproxy = start(&lab, &["--mode=iptables"]);
    let mut lasting = Lasting::open(&lab, SHOP);
    let mut datagrams = Datagrams::open(&lab);
    for mode in ["nftables", "iptables"] {
        svcproxy = under_load(&lab, &format!("to {mode}"), || {
            svcproxy.terminate();
            let svcproxy = start(&lab, &[&format!("--mode={mode}")]);
            match mode {
                "nftables" => nothing_left(&svcproxy, || of_iptables_mode(&lab)),
                _ => nothing_left(&svcproxy, || of_nftables_mode(&lab)),
            }
            svcproxy
        });
        // Connection tracking keeps translating them.
        lasting.hold();
        datagrams.go_on();
        drop(lasting);
        lasting = Lasting::open(&lab, SHOP);
    }
    svcproxy.terminate();
    assert!(!of_iptables_mode(&lab).is_empty());
    succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
    assert_eq!(of_iptables_mode(&lab), [""; 0]);
}

/// The lines of a listing with their chain or set, in an order of their own: chains that stay while others
/// are replaced come first in the kernel's.
fn by_chain(listing: &str) -> String {
    let (mut table, mut within) = ("", "");
    let mut lines = Vec::new();
    for line in listing.lines() {
        match line.strip_suffix('{') {
            Some(name) if name.starts_with("table") => (table, within) = (name, ""),
            Some(name) => within = name,
            None => {}
        }
        if !matches!(line.trim(), "" | "}") {
            lines.push(format!("{table}{within}{line}"));
        }
    }
    lines.sort_unstable();
    lines.join("\n")
}

/// Whatever another program does to the tables of mode nftables is repaired at once.
#[test]
#[ignore = "netns: needs root"]
fn what_others_undo_in_mode_nftables_is_repaired_at_once() {
    let lab = Lab::new("undo", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = start(&lab, &["--mode=nftables", NO_AUDITS]);
    let state = || by_chain(&lab.node().run(["nft", "-s", "list", "ruleset"]).unwrap());
    for undo in [
        "nft flush ruleset",
        "nft flush map ip svcproxy endpoints",
        "nft flush chain ip svcproxy nat-prerouting",
        "nft delete table ip6 svcproxy",
    ] {
        is_undone(&lab, &svcproxy, undo, state);
        lab.ask(lab.client(), &SHOP[2]).unwrap();
        lab.ask(lab.probe(), &SHOP[0]).unwrap();
    }
    svcproxy.terminate();
}

fn plan(lab: &Lab, arguments: &[&str]) -> String {
    let mut command: Command = lab.svcproxy(&["plan", "--mode=nftables"]);
    succeed(command.args(lab.settings().iter()).args(arguments))
}

/// `plan` has the steps of the first sync, and none after it; `status` reads the elements; `cleanup`
/// removes them.
#[test]
#[ignore = "netns: needs root"]
fn plan_status_and_cleanup_in_mode_nftables() {
    let lab = Lab::new("nftplan", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let first = plan(&lab, &[]);
    assert!(
        first.contains("add element services tcp 10.96.0.90:80: 3 ("),
        "{first}"
    );
    let against = ["--against=kernel", "-o=json"];
    let steps: Value = serde_json::from_str(&plan(&lab, &against)).unwrap();
    assert!(steps["steps"].as_array().unwrap().len() > 10);
    let mut once = lab.svcproxy(&["--mode=nftables", "--once", "--log-format=json"]);
    let (log, code) = run_logged(once.args(lab.settings()));
    assert_eq!(code, 0, "{log:#?}");
    let steps: Value = serde_json::from_str(&plan(&lab, &against)).unwrap();
    assert_eq!(steps["steps"], Value::Array(Vec::new()));
    assert_eq!(plan(&lab, &["--against=kernel"]), "nothing to do\n");

    let status = succeed(&mut lab.svcproxy(&["status", "-o=json"]));
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["mode"], "nftables");
    let vips = status["services"][0]["vips"].as_array().unwrap();
    let cluster_ip = vips.iter().find(|vip| vip["address"] == "10.96.0.90");
    let endpoints = cluster_ip.unwrap()["realServers"].as_array().unwrap();
    assert_eq!(endpoints.len(), 3, "{status:#}");

    succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
    assert_eq!(of_nftables_mode(&lab), [""; 0]);
}

/// The chain that chose one of two endpoints is not needed any more, and goes with the next audit. That
/// repairs nothing, and until then nothing differs.
#[test]
#[ignore = "netns: needs root"]
fn a_service_that_grows_in_mode_nftables_is_no_drift() {
    let lab = Lab::new("grows", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND], "", ""));
    let svcproxy = start(&lab, &["--mode=nftables", "--audit-interval=4s"]);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let rules = || {
        lab.node()
            .run(["nft", "list", "table", "ip", "svcproxy"])
            .unwrap()
    };
    let becomes = |what: &str, is_so: &dyn Fn(&str) -> bool| {
        let look = || match rules() {
            rules if is_so(&rules) => Ok(()),
            rules => Err(rules),
        };
        eventually(PATIENCE, look).unwrap_or_else(|rules| panic!("not {what}: {rules}"));
    };
    becomes("three", &|rules| rules.contains("chain choose-3 {"));
    let verified = lab.svcproxy(&["verify"]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    becomes("two", &|rules| !rules.contains("chain choose-2 {"));
    let log = svcproxy.terminate();
    let drift = log
        .iter()
        .filter(|event| event["message"] == "repaired drift");
    assert_eq!(drift.count(), 0, "{log:#?}");
}
