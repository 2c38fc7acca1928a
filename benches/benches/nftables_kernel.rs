//! nftables mode end to end: one change of one Service at growing sizes, and the first sync, in network
//! namespaces of this machine. Needs root.

#![expect(clippy::unwrap_used, reason = "a benchmark may end")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it counts")]

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::nftables::{NftablesKernel, NodeState, Plan};
use rustix::time::{ClockId, clock_gettime};
use svcproxy_benches::{Cluster, config, update};
use testbed::Namespace;

const ROUNDS: usize = 7;

fn apply(kernel: &mut NftablesKernel, plan: &Plan, node: &mut NodeState) -> u64 {
    let report = kernel.apply(plan);
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
        let (mut kernel, mut node) = namespace.enter(|| {
            let mut kernel = NftablesKernel::open().unwrap();
            let mut node = kernel.observe().unwrap();
            let plan = Plan::new(&desired, &node, Scope::Full);
            apply(&mut kernel, &plan, &mut node);
            (kernel, node)
        });
        let mut changes = cluster.flapping();
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter_batched(
                || changes.next().unwrap(),
                |change| {
                    let touched = update(&mut store, &mut desired, change);
                    let plan = Plan::new(&desired, &node, Scope::Touched(&touched));
                    let transactions = apply(&mut kernel, &plan, &mut node);
                    assert_eq!(transactions, 1, "a change is one transaction");
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The first sync into an empty namespace, compared with a loop that sends the same transactions,
/// encoded before. Counts the processor's time, the kernel's included, which it spends in the calls of
/// this thread: other load on the machine changes it less than the time that passes.
fn first_sync(_: &mut Criterion) {
    for (services, endpoints) in [(10_000, 3), (5_000, 50)] {
        let cluster = Cluster::new(services, endpoints).unwrap();
        let desired = DesiredState::from_store(config(), &cluster.store());
        let (mut raw, mut svcproxy) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            raw.push(in_fresh_namespace(|| replay(&desired)));
            svcproxy.push(in_fresh_namespace(|| sync(&desired)));
        }
        let raw = raw.into_iter().min_by_key(|raw| raw.total).unwrap();
        let svcproxy = svcproxy.into_iter().min().unwrap();
        println!(
            "nftables, first sync of {services} Services of {endpoints} endpoints: {:.2} of the same \
             {} transactions encoded before, {:.2?} of {:.2?}; the longest took {:.2?}",
            svcproxy.as_secs_f64() / raw.total.as_secs_f64(),
            raw.transactions,
            svcproxy,
            raw.total,
            raw.longest,
        );
    }
}

/// Runs in a namespace without tables.
fn in_fresh_namespace<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    Namespace::new("first").unwrap().enter(run)
}

/// Reads the empty node, plans and applies.
fn sync(desired: &DesiredState) -> Duration {
    let mut kernel = NftablesKernel::open().unwrap();
    let began = processor_time();
    let mut node = kernel.observe().unwrap();
    let plan = Plan::new(desired, &node, Scope::Full);
    apply(&mut kernel, &plan, &mut node);
    processor_time() - began
}

/// What this thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

struct Raw {
    transactions: usize,
    total: Duration,
    longest: Duration,
}

/// Sends the transactions of the first sync one after the other, each after the last one's
/// acknowledgement.
fn replay(desired: &DesiredState) -> Raw {
    let mut kernel = NftablesKernel::open().unwrap();
    let node = kernel.observe().unwrap();
    let datagrams = kernel.datagrams(&Plan::new(desired, &node, Scope::Full));
    let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let mut buffer = Vec::with_capacity(64 * 1024);
    let times: Vec<_> = datagrams
        .iter()
        .map(|datagram| {
            let began = processor_time();
            socket.send(datagram, 0).unwrap();
            buffer.clear();
            socket.recv(&mut buffer, 0).unwrap();
            // After the header (`struct nlmsghdr`).
            let errno = buffer.get(16..20).unwrap().try_into().unwrap();
            let errno = i32::from_ne_bytes(errno);
            assert_eq!(errno, 0, "the kernel acknowledges each transaction");
            processor_time() - began
        })
        .collect();
    Raw {
        transactions: times.len(),
        total: times.iter().sum(),
        longest: times.iter().max().copied().unwrap_or_default(),
    }
}

criterion_group!(benches, one_change, first_sync);
criterion_main!(benches);
