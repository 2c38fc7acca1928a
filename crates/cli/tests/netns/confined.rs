//! svcproxy with the system calls of the shipped profile alone, in the modes that need no IPVS.

use crate::confined_shop;

#[test]
#[ignore = "netns: needs root"]
fn mode_iptables_needs_no_other_system_calls() {
    confined_shop::is_served("iptables");
}

#[test]
#[ignore = "netns: needs root"]
fn mode_nftables_needs_no_other_system_calls() {
    confined_shop::is_served("nftables");
}

#[test]
#[ignore = "netns: needs root"]
fn mode_userspace_needs_no_other_system_calls() {
    confined_shop::is_served("userspace");
}
