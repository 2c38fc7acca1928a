//! Another version of svcproxy: this one adopts what that one left, and the other way round; each
//! removes what the other made.

use std::env;

use crate::follower::PATIENCE;
use crate::node::{Mode, Node, PROGRAM};
use crate::phase::Phase;
use crate::ports::SHOP;
use crate::shop::Lasting;
use crate::traffic;

/// The other version's program. Without it, this version is exchanged with itself.
const OTHER: &str = "SVCPROXY_CHAOS_OTHER";

fn exchange(mode: Mode) {
    let other = env::var(OTHER).unwrap_or_else(|_| PROGRAM.to_owned());
    println!("mode {mode}, exchanged with {other}");
    let node = Node::new(mode);
    let fresh = |program| node.fresh(program, Phase::ColdStart);
    let (of_this, of_other) = (fresh(PROGRAM), fresh(&other));
    let difference = of_other.difference(&of_this);
    println!(
        "lines that differ between the versions: {}",
        difference.lines().count()
    );

    node.write_services();
    node.write_config(false);
    let audits = &["--audit-interval=2s"];
    let mut svcproxy = node.start_with(&other, mode, audits);
    let mut lasting = mode
        .is_in_the_kernel()
        .then(|| Lasting::open(&node.lab, SHOP));
    for (what, program, expected) in [
        ("upgrade", PROGRAM, &of_this),
        ("rollback", &other, &of_other),
    ] {
        let (now, seen) = traffic::during(&node.lab, PATIENCE / 6, lasting.as_mut(), || {
            svcproxy.terminate();
            node.start_with(program, mode, audits)
        });
        svcproxy = now;
        println!(
            "{what}: {} new connections, {} failed",
            seen.tried,
            seen.failed.len()
        );
        if mode.is_in_the_kernel() {
            assert_eq!(seen.failed, [""; 0], "{what}: new connections");
        }
        assert_eq!(seen.lost, [""; 0], "{what}: open connections");
        let settled = node.settled(expected);
        assert_eq!(settled.difference(expected), "", "{what}");
        node.foreign_is_whole().unwrap();
    }
    svcproxy.terminate();
    drop(lasting);

    for (made_by, removed_by) in [(&other[..], PROGRAM), (PROGRAM, &other)] {
        node.start_with(made_by, mode, audits).terminate();
        node.clean_up(removed_by);
        let left = node.settled(&node.pristine);
        let difference = left.difference(&node.pristine);
        assert_eq!(difference, "", "{removed_by} leaves what {made_by} made");
        node.foreign_is_whole().unwrap();
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_ipvs() {
    exchange(Mode::Ipvs);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_iptables() {
    exchange(Mode::Iptables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_nftables() {
    exchange(Mode::Nftables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_userspace() {
    exchange(Mode::Userspace);
}
