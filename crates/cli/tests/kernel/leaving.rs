//! Connections through removed node ports, and through changes of the traffic policy.

use testbed::{AskError, eventually};

use crate::lab::{Lab, PATIENCE, SLOW_DRAIN, run_logged};
use crate::ports::{DOOR, DOOR_MANIFEST};
use crate::shop::Lasting;

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name, DOOR);
    lab.write("door.yaml", DOOR_MANIFEST);
    lab
}

/// Firewall-mark virtual servers.
fn marks(lab: &Lab) -> Vec<String> {
    let table = lab.ipvsadm();
    let marks = table.iter().filter(|line| line.starts_with("-A -f"));
    marks.cloned().collect()
}

/// Waits until there are `count` firewall-mark virtual servers.
fn has_marks(lab: &Lab, count: usize) {
    let there = || match marks(lab) {
        marks if marks.len() == count => Ok(()),
        marks => Err(marks),
    };
    eventually(PATIENCE, there).unwrap_or_else(|marks| panic!("{marks:?}, not {count}"));
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_through_a_removed_node_port_drain() {
    let lab = lab("leaving");
    let svcproxy = lab.follow_with(&SLOW_DRAIN);
    let mut lasting = Lasting::open(&lab, DOOR);
    let mut change = |text: &str| {
        lab.write("door.yaml", text);
        lab.converges();
        lasting.hold();
    };
    change(&DOOR_MANIFEST.replace("Policy: Local", "Policy: Cluster"));
    change(DOOR_MANIFEST);
    change(&DOOR_MANIFEST.replace("nodePort: 30070", "nodePort: 30071"));
    for port in DOOR {
        for from in [lab.probe(), lab.node(), lab.client()] {
            assert_eq!(lab.ask(from, port), Err(AskError::Refused), "{port:?}");
        }
    }
    let without = [
        ("type: NodePort", "type: ClusterIP"),
        ("externalTrafficPolicy: Local", ""),
        (", nodePort: 30070", ""),
    ];
    let cluster_ip = without
        .iter()
        .fold(DOOR_MANIFEST.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
    change(&cluster_ip);
    lab.remove("door.yaml");
    lab.converges();
    lasting.hold();

    // A restart continues the drain.
    svcproxy.kill();
    let _svcproxy = lab.follow_with(&SLOW_DRAIN);
    lasting.hold();
    drop(lasting);
    has_marks(&lab, 0);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn node_ports_are_recognised_after_a_flush_and_a_kill() {
    let lab = lab("forgotten");
    let foreign = "-A -f 73728 -s wlc";
    lab.node()
        .run_with_input(["ipvsadm", "-R"], foreign)
        .unwrap();
    let svcproxy = lab.follow_with(&SLOW_DRAIN);
    let before = lab.ipvsadm();
    let mut lasting = Lasting::open(&lab, DOOR);
    svcproxy.kill();
    lab.node().run(["nft", "flush", "ruleset"]).unwrap();
    let svcproxy = lab.follow_with(&SLOW_DRAIN);
    lasting.hold();
    assert_eq!(lab.ipvsadm(), before);

    // The same for node ports that are not needed any more.
    svcproxy.kill();
    lab.node().run(["nft", "flush", "ruleset"]).unwrap();
    lab.edit("door.yaml", "nodePort: 30070", "nodePort: 30071");
    lab.edit("door.yaml", "Policy: Local", "Policy: Cluster");
    let svcproxy = lab.follow_with(&SLOW_DRAIN);
    lasting.hold();
    drop(lasting);
    // One of each family, and the foreign one.
    has_marks(&lab, 3);
    svcproxy.kill();
    lab.node().run(["nft", "flush", "ruleset"]).unwrap();
    let (log, code) = run_logged(&mut lab.svcproxy(&["cleanup", "--log-format=json"]));
    assert_eq!(code, 0, "{log:#?}");
    assert_eq!(marks(&lab), [foreign]);
}
