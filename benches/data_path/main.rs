//! What a packet's path costs: instructions of a connection, of a request over TCP and of one over
//! UDP, from pod to cluster IP to pod on one node, and from pod to pod without a Service. With
//! `--paths`, from outside to a node port and to an external IP, and from a pod with session affinity.
//!
//! `cargo xtask bench data-path` runs it in a VM with one CPU whose clock counts instructions: one
//! instruction is one nanosecond. Elsewhere the figures are times.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod cluster;
mod node;
mod paths;
mod traffic;

use std::error::Error;
use std::thread;
use std::time::Duration;

use testbed::Topology;

use cluster::{CLUSTER_IP, PORT, SERVICE_PORT};
use node::Load;
use traffic::{Cost, Server};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The pod's port for clients without a Service.
const POD_PORT: u16 = 9090;

/// One row of the table.
struct Row {
    load: Load,
    /// To the cluster IP; `None` if nothing serves it.
    service: Option<Cost>,
    /// To the pod's own address.
    pod: Cost,
}

fn main() -> Result<()> {
    if let Err(error) = ipvs::Client::open() {
        println!("skipped: {error}");
        return Ok(());
    }
    let has = |flag| std::env::args().any(|argument| argument == flag);
    println!("Thousands of instructions; client, node and server together.");
    if has("--paths") {
        return paths::measure();
    }
    println!("| on the node | connection | TCP | UDP | pod to pod: connection | TCP | UDP |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut rows = Vec::new();
    let files = files(std::env::args());
    let mut loads = match has("--without-each") {
        true => Load::without_each(),
        false => Load::all(has("--quick"), has("--large"), files),
    };
    if let Some(part) = value_of("--only") {
        loads.retain(|load| load.to_string().contains(&part));
    }
    for load in loads {
        let row = row(load)?;
        print(&row);
        rows.push(row);
    }
    ratios(&rows);
    prices(&rows);
    Ok(())
}

fn row(load: Load) -> Result<Row> {
    let topology = Topology::new("path", &[2])?;
    let node = topology.node();
    let [client, pod] = node.pods.as_slice() else {
        return Err("the node has not two pods".into());
    };
    load.apply(&node.host, pod.v4)?;
    // On ports of their own: without translation, connection tracking drops a connection to a
    // Service if the client has another one from the same port to the same endpoint.
    let start = |port| Server::start(pod, (pod.v4, port).into());
    let (of_service, of_pod) = (start(SERVICE_PORT)?, start(POD_PORT)?);
    let service = load
        .serves()
        .then(|| client.enter(|| of_service.cost((CLUSTER_IP, PORT).into())));
    let row = Row {
        load,
        service: service.transpose()?,
        pod: client.enter(|| of_pod.cost((pod.v4, POD_PORT).into()))?,
    };
    drop((of_service, of_pod));
    remove(topology);
    Ok(row)
}

/// Waits until the kernel has removed the namespaces, which it does in the background. While the
/// machine is idle, its clock jumps, so this takes no time.
fn remove(topology: Topology) {
    drop(topology);
    thread::sleep(Duration::from_secs(5));
}

fn print(Row { load, service, pod }: &Row) {
    let service = service.as_ref();
    let service = service.map_or("| | ".to_owned(), ToString::to_string);
    println!("| {load} | {service} | {pod} |");
}

/// What follows a flag.
fn value_of(wanted: &str) -> Option<String> {
    std::env::args().skip_while(|flag| flag != wanted).nth(1)
}

/// The values of `--patch` and `--dump`.
fn files(arguments: impl Iterator<Item = String>) -> Vec<Load> {
    let arguments: Vec<_> = arguments.collect();
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    let files = pairs.filter_map(|(flag, path)| match flag.as_str() {
        "--patch" => Some(Load::Patched(path.into())),
        "--dump" => Some(Load::Dump(path.into())),
        _ => None,
    });
    files.collect()
}

/// What each chain costs: the whole without what is left if it is missing.
fn prices(rows: &[Row]) {
    let chains = rows.iter().filter_map(|row| {
        let (whole, chain) = row.load.lacks()?;
        let whole = rows.iter().find(|row| row.load == whole)?;
        Some((row, whole, chain))
    });
    let mut titled = None;
    for (without, whole, chain) in chains {
        if titled != Some(&whole.load) {
            println!();
            println!("What each chain costs: {}.", whole.load);
            println!("| chain | connection | TCP | UDP | pod to pod: connection | TCP | UDP |");
            println!("| --- | --- | --- | --- | --- | --- | --- |");
            titled = Some(&whole.load);
        }
        let (Some(with), Some(left)) = (&whole.service, &without.service) else {
            continue;
        };
        let (service, pod) = (with.minus(left), whole.pod.minus(&without.pod));
        println!("| `{chain}` | {service} | {pod} |");
    }
}

/// The ratios of whole proxies to their references.
fn ratios(rows: &[Row]) {
    let find = |wanted: &Load| rows.iter().find(|row| row.load == *wanted);
    let Some((bare, alone)) = find(&Load::IpvsConntrack)
        .and_then(|row| row.service.as_ref())
        .zip(find(&Load::Conntrack).map(|row| &row.pod))
    else {
        return;
    };
    println!();
    println!("Ratios: to a cluster IP, to IPVS + conntrack; pod to pod, to conntrack alone.");
    println!("| on the node | connection | TCP | UDP | pod to pod: connection | TCP | UDP |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for Row { load, service, pod } in rows.iter().filter(|row| row.load.is_proxy()) {
        if let Some(service) = service {
            println!(
                "| {load} | {:.2} | {:.2} |",
                service.ratio(bare),
                pod.ratio(alone)
            );
        }
    }
    for (name, load) in Load::MODES {
        let Some(Row { service, pod, .. }) = find(&load) else {
            continue;
        };
        let service = service.as_ref().map(|service| service.ratio(bare));
        let service = service.into_iter().map(|ratio| ("path", ratio));
        for (way, ratio) in service.chain([("pods", pod.ratio(alone))]) {
            for (what, value) in ratio.named() {
                println!("goal {way}-{name}-{what} {value:.3}");
            }
        }
    }
}
