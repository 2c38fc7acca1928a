//! The cost of a large cluster: memory, CPU time until everything is in effect, the latency of one
//! change, and the syncs of a burst of changes.
//!
//! ```text
//! cargo run --release -p svcproxy-proxier --features kube,testing --example kube_load -- \
//!     [SERVICES] [ENDPOINTS] [streamed|paged] [fake|none] [BURST]
//! ```
//!
//! A fake API server in a separate process serves Services with one slice each. `fake` uses an
//! in-memory kernel, whose memory counts; `none` accepts everything. Times are multiples of those
//! of a bare client, which reads the same bytes over one connection and only finds the ends of the
//! JSON.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "an example"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use ipvs::{RealServer, RealServerKey, VirtualServerKey};
use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::plan::{NodeState, Plan};
use proxier::mode::ipvs::{FakeNode, Ipvs, Kernel};
use proxier::mode::{ApplyReport, NodeError};
use proxier::reconcile::{self, Cause, Event, Intervals, Observed};
use proxier::source::Reading;
use proxier::source::kube::{Access, KubeSource, Timing};
use serde_json::json;
use testbed::{ApiServer, Behaviour, Resource};

const CHANGES: usize = 200;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |index: usize, default: &str| {
        arguments
            .get(index)
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    };
    let (services, endpoints) = (argument(0, "10000"), argument(1, "3"));
    if services == "serve" {
        return serve(&arguments[1..]);
    }
    let (lists, kernel) = (argument(2, "streamed"), argument(3, "fake"));
    let burst: usize = argument(4, "1000").parse().unwrap();
    let mut server = Server::start(&services, &endpoints, &lists);
    let cpu = cpu_ticks();
    server.read_all_barely();
    let bare_cpu = cpu_ticks() - cpu;
    println!("{services} Services, {endpoints} endpoints each, lists {lists}, kernel {kernel}");
    let before = status("VmRSS");
    match kernel.as_str() {
        "fake" => follow(
            &mut server,
            FakeNode::default().kernel().unwrap(),
            bare_cpu,
            before,
            burst,
        ),
        _ => follow(&mut server, NoKernel, bare_cpu, before, burst),
    }
}

fn follow(server: &mut Server, kernel: impl Kernel, bare_cpu: u64, before: u64, burst_of: usize) {
    let mut config = Config::new("node-a", vec!["192.0.2.7".parse().unwrap()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(kernel));
    let (deliver, readings) = channel();
    let mut access = Access::default();
    access.server = Some(server.url.clone());
    let cpu = cpu_ticks();
    let source = KubeSource::start(
        &proxier::Runtime::start().unwrap(),
        access,
        Timing::default(),
        "node-a",
        move |reading| {
            let _ = deliver.send(reading);
        },
    );
    let _source = source.unwrap();
    while !apply(&mut proxier, &readings) {}
    let synced_cpu = cpu_ticks() - cpu;
    let peak = status("VmHWM");
    thread::sleep(Duration::from_secs(2));
    println!(
        "frontends in force: {}",
        proxier.desired().frontends().count()
    );
    println!(
        "memory before: {before} kB, peak: {peak} kB, at rest: {} kB",
        status("VmRSS")
    );
    println!(
        "processor time until in force: {:.1} times the bare client's",
        synced_cpu as f64 / bare_cpu.max(1) as f64
    );
    let mut bare = server.watch_barely();
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        let begun = Instant::now();
        server.change();
        let bare = {
            let mut line = String::new();
            while !line.contains("MODIFIED") {
                line.clear();
                bare.read_line(&mut line).unwrap();
            }
            begun.elapsed()
        };
        apply(&mut proxier, &readings);
        times.0.push(bare);
        times.1.push(begun.elapsed());
    }
    times.0.sort();
    times.1.sort();
    let median = |times: &[Duration]| times[times.len() / 2].as_secs_f64();
    println!(
        "one change until in force: {:.2} times until a bare client has its event (medians of {CHANGES})",
        median(&times.1) / median(&times.0)
    );
    println!("memory after {CHANGES} changes: {} kB", status("VmRSS"));
    burst(server, proxier, readings, burst_of);
}

/// Makes changes as fast as the server can, and counts the syncs of the loop.
fn burst(
    server: &mut Server,
    mut proxier: Proxier<Ipvs<impl Kernel>>,
    readings: Receiver<Reading>,
    count: usize,
) {
    let (sender, events) = channel();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    thread::spawn(move || {
        for reading in readings {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = sender.send(Event::Changes(reading.changes));
        }
    });
    let (cpu, begun) = (cpu_ticks(), Instant::now());
    for _ in 0..count {
        server.change();
    }
    let (mut syncs, mut steps) = (0, 0);
    // The first sync reads the node, as a start does, unless the state is known.
    let mut intervals = Intervals::default();
    let _ = reconcile::run(&mut proxier, &events, &mut intervals, |_, observed| {
        if let Observed::Round(round) = observed {
            syncs += usize::from(round.cause == Cause::Changes);
            steps += round.result.map_or(0, |report| report.plan.steps().len());
        }
        match sent.load(Ordering::SeqCst) < count {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    println!(
        "a burst of {count} changes: {syncs} syncs, {steps} steps in {} ms, {} ms of processor time",
        begun.elapsed().as_millis(),
        (cpu_ticks() - cpu) * 10
    );
}

/// Applies the next reading. Returns whether it is in effect.
fn apply(proxier: &mut Proxier<Ipvs<impl Kernel>>, readings: &Receiver<Reading>) -> bool {
    let reading = readings.recv().unwrap();
    let report = proxier.handle(reading.changes).unwrap();
    report.is_some_and(|report| report.is_success())
}

/// A field of `/proc/self/status` in kB.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of this process, in ticks.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A kernel that takes all steps and keeps nothing.
struct NoKernel;

impl Kernel for NoKernel {
    fn outline(&mut self) -> Result<NodeState, NodeError> {
        Ok(NodeState::default())
    }

    fn real_servers(&mut self, _: &VirtualServerKey) -> Result<Option<Vec<RealServer>>, NodeError> {
        Ok(None)
    }

    fn apply(&mut self, _: &Plan) -> ApplyReport {
        ApplyReport::default()
    }

    fn connections(
        &mut self,
        _: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, NodeError> {
        Ok(HashMap::new())
    }

    fn remove_ruleset(&mut self) -> Result<(), NodeError> {
        Ok(())
    }
}

struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    url: String,
}

impl Server {
    fn start(services: &str, endpoints: &str, lists: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["serve", services, endpoints, lists])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        output.read_line(&mut url).unwrap();
        Self {
            child,
            input,
            output,
            url: url.trim_end().to_owned(),
        }
    }

    fn change(&mut self) {
        writeln!(self.input, "change").unwrap();
    }

    fn ask(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: server\r\n\r\n").unwrap();
        BufReader::new(stream)
    }

    fn watch_barely(&self) -> BufReader<TcpStream> {
        let path = "/apis/discovery.k8s.io/v1/endpointslices?watch=true&resourceVersion=1000000";
        let mut answer = self.ask(path);
        // A watch that has begun misses nothing.
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            answer.read_line(&mut line).unwrap();
        }
        answer
    }

    /// Reads and parses a list without keeping anything.
    fn read_all_barely(&self) {
        for path in [
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/endpointslices",
        ] {
            let mut answer = self.ask(&format!("{path}?x=y"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                answer.read_line(&mut line).unwrap();
                if let Some(text) = line.strip_prefix("Content-Length: ") {
                    length = text.trim_end().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = Vec::new();
            answer.take(length).read_to_end(&mut body).unwrap();
            let _: serde::de::IgnoredAny = serde_json::from_slice(&body).unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.output.read_to_string(&mut String::new());
    }
}

fn serve(arguments: &[String]) {
    let (services, endpoints) = (arguments[0].parse().unwrap(), arguments[1].parse().unwrap());
    let behaviour = Behaviour {
        streams_lists: arguments[2] == "streamed",
        ..Behaviour::default()
    };
    let server = ApiServer::start(behaviour).unwrap();
    server.put(Resource::Nodes, json!({"metadata": {"name": "node-a"}}));
    for number in 0..services {
        server.put(Resource::Services, service(number));
        server.put(Resource::EndpointSlices, slice(number, endpoints, 0));
    }
    println!("{}", server.url());
    for (change, _) in (0u32..).zip(std::io::stdin().lines()) {
        let number = change % services;
        server.put(
            Resource::EndpointSlices,
            slice(number, endpoints, 1 + change),
        );
    }
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

/// A Service as `kubectl apply` and the API server write it.
fn service(number: u32) -> serde_json::Value {
    let name = name(number);
    let address = format!(
        "10.{}.{}.{}",
        96 + number / 65_000,
        number / 250 % 250,
        1 + number % 250
    );
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": format!("team-{}", number % 100),
            "uid": format!("c7a3b5a0-0d2c-4bb1-9c1c-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": name},
            "managedFields": [{
                "manager": "helm", "operation": "Update", "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {
                    "f:internalTrafficPolicy": {}, "f:selector": {},
                    "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                }},
            }],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// A slice as the control plane's controller writes it; `version` determines one endpoint's
/// address.
fn slice(number: u32, endpoints: u32, version: u32) -> serde_json::Value {
    let name = name(number);
    let endpoint = |index: u32| {
        let host = number * endpoints + index;
        let last = if index == 0 { version } else { 0 };
        json!({
            "addresses": [format!("10.{}.{}.{}", 128 + host / 62_500 + last % 50, host / 250 % 250, 1 + host % 250)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{:04}", host % 1000), "zone": format!("zone-{}", host % 3),
            "targetRef": {
                "kind": "Pod", "namespace": format!("team-{}", number % 100),
                "name": format!("{name}-7d4b9c6f5-{host:05}"),
                "uid": format!("1d9ae3b4-52f4-4f0e-8d3c-{host:012}"),
            },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-x7k2p"), "generateName": format!("{name}-"),
            "namespace": format!("team-{}", number % 100),
            "uid": format!("9f3c8a11-6d5e-4b7a-8a4f-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "controller": true,
                "uid": format!("c7a3b5a0-0d2c-4bb1-9c1c-{number:012}"),
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}
