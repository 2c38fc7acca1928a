//! The same in nftables mode: each plan leads to the desired state, and every client gets the result
//! that the API objects define, at any point of a plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proxier::desired::{Config, DesiredState, Touched};
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::nftables::{Chooser, Element, NodeState, Plan, Ruleset, Step, trace};
use proxier::mode::trace::Surroundings;
use proxier::store::Store;

use crate::arbitrary::{change, config};
use crate::{expected, oracle};

/// As in the other tests, but pods are known in both families.
fn settings() -> Arc<Config> {
    let mut config = Config::clone(&config(0));
    let pods = "fd00:10:244::/56".parse().unwrap();
    config.cluster_cidrs.push(pods);
    Arc::new(config)
}

fn check_clients(node: &NodeState, store: &Store, config: &Config) {
    let ruleset = Ruleset::new(config);
    assert_eq!(node.ruleset, Some(ruleset.fingerprint()));
    let is_own = |address| config.node_ips.contains(&address);
    let expected = expected(store, config);
    for (key, clients) in &expected {
        for (client, outcome) in clients {
            let packet = oracle::packet(*key, *client, config);
            let trace = trace(Some(&ruleset), node, &packet, Surroundings::new(&is_own));
            let is = oracle::traced(&trace, *client);
            assert_eq!(is, *outcome, "{packet}: {trace:#?}");
        }
    }
    let frontends: BTreeSet<_> = node.elements.frontends().collect();
    assert!(frontends.iter().all(|key| expected.contains_key(key)));
}

/// Each destination with endpoints has the chain that chooses one.
fn check_choosers(node: &NodeState, step: &Step) {
    for key in node.elements.frontends() {
        for (element, _) in node.elements.of(key) {
            let Element::Service {
                audience, choice, ..
            } = *element
            else {
                continue;
            };
            let chooser = Chooser {
                family: key.family(),
                is_node_port: key.is_node_port(),
                audience,
                choice,
            };
            let is_there = node.choosers.contains(&chooser) || node.outdated.contains(&chooser);
            assert!(is_there, "after {step}, {key} needs the chain {chooser}");
        }
    }
}

/// Each number that can be drawn has an endpoint, after each step of a plan. Steps that belong
/// together are in one transaction: a deletion before an addition for the same key.
fn check_steps(node: &NodeState, plan: &Plan) {
    let mut node = node.clone();
    let steps = plan.steps();
    for (index, step) in steps.iter().enumerate() {
        let one: Plan = [step.clone()].into_iter().collect();
        node.record(&one, &[]);
        if matches!(
            step,
            Step::InstallRuleset(..)
                | Step::DeleteChooser(_)
                | Step::AddElement(Element::Service { .. }, _)
        ) {
            check_choosers(&node, step);
        }
        let is_half = matches!(
            (step, steps.get(index + 1)),
            (Step::DeleteElement(old), Some(Step::AddElement(new, _)))
                if old.frontend() == new.frontend()
        );
        let key = match step {
            Step::AddElement(element, _) | Step::DeleteElement(element) => element.frontend(),
            _ => None,
        };
        let (Some(key), false) = (key, is_half) else {
            continue;
        };
        let elements: BTreeSet<_> = node
            .elements
            .of(&key)
            .map(|(element, _)| *element)
            .collect();
        for element in &elements {
            let Element::Service {
                audience, choice, ..
            } = element
            else {
                continue;
            };
            for drawn in 0..choice.count.get() {
                let lasting = elements.iter().find_map(|element| match element {
                    Element::Number {
                        audience: of,
                        number,
                        lasting,
                        ..
                    } if (of, *number) == (audience, drawn) => Some(*lasting),
                    _ => None,
                });
                let number = match choice.affinity {
                    Some(_) => lasting,
                    None => Some(drawn),
                };
                let mut endpoints = elements.iter();
                let is_there = endpoints.any(|element| match element {
                    Element::Endpoint {
                        audience: of,
                        number: is,
                        ..
                    } => of == audience && Some(*is) == number,
                    _ => false,
                });
                assert!(
                    is_there,
                    "after {step} number {drawn} of {key} leads nowhere"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn elements_one_at_a_time_equal_those_from_scratch(
        changes in proptest::collection::vec((change(), proptest::bool::weighted(0.1)), 1..30),
    ) {
        let mut settings = settings();
        let mut store = Store::default();
        let mut state = DesiredState::new(Arc::clone(&settings));
        let mut node = NodeState::default();
        node.record(&Plan::new(&state, &node.clone(), Scope::Full), &[]);
        for (change, changes_settings) in changes {
            store.apply(change);
            if changes_settings {
                let mut changed = Config::clone(&settings);
                changed.masquerade_all = !changed.masquerade_all;
                settings = Arc::new(changed);
            }
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
            check_steps(&node, &plan);
            node.record(&plan, &[]);
            let mut again = Plan::new(&state, &node, Scope::Full);
            // Only the audit deletes chains that nothing needs any more.
            let chains = again.steps().iter().filter(|s| matches!(s, Step::DeleteChooser(_)));
            prop_assert_eq!(chains.count(), again.steps().len(), "left undone: {:?}", again);
            node.record(&again, &[]);
            again = Plan::new(&state, &node, Scope::Full);
            prop_assert!(again.is_empty(), "left undone: {again:?}");
            check_clients(&node, &store, &config);
        }
        let empty = DesiredState::new(Arc::new(state.config().clone()));
        node.record(&Plan::new(&empty, &node.clone(), Scope::Full), &[]);
        let mut left = node.elements.frontends();
        prop_assert!(left.next().is_none());
    }
}
