//! Random sequences of API changes: the incrementally updated state equals the state from scratch,
//! each plan leads to it, and every client gets the result that the API objects define.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod arbitrary;
mod iptables;
mod nftables;
mod oracle;
mod packet;
mod reconfigure;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use ipvs::VirtualServerKey;
use proptest::prelude::*;
use proxier::desired::{
    Config, DesiredState, Frontend, FrontendKey, HealthCheck, Problem, Touched,
};
use proxier::mode::ipvs::plan::{Audience, Element, NodeState, Plan, Purpose, Scope, Step};
use proxier::mode::ipvs::rules::{Parts, Ruleset};
use proxier::mode::ipvs::{FakeIpvs, Kernel, trace};
use proxier::mode::trace::Surroundings;
use proxier::model::ObjectName;
use proxier::store::Store;

use arbitrary::{change, config};
use oracle::Reach;

/// The results that the stored objects define.
fn expected(store: &Store, config: &Config) -> Reach {
    let objects = store.services();
    oracle::expected(
        objects.map(|view| (view.service, view.slices().collect())),
        config,
    )
}

fn frontends(state: &DesiredState) -> BTreeMap<FrontendKey, Arc<Frontend>> {
    let frontends = state.frontends();
    frontends
        .map(|frontend| (frontend.key, Arc::clone(frontend)))
        .collect()
}

fn by_service(problems: Vec<Problem>) -> BTreeMap<ObjectName, Vec<Problem>> {
    let mut of = BTreeMap::<_, Vec<_>>::new();
    for problem in problems {
        of.entry(problem.service.clone()).or_default().push(problem);
    }
    of
}

fn health_checks(state: &DesiredState) -> Vec<HealthCheck> {
    let mut checks: Vec<_> = state.health_checks().cloned().collect();
    checks.sort_by(|a, b| a.service.cmp(&b.service));
    checks
}

/// Each part of the rules is there if the sets have something for it, and not if they are empty.
fn check_parts(node: &NodeState, config: &Config) {
    let has = |matches: fn(&Element) -> bool| node.elements.keys().any(matches);
    let captures = has(|element| {
        matches!(
            element,
            Element::Mark {
                purpose: Purpose::Capture,
                ..
            }
        )
    });
    let marks = has(|element| match element {
        Element::Mark { purpose, .. } => *purpose != Purpose::Capture,
        Element::NoEndpoints(key) => key.is_node_port(),
        _ => false,
    });
    let refuses = has(|element| match element {
        Element::NoEndpoints(key) | Element::Dropped(key, Audience::All) => !key.is_node_port(),
        _ => false,
    });
    let ranges = has(|element| matches!(element, Element::Restricted(_)));
    let any = has(|element| element.frontend().is_some());
    let choices = [false, true];
    let marks = if marks { &choices[1..] } else { &choices[..] };
    let refusal = if refuses { &choices[1..] } else { &choices[..] };
    let mut wanted = marks
        .iter()
        .flat_map(|marks| refusal.iter().map(move |r| (*marks, *r)));
    let is_there = wanted.any(|(marks, refusal)| {
        let mut parts = Parts::ALL;
        (parts.capture, parts.marks, parts.refusal) = (captures, marks, refusal);
        (parts.ranges, parts.admission) = (ranges, node.is_filtered);
        let ruleset = Ruleset::new(config).with_parts(parts);
        (any || !(marks || refusal)) && node.ruleset == Some(ruleset.fingerprint())
    });
    assert!(is_there, "parts of the rules are missing, or not needed");
}

/// The evaluation of the installed rules gives every client the result that the objects define.
fn check_traces(node: &NodeState, expected: &Reach, config: &Config) {
    let fingerprint = node.ruleset.unwrap();
    let installed = Ruleset::with_fingerprint(config, fingerprint).unwrap();
    // The same parts, where pods of both families are known.
    let mut known = config.clone();
    known
        .cluster_cidrs
        .push("fd00:10:244::/56".parse().unwrap());
    let parts = [false, true].into_iter().flat_map(|capture| {
        [false, true].into_iter().flat_map(move |marks| {
            [false, true].into_iter().flat_map(move |refusal| {
                [false, true].map(move |ranges| {
                    let mut parts = Parts::ALL;
                    (parts.capture, parts.marks, parts.refusal) = (capture, marks, refusal);
                    (parts.ranges, parts.admission) = (ranges, node.is_filtered);
                    parts
                })
            })
        })
    });
    let mut parts = parts.filter(|parts| Ruleset::new(config).with_parts(*parts) == installed);
    let ruleset = Ruleset::new(&known).with_parts(parts.next().unwrap());
    let is_own = |address| config.node_ips.contains(&address);
    for (key, clients) in expected {
        for (client, outcome) in clients {
            let packet = oracle::packet(*key, *client, config);
            let trace = trace(Some(&ruleset), node, &packet, Surroundings::new(&is_own));
            assert_eq!(
                oracle::traced(&trace, *client),
                *outcome,
                "{packet}: {trace:#?}"
            );
        }
    }
}

/// Invariants of any node, checked without the code under test.
fn check_invariants(node: &NodeState, store: &Store, config: &Config) {
    check_parts(node, config);
    let expected = expected(store, config);
    check_traces(node, &expected, config);
    for (key, clients) in &expected {
        for (client, outcome) in clients {
            assert_eq!(
                &oracle::met(node, *key, *client, config),
                outcome,
                "{client:?} to {key}"
            );
        }
    }
    // No element without an owner.
    for element in node.elements.keys() {
        if let Some(key) = element.frontend() {
            assert!(expected.contains_key(&key), "{element} is for nothing");
        }
    }
    let recorded: BTreeSet<VirtualServerKey> =
        node.elements.keys().filter_map(Element::recorded).collect();
    let there: BTreeSet<_> = node.virtual_servers.keys().copied().collect();
    assert!(there.is_superset(&recorded), "recorded, and not there");
    for key in there.difference(&recorded) {
        // A firewall-mark virtual server whose mark no packet gets any more.
        let state = &node.virtual_servers[key];
        let is_mark = matches!(key, VirtualServerKey::FirewallMark { .. });
        let drains = state.real_servers.iter().all(|r| r.weight == 0);
        let has_time = !config.drain_timeout.is_zero();
        assert!(is_mark && drains && has_time, "{key} is not recorded");
        assert_eq!(state.server.tag >> 8, 73, "{key} will be forgotten");
    }
    let serves = node
        .virtual_servers
        .values()
        .all(|state| !state.real_servers.is_empty());
    assert!(serves, "a virtual server without real servers");
    for state in node.virtual_servers.values() {
        for real_server in &state.real_servers {
            let address = real_server.key.address;
            let slices = store.services().flat_map(|view| view.slices());
            let endpoints = slices.flat_map(|slice| slice.endpoints.iter());
            let mut same = endpoints.filter(|e| e.address == address).peekable();
            let is_here = same.peek().is_some() && same.all(|e| e.node.as_deref() == Some("here"));
            let is_hairpin = node.elements.contains(&Element::Hairpin(address));
            assert!(
                is_hairpin || !is_here || real_server.weight == 0,
                "{address} may be its own client"
            );
        }
    }
}

/// The steps that fail, or are skipped because an earlier step for the same virtual server failed.
/// An element with a new comment is deleted and added in one transaction.
fn failed_steps(plan: &Plan, failures: &[bool]) -> Vec<usize> {
    let mut broken = HashSet::new();
    let mut failed = Vec::new();
    let mut before: Option<&Step> = None;
    for (index, step) in plan.into_iter().enumerate() {
        let is_replaced = match (before, step) {
            (Some(Step::DeleteElement(old)), Step::AddElement(new, _)) => old == new,
            _ => false,
        };
        let fails = failures[(index - usize::from(is_replaced)) % failures.len()];
        let key = step.virtual_server();
        if fails || key.is_some_and(|key| broken.contains(&key)) {
            failed.push(index);
            broken.extend(key);
        }
        before = Some(step);
    }
    failed
}

fn assert_same(one: &NodeState, other: &NodeState) {
    assert_eq!(one.elements, other.elements);
    assert_eq!(one.virtual_servers, other.virtual_servers);
    assert_eq!(one.routes, other.routes);
    assert_eq!(one.policy_routes, other.policy_routes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn one_at_a_time_equals_from_scratch(
        changes in proptest::collection::vec(change(), 1..40),
        failures in proptest::collection::vec(any::<bool>(), 64),
        drain in prop_oneof![Just(0), Just(30)],
    ) {
        let settings = config(drain);
        let mut store = Store::default();
        let mut state = DesiredState::new(Arc::clone(&settings));
        let mut kernel = FakeIpvs::default();
        let mut node = kernel.observe().unwrap();
        let base = Plan::new(&state, &node, Scope::Full);
        prop_assert!(kernel.apply(&base).failures.is_empty());
        node.record(&base, &[]);
        // Follows the same changes on a kernel that rejects some steps, and is repaired at the end.
        let mut lame = node.clone();
        // Checked only if a change requires it.
        let mut problems = BTreeMap::new();
        for change in changes {
            store.apply(change);
            let config = Arc::new(settings.following(store.node(), store.service_cidrs()).unwrap());
            let mut touched = Touched::default();
            let names = store.take_touched();
            let is_new = *config != *state.config();
            let scope = if is_new {
                state = DesiredState::from_store(Arc::clone(&config), &store);
                problems = by_service(state.problems());
                Scope::Full
            } else {
                for name in names {
                    state.update(&name, store.get(&name), &mut touched);
                }
                for name in state.concerned(&touched) {
                    let of = state.problems_of(&name);
                    problems.insert(name, of);
                }
                problems.retain(|_, of| !of.is_empty());
                Scope::Touched(&touched)
            };
            prop_assert_eq!(&problems, &by_service(state.problems()));
            let plan = Plan::new(&state, &node, scope);
            let applied = kernel.apply(&plan);
            prop_assert!(applied.failures.is_empty(), "{:?} of {plan:?}", applied.failures);
            node.record(&plan, &[]);
            let again = Plan::new(&state, &node, Scope::Full);
            prop_assert!(again.is_empty(), "left undone: {again:?}");
            check_invariants(&node, &store, &config);

            let plan = Plan::new(&state, &lame, scope);
            lame.record(&plan, &failed_steps(&plan, &failures));
        }
        let mut observed = kernel.observe().unwrap();
        observed.retain_owned(&state);
        assert_same(&observed, &node);

        let scratch = DesiredState::from_store(Arc::new(state.config().clone()), &store);
        prop_assert_eq!(frontends(&state), frontends(&scratch));
        prop_assert_eq!(health_checks(&state), health_checks(&scratch));
        prop_assert_eq!(state.problems(), scratch.problems());
        prop_assert!(Plan::new(&scratch, &node, Scope::Full).is_empty());

        lame.record(&Plan::new(&scratch, &lame, Scope::Full), &[]);
        check_invariants(&lame, &store, scratch.config());
        prop_assert!(Plan::new(&scratch, &lame, Scope::Full).is_empty());

        // Another program flushes nftables while svcproxy is stopped.
        let mut forgotten = node.clone();
        forgotten.ruleset = None;
        forgotten.elements.clear();
        forgotten.retain_owned(&scratch);
        let plan = Plan::new(&scratch, &forgotten, Scope::Full);
        forgotten.record(&plan, &[]);
        check_invariants(&forgotten, &store, scratch.config());
        prop_assert!(Plan::new(&scratch, &forgotten, Scope::Full).is_empty());
        let count = |node: &NodeState| node.virtual_servers.len();
        prop_assert!(count(&forgotten) <= count(&node), "some are there twice");

        node.record(&Plan::removal(&node), &[]);
        prop_assert!(node.virtual_servers.is_empty());
        prop_assert!(node.routes.is_empty() && node.policy_routes.is_empty());
    }
}
