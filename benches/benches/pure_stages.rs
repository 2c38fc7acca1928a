//! The stages without I/O: a cluster from scratch, and one change to one Service at growing sizes.

#![expect(clippy::unwrap_used, reason = "a benchmark may end")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::{NodeState, Plan, Scope};
use svcproxy_benches::{Cluster, config, update};

fn from_scratch(c: &mut Criterion) {
    let cluster = Cluster::new(10_000, 3).unwrap();
    let mut group = c.benchmark_group("from scratch, 10,000 Services of 3 endpoints");
    group.sample_size(20);
    group.bench_function("store", |b| {
        b.iter_batched(
            || cluster.clone(),
            |cluster| cluster.store(),
            BatchSize::PerIteration,
        );
    });
    let store = cluster.store();
    let config = config();
    group.bench_function("desired", |b| {
        b.iter_with_large_drop(|| DesiredState::from_store(Arc::clone(&config), black_box(&store)));
    });
    let desired = DesiredState::from_store(config, &store);
    let empty = NodeState::default();
    group.bench_function("plan onto an empty node", |b| {
        b.iter_with_large_drop(|| Plan::new(black_box(&desired), &empty, Scope::Full));
    });
    let mut right = NodeState::default();
    right.record(&Plan::new(&desired, &empty, Scope::Full), &[]);
    group.bench_function("plan onto a node that is right", |b| {
        b.iter(|| Plan::new(black_box(&desired), &right, Scope::Full));
    });
    group.finish();
}

fn one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("one endpoint comes and goes");
    for services in [1_000, 10_000, 50_000] {
        let cluster = Cluster::new(services, 3).unwrap();
        let mut store = cluster.store();
        let mut desired = DesiredState::from_store(config(), &store);
        let mut node = NodeState::default();
        node.record(&Plan::new(&desired, &node, Scope::Full), &[]);

        let mut changes = cluster.flapping();
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter_batched(
                || changes.next().unwrap(),
                |change| {
                    let touched = update(&mut store, &mut desired, change);
                    let plan = Plan::new(&desired, &node, Scope::Touched(&touched));
                    node.record(&plan, &[]);
                    plan
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, from_scratch, one_change);
criterion_main!(benches);
