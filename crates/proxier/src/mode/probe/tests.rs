//! Tests of conclusions from findings.

use crate::mode::Sysctl;
use ipvs::{Family, Scheduler};

use super::*;

fn found(requirement: Requirement) -> Finding {
    Finding::new(requirement, Ok(String::new()))
}

fn missing(requirement: Requirement, reason: Reason) -> Finding {
    Finding::new(requirement, Err(Missing::new(reason, "no")))
}

fn no_module(module: &str, file: ModuleFile) -> Reason {
    Reason::NoModule {
        module: module.into(),
        file,
    }
}

/// All findings of IPVS mode on a node that can run it.
fn all_of_ipvs() -> Probe {
    let all = [
        Requirement::Ipvs,
        Requirement::Scheduler(Scheduler::RoundRobin),
        Requirement::AffinityScheduler,
        Requirement::VirtualServers(Family::V4),
        Requirement::Nftables,
        Requirement::Routes,
        Requirement::RoutingRules,
        Requirement::ConnectionTracking,
        Requirement::Sysctl(Sysctl::VS_CONNTRACK, 1),
        Requirement::Sysctl(Sysctl::IPV4_FORWARD, 1),
    ];
    all.map(found).into_iter().collect()
}

#[test]
fn a_mode_runs_if_everything_that_it_needs_exists() {
    let probe = all_of_ipvs();
    assert!(probe.can_run(Mode::Ipvs));
    assert_eq!(probe.in_the_way_of(Mode::Ipvs).count(), 0);
    // iptables was not probed.
    assert!(!probe.can_run(Mode::Iptables));
    for place in 0..probe.findings.len() {
        let mut probe = probe.clone();
        let finding = &mut probe.findings[place];
        let weight = finding.requirement.weight(Mode::Ipvs).unwrap();
        *finding = missing(finding.requirement, Reason::Refused);
        assert_eq!(probe.can_run(Mode::Ipvs), weight == Weight::Wanted);
        let (needed, wanted) = match weight {
            Weight::Needed => (1, 0),
            Weight::Wanted => (0, 1),
        };
        assert_eq!(probe.in_the_way_of(Mode::Ipvs).count(), needed);
        assert_eq!(probe.lacking_in(Mode::Ipvs).count(), wanted);
    }
}

#[test]
fn causes_are_reported_without_their_consequences() {
    let probe: Probe = [
        missing(Requirement::Ipvs, no_module("ip_vs", ModuleFile::Absent)),
        missing(Requirement::VirtualServers(Family::V4), Reason::NotTried),
        missing(Requirement::Nftables, Reason::Permission),
    ]
    .into_iter()
    .collect();
    assert!(!probe.can_run(Mode::Ipvs));
    let causes: Vec<_> = probe.in_the_way_of(Mode::Ipvs).collect();
    let causes: Vec<_> = causes.iter().map(|finding| finding.requirement).collect();
    assert_eq!(causes, [Requirement::Ipvs, Requirement::Nftables]);
    // An untried requirement still counts as missing.
    let untried = missing(Requirement::VirtualServers(Family::V4), Reason::NotTried);
    let probe: Probe = [found(Requirement::Ipvs), untried].into_iter().collect();
    assert!(!probe.can_run(Mode::Ipvs));
}

#[test]
fn only_what_is_absent_decides_and_what_may_pass_is_looked_for_again() {
    let refused = |errno| Missing {
        errno: Some(errno),
        ..Missing::new(Reason::Refused, "no")
    };
    let missing = |reason| Missing::new(reason, "no");
    let absent = || missing(no_module("nf_tables", ModuleFile::Absent));
    // The obstacles, whether they leave the result open, and whether another probe may help.
    for (cause, is_undecided, may_pass) in [
        (absent(), false, false),
        (missing(Reason::NotInstalled), false, false),
        (refused(22), false, false),
        (missing(Reason::Permission), true, false),
        (missing(Reason::ReadOnly), true, false),
        (missing(Reason::Busy), true, true),
        (refused(5), true, true),
    ] {
        let mut probe = all_of_ipvs();
        let nftables = probe
            .findings
            .iter_mut()
            .find(|f| f.requirement == Requirement::Nftables);
        nftables.unwrap().result = Err(cause.clone());
        assert!(!probe.can_run(Mode::Ipvs));
        assert_eq!(probe.is_undecided(Mode::Ipvs), is_undecided, "{cause:?}");
        assert_eq!(probe.may_pass(Mode::Ipvs), may_pass, "{cause:?}");
        // If something is absent, nothing else counts.
        probe.findings[0].result = Err(absent());
        assert!(!probe.is_undecided(Mode::Ipvs) && !probe.may_pass(Mode::Ipvs));
        // A transient obstacle does not help beside a forbidden one.
        probe.findings[0].result = Err(missing(Reason::Permission));
        assert!(!probe.may_pass(Mode::Ipvs));
    }
    assert!(!all_of_ipvs().is_undecided(Mode::Ipvs));
}

#[test]
fn two_probes_are_merged_without_duplicates() {
    let both = [Requirement::Iptables, Requirement::ConnectionTracking].map(found);
    let probe = all_of_ipvs().and(both.into_iter().collect());
    assert!(probe.can_run(Mode::Ipvs) && probe.can_run(Mode::Iptables));
    let names: std::collections::BTreeSet<_> = probe
        .findings
        .iter()
        .map(|finding| finding.requirement.name())
        .collect();
    assert_eq!(names.len(), probe.findings.len());
}

#[test]
fn each_reason_has_its_remedy() {
    let sysctl = Requirement::Sysctl(Sysctl::VS_CONNTRACK, 1);
    for (finding, parts) in [
        (
            missing(Requirement::Ipvs, no_module("ip_vs", ModuleFile::Present)),
            &["modprobe ip_vs", "/etc/modprobe.d"][..],
        ),
        (
            missing(Requirement::Ipvs, no_module("ip_vs", ModuleFile::Absent)),
            &["linux-modules-extra-$(uname -r)", "CONFIG_IP_VS"],
        ),
        (
            missing(Requirement::Ipvs, no_module("ip_vs", ModuleFile::Unknown)),
            &["modprobe ip_vs", "package", "CONFIG_IP_VS"],
        ),
        (
            missing(Requirement::Ipvs, Reason::Permission),
            &["CAP_NET_ADMIN", "initial user namespace"],
        ),
        (
            missing(
                Requirement::Scheduler(Scheduler::SourceHash),
                no_module("ip_vs_sh", ModuleFile::Absent),
            ),
            &["ip_vs_sh", "CONFIG_IP_VS_SH"],
        ),
        (
            missing(
                Requirement::Nftables,
                no_module("nf_tables", ModuleFile::Absent),
            ),
            &["nf_tables", "CONFIG_NFT_FIB_INET"],
        ),
        (missing(sysctl, Reason::ReadOnly), &["--proc-sys"]),
        (
            missing(sysctl, no_module("ip_vs", ModuleFile::Absent)),
            &["CONFIG_IP_VS_NFCT"],
        ),
        (
            missing(Requirement::Iptables, Reason::NotInstalled),
            &["package iptables"],
        ),
    ] {
        let remedy = finding.remedy().unwrap();
        for part in parts {
            assert!(remedy.contains(part), "{remedy}");
        }
        assert!(
            finding
                .to_string()
                .ends_with(&format!("(remedy: {remedy})"))
        );
    }
    let said = "Fatal: can't open lock file /run/xtables.lock: Read-only file system";
    let locked = Missing::new(Reason::Refused, said);
    let locked = Finding::new(Requirement::IptablesRules(Family::V4), Err(locked));
    assert!(locked.remedy().unwrap().contains("writable"));
    assert_eq!(found(Requirement::Ipvs).remedy(), None);
    assert_eq!(missing(Requirement::Ipvs, Reason::NotTried).remedy(), None);
}

#[test]
fn a_module_is_found_by_its_file() {
    let list = "kernel/net/netfilter/ipvs/ip_vs.ko: kernel/lib/libcrc32c.ko\n\
                kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko\n\
                kernel/net/netfilter/nf-tables.ko.zst:\n";
    for (module, file) in [
        ("ip_vs", ModuleFile::Present),
        ("ip_vs_rr", ModuleFile::Present),
        ("nf_tables", ModuleFile::Present),
        ("ip_vs_sh", ModuleFile::Absent),
        ("libcrc32c", ModuleFile::Absent),
    ] {
        assert_eq!(ModuleFile::listed(list, module), file, "{module}");
    }
}
