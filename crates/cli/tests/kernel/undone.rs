//! What another program undoes in mode ipvs.

use crate::lab::Lab;
use crate::ports::SHOP;
use crate::repair::{NO_AUDITS, is_undone};
use crate::shop::{FIRST, SECOND, THIRD, shop};

#[test]
#[ignore = "kernel: needs IPVS"]
fn what_others_undo_in_mode_ipvs_is_repaired_at_once() {
    let lab = Lab::new("undo", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = lab.follow_with(&[NO_AUDITS]);
    let state = || {
        let commands = [
            "nft -s list ruleset",
            "ip route show table local proto 73",
            "ip -6 route show table local proto 73",
            "ip rule",
            // Its first word is how the kernel routes a packet to a virtual IP.
            "ip route get 10.96.0.90 | head -c 6",
        ];
        let outputs = commands.map(|command| lab.node().run(["sh", "-c", command]).unwrap());
        outputs.join("\n")
    };
    for undo in [
        "nft flush chain inet svcproxy filter-input",
        "nft delete table inet svcproxy",
        "nft add table inet svcproxy '{ flags dormant; }'",
        "ip route del local 10.96.0.0/12 dev lo table local",
        "ip route prepend blackhole 10.96.0.0/12 table local",
        "ip rule del priority 73",
    ] {
        is_undone(&lab, &svcproxy, undo, state);
        lab.ask(lab.client(), &SHOP[2]).unwrap();
        lab.ask(lab.probe(), &SHOP[0]).unwrap();
    }
    let log = svcproxy.terminate();
    let named = log
        .iter()
        .filter(|event| event["reason"] == "RouteInTheWay");
    let named: Vec<_> = named
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].contains("blackhole 10.96.0.0/12"), "{named:?}");
}
