//! The stages without I/O: a cluster from scratch, and one change to one Service at growing sizes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark may end"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use proxier::desired::{Config, DesiredState, Touched};
use proxier::plan::{NodeState, Plan, Scope};
use proxier::store::{Change, Store};
use svcproxy_benches::Cluster;

fn config() -> Arc<Config> {
    Arc::new(Config::new("node-1", vec!["192.0.2.1".parse().unwrap()]))
}

fn store(cluster: &Cluster) -> Store {
    let mut store = Store::default();
    cluster
        .changes()
        .into_iter()
        .for_each(|change| store.apply(change));
    store.take_touched();
    store
}

fn from_scratch(c: &mut Criterion) {
    let cluster = Cluster::new(10_000, 3).unwrap();
    let mut group = c.benchmark_group("from scratch, 10,000 Services of 3 endpoints");
    group.sample_size(20);
    group.bench_function("store", |b| {
        b.iter_batched(
            || cluster.clone(),
            |cluster| store(&cluster),
            BatchSize::PerIteration,
        );
    });
    let store = store(&cluster);
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
        let mut store = store(&cluster);
        let mut desired = DesiredState::from_store(config(), &store);
        let mut node = NodeState::default();
        node.record(&Plan::new(&desired, &node, Scope::Full), &[]);

        let full = cluster.slices[cluster.slices.len() / 2].clone();
        let mut short = full.clone();
        short.endpoints = full.endpoints[1..].into();
        let mut versions = [short, full].into_iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter_batched(
                || Change::EndpointSliceApplied(versions.next().unwrap()),
                |change| {
                    store.apply(change);
                    let mut touched = Touched::default();
                    for name in store.take_touched() {
                        desired.update(&name, store.get(&name), &mut touched);
                    }
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
