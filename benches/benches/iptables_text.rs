//! iptables mode without I/O: the rules of a cluster from scratch, their text, the parsing and
//! comparison of an audit, and one change of one Service at growing sizes.

#![expect(clippy::unwrap_used, reason = "a benchmark may end")]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use proxier::desired::DesiredState;
use proxier::mode::iptables::{NodeState, Plan, Rules, Step};
use proxier::mode::ipvs::plan::Scope;
use svcproxy_benches::{Cluster, config, update};

fn text(plan: &Plan) -> String {
    let texts = plan.steps().iter().map(|step| match step {
        Step::Restore(transaction) => transaction.to_string(),
        _ => String::new(),
    });
    texts.collect()
}

/// The output of iptables-save for a plan: the input of iptables-restore has the same format,
/// except for rules in built-in chains.
fn saved(plan: &Plan) -> String {
    text(plan).replace("\n-I ", "\n-A ")
}

fn from_scratch(c: &mut Criterion) {
    let cluster = Cluster::new(10_000, 3).unwrap();
    let desired = DesiredState::from_store(config(), &cluster.store());
    let empty = NodeState::default();
    let plan = Plan::new(&desired, &empty, Scope::Full);
    let mut right = NodeState::default();
    right.record(&plan, &[]);
    let saved = saved(&plan);
    assert_eq!(Rules::parse(&saved), right.v4);

    let mut group = c.benchmark_group("iptables, 10,000 Services of 3 endpoints");
    group.sample_size(20);
    group.bench_function("plan onto an empty node", |b| {
        b.iter_with_large_drop(|| Plan::new(black_box(&desired), &empty, Scope::Full));
    });
    group.bench_function("text", |b| {
        b.iter_with_large_drop(|| text(black_box(&plan)));
    });
    group.bench_function("record", |b| {
        b.iter_batched(
            NodeState::default,
            |mut node| {
                node.record(&plan, &[]);
                node
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("read what iptables-save prints", |b| {
        b.iter_with_large_drop(|| Rules::parse(black_box(&saved)));
    });
    group.bench_function("plan onto a node that is right", |b| {
        b.iter_with_large_drop(|| Plan::new(black_box(&desired), &right, Scope::Full));
    });
    group.finish();
}

fn one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("iptables, plan and text as one endpoint comes and goes");
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
                    text(&plan)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, from_scratch, one_change);
criterion_main!(benches);
