//! A storm of changes with traffic: nothing starves, nothing fails, nothing grows. A burst of changes
//! costs few syncs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::{ApiServer, Behaviour, Resource, eventually};

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE};
use crate::ports::WEB;

/// How long the storm takes, in seconds; the long form is for figures.
const VARIABLE: &str = "SVCPROXY_STRESS_SECONDS";
const SECONDS: u64 = 4;
/// A change every 2 ms.
const PAUSE: Duration = Duration::from_millis(2);
/// The most changes without a look at the time.
const AT_ONCE: usize = 50;
const SERVICES: usize = 100;

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
                 "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

fn slice(name: &str, endpoints: &[String]) -> Value {
    let endpoint =
        |address: &String| json!({"addresses": [address], "conditions": {"ready": true}});
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-1"), "namespace": "default",
                     "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// The endpoints of a Service after so many of its changes: each change removes one, adds one and
/// keeps one.
fn endpoints(changes: usize) -> [String; 2] {
    [changes, changes + 1].map(|n| format!("10.244.3.{}", n % 250 + 1))
}

/// The sum of a metric's values.
fn metric(lab: &Lab, name: &str) -> f64 {
    let text = lab.node().enter(|| {
        let mut stream = TcpStream::connect("127.0.0.1:10249").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

const AUDITS: &str = "svcproxy_audits_total";
/// In seconds; on an emulated machine, an audit of the 101 Services takes more than one.
const AUDIT_INTERVAL: u64 = 5;
const DRAINING: &str = "svcproxy_real_servers{state=\"draining\"}";
const MEMORY: &str = "process_resident_memory_bytes";

#[test]
#[ignore = "kernel: needs IPVS"]
fn five_hundred_changes_a_second_starve_and_cost_nothing() {
    let seconds = std::env::var(VARIABLE).map_or(SECONDS, |text| text.parse().unwrap());
    let lab = Lab::new("stress", &[WEB]);
    let server = lab
        .node()
        .enter(|| ApiServer::start(Behaviour::default()).unwrap());
    let web: Vec<_> = WEB
        .backends()
        .map(|backend| backend.ip().to_string())
        .collect();
    server.put(
        Resource::Nodes,
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}),
    );
    server.put(Resource::Services, service("web", "10.96.0.80"));
    server.put(Resource::EndpointSlices, slice("web", &web));
    let names: Vec<_> = (0..SERVICES).map(|n| format!("s{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        server.put(
            Resource::Services,
            service(name, &format!("10.96.1.{}", n + 1)),
        );
        server.put(Resource::EndpointSlices, slice(name, &endpoints(0)));
    }
    let audit_interval = format!("--audit-interval={AUDIT_INTERVAL}s");
    let mut command = lab.svcproxy(&["--mode=ipvs", "--log-format=json", &audit_interval]);
    let settings = lab.settings();
    command.args(
        settings
            .iter()
            .filter(|flag| !flag.starts_with("--manifests")),
    );
    let svcproxy = Follower::start(command.arg(format!("--master={}", server.url())));
    svcproxy.wait("a sync", |event| event["message"] == "synced");

    let (mut changes, mut most_draining, mut warm) = (0, 0.0_f64, None);
    let audits_before = metric(&lab, AUDITS);
    let start = Instant::now();
    let end = Duration::from_secs(seconds);
    // One of the endpoints with traffic leaves and comes back all the time, gracefully.
    lab.undisturbed(lab.probe(), &WEB, || {
        let mut next_look = Duration::ZERO;
        // Starved, audits would never come. A machine under load is late with some.
        let wanted = (seconds / AUDIT_INTERVAL / 2).max(1) as f64;
        let audited = || metric(&lab, AUDITS) - audits_before >= wanted;
        while start.elapsed() < end || !audited() {
            assert!(start.elapsed() < end + PATIENCE, "audits starve");
            // Late changes come at once, so that the rate is kept; but a machine that cannot keep it
            // would only fall behind further.
            let due = usize::try_from(start.elapsed().as_micros() / PAUSE.as_micros()).unwrap();
            let due = due.min(changes + AT_ONCE);
            while changes < due {
                let name = &names[changes % SERVICES];
                let changed = endpoints(changes / SERVICES + 1);
                server.put(Resource::EndpointSlices, slice(name, &changed));
                if changes.is_multiple_of(250) {
                    let count = if changes.is_multiple_of(500) { 2 } else { 3 };
                    server.put(Resource::EndpointSlices, slice("web", &web[..count]));
                }
                changes += 1;
            }
            if start.elapsed() >= next_look {
                most_draining = most_draining.max(metric(&lab, DRAINING));
                if start.elapsed() > end / 4 {
                    warm.get_or_insert_with(|| metric(&lab, MEMORY));
                }
                next_look += Duration::from_millis(500);
            }
            thread::sleep(PAUSE);
        }
    });
    let seconds = start.elapsed().as_secs();
    let audits = metric(&lab, AUDITS) - audits_before;
    let full = "kubeproxy_sync_full_proxy_rules_duration_seconds";
    let [sum, count] =
        ["sum", "count"].map(|what| metric(&lab, &format!("{full}_{what}{{ip_family=\"IPv4\"}}")));
    let (warm, memory) = (warm.unwrap(), metric(&lab, MEMORY));
    println!(
        "{changes} changes in {seconds} s, {audits} audits of {:.2} s on average, at most \
         {most_draining} real servers draining, memory {} KiB after a quarter and {} KiB at the end",
        sum / count,
        warm / 1024.0,
        memory / 1024.0
    );
    // Otherwise its endpoint drains for as long as the kernel remembers closed connections.
    server.put(Resource::EndpointSlices, slice("web", &web));
    let drained = || match metric(&lab, DRAINING) {
        0.0 => Ok(()),
        left => Err(left),
    };
    // A machine under load is still behind with the changes.
    eventually(4 * PATIENCE, drained).unwrap();
    let log = svcproxy.terminate();
    let failed = |event: &&Value| event["level"] == "ERROR" || event["failed"].as_u64() > Some(0);
    let failed: Vec<_> = log.iter().filter(failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // Each change removed an endpoint. Starved, they would all be there.
    assert!(
        most_draining * 2.0 < changes as f64,
        "{most_draining} of {changes}"
    );
    assert!(memory < 1.5 * warm, "{warm} and then {memory} bytes");
}

/// The number of Services in a burst, each of which changes once.
const BURST: usize = 1_000;
const PENDING: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
const SYNCS: &str = "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
const CPU: &str = "process_cpu_seconds_total";

#[test]
#[ignore = "kernel: needs IPVS"]
fn a_burst_of_changes_costs_syncs_by_its_length() {
    let lab = Lab::new("burst", &[]);
    let server = lab
        .node()
        .enter(|| ApiServer::start(Behaviour::default()).unwrap());
    server.put(
        Resource::Nodes,
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}),
    );
    for n in 0..BURST {
        let (name, address) = (
            format!("s{n}"),
            format!("10.96.{}.{}", n / 250 + 1, n % 250 + 1),
        );
        server.put(Resource::Services, service(&name, &address));
        server.put(Resource::EndpointSlices, slice(&name, &endpoints(0)));
    }
    let mut command = lab.svcproxy(&["--mode=ipvs", "--log-format=json", "--audit-interval=1h"]);
    let settings = lab.settings();
    let settings = settings.iter();
    command.args(settings.filter(|flag| !flag.starts_with("--manifests")));
    let svcproxy = Follower::start(command.arg(format!("--master={}", server.url())));
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    let real_servers = |endpoint: &str| {
        let all = lab.ipvsadm();
        all.iter().filter(|line| line.contains(endpoint)).count()
    };
    eventually(PATIENCE, || match real_servers("10.244.3.2:8080") {
        BURST => Ok(()),
        other => Err(other),
    })
    .unwrap();
    let started = metric(&lab, CPU);
    println!("{started} s of CPU for the start");
    for pause in [Duration::ZERO, Duration::from_millis(5)] {
        let (syncs, cpu) = (metric(&lab, SYNCS), metric(&lab, CPU));
        let round = if pause.is_zero() { 1 } else { 2 };
        let begun = Instant::now();
        for n in 0..BURST {
            let name = format!("s{n}");
            server.put(Resource::EndpointSlices, slice(&name, &endpoints(round)));
            thread::sleep(pause);
        }
        let new = format!("10.244.3.{}:8080", round + 2);
        let all = || match (real_servers(&new), metric(&lab, PENDING)) {
            (BURST, 0.0) => Ok(()),
            other => Err(other),
        };
        eventually(PATIENCE, all).unwrap();
        let took = begun.elapsed();
        let (syncs, cpu) = (metric(&lab, SYNCS) - syncs, metric(&lab, CPU) - cpu);
        println!("{BURST} changes in {took:?}: {syncs} syncs, {cpu:.2} s of CPU");
        // Ten at once, a few while the pause grows, and then one each 0.1 s.
        let most = 16 + took.as_millis() / 100;
        assert!(syncs <= most as f64, "{syncs} in {took:?}");
    }
    svcproxy.terminate();
}
