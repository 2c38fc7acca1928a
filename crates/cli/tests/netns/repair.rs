//! What another program undoes in mode iptables is repaired at once.

use crate::follower::Follower;
use crate::lab::Lab;
use crate::ports::WEB;
use crate::repair::{NO_AUDITS, is_undone};

/// Without counters and comments.
fn saved(lab: &Lab) -> String {
    let saved = lab.node().run(["iptables-nft-save"]).unwrap();
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.split(" [").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
#[ignore = "netns: needs root"]
fn what_others_undo_in_mode_iptables_is_repaired_at_once() {
    let lab = Lab::new("undo", &[WEB]);
    lab.use_example("web.yaml");
    let mut command = lab.svcproxy(&["--mode=iptables", "--log-format=json", NO_AUDITS]);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    for (undo, named) in [
        (
            "iptables-nft -t nat -F SVCPROXY-SERVICES",
            "nat SVCPROXY-SERVICES",
        ),
        ("iptables-nft -t nat -F PREROUTING", "nat PREROUTING"),
        ("iptables-nft -t filter -F", "filter FORWARD"),
        ("nft delete table ip nat", "nat OUTPUT"),
        ("nft flush ruleset", "nat OUTPUT"),
    ] {
        is_undone(&lab, &svcproxy, undo, || saved(&lab));
        svcproxy.wait("what was repaired", |event| {
            let step = event["step"].as_str().unwrap_or_default();
            event["message"] == "repaired drift" && step.contains(named)
        });
        lab.ask(lab.probe(), &WEB).unwrap();
    }
    svcproxy.terminate();
}
