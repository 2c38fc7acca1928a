//! nftables mode end to end: one change of one Service at growing sizes, and the first sync, in network
//! namespaces of this machine. Needs root.

#![expect(clippy::unwrap_used, reason = "a benchmark may end")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it counts")]

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::nftables::{NftablesBackend, NodeState, Plan};
use svcproxy_benches::{Cluster, config, update};
use testbed::Namespace;

fn apply(backend: &mut NftablesBackend, plan: &Plan, node: &mut NodeState) -> u64 {
    let report = backend.apply(plan);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    node.record(plan, &[]);
    report.counts.transactions
}

/// An endpoint comes and goes: store, desired state, plan, and the kernel's acknowledgement.
fn one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("nftables, one endpoint comes and goes");
    group.sample_size(50);
    for services in [1_000, 10_000, 50_000] {
        let namespace = Namespace::new("change").unwrap();
        let cluster = Cluster::new(services, 3).unwrap();
        let mut store = cluster.store();
        let mut desired = DesiredState::from_store(config(), &store);
        // The sockets stay in the namespace, and changes of elements need nothing else of it.
        let (mut backend, mut node) = namespace.enter(|| {
            let mut backend = NftablesBackend::open().unwrap();
            let mut node = backend.observe().unwrap();
            let plan = Plan::new(&desired, &node, Scope::Full);
            apply(&mut backend, &plan, &mut node);
            (backend, node)
        });
        let mut changes = cluster.flapping();
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter_batched(
                || changes.next().unwrap(),
                |change| {
                    let touched = update(&mut store, &mut desired, change);
                    let plan = Plan::new(&desired, &node, Scope::Touched(&touched));
                    let transactions = apply(&mut backend, &plan, &mut node);
                    assert_eq!(transactions, 1, "a change is one transaction");
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The first sync into an empty namespace, as plan and as messages, with the longest transaction.
fn first_sync(_: &mut Criterion) {
    for (services, endpoints) in [(10_000, 3), (5_000, 50)] {
        let cluster = Cluster::new(services, endpoints).unwrap();
        let desired = DesiredState::from_store(config(), &cluster.store());
        let namespace = Namespace::new("first").unwrap();
        let (planned, applied, transactions) = namespace.enter(|| {
            let mut backend = NftablesBackend::open().unwrap();
            let mut node = backend.observe().unwrap();
            let began = Instant::now();
            let plan = Plan::new(&desired, &node, Scope::Full);
            let planned = began.elapsed();
            let transactions = apply(&mut backend, &plan, &mut node);
            (planned, began.elapsed() - planned, transactions)
        });
        let ratio = |part: Duration| part.as_secs_f64() / applied.as_secs_f64();
        println!(
            "nftables, first sync of {services} Services of {endpoints} endpoints: {transactions} \
             transactions, plan {:.2} of the kernel's part ({applied:?})",
            ratio(planned)
        );
    }
}

criterion_group!(benches, one_change, first_sync);
criterion_main!(benches);
