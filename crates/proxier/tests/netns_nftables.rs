//! nftables mode in network namespaces of this machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "incremental/arbitrary.rs"]
mod arbitrary;
#[path = "kernel_ipvs/lab.rs"]
mod lab;
#[path = "netns_nftables/replace.rs"]
mod replace;
#[path = "kernel_ipvs/table_traces.rs"]
mod table_traces;
#[path = "netns_nftables/traffic.rs"]
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proxier::Proxier;
use proxier::desired::{Config, DesiredState, Touched};
use proxier::mode::ipvs::plan::{Audience, Scope};
use proxier::mode::nftables::{Element, Nftables, NftablesKernel, NodeState, Plan, Step};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort, SessionAffinity,
};
use proxier::reconcile::SyncKind;
use proxier::store::{Change, Store};
use testbed::Namespace;

use arbitrary::{change, config};
use lab::port;

fn namespace() -> Namespace {
    Namespace::new("nftables").unwrap()
}

fn apply(kernel: &mut NftablesKernel, plan: &Plan, node: &mut NodeState) {
    let report = kernel.apply(plan);
    let failures = report.failures.iter();
    let failures: Vec<_> = failures
        .map(|failure| (&plan.steps()[failure.step], &failure.error))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    node.record(plan, &[]);
}

/// A desired state of Services.
fn desired(changes: &[Change], settings: &Arc<Config>) -> DesiredState {
    let mut store = Store::default();
    changes
        .iter()
        .for_each(|change| store.apply(change.clone()));
    DesiredState::from_store(Arc::clone(settings), &store)
}

fn random_services(cases: u32, test: impl Fn(Vec<Change>)) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        // Each attempt is slow.
        max_shrink_iters: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let changes = proptest::collection::vec(change(), 5..40);
    let outcome = runner.run(&changes, |changes| {
        test(changes);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// The state that a sequence of changes leads to is that of a fresh start, and the kernel has it.
#[test]
#[ignore = "netns: needs root"]
fn every_change_is_accepted_and_read_back() {
    random_services(24, |changes| {
        namespace().enter(|| {
            let settings = config(0);
            let mut kernel = NftablesKernel::open().unwrap();
            let mut node = kernel.observe().unwrap();
            let mut store = Store::default();
            let mut state = DesiredState::new(Arc::clone(&settings));
            let plan = Plan::new(&state, &node, Scope::Full);
            apply(&mut kernel, &plan, &mut node);
            for some in changes.chunks(3) {
                some.iter().for_each(|change| store.apply(change.clone()));
                let mut touched = Touched::default();
                for name in store.take_touched() {
                    state.update(&name, store.get(&name), &mut touched);
                }
                let plan = Plan::new(&state, &node, Scope::Touched(&touched));
                apply(&mut kernel, &plan, &mut node);
            }
            let observed = kernel.observe().unwrap();
            assert_eq!(observed, node);
            // Only chains that nothing needs any more may be left.
            let plan = Plan::new(&state, &observed, Scope::Full);
            let is_chain =
                |step: &&_| matches!(step, proxier::mode::nftables::Step::DeleteChooser(_));
            assert!(plan.steps().iter().all(|step| is_chain(&step)), "{plan:#?}");
            apply(&mut kernel, &plan, &mut node);
            let observed = kernel.observe().unwrap();
            assert_eq!(observed, node);
            assert!(Plan::new(&state, &observed, Scope::Full).is_empty());

            check_elements(&node, &state);
            assert_eq!(kernel.remove_all().unwrap(), 2);
            assert!(!kernel.is_in_use().unwrap());
        });
    });
}

/// Each destination has exactly its endpoints, with all numbers up to its count.
fn check_elements(node: &NodeState, state: &DesiredState) {
    for frontend in state.frontends() {
        let audiences = [
            (Audience::All, Some(&frontend.backends)),
            (Audience::External, frontend.external.as_ref()),
        ];
        for (audience, backends) in audiences {
            let (mut numbers, mut lasting) = (BTreeMap::new(), BTreeMap::new());
            let mut counts = Vec::new();
            for (element, _) in node.elements.of(&frontend.key) {
                match element {
                    Element::Endpoint {
                        audience: of,
                        number,
                        to,
                        ..
                    } if *of == audience => {
                        let to = (to.address, to.port);
                        match *number < 1 << 30 {
                            true => numbers.insert(*number, to),
                            false => lasting.insert(*number, to),
                        };
                    }
                    Element::Service {
                        audience: of,
                        choice,
                        ..
                    } if *of == audience => {
                        counts.push(choice.count.get());
                    }
                    _ => {}
                }
            }
            for (element, _) in node.elements.of(&frontend.key) {
                match element {
                    Element::Number {
                        audience: of,
                        number,
                        lasting: to,
                        ..
                    } if *of == audience => {
                        numbers.insert(*number, lasting[to]);
                    }
                    _ => {}
                }
            }
            let backends = backends.into_iter().flat_map(|all| all.iter());
            let wanted: BTreeSet<_> = backends.map(|one| (one.address, one.port)).collect();
            let found: BTreeSet<_> = numbers.values().copied().collect();
            assert_eq!(found, wanted, "{} {audience:?}", frontend.key);
            let count = u32::try_from(numbers.len()).unwrap();
            assert!(numbers.keys().copied().eq(0..count), "{numbers:?}");
            let expected = (count > 0).then_some(count);
            assert_eq!(counts, Vec::from_iter(expected), "{}", frontend.key);
        }
    }
    let wanted: BTreeSet<_> = state.frontends().map(|frontend| frontend.key).collect();
    assert!(node.elements.frontends().all(|key| wanted.contains(key)));
}

/// Service `n` with endpoints on this node.
fn service(n: u8, endpoints: &[u8], affinity: SessionAffinity) -> [Change; 2] {
    let name = ObjectName::new("default", &format!("web-{n}")).unwrap();
    let mut service = Service::new(name.clone());
    service.cluster_ips = [[10, 96, 0, n].into()].into();
    service.session_affinity = affinity;
    let web = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80));
    service.ports = [web].into();
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    slice.ports = [EndpointPort::new(
        PortName::UNNAMED,
        Protocol::Tcp,
        port(8080),
    )]
    .into();
    let endpoints = endpoints
        .iter()
        .map(|e| Endpoint::new([10, 244, n, *e].into()));
    slice.endpoints = endpoints.collect();
    [
        Change::ServiceApplied(service),
        Change::EndpointSliceApplied(slice),
    ]
}

fn some_services() -> DesiredState {
    let changes: Vec<_> = (1..=20)
        .flat_map(|n| service(n, &[1, 2, 3][..usize::from(n % 4)], SessionAffinity::None))
        .collect();
    desired(&changes, &config(0))
}

/// Whatever another program does to the tables is found and repaired, and nothing else is touched.
#[test]
#[ignore = "netns: needs root"]
fn drift_is_repaired_and_other_tables_are_not_touched() {
    let namespace = namespace();
    let foreign = "table ip nat {\n\tchain PREROUTING {\n\t\ttype nat hook prerouting priority -100\n\t}\n}\n\
                   table inet svcproxyish {\n\tset services {\n\t\ttype ipv4_addr\n\t}\n}\n";
    namespace
        .run_with_input(["nft", "-f", "-"], foreign)
        .unwrap();
    let others = || {
        let tables = ["ip nat", "inet svcproxyish"].map(|table| {
            let words = ["nft", "list", "table"].into_iter().chain(table.split(' '));
            namespace.run(words.collect::<Vec<_>>()).unwrap()
        });
        tables.concat()
    };
    let theirs = others();
    let state = some_services();
    namespace.enter(|| {
        let mut kernel = NftablesKernel::open().unwrap();
        let mut node = kernel.observe().unwrap();
        apply(
            &mut kernel,
            &Plan::new(&state, &node, Scope::Full),
            &mut node,
        );
        let whole = kernel.observe().unwrap();
        assert_eq!(whole, node);
        for spoil in [
            "delete table ip svcproxy",
            "delete table ip6 svcproxy",
            "flush chain ip svcproxy inside",
            "flush chain ip svcproxy choose-2",
            "add rule ip svcproxy undelivered accept",
            "insert rule ip svcproxy choose-2 return",
            "add chain ip svcproxy stray",
            "add chain ip svcproxy choose-77",
            "delete chain ip6 svcproxy filter-output",
            "add set ip svcproxy stray { type ipv4_addr; }",
            "flush map ip svcproxy services",
            "flush map ip svcproxy choices",
            "flush set ip svcproxy service-cidrs",
            "add element ip svcproxy hairpin { 10.9.9.9 . 10.9.9.9 }",
            "add table ip svcproxy { flags dormant; }",
        ] {
            namespace.run(["nft", spoil]).unwrap();
            let mut node = kernel.observe().unwrap();
            let plan = Plan::new(&state, &node, Scope::Full);
            assert!(!plan.is_empty(), "{spoil}");
            if spoil.contains("ip6") {
                // Connections over IPv4 must not pay for IPv6.
                let of_v4 = |step: &&Step| {
                    matches!(step, Step::AddElement(element, _) if element.family() == Family::V4)
                };
                let added: Vec<_> = plan.steps().iter().filter(of_v4).collect();
                assert!(added.is_empty(), "{spoil}: {added:#?}");
            }
            apply(&mut kernel, &plan, &mut node);
            assert_eq!(kernel.observe().unwrap(), whole, "{spoil}");
            assert_eq!(others(), theirs, "{spoil}");
        }
        kernel.remove_all().unwrap();
        assert_eq!(others(), theirs);
    });
}

/// A host that saves its rules while svcproxy runs, and loads them at its start, must get its own.
#[test]
#[ignore = "netns: needs root"]
fn nft_reads_what_it_lists() {
    let namespace = namespace();
    let check = |changes: &[Change]| {
        namespace.enter(|| {
            let mut kernel = NftablesKernel::open().unwrap();
            let mut node = kernel.observe().unwrap();
            let state = desired(changes, &config(0));
            apply(
                &mut kernel,
                &Plan::new(&state, &node, Scope::Full),
                &mut node,
            );
        });
        let listed = namespace.run(["nft", "list", "ruleset"]).unwrap();
        let flush = format!("flush ruleset\n{listed}");
        namespace
            .run_with_input(["nft", "-f", "-"], &flush)
            .unwrap();
        let again = namespace.run(["nft", "list", "ruleset"]).unwrap();
        assert_eq!(again, listed);
        listed
    };
    let affinity = SessionAffinity::ClientIp(60.try_into().unwrap());
    let listed = check(&service(1, &[1, 2, 3], affinity));
    assert!(listed.contains("choose-3-for-60"), "{listed}");
    random_services(3, |changes| {
        check(&changes);
    });
}

#[test]
#[ignore = "netns: needs root"]
fn a_proxier_follows_changes_and_audits_find_nothing_to_do() {
    namespace().enter(|| {
        random_services(6, |changes| {
            let kernel = NftablesKernel::open().unwrap();
            let mut proxier = Proxier::new(config(0), Nftables::new(kernel));
            let listed = [
                Change::ServicesReplaced(vec![]),
                Change::EndpointSlicesReplaced(vec![]),
                Change::NodeReplaced(None),
            ];
            let first = proxier.handle(listed).unwrap().unwrap();
            assert!(first.is_success() && first.kind == SyncKind::Full);
            for change in changes {
                let report = proxier.handle([change]).unwrap().unwrap();
                assert!(report.is_success(), "{report:#?}");
                assert!(!proxier.is_draining());
            }
            proxier.audit().unwrap().unwrap();
            let audit = proxier.audit().unwrap().unwrap();
            assert!(audit.plan.is_empty(), "{:#?}", audit.plan);
            NftablesKernel::open().unwrap().remove_all().unwrap();
        });
    });
}

/// The plan's steps for one more endpoint, and for one fewer, do not depend on the number of
/// Services, and change no number that others have.
#[test]
#[ignore = "netns: needs root"]
fn one_endpoint_costs_a_handful_of_elements_in_one_transaction() {
    namespace().enter(|| {
        let mut kernel = NftablesKernel::open().unwrap();
        let mut node = kernel.observe().unwrap();
        let mut store = Store::default();
        for n in 1..=200 {
            for change in service(n, &[1, 2, 3], SessionAffinity::None) {
                store.apply(change);
            }
        }
        let _ = store.take_touched();
        let mut state = DesiredState::from_store(config(0), &store);
        apply(
            &mut kernel,
            &Plan::new(&state, &node, Scope::Full),
            &mut node,
        );
        let mut change = |endpoints: &[u8]| {
            for change in service(7, endpoints, SessionAffinity::None) {
                store.apply(change);
            }
            let mut touched = Touched::default();
            for name in store.take_touched() {
                state.update(&name, store.get(&name), &mut touched);
            }
            let plan = Plan::new(&state, &node, Scope::Touched(&touched));
            let report = kernel.apply(&plan);
            assert!(report.failures.is_empty(), "{report:#?}");
            node.record(&plan, &[]);
            let steps: Vec<_> = plan.steps().iter().map(ToString::to_string).collect();
            (report.counts.transactions, steps)
        };
        let (transactions, steps) = change(&[1, 2, 3, 4]);
        assert_eq!(transactions, 1);
        assert_eq!(
            steps,
            [
                "add chain choose-4 (ipv4)",
                "add element endpoints tcp 10.96.0.7:80 3: 10.244.7.4:8080",
                "delete element services tcp 10.96.0.7:80: 3",
                "add element services tcp 10.96.0.7:80: 4 (default/web-7)",
                "add element hairpin 10.244.7.4",
            ]
        );
        // The last one takes the place of the first.
        let (transactions, steps) = change(&[2, 3, 4]);
        assert_eq!(transactions, 1);
        assert_eq!(
            steps,
            [
                "delete element endpoints tcp 10.96.0.7:80 0: 10.244.7.1:8080",
                "add element endpoints tcp 10.96.0.7:80 0: 10.244.7.4:8080",
                "delete element services tcp 10.96.0.7:80: 4",
                "add element services tcp 10.96.0.7:80: 3 (default/web-7)",
                "delete element endpoints tcp 10.96.0.7:80 3: 10.244.7.4:8080",
                "delete element hairpin 10.244.7.1",
            ]
        );
    });
}
