//! The demo, act by act.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testbed::{AskError, Client, Protocol};

use super::cluster::{Cluster, VipPort};
use super::traffic::{Tally, Traffic};
use crate::running::Running;

/// The example that is scaled.
const WEB: &str = "default/web";
const WEB_MANIFEST: &str = "web.yaml";

/// A port that the Service does not have.
const UNUSED_PORT: u16 = 81;

/// The Service's pods; the manifest has the first three.
const REPLICAS: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 244, 1, 10),
    Ipv4Addr::new(10, 244, 1, 11),
    Ipv4Addr::new(10, 244, 2, 10),
    Ipv4Addr::new(10, 244, 1, 12),
    Ipv4Addr::new(10, 244, 2, 11),
    Ipv4Addr::new(10, 244, 2, 12),
];

/// Number of requests of each client to each port of a Service's address.
const REQUESTS: usize = 6;

/// Number of requests that show how the traffic is spread.
const SHOWN: usize = 60;

/// How long a change of the manifest may take to have an effect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo; fails if any request failed.
pub(super) fn run(svcproxy: &Path) -> Result<ExitCode> {
    let mut total = Tally::default();

    heading("A cluster on one machine");
    let cluster = Cluster::new(svcproxy, &REPLICAS)?;
    let pods: usize = cluster
        .topology
        .nodes
        .iter()
        .map(|node| node.pods.len())
        .sum();
    println!(
        "Two nodes, {pods} pods and a client outside the cluster, each in a network namespace of\n\
         its own. Every pod is an endpoint of examples/ and answers with its address."
    );

    heading("svcproxy on the first node");
    println!("$ {}", cluster.command_line());
    let proxy = cluster.start()?;
    println!("It has read the manifests and programmed the kernel.");

    heading("Requests to every Service");
    println!("{REQUESTS} each from outside, from the node and from a pod. Who answered:\n");
    for vip in &cluster.vip_ports {
        let tally = everyone_asks(&cluster, vip)?;
        let address = format!("{} {}", vip.address(), vip.protocol);
        let sticky = if vip.is_sticky() {
            "  (each client stays with one)"
        } else {
            ""
        };
        println!("{:<20} {address:<24} {}{sticky}", vip.service, tally.line());
        total.add(tally);
    }

    let web = cluster.vip_ports.iter().find(|vip| vip.service == WEB);
    let web = web
        .with_context(|| format!("the examples have no Service {WEB}"))?
        .address();
    nobody_answers(&cluster, (web.ip(), UNUSED_PORT).into())?;

    heading(&format!("Scaling {WEB} while requests flow"));
    println!("The client outside asks {web} all the time; {WEB_MANIFEST} is edited meanwhile.\n");
    let (outcome, tally) = Traffic::during(&cluster.topology.client, web, |traffic| {
        [3, 6, 1, 3]
            .iter()
            .try_for_each(|&replicas| scale(&cluster, traffic, replicas))
    });
    total.add(tally);
    outcome?;

    heading("kill -9, and a new start, while requests flow");
    let (outcome, tally) = Traffic::during(&cluster.topology.client, web, |traffic| {
        restart(&cluster, proxy, traffic, web)
    });
    total.add(tally);
    let _proxy = outcome?;

    heading("$ svcproxy status");
    print!("{}", cluster.status()?);

    println!();
    println!(
        "{} requests, {} failed",
        total.requests(),
        total.failures.len()
    );
    for failure in &total.failures {
        println!("FAILED {failure}");
    }
    Ok(if total.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Sends requests to one port of one Service from all clients. An answer from another Service is a
/// failure; with session affinity, so is an answer from a second backend.
fn everyone_asks(cluster: &Cluster, vip: &VipPort) -> Result<Tally> {
    let topology = &cluster.topology;
    let node = topology.node();
    let pod = node.pods.first().context("the first node has no pod")?;
    let mut tally = Tally::default();
    for from in [&topology.client, &node.host, pod] {
        let mut own = Tally::default();
        for _ in 0..REQUESTS {
            own.ask(from, vip.protocol()?, vip.address());
        }
        if vip.is_sticky() {
            own.expect(&own.answers.keys().take(1).cloned().collect());
        }
        tally.add(own);
    }
    tally.expect(&vip.backends());
    Ok(tally)
}

/// Checks that an unused port is refused, and that the address still answers a ping.
fn nobody_answers(cluster: &Cluster, unused: SocketAddr) -> Result<()> {
    let client = &cluster.topology.client;
    match testbed::ask(client, Protocol::Tcp, unused) {
        Err(AskError::Refused) => {}
        other => bail!("{unused} should have refused, but: {other:?}"),
    }
    testbed::ping(client, unused.ip()).with_context(|| format!("no ping from {}", unused.ip()))?;
    println!(
        "\n{unused} is no Service's and refuses; {} answers a ping.",
        unused.ip()
    );
    Ok(())
}

/// Scales the Service, and shows which endpoints answer as soon as only its replicas do.
fn scale(cluster: &Cluster, traffic: &Traffic, replicas: usize) -> Result<()> {
    let replicas: Vec<_> = REPLICAS.into_iter().take(replicas).collect();
    let wanted: BTreeSet<_> = replicas.iter().map(ToString::to_string).collect();
    cluster.edit(WEB_MANIFEST, |manifest| with_endpoints(manifest, &replicas))?;
    let start = Instant::now();
    loop {
        if traffic.next(4 * wanted.len()).answers.keys().eq(&wanted) {
            break;
        }
        if start.elapsed() > PATIENCE {
            bail!("{} replicas do not all answer", wanted.len());
        }
    }
    let tally = traffic.next(SHOWN);
    let noun = if wanted.len() == 1 {
        "replica: "
    } else {
        "replicas:"
    };
    println!("{} {noun} {}", wanted.len(), tally.line());
    if !tally.answers.keys().eq(&wanted) {
        bail!("others than the {} replicas answered", wanted.len());
    }
    Ok(())
}

/// The manifest with these endpoints instead of its own.
fn with_endpoints(manifest: &str, replicas: &[Ipv4Addr]) -> String {
    let head = manifest.split("\nendpoints:").next().unwrap_or(manifest);
    let mut text = format!("{head}\nendpoints:\n");
    for address in replicas {
        text += &format!("- addresses: [{address}]\n");
    }
    text
}

/// Shows that the data plane works without svcproxy, and that connections survive a restart.
fn restart(
    cluster: &Cluster,
    proxy: Running,
    traffic: &Traffic,
    web: SocketAddr,
) -> Result<Running> {
    let client = &cluster.topology.client;
    let mut connection = Client::new(Protocol::Tcp, web).connect(client)?;
    let first = connection.ask()?;
    proxy.kill()?;
    let without = traffic.next(SHOWN);
    println!("without svcproxy: {}", without.line());
    let proxy = cluster.start()?;
    let with = traffic.next(SHOWN);
    println!("started again:    {}", with.line());
    let last = connection.ask()?;
    if first != last {
        bail!(
            "a connection opened before had {} answer, now {}",
            first.backend,
            last.backend
        );
    }
    println!(
        "A connection opened before the kill is still answered by {}.",
        last.backend
    );
    Ok(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_has_the_replicas_of_the_demo() {
        let path = crate::paths::workspace()
            .join("examples")
            .join(WEB_MANIFEST);
        let manifest = std::fs::read_to_string(path).unwrap();
        for replica in &REPLICAS[..3] {
            assert!(manifest.contains(&format!("[{replica}]")), "{replica}");
        }
        let scaled = with_endpoints(&manifest, &REPLICAS[5..]);
        assert!(scaled.ends_with("endpoints:\n- addresses: [10.244.2.12]\n"));
        assert_eq!(scaled.matches("- addresses").count(), 1);
        assert!(scaled.contains("kind: EndpointSlice"));
    }
}
