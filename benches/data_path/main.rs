//! What a packet's path costs: instructions of a connection, of a request over TCP and of one over
//! UDP, from pod to cluster IP to pod on one node, and from pod to pod without a Service.
//!
//! `cargo xtask bench data-path` runs it in a VM with one CPU whose clock counts instructions: one
//! instruction is one nanosecond. Elsewhere the figures are times.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod node;
mod traffic;

use std::error::Error;
use std::thread;
use std::time::Duration;

use testbed::Topology;

use node::{CLUSTER_IP, Load, PORT, SERVICE_PORT};
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
    println!("| on the node | connection | TCP | UDP | pod to pod: connection | TCP | UDP |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut rows = Vec::new();
    let files = files(std::env::args());
    let loads = match has("--without-each") {
        true => Load::without_each(),
        false => Load::all(has("--quick"), has("--large"), files),
    };
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
    drop((of_service, of_pod, topology));
    // The kernel removes the namespaces in the background. While the machine is idle, its clock
    // jumps, so this takes no time.
    thread::sleep(Duration::from_secs(5));
    Ok(row)
}

fn print(Row { load, service, pod }: &Row) {
    let service = service.as_ref();
    let service = service.map_or("| | ".to_owned(), ToString::to_string);
    println!("| {load} | {service} | {pod} |");
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
    let Some(whole) = rows.iter().find(|row| row.load == Load::AllParts) else {
        return;
    };
    println!();
    println!("What each chain costs, of all parts of the rules.");
    println!("| chain | connection | TCP | UDP | pod to pod: connection | TCP | UDP |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for row in rows {
        let (Load::Without(chain), Some(with), Some(without)) =
            (&row.load, &whole.service, &row.service)
        else {
            continue;
        };
        let (service, pod) = (with.minus(without), whole.pod.minus(&row.pod));
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
}
