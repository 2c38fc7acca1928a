use std::collections::BTreeMap;

use ipvs::Family;
use netlink::filter::{BaseChain, Condition, Hook, Rule, TableFamily, Verdict};
use netlink::uapi::{IPS_DST_NAT, NF_CT_STATE_ESTABLISHED, NF_CT_STATE_NEW, NF_CT_STATE_RELATED};

use super::*;
use crate::desired::PodInterfaces;

fn config() -> Config {
    Config::new("node-a", vec!["192.0.2.1".parse().unwrap()])
}

fn chain(table: &str, hook: Hook, drops: bool) -> BaseChain {
    BaseChain {
        family: TableFamily::Inet,
        table: table.to_owned(),
        name: hook.to_string(),
        hook,
        priority: 0,
        drops,
    }
}

fn rule<const N: usize>(conditions: [Condition; N], verdict: Verdict) -> Rule {
    Rule::new(conditions.into(), verdict)
}

fn jump(to: &str) -> Verdict {
    Verdict::Jump(to.to_owned())
}

/// The messages about a filter with these chains, the first of which is at a hook.
fn about(mode: Mode, base: BaseChain, chains: &[(&str, Vec<Rule>)]) -> Vec<Concern> {
    let chains = chains.iter().cloned();
    let rules: BTreeMap<_, _> = chains
        .map(|(name, rules)| (name.to_owned(), rules))
        .collect();
    let facts = Facts {
        filters: vec![Filter::new(base, rules)],
        ..Facts::default()
    };
    let config = config();
    judge(&facts, &Role::new(mode, &config))
}

const OWN: Condition = Condition::Mark {
    mask: 0x2000,
    value: 0x2000,
};

#[test]
fn a_filter_that_drops_is_named_until_it_accepts_what_services_need() {
    use Mode::{Iptables, Ipvs};
    use Verdict::{Accept, Drop, Reject};
    let known = Condition::State(NF_CT_STATE_ESTABLISHED | NF_CT_STATE_RELATED);
    let new = Condition::State(NF_CT_STATE_NEW);
    let translated = Condition::Status(IPS_DST_NAT);
    let some = || Condition::Other;
    let input = || chain("filter", Hook::Input, true);
    let forward = || chain("filter", Hook::Forward, true);
    let last = |base: BaseChain| BaseChain {
        drops: false,
        ..base
    };
    let late = |base: BaseChain| BaseChain {
        priority: 30,
        ..base
    };
    let cases: Vec<(Mode, BaseChain, Vec<Rule>, bool)> = vec![
        (Ipvs, input(), vec![], true),
        (Ipvs, input(), vec![rule([known.clone()], Accept)], true),
        (Ipvs, input(), vec![rule([some()], Accept)], true),
        (Ipvs, input(), vec![rule([OWN], Accept)], false),
        (Ipvs, late(input()), vec![rule([OWN], Accept)], true),
        (
            Ipvs,
            input(),
            vec![rule([some()], Drop), rule([OWN], Accept)],
            false,
        ),
        (
            Ipvs,
            input(),
            vec![rule([new.clone()], Drop), rule([OWN], Accept)],
            true,
        ),
        (Ipvs, input(), vec![rule([], Accept)], false),
        (Ipvs, last(input()), vec![], false),
        (
            Ipvs,
            last(input()),
            vec![rule([some(), new.clone()], Reject)],
            false,
        ),
        (Ipvs, last(input()), vec![rule([], Reject)], true),
        (
            Ipvs,
            last(input()),
            vec![rule([], Verdict::Return), rule([], Reject)],
            false,
        ),
        (Ipvs, forward(), vec![rule([known.clone()], Accept)], false),
        (
            Ipvs,
            forward(),
            vec![rule([translated.clone()], Accept)],
            true,
        ),
        (
            Iptables,
            forward(),
            vec![rule([known.clone()], Accept)],
            true,
        ),
        (
            Iptables,
            forward(),
            vec![rule([translated.clone()], Accept)],
            false,
        ),
        (
            Iptables,
            forward(),
            vec![rule([known.clone()], Accept), rule([new.clone()], Accept)],
            false,
        ),
        (Iptables, input(), vec![], false),
    ];
    for (number, (mode, base, rules, is_named)) in cases.into_iter().enumerate() {
        let name = base.name.clone();
        let found = about(mode, base, &[(&name, rules)]);
        assert_eq!(!found.is_empty(), is_named, "{number}: {found:?}");
        assert!(found.iter().all(|concern| concern.condition().is_some()));
    }
}

#[test]
fn chains_that_every_packet_reaches_count() {
    let base = || chain("firewalld", Hook::Input, false);
    let rejects = |name: &'static str, conditions: &[Condition]| {
        let to_zone = Rule::new(conditions.into(), jump("zone"));
        let zone = vec![
            rule([Condition::Other], Verdict::Accept),
            rule([], Verdict::Reject),
        ];
        about(Mode::Ipvs, base(), &[(name, vec![to_zone]), ("zone", zone)])
    };
    let found = rejects("input", &[]);
    let [concern] = &found[..] else {
        panic!("{found:?}")
    };
    for part in [
        "inet firewalld input",
        "of firewalld",
        "chain zone rejects",
        "may drop packets to",
    ] {
        assert!(
            concern.message.contains(part),
            "{part}: {}",
            concern.message
        );
    }
    let remedy = concern.remedy.as_deref().unwrap();
    let command = "nft insert rule inet firewalld input meta mark and 0x2000 == 0x2000 accept";
    assert!(remedy.contains(command), "{remedy}");
    assert_eq!(rejects("input", &[Condition::Other]), []);
    // A loop, which the kernel rejects, ends.
    let goto = vec![rule([], Verdict::Goto("input".to_owned()))];
    assert_eq!(about(Mode::Ipvs, base(), &[("input", goto)]), []);
}

/// kubernetes/kubernetes#59656: svcproxy itself opens iptables' filter.
#[test]
fn in_iptables_only_a_rule_before_svcproxys_is_in_the_way() {
    let docker = ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n";
    let judged = |rules: &str| {
        let saved = format!("*filter\n{docker}{rules}COMMIT\n");
        let (mut filters, _) = saved::filters(&saved, Family::V4);
        for filter in &mut filters {
            filter.is_legacy = true;
        }
        let facts = Facts {
            filters,
            ..Facts::default()
        };
        let config = config();
        judge(&facts, &Role::new(Mode::Ipvs, &config))
    };
    let passage = "-A FORWARD -j SVCPASS-FORWARD\n";
    let found = judged("-A FORWARD -j DOCKER-USER\n");
    assert!(
        found[0].is_note && found[0].condition().is_none(),
        "{found:?}"
    );
    assert!(
        found[0].message.contains("of Docker, of iptables-legacy"),
        "{found:?}"
    );
    assert_eq!(judged(&format!("{passage}-A FORWARD -j DROP\n")), []);
    let comment = "-m comment --comment \"all -j ACCEPT\"";
    let found = judged(&format!("-A FORWARD {comment} -j REJECT\n{passage}"));
    assert!(!found[0].is_note, "{found:?}");
    let known = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    assert_eq!(
        judged(&format!("{known}-A FORWARD -j REJECT\n{passage}")),
        []
    );
    let some = "-A FORWARD -s 192.0.2.0/24 -j DROP\n";
    assert_eq!(judged(&format!("{some}{passage}")), []);
}

#[test]
fn rules_of_both_iptables_are_counted_without_svcproxys() {
    let saved = "*nat\n-A PREROUTING -j SVCPROXY-SERVICES\n-A PREROUTING -j DOCKER\nCOMMIT\n\
                 *filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j SVCPASS-INPUT\nCOMMIT\n";
    assert_eq!(saved::filters(saved, Family::V6).1, 1);
    let facts = |rules| Facts {
        rules,
        ..Facts::default()
    };
    let config = config();
    let judged = |rules| judge(&facts(rules), &Role::new(Mode::Ipvs, &config));
    assert_eq!(judged(None), []);
    assert_eq!(judged(Some([7, 0])), []);
    assert_eq!(judged(Some([7, 1]))[0].kind, ConcernKind::Iptables);
}

fn interface(name: &str, kind: InterfaceKind, addresses: &[&str]) -> Interface {
    Interface {
        name: name.to_owned(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        kind,
        is_strict: false,
    }
}

#[test]
fn the_strict_reverse_path_check_matters_where_there_are_several_ways() {
    let uplink = |name, is_strict| Interface {
        is_strict,
        ..interface(name, InterfaceKind::Uplink, &["192.0.2.1"])
    };
    let config = config();
    let judged = |interfaces: &[Interface], captures| {
        let facts = Facts {
            interfaces: interfaces.into(),
            src_valid_mark: true,
            ..Facts::default()
        };
        let role = Role {
            captures,
            ..Role::new(Mode::Ipvs, &config)
        };
        judge(&facts, &role)
    };
    let (eth0, eth1) = (uplink("eth0", false), uplink("eth1", true));
    assert_eq!(judged(std::slice::from_ref(&eth1), true), []);
    assert_eq!(judged(&[eth0.clone(), uplink("eth2", false)], true), []);
    let found = judged(&[eth0.clone(), eth1.clone()], true);
    assert!(!found[0].is_note && found[0].message.contains("eth1 (with src_valid_mark"));
    assert!(
        found[0]
            .remedy
            .as_deref()
            .unwrap()
            .contains("conf.eth1.rp_filter=2")
    );
    assert!(judged(&[eth0, eth1], false)[0].is_note);
}

#[test]
fn packets_on_the_bridge_of_pods_must_pass_the_filters() {
    let mut config = config();
    let judged = |config: &Config, name, address: &str, bridged| {
        let facts = Facts {
            interfaces: vec![interface(name, InterfaceKind::Bridge, &[address])],
            bridged,
            ..Facts::default()
        };
        let judged = judge(&facts, &Role::new(Mode::Ipvs, config));
        judged.into_iter().next().map(|concern| concern.message)
    };
    let off = [Some(false), Some(true)];
    assert!(
        judged(&config, "cni0", "10.244.0.1", off)
            .unwrap()
            .contains("iptables is 0")
    );
    let missing = judged(&config, "cni0", "10.244.0.1", [None, None]).unwrap();
    assert!(missing.contains("br_netfilter is not loaded"), "{missing}");
    assert_eq!(judged(&config, "cni0", "fd00::1", off), None);
    assert_eq!(judged(&config, "virbr0", "192.168.122.1", off), None);
    config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    assert_eq!(judged(&config, "docker0", "172.17.0.1", off), None);
    assert!(judged(&config, "br-pods", "10.244.0.1", off).is_some());
    config.pod_interfaces = Some(PodInterfaces::Named("br0".parse().unwrap()));
    assert_eq!(judged(&config, "br-pods", "10.244.0.1", off), None);
    assert!(judged(&config, "br0", "10.0.0.1", off).is_some());
}

#[test]
fn other_service_proxies_are_recognised() {
    let config = config();
    let judged = |traces: &[Trace], has_taken_over| {
        let facts = Facts {
            traces: traces.into(),
            ..Facts::default()
        };
        let role = Role {
            has_taken_over,
            ..Role::new(Mode::Ipvs, &config)
        };
        let found = judge(&facts, &role);
        assert!(found.len() < 2, "{found:?}");
        let found = found.into_iter().next();
        found.map(|concern| (concern.is_note, concern.message))
    };
    let says = |traces: &[Trace], has_taken_over, is_note, part: &str| {
        let (note, message) = judged(traces, has_taken_over).unwrap();
        assert!(note == is_note && message.contains(part), "{message}");
    };
    assert_eq!(judged(&[], true), None);
    says(
        &[Trace::KubeProxyRules, Trace::KubeProxyProcess],
        false,
        false,
        "kube-proxy runs",
    );
    says(&[Trace::KubeProxyRules], false, true, "has rules");
    says(&[Trace::KubeProxyRules], true, false, "come back");
    says(&[Trace::KubeRouter], true, false, "kube-router");
    says(&[Trace::Cilium], true, true, "Cilium runs");
    says(
        &[Trace::Cilium, Trace::CiliumReplacement],
        true,
        false,
        "Cilium replaces",
    );
}

#[test]
fn a_dummy_device_with_a_virtual_ip_is_named() {
    let mut config = config();
    let judged = |config: &Config, kind, name, address: &str| {
        let facts = Facts {
            interfaces: vec![interface(name, kind, &["169.254.20.10", address])],
            ..Facts::default()
        };
        let is_vip = |ip: IpAddr| ip == IpAddr::from([10, 96, 0, 10]);
        let role = Role {
            is_vip: &is_vip,
            ..Role::new(Mode::Ipvs, config)
        };
        judge(&facts, &role)
            .pop()
            .and_then(|concern| concern.condition())
    };
    let dummy = InterfaceKind::Dummy;
    let found = judged(&config, dummy, "nodelocaldns", "10.96.0.10").unwrap();
    assert_eq!(found.reason, Reason::OtherServiceProxy);
    assert!(found.message.contains("--cluster-dns"), "{}", found.message);
    assert_eq!(judged(&config, dummy, "nodelocaldns", "10.96.0.11"), None);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    assert!(judged(&config, dummy, "dummy0", "10.96.0.11").is_some());
    assert_eq!(judged(&config, dummy, "kube-ipvs0", "10.96.0.10"), None);
    assert_eq!(
        judged(&config, InterfaceKind::Uplink, "eth0", "10.96.0.10"),
        None
    );
}

#[test]
fn a_nearly_full_connection_tracking_keeps_one_message() {
    let facts = Facts {
        nearly_full: Some(262_144),
        ..Facts::default()
    };
    let config = config();
    let found = judge(&facts, &Role::new(Mode::Iptables, &config));
    let condition = found[0].condition().unwrap();
    assert_eq!(condition.reason, Reason::ConntrackNearlyFull);
    assert!(
        condition.message.contains("262144 entries"),
        "{}",
        condition.message
    );
}

#[test]
fn a_node_that_no_other_machine_can_reach_is_named() {
    let of = |ips: &[&str]| {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let config = Config::new("node-a", ips);
        let found = judge(&Facts::default(), &Role::new(Mode::Userspace, &config));
        found.into_iter().map(|of| of.kind).collect::<Vec<_>>()
    };
    assert_eq!(of(&[]), [ConcernKind::Addresses]);
    assert_eq!(of(&["192.0.2.1"]), []);
    assert_eq!(of(&["2001:db8::1"]), []);
}
