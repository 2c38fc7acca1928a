//! Many Services, steady changes, connections at load, and an API server that restarts, for long:
//! nothing grows, and no request fails.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::{ApiServer, Behaviour, Host, Protocol, Resource};

use crate::follower::Follower;
use crate::lab::{Lab, Stop, client};
use crate::node::{Mode, PROGRAM};
use crate::options::{MINUTES, Random, number, seed};
use crate::ports::SHOP;
use crate::shop::{FIRST, SECOND, THIRD};

/// A change every 50 ms.
const PAUSE: Duration = Duration::from_millis(50);
/// Changes after which an endpoint with traffic goes or comes.
const ENDPOINT_EVERY: usize = 100;
const CONNECTIONS: usize = 50;
/// Between two requests of a connection.
const THINK: Duration = Duration::from_millis(100);
const REQUESTS: usize = 20;
/// How long the API server is away at a restart.
const AWAY: Duration = Duration::from_secs(3);

/// What differs between the short and the long form.
struct Size {
    services: usize,
    duration: Duration,
    restart_every: Duration,
}

impl Size {
    fn of_this_run() -> Self {
        let minutes = number::<u64>(MINUTES).map(|minutes| Duration::from_secs(minutes * 60));
        match minutes {
            Some(duration) => Self {
                services: 1_000,
                duration,
                restart_every: Duration::from_secs(300).min(duration / 4),
            },
            None => Self {
                services: 50,
                duration: Duration::from_secs(8),
                restart_every: Duration::from_secs(3),
            },
        }
    }
}

fn address(n: usize) -> String {
    format!("10.97.{}.{}", n / 250, n % 250 + 1)
}

fn service(name: &str, address: &str, more: &Value) -> Value {
    let mut spec = json!({
        "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": {"name": name, "namespace": "default"},
    })
}

fn slice(name: &str, endpoints: &[&str]) -> Value {
    let endpoint = |address: &&str| {
        let node = if *address == THIRD {
            "node-b"
        } else {
            "node-a"
        };
        json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-1"), "namespace": "default",
                     "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The Service with traffic.
fn shop(server: &ApiServer) {
    let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30090}]);
    let mut object = service(
        "shop",
        "10.96.0.90",
        &json!({"type": "LoadBalancer", "ports": ports}),
    );
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.90"}]}});
    server.put(Resource::Services, object);
    server.put(
        Resource::EndpointSlices,
        slice("shop", &[FIRST, SECOND, THIRD]),
    );
}

/// What svcproxy uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    memory_kib: u64,
    descriptors: usize,
    threads: u64,
}

impl Usage {
    fn of(svcproxy: &Follower) -> Self {
        let id = svcproxy.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.unwrap().parse().unwrap()
        };
        Self {
            memory_kib: number("VmRSS:"),
            descriptors: fs::read_dir(format!("/proc/{id}/fd")).unwrap().count(),
            threads: number("Threads:"),
        }
    }

    fn print(self, at: Duration, changes: usize, asked: usize, failed: usize) {
        println!(
            "| {} | {} | {} | {} | {changes} | {asked} | {failed} |",
            at.as_secs(),
            self.memory_kib,
            self.descriptors,
            self.threads
        );
    }
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    asked: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// Opens connections, and sends requests over each.
fn load(from: &Host, to: SocketAddr, stopped: &AtomicBool, seen: &Seen) {
    while !stopped.load(Ordering::Relaxed) {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            let failure = format!("{} to {to}: {what}: {error}", from.name());
            seen.failed.lock().unwrap().push(failure);
        };
        let to = client(Protocol::Tcp, to).timeout(Duration::from_secs(10));
        let mut open = match to.connect(from) {
            Ok(open) => open,
            Err(error) => {
                failed("connect", &error);
                continue;
            }
        };
        for _ in 0..REQUESTS {
            seen.asked.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = open.ask() {
                failed("ask", &error);
                break;
            }
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(THINK);
        }
    }
}

/// Changes that come one after the other.
struct Changes<'a> {
    server: &'a ApiServer,
    random: Random,
    services: usize,
    count: usize,
    /// Services that were deleted, and come back.
    deleted: BTreeSet<usize>,
}

impl Changes<'_> {
    fn next(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(ENDPOINT_EVERY) {
            // Its connections go on; new ones go elsewhere.
            let all = [FIRST, SECOND, THIRD];
            let some = if self.count.is_multiple_of(2 * ENDPOINT_EVERY) {
                3
            } else {
                2
            };
            let slice = slice("shop", &all[..some]);
            self.server.put(Resource::EndpointSlices, slice);
            return;
        }
        let limit = u64::try_from(self.services).unwrap();
        let n = usize::try_from(self.random.below(limit)).unwrap();
        let name = format!("s{n}");
        if self.deleted.remove(&n) {
            let service = service(&name, &address(n), &Value::Null);
            self.server.put(Resource::Services, service);
        } else if self.random.below(10) == 0 {
            let full_name = format!("default/{name}");
            self.server.delete(Resource::Services, &full_name);
            self.deleted.insert(n);
        } else {
            let last = |random: &mut Random| random.below(200) + 1;
            let [one, other] = [1, 2].map(|net| format!("10.245.{net}.{}", last(&mut self.random)));
            let slice = slice(&name, &[&one, &other]);
            self.server.put(Resource::EndpointSlices, slice);
        }
    }
}

fn soak(mode: Mode) {
    let (seed, size) = (seed(), Size::of_this_run());
    println!("mode {mode}, seed {seed}, {} Services", size.services);
    let lab = Lab::new("soak", SHOP);
    let server = lab
        .node()
        .enter(|| ApiServer::start(Behaviour::default()).unwrap());
    server.put(
        Resource::Nodes,
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}),
    );
    shop(&server);
    for n in 0..size.services {
        let name = format!("s{n}");
        let service = service(&name, &address(n), &Value::Null);
        server.put(Resource::Services, service);
        let slice = slice(&name, &["10.245.1.1", "10.245.2.1"]);
        server.put(Resource::EndpointSlices, slice);
    }
    let mut command = lab.node().command(PROGRAM);
    let settings = lab.settings().into_iter();
    command
        .args([format!("--mode={mode}"), "--log-format=json".to_owned()])
        .args(settings.filter(|flag| !flag.starts_with("--manifests")))
        .arg(format!("--master={}", server.url()));
    let svcproxy = Follower::start(&mut command);
    svcproxy.wait("a sync", |event| event["message"] == "synced");

    let (stopped, seen) = (AtomicBool::new(false), Seen::default());
    let mut changes = Changes {
        server: &server,
        random: Random::new(seed, 0),
        services: size.services,
        count: 0,
        deleted: BTreeSet::new(),
    };
    let mut usages = Vec::new();
    let mut restarts = 0;
    let began = Instant::now();
    thread::scope(|scope| {
        let clients = [lab.probe(), lab.node(), lab.client()];
        for n in 0..CONNECTIONS {
            let (from, to) = (clients[n % 3], SHOP[n / 3 % 3].vip());
            let (stopped, seen) = (&stopped, &seen);
            scope.spawn(move || load(from, to, stopped, seen));
        }
        let _stop = Stop(&stopped);
        println!("| second | memory, KiB | descriptors | threads | changes | requests | failed |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        let (mut next_restart, mut next_look) = (size.restart_every, size.duration / 10);
        let mut back_at = None;
        while began.elapsed() < size.duration {
            thread::sleep(PAUSE);
            let now = began.elapsed();
            let due = usize::try_from(now.as_millis() / PAUSE.as_millis()).unwrap();
            while changes.count < due {
                changes.next();
            }
            if back_at.is_some_and(|at| now >= at) {
                back_at = None;
                server.come_back();
            }
            if now >= next_restart && back_at.is_none() {
                next_restart += size.restart_every;
                restarts += 1;
                server.go_away();
                // A restarted server has forgotten the history.
                server.compact();
                back_at = Some(now + AWAY.min(size.restart_every / 3));
            }
            if now >= next_look {
                next_look += size.duration / 10;
                let usage = Usage::of(&svcproxy);
                let failed = seen.failed.lock().unwrap().len();
                usage.print(
                    now,
                    changes.count,
                    seen.asked.load(Ordering::Relaxed),
                    failed,
                );
                usages.push(usage);
            }
        }
        server.come_back();
    });
    let last = Usage::of(&svcproxy);
    let failed = seen.failed.into_inner().unwrap();
    let asked = seen.asked.into_inner();
    last.print(began.elapsed(), changes.count, asked, failed.len());
    println!("{restarts} restarts of the API server");
    assert_eq!(failed, [""; 0]);
    // Warm, after a tenth of the time.
    let first = usages[0];
    println!("first {first:?}\nlast  {last:?}");
    assert!(last.descriptors <= first.descriptors + 8, "descriptors");
    assert!(last.threads <= first.threads + 4, "threads");
    let bound = first.memory_kib + first.memory_kib / 4 + 4096;
    assert!(last.memory_kib <= bound, "memory");
    svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_ipvs() {
    soak(Mode::Ipvs);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_iptables() {
    soak(Mode::Iptables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_nftables() {
    soak(Mode::Nftables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_userspace() {
    soak(Mode::Userspace);
}
