//! The same in iptables mode: each plan leads to the desired state, every client gets the result
//! that the API objects define, and no object can inject text.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proxier::desired::{Config, DesiredState, PodInterfaces, Touched};
use proxier::mode::iptables::{NodeState, Plan, Rules, Step, trace};
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::trace::Surroundings;
use proxier::store::{Change, Store};

use crate::arbitrary::{change, config};
use crate::packet::Tables;
use crate::{expected, oracle};

/// As in the other test, but pods are known in both families.
fn settings(masquerade_all: bool) -> Arc<Config> {
    let mut config = Config::clone(&config(0));
    let pods = "fd00:10:244::/56".parse().unwrap();
    config.cluster_cidrs.push(pods);
    config.masquerade_all = masquerade_all;
    Arc::new(config)
}

/// The output of iptables-save for the recorded rules.
fn saved(rules: &Rules) -> String {
    let mut text = String::new();
    for table in proxier::mode::iptables::Table::ALL {
        text += &format!("*{table}\n:INPUT ACCEPT [0:0]\n");
        let chains: BTreeSet<_> = rules.chains().filter(|(of, _)| *of == table).collect();
        for (_, name) in &chains {
            text += &format!(":{name} - [0:0]\n");
        }
        for jump in rules.jumps().iter().filter(|jump| jump.table == table) {
            text += &format!("-A {} {}\n", jump.hook, jump.rule);
        }
        for (table, name) in chains {
            for rule in rules.chain(table, name) {
                text += &format!("-A {name} {rule}\n");
            }
        }
        text += "COMMIT\n";
    }
    text
}

/// Checks that each line has one of a few forms with only checked words.
fn check_text(text: &str) {
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let is_ours = |name: &str| name.starts_with("SVCPROXY-") && name.len() <= 28;
        let is_hook = |name: &str| {
            ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&name)
        };
        let rule = match words.as_slice() {
            ["*nat" | "*filter"] | ["COMMIT"] => continue,
            [name, "-", "[0:0]"] if name.strip_prefix(':').is_some_and(is_ours) => continue,
            ["-X", name] if is_ours(name) => continue,
            ["-A", name, rule @ ..] if is_ours(name) => rule,
            ["-I" | "-D", name, rule @ ..] if is_hook(name) => rule,
            other => panic!("{other:?}"),
        };
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-/:.,[]+!\"".contains(&byte);
        assert!(
            rule.iter()
                .all(|word| !word.is_empty() && word.bytes().all(valid)),
            "{line}"
        );
        let quoted = rule.iter().filter(|word| word.contains('"'));
        for word in quoted {
            let inner = word
                .strip_prefix('"')
                .and_then(|word| word.strip_suffix('"'));
            let inner = inner.unwrap();
            assert!(
                !inner.contains(['"', '-', '!']) || inner.contains('/'),
                "{line}"
            );
        }
        let options: Vec<_> = rule.iter().filter(|word| word.starts_with('-')).collect();
        let known = [
            "-s",
            "-d",
            "-i",
            "-p",
            "-m",
            "-j",
            "-g",
            "--dport",
            "--src-type",
            "--dst-type",
            "--ctstate",
            "--mark",
            "--mode",
            "--probability",
            "--update",
            "--seconds",
            "--reap",
            "--name",
            "--mask",
            "--rsource",
            "--set",
            "--comment",
            "--reject-with",
            "--set-xmark",
            "--to-destination",
            "--random-fully",
        ];
        assert!(
            options.iter().all(|option| known.contains(option)),
            "{line}"
        );
    }
}

fn texts(plan: &Plan) -> impl Iterator<Item = String> {
    plan.steps().iter().filter_map(|step| match step {
        Step::Restore(transaction) => Some(transaction.to_string()),
        _ => None,
    })
}

fn check_clients(node: &NodeState, store: &Store, config: &Config) {
    let (v4, v6) = (Tables::new(&node.v4), Tables::new(&node.v6));
    for (key, clients) in expected(store, config) {
        let tables = if key.address.is_ipv4() { &v4 } else { &v6 };
        for (client, outcome) in clients {
            assert_eq!(
                tables.met(key, client, config),
                outcome,
                "{client:?} to {key}"
            );
            let rules = node.rules(key.family());
            let is_own = |address| config.node_ips.contains(&address);
            let packet = oracle::packet(key, client, config);
            let trace = trace(rules, &packet, Surroundings::new(&is_own));
            assert_eq!(
                oracle::traced(&trace, client),
                outcome,
                "{packet}: {trace:#?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rules_one_at_a_time_equal_those_from_scratch(
        changes in proptest::collection::vec(change(), 1..30),
    ) {
        let settings = settings(false);
        let mut store = Store::default();
        let mut state = DesiredState::new(Arc::clone(&settings));
        let mut node = NodeState::default();
        node.record(&Plan::new(&state, &node.clone(), Scope::Full), &[]);
        for change in changes {
            store.apply(change);
            let config = Arc::new(settings.following(store.node(), store.service_cidrs()).unwrap());
            let mut touched = Touched::default();
            let names = store.take_touched();
            let scope = if *config == *state.config() {
                for name in names {
                    state.update(&name, store.get(&name), &mut touched);
                }
                Scope::Touched(&touched)
            } else {
                state = DesiredState::from_store(Arc::clone(&config), &store);
                Scope::Full
            };
            let plan = Plan::new(&state, &node, scope);
            texts(&plan).for_each(|text| check_text(&text));
            node.record(&plan, &[]);
            let again = Plan::new(&state, &node, Scope::Full);
            prop_assert!(again.is_empty(), "left undone: {again:?}");
            check_clients(&node, &store, &config);
        }
        let [v4, v6] = [&node.v4, &node.v6].map(|rules| Rules::parse(&saved(rules)));
        prop_assert_eq!(&v4, &node.v4);
        prop_assert_eq!(&v6, &node.v6);

        let mut fresh = NodeState::default();
        fresh.record(&Plan::new(&state, &fresh.clone(), Scope::Full), &[]);
        prop_assert_eq!(&fresh.v4, &node.v4);
        prop_assert_eq!(&fresh.v6, &node.v6);

        node.record(&Plan::removal(&node.clone()), &[]);
        prop_assert!(node.v4.is_empty() && node.v6.is_empty());
    }
}

/// Services with one port and one endpoint, at consecutive addresses of the Service CIDR.
fn many(count: u32) -> (Store, DesiredState) {
    use proxier::model::{
        Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
        ServicePort,
    };
    let mut store = Store::default();
    let port = |number: u16| number.try_into().unwrap();
    for n in 0..count {
        let name = ObjectName::new("default", &format!("service-{n}")).unwrap();
        let mut service = Service::new(name.clone());
        let address = std::net::Ipv4Addr::from_bits(0x0a60_0000 + 7 * n + 1);
        service.cluster_ips = [address.into()].into();
        let web = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80));
        service.ports = [web].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        let target = EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, port(8080));
        slice.ports = [target].into();
        slice.endpoints = [Endpoint::new([10, 244, 0, 9].into())].into();
        store.apply(Change::ServiceApplied(service));
        store.apply(Change::EndpointSliceApplied(slice));
    }
    let state = DesiredState::from_store(settings(false), &store);
    (store, state)
}

/// The input for iptables when one Service among `count` changes.
fn text_of_a_change(count: u32, change: &Change) -> String {
    let (mut store, mut state) = many(count);
    let mut node = NodeState::default();
    node.record(&Plan::new(&state, &node.clone(), Scope::Full), &[]);
    store.take_touched();
    store.apply(change.clone());
    let mut touched = Touched::default();
    for name in store.take_touched() {
        state.update(&name, store.get(&name), &mut touched);
    }
    let plan = Plan::new(&state, &node, Scope::Touched(&touched));
    texts(&plan).collect()
}

#[test]
fn the_text_of_a_change_does_not_grow_with_the_number_of_services() {
    use proxier::model::{Endpoint, ObjectName, Service};
    let (store, _) = many(100);
    let name = ObjectName::new("default", "service-50").unwrap();
    let there = store.get(&name).unwrap();
    let mut slice = there.slices().next().unwrap().clone();
    slice.endpoints = [8, 9].map(|n| Endpoint::new([10, 244, 0, n].into())).into();
    let mut service = Service::clone(there.service);
    service.ports[0].port = 81.try_into().unwrap();
    for change in [
        Change::EndpointSliceApplied(slice),
        Change::ServiceApplied(service),
        Change::EndpointSliceDeleted(name.clone()),
        Change::ServiceDeleted(name),
    ] {
        let [few, many] = [100, 10_000].map(|count| text_of_a_change(count, &change));
        assert!(!few.is_empty());
        assert_eq!(few, many, "{change:?}");
    }

    // Without neighbouring addresses, the branches are new; otherwise theirs are rewritten.
    let mut service = Service::new(ObjectName::new("default", "new").unwrap());
    service.cluster_ips = [[10, 96, 1, 100].into()].into();
    service.ports.clone_from(&there.service.ports);
    let new = Change::ServiceApplied(service);
    let [few, many] = [100, 10_000].map(|count| text_of_a_change(count, &new).lines().count());
    assert!(few > 0 && many <= few, "{few} lines, and {many} among more");
}

#[test]
fn drift_is_repaired_and_nothing_else() {
    let (_, state) = many(3);
    let mut node = NodeState::default();
    node.record(&Plan::new(&state, &node.clone(), Scope::Full), &[]);
    let whole = saved(&node.v4);
    let without = |words: &[&str]| {
        let kept = whole
            .lines()
            .filter(|line| !words.iter().any(|word| line.contains(word)));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    for spoilt in [
        String::new(),
        without(&["-j DNAT"]),
        without(&["-A PREROUTING"]),
        without(&["SVCPROXY-VIPS"]),
        whole.replace("10.244.0.9:8080", "10.244.0.8:8080"),
        whole.replace("-A PREROUTING -j", "-A PREROUTING -p tcp -j"),
        whole.replace(
            "COMMIT",
            ":SVCPROXY-OLD - [0:0]\n-A SVCPROXY-OLD -j ACCEPT\nCOMMIT",
        ),
    ] {
        assert_ne!(spoilt, whole);
        let mut spoilt =
            NodeState::new(node.sysctls.clone(), Rules::parse(&spoilt), node.v6.clone());
        let plan = Plan::new(&state, &spoilt, Scope::Full);
        assert_eq!(plan.steps().len(), 1, "{plan:?}");
        spoilt.record(&plan, &[]);
        assert_eq!(spoilt.v4, node.v4);
    }
}

#[test]
fn frontends_removed_while_stopped_are_recognised_by_their_rules() {
    let (mut store, state) = many(2);
    let mut node = NodeState::default();
    node.record(&Plan::new(&state, &node.clone(), Scope::Full), &[]);
    store.apply(Change::ServicesReplaced(vec![]));
    let state = DesiredState::from_store(settings(false), &store);
    let plan = Plan::new(&state, &node, Scope::Full);
    node.record(&plan, &[]);
    let mut fresh = NodeState::default();
    fresh.record(&Plan::new(&state, &fresh.clone(), Scope::Full), &[]);
    assert_eq!(node.v4, fresh.v4);
}

#[test]
fn pods_by_interface() {
    let mut config = Config::clone(&settings(false));
    config.pod_interfaces = Some(PodInterfaces::Prefixed("veth".parse().unwrap()));
    let state = DesiredState::new(Arc::new(config));
    let plan = Plan::new(&state, &NodeState::default(), Scope::Full);
    let text: String = texts(&plan).collect();
    assert_eq!(
        text.matches("-A SVCPROXY-OUTSIDE -i veth+ -j RETURN\n")
            .count(),
        2
    );
    assert!(!text.contains("10.244"));
}

#[test]
fn everything_is_masqueraded_on_request() {
    let state = DesiredState::new(settings(true));
    let plan = Plan::new(&state, &NodeState::default(), Scope::Full);
    let text: String = texts(&plan).collect();
    let outside: Vec<_> = text
        .lines()
        .filter(|l| l.starts_with("-A SVCPROXY-OUTSIDE"))
        .collect();
    assert_eq!(
        outside,
        ["-A SVCPROXY-OUTSIDE -j MARK --set-xmark 0x4000/0x4000"; 2]
    );
}
