//! iptables mode compared with `iptables-restore` of the same input alone, for both iptables:
//! 10,000 Services of 3 endpoints onto an empty node, one change among them, and an audit without
//! drift compared with `iptables-save` alone. Needs root and both iptables:
//!
//! ```sh
//! cargo bench -p svcproxy-benches --bench iptables_kernel
//! ```
//!
//! The two take turns, in separate network namespaces that go through the same states.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark may end"
)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proxier::Proxier;
use proxier::desired::DesiredState;
use proxier::mode::iptables::{Flavour, Iptables, IptablesKernel};
use proxier::mode::iptables::{Plan, Step};
use proxier::mode::ipvs::plan::Scope;
use proxier::model::Family;
use proxier::store::{Change, Store};
use svcproxy_benches::{Cluster, config};
use testbed::Namespace;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;
const ROUNDS: usize = 5;
/// In each round.
const CHANGES: usize = 10;

/// The times of both, by turn.
#[derive(Default)]
struct Times {
    svcproxy: Vec<Duration>,
    alone: Vec<Duration>,
}

fn main() {
    if let Err(error) = IptablesKernel::with_flavour(Flavour::Nft) {
        println!("skipped: {error}");
        return;
    }
    let cluster = Cluster::new(SERVICES, ENDPOINTS).unwrap();
    println!("{SERVICES} Services of {ENDPOINTS} endpoints, {ROUNDS} rounds");
    println!("| | alone | svcproxy | ratio of medians | ratios of the turns |");
    println!("| --- | --- | --- | --- | --- |");
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        over(flavour, &cluster);
    }
}

fn over(flavour: Flavour, cluster: &Cluster) {
    let [mut first, mut restart, mut change, mut audit] = [(); 4].map(|()| Times::default());
    let (mut plans, mut before) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let [here, there] = [(); 2].map(|()| namespace());
        let kernel = || here.enter(|| IptablesKernel::with_flavour(flavour).unwrap());
        let mut store = Store::default();
        let (changes, start) = (cluster.changes(), Instant::now());
        changes.into_iter().for_each(|change| store.apply(change));
        let desired = DesiredState::from_store(config(), &store);
        before.push(start.elapsed());
        let mut plan = None;
        first.svcproxy.push(timed(&here, || {
            let mut kernel = kernel();
            let mut node = kernel.observe().unwrap();
            let start = Instant::now();
            let new = Plan::new(&desired, &node, Scope::Full);
            plans.push(start.elapsed());
            let report = kernel.apply(&new);
            assert!(report.failures.is_empty(), "{:?}", report.failures);
            node.record(&new, &[]);
            plan = Some(new);
        }));
        first.alone.push(texts(flavour, &there, &plan.unwrap()));

        let mut proxier = Proxier::new(config(), Iptables::new(kernel()));
        let changes = cluster.changes();
        restart.svcproxy.push(timed(&here, || {
            let report = proxier.handle(changes).unwrap().unwrap();
            assert!(report.plan.is_empty(), "{:?}", report.plan);
        }));
        restart.alone.push(saved(flavour, &there));
        for number in 0..CHANGES {
            // A different Service each time.
            let index = (round * CHANGES + number) * 97 % cluster.slices.len();
            let mut slice = cluster.slices[index].clone();
            slice.endpoints = slice.endpoints[1..].into();
            let mut report = None;
            change.svcproxy.push(timed(&here, || {
                report = proxier
                    .handle([Change::EndpointSliceApplied(slice)])
                    .unwrap();
            }));
            let report = report.unwrap();
            assert!(report.is_success(), "{:?}", report.applied.failures);
            change.alone.push(texts(flavour, &there, &report.plan));
        }
        audit.svcproxy.push(timed(&here, || {
            let report = proxier.audit().unwrap().unwrap();
            assert!(report.plan.is_empty(), "{:?}", report.plan);
        }));
        audit.alone.push(saved(flavour, &there));
    }
    first.print(flavour, "first sync");
    let (plan, before) = (median(&plans), median(&before));
    println!("| – of it the plan | | {plan:.2?} | | |");
    println!("| store and desired state, before that | | {before:.2?} | | |");
    restart.print(flavour, "restart, nothing to do");
    change.print(flavour, "one change");
    audit.print(flavour, "audit, nothing to do");
}

fn namespace() -> Namespace {
    let namespace = Namespace::new("iptables").unwrap();
    let add = ["address add 192.0.2.1/32 dev lo", "link set lo up"];
    namespace.ip(&add).unwrap();
    namespace
}

/// iptables-restore alone, with the input from a plan.
fn texts(flavour: Flavour, there: &Namespace, plan: &Plan) -> Duration {
    let texts: Vec<_> = plan
        .steps()
        .iter()
        .filter_map(|step| match step {
            Step::Restore(transaction) => Some((transaction.family, transaction.to_string())),
            _ => None,
        })
        .collect();
    assert!(!texts.is_empty());
    timed(there, || {
        for (family, text) in &texts {
            let program = program(flavour, *family, "restore");
            run(&program, &["--noflush", "-w", "5"], text);
        }
    })
}

/// iptables-save alone.
fn saved(flavour: Flavour, there: &Namespace) -> Duration {
    timed(there, || {
        for family in [Family::V4, Family::V6] {
            run(&program(flavour, family, "save"), &[], "");
        }
    })
}

fn program(flavour: Flavour, family: Family, verb: &str) -> String {
    let base = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let infix = match flavour {
        Flavour::Nft => "nft",
        _ => "legacy",
    };
    format!("{base}-{infix}-{verb}")
}

/// Runs a program in the network namespace of this thread.
fn run(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    let piped = command.args(arguments).stdin(Stdio::piped());
    let mut child = piped.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
}

fn timed(namespace: &Namespace, action: impl FnOnce() + Send) -> Duration {
    namespace.enter(|| {
        let start = Instant::now();
        action();
        start.elapsed()
    })
}

impl Times {
    fn print(&self, flavour: Flavour, what: &str) {
        let mut ratios: Vec<_> = self
            .svcproxy
            .iter()
            .zip(&self.alone)
            .map(|(svcproxy, alone)| svcproxy.as_secs_f64() / alone.as_secs_f64())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let (svcproxy, alone) = (median(&self.svcproxy), median(&self.alone));
        println!(
            "| {flavour}: {what} | {alone:.2?} | {svcproxy:.2?} | {:.2} | {:.2} to {:.2}, the middle one {:.2} |",
            svcproxy.as_secs_f64() / alone.as_secs_f64(),
            ratios[0],
            ratios[ratios.len() - 1],
            ratios[ratios.len() / 2],
        );
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}
