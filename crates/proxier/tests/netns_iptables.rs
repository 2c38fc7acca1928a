//! The iptables backend in network namespaces of this machine, with both iptables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "incremental/arbitrary.rs"]
mod arbitrary;
#[path = "kernel_ipvs/table_traces.rs"]
mod table_traces;
#[path = "netns_iptables/traffic.rs"]
mod traffic;
#[path = "netns_iptables/watch.rs"]
mod watch;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proxier::Proxier;
use proxier::desired::{Config, DesiredState, Touched};
use proxier::mode::NodeError;
use proxier::mode::iptables::{Flavour, Iptables, IptablesKernel};
use proxier::mode::iptables::{NodeState, Plan, Step, Transaction};
use proxier::mode::ipvs::plan::Scope;
use proxier::model::Family;
use proxier::reconcile::SyncKind;
use proxier::store::{Change, Store};
use testbed::{Namespace, eventually};

use arbitrary::{change, config};

const FLAVOURS: [Flavour; 2] = [Flavour::Nft, Flavour::Legacy];

fn namespace() -> Namespace {
    Namespace::new("iptables").unwrap()
}

fn backend(flavour: Flavour) -> IptablesKernel {
    IptablesKernel::with_flavour(flavour).unwrap()
}

fn transactions(plan: &Plan) -> impl Iterator<Item = &Transaction> {
    plan.steps().iter().filter_map(|step| match step {
        Step::Restore(transaction) => Some(transaction),
        _ => None,
    })
}

/// Executes a plan, after `iptables-restore --test` has accepted each text.
fn apply(backend: &mut IptablesKernel, plan: &Plan, node: &mut NodeState) {
    for transaction in transactions(plan) {
        let outcome = backend.test(transaction);
        outcome.unwrap_or_else(|error| panic!("{error}\n{transaction}"));
    }
    let report = backend.apply(plan);
    assert!(
        report.failures.is_empty(),
        "{:#?}\n{plan:#?}",
        report.failures
    );
    node.record(plan, &[]);
}

/// A desired state of random Services.
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
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let changes = proptest::collection::vec(change(), 5..25);
    let outcome = runner.run(&changes, |changes| {
        test(changes);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

fn every_text_is_accepted_and_read_back(flavour: Flavour) {
    random_services(12, |changes| {
        namespace().enter(|| {
            let settings = config(0);
            let mut backend = backend(flavour);
            let mut node = backend.observe().unwrap();
            let mut store = Store::default();
            let mut state = DesiredState::new(Arc::clone(&settings));
            let plan = Plan::new(&state, &node, Scope::Full);
            apply(&mut backend, &plan, &mut node);
            // One text per few changes.
            for some in changes.chunks(4) {
                some.iter().for_each(|change| store.apply(change.clone()));
                let mut touched = Touched::default();
                for name in store.take_touched() {
                    state.update(&name, store.get(&name), &mut touched);
                }
                let plan = Plan::new(&state, &node, Scope::Touched(&touched));
                apply(&mut backend, &plan, &mut node);
            }
            let observed = backend.observe().unwrap();
            assert_eq!(observed.v4, node.v4);
            assert_eq!(observed.v6, node.v6);
            assert!(Plan::new(&state, &observed, Scope::Full).is_empty());
            IptablesKernel::remove_all().unwrap();
            let left = backend.observe().unwrap();
            assert!(left.v4.is_empty() && left.v6.is_empty());
        });
    });
}

#[test]
#[ignore = "netns: needs root"]
fn every_text_is_accepted_and_read_back_by_nft() {
    every_text_is_accepted_and_read_back(Flavour::Nft);
}

#[test]
#[ignore = "netns: needs root"]
fn every_text_is_accepted_and_read_back_by_legacy() {
    every_text_is_accepted_and_read_back(Flavour::Legacy);
}

/// Legacy iptables has one lock for the whole machine.
#[test]
#[ignore = "netns: needs root"]
fn a_held_lock_is_waited_for() {
    // Whether a program waits for the lock, see proc(5).
    let waiting = |lock: &File| {
        let inode = format!(":{} ", lock.metadata().unwrap().ino());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut waiting = locks.lines().filter(|line| line.contains("-> FLOCK"));
        waiting.any(|line| line.contains(&inode))
    };
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open("/run/xtables.lock")
        .unwrap();
    lock.lock().unwrap();
    namespace().enter(|| {
        thread::scope(|scope| {
            let release = scope.spawn(|| {
                let someone = || if waiting(&lock) { Ok(()) } else { Err(()) };
                let waits = eventually(Duration::from_secs(60), someone);
                lock.unlock().unwrap();
                waits.unwrap();
            });
            let desired = some_services();
            let mut backend = backend(Flavour::Legacy);
            let node = NodeState::default();
            let report = backend.apply(&Plan::new(&desired, &node, Scope::Full));
            assert!(report.failures.is_empty(), "{:#?}", report.failures);
            release.join().unwrap();
        });
    });
}

/// Some Services with endpoints on this node.
fn some_services() -> DesiredState {
    use proxier::model::{
        Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Protocol, Service, ServicePort,
    };
    let port = |number: u16| number.try_into().unwrap();
    let mut changes = Vec::new();
    for n in 1..=20_u8 {
        let name = ObjectName::new("default", &format!("web-{n}")).unwrap();
        let mut service = Service::new(name.clone());
        service.cluster_ips = [[10, 96, 0, n].into()].into();
        let web = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80));
        service.ports = [web].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        let target = EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, port(8080));
        slice.ports = [target].into();
        slice.endpoints = [Endpoint::new([10, 244, 0, n].into())].into();
        changes.extend([
            Change::ServiceApplied(service),
            Change::EndpointSliceApplied(slice),
        ]);
    }
    desired(&changes, &config(0))
}

const FOREIGN: &str = "\
*nat
:KUBE-SERVICES - [0:0]
:SVCPROXYISH - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.9/32 -p tcp -j RETURN
-A SVCPROXYISH -j RETURN
COMMIT
*filter
-A INPUT -s 198.51.100.0/24 -m comment --comment \"two words, one \\\"quoted\\\"\" -j DROP
-A FORWARD -i cni0 -j ACCEPT
COMMIT
";

/// Foreign rules, without counters.
fn foreign(namespace: &Namespace, flavour: Flavour) -> Vec<String> {
    let saved = namespace.run([format!("{flavour}-save")]).unwrap();
    let lines = saved.lines().filter(|line| {
        let is_ours = line.contains("SVCPROXY-");
        !is_ours && (line.starts_with("-A") || line.starts_with(':'))
    });
    let without_counters = |line: &str| line.split(" [").next().unwrap().to_owned();
    lines.map(without_counters).collect()
}

#[test]
#[ignore = "netns: needs root"]
fn drift_is_repaired_and_foreign_rules_are_not_touched() {
    for flavour in FLAVOURS {
        let namespace = namespace();
        let restore = format!("{flavour}-restore");
        namespace
            .run_with_input([&restore, "--noflush"], FOREIGN)
            .unwrap();
        let theirs = foreign(&namespace, flavour);
        assert!(theirs.len() > 6);
        let state = some_services();
        namespace.enter(|| {
            let mut backend = backend(flavour);
            let mut node = backend.observe().unwrap();
            assert!(node.v4.is_empty());
            let plan = Plan::new(&state, &node, Scope::Full);
            apply(&mut backend, &plan, &mut node);
            let whole = backend.observe().unwrap();
            for spoil in [
                "*nat\n-F PREROUTING\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n",
                "*nat\n-F SVCPROXY-VIPS\nCOMMIT\n",
                "*nat\n-A SVCPROXY-SERVICES -j ACCEPT\nCOMMIT\n",
                "*nat\n:SVCPROXY-OLD -\n-A SVCPROXY-OLD -j RETURN\n-A PREROUTING -j SVCPROXY-OLD\nCOMMIT\n",
                "*filter\n-A INPUT -m conntrack --ctstate NEW -j SVCPROXY-UNDELIVERED\nCOMMIT\n",
                "*filter\n-I SVCPROXY-FORWARD 1 -j DROP\nCOMMIT\n",
            ] {
                namespace
                    .run_with_input([&restore, "--noflush"], spoil)
                    .unwrap();
                let mut node = backend.observe().unwrap();
                assert_ne!(node.v4, whole.v4, "{spoil}");
                let plan = Plan::new(&state, &node, Scope::Full);
                apply(&mut backend, &plan, &mut node);
                assert_eq!(backend.observe().unwrap().v4, whole.v4, "{spoil}");
                assert_eq!(foreign(&namespace, flavour), theirs, "{spoil}");
            }
            IptablesKernel::remove_all().unwrap();
            let left = backend.observe().unwrap();
            assert!(left.v4.is_empty() && left.v6.is_empty());
            assert_eq!(foreign(&namespace, flavour), theirs);
        });
    }
}

#[test]
#[ignore = "netns: needs root"]
fn a_proxier_follows_changes_and_audits_find_nothing_to_do() {
    namespace().enter(|| {
        for flavour in FLAVOURS {
            random_services(3, |changes| {
                let mut proxier = Proxier::new(config(0), Iptables::new(backend(flavour)));
                let listed = [
                    Change::ServicesReplaced(vec![]),
                    Change::EndpointSlicesReplaced(vec![]),
                    Change::NodeReplaced(None),
                ];
                let first = proxier.handle(listed).unwrap().unwrap();
                assert!(first.is_success() && first.kind == SyncKind::Full);
                for change in changes {
                    let is_node = matches!(change, Change::NodeReplaced(_));
                    let report = proxier.handle([change]).unwrap().unwrap();
                    assert!(report.is_success(), "{report:#?}");
                    assert!(report.kind == SyncKind::Changes || is_node);
                    assert!(!proxier.is_draining());
                }
                let audit = proxier.audit().unwrap().unwrap();
                assert!(audit.plan.is_empty(), "{:#?}", audit.plan);
            });
            IptablesKernel::remove_all().unwrap();
        }
    });
}

#[test]
#[ignore = "netns: needs root"]
fn a_rejection_names_the_line_and_its_service() {
    let namespace = namespace();
    namespace.enter(|| {
        for flavour in FLAVOURS {
            let mut backend = backend(flavour);
            let mut node = backend.observe().unwrap();
            let plan = Plan::new(&DesiredState::new(config(0)), &node, Scope::Full);
            apply(&mut backend, &plan, &mut node);
            // The rules jump to a deleted chain.
            let state = some_services();
            let plan = Plan::new(&state, &node, Scope::Full);
            let gone = format!("{flavour}-restore");
            let delete =
                "*nat\n-F SVCPROXY-SERVICES\n-F SVCPROXY-OUTSIDE\n-X SVCPROXY-OUTSIDE\nCOMMIT\n";
            namespace
                .run_with_input([&gone, "--noflush"], delete)
                .unwrap();
            let report = backend.apply(&plan);
            assert!(!report.refused.is_empty() && report.failures.is_empty());
            for refused in &report.refused {
                let NodeError::Iptables(refusal) = &refused.error else {
                    panic!("{refused:?}");
                };
                assert_eq!(refusal.owner.as_ref(), Some(&refused.owner));
                let said = refusal.to_string();
                assert!(said.starts_with(&gone), "{said}");
            }
            let said = report.refused[0].error.to_string();
            assert!(said.contains(" for Service default/web-"), "{said}");
            if flavour == Flavour::Legacy {
                assert!(
                    said.contains("-j SVCPROXY-OUTSIDE\", which is for Service default/web-"),
                    "{said}"
                );
            }
            // Nothing was changed.
            let observed = backend.observe().unwrap();
            assert!(
                observed
                    .v4
                    .chains()
                    .all(|(_, name)| !name.as_str().starts_with("SVCPROXY-S-"))
            );
            IptablesKernel::remove_all().unwrap();
        }
    });
}

#[test]
#[ignore = "netns: needs root"]
fn the_iptables_that_the_node_uses_is_found_and_both_are_cleaned_up() {
    let namespace = namespace();
    let hint = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
    namespace.enter(|| {
        assert_eq!(Flavour::find().unwrap(), Flavour::Nft, "as Debian has it");
        for flavour in FLAVOURS {
            let mut backend = backend(flavour);
            let mut node = backend.observe().unwrap();
            let plan = Plan::new(&some_services(), &node, Scope::Full);
            apply(&mut backend, &plan, &mut node);
        }
        let restore = ["iptables-legacy-restore", "--noflush"];
        namespace.run_with_input(restore, hint).unwrap();
        assert_eq!(Flavour::find().unwrap(), Flavour::Legacy);
        let found = IptablesKernel::open().unwrap();
        assert_eq!(found.flavour(), Flavour::Legacy);
        assert!(IptablesKernel::remove_all().unwrap() > 0);
        for flavour in FLAVOURS {
            assert!(
                backend(flavour).observe().unwrap().v4.is_empty(),
                "{flavour}"
            );
        }
    });
}
