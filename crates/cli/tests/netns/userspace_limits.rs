//! Mode userspace where something is short: open files, flows, or a port that svcproxy may not have.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use testbed::eventually;

use crate::fallback::fetch;
use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, succeed};
use crate::load::start;
use crate::ports::{SHOP, SHOP_UDP};
use crate::shop::{FIRST, SECOND, THIRD, shop};
use crate::userspace::start_without_capabilities;

/// A connection to the page of metrics that stays open: the process needs no open file for it.
struct Metrics {
    stream: BufReader<TcpStream>,
}

impl Metrics {
    fn open(lab: &Lab) -> Self {
        let stream = lab
            .node()
            .enter(|| TcpStream::connect(("127.0.0.1", 10249)))
            .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let stream = BufReader::new(stream);
        Self { stream }
    }

    /// The values by name and labels.
    fn read(&mut self) -> BTreeMap<String, f64> {
        let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
        self.stream.get_mut().write_all(request).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        values(&String::from_utf8(body).unwrap())
    }
}

fn values(metrics: &str) -> BTreeMap<String, f64> {
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    metrics.lines().filter_map(pair).collect()
}

const PAUSES: &str = "svcproxy_proxied_pauses_total{}";

/// The lowest number of a descriptor that is free: the process gets none if this is its limit.
fn lowest_free_descriptor(pid: u32) -> u64 {
    let open = format!("/proc/{pid}/fd");
    let is_free = |number: &u64| !Path::new(&open).join(number.to_string()).is_symlink();
    (0..).find(is_free).unwrap()
}

/// Sets the soft limit, which a process may raise again.
fn limit_descriptors(pid: u32, most: u64) {
    let (pid, most) = (format!("--pid={pid}"), format!("--nofile={most}:"));
    succeed(Command::new("prlimit").args([pid, most]));
}

/// Open connections go on, new ones wait in the kernel's queue, and the listener does not spin.
#[test]
#[ignore = "netns: needs root"]
fn without_open_files_connections_go_on_and_new_ones_wait() {
    let lab = Lab::new("emfile", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = start(&lab, &["--mode=userspace"]);
    let pid = svcproxy.pid();
    let mut old = lab.connect(lab.probe(), &SHOP[0]);
    old.ask().unwrap();
    let mut metrics = Metrics::open(&lab);
    assert_eq!(metrics.read()[PAUSES], 0.0);

    limit_descriptors(pid, lowest_free_descriptor(pid));
    // The kernel accepts them.
    let mut waiting = [(); 8].map(|()| lab.connect(lab.probe(), &SHOP[0]));
    let exhausted = || match metrics.read()[PAUSES] {
        pauses if pauses > 0.0 => Ok(()),
        pauses => Err(format!("{pauses} pauses")),
    };
    eventually(PATIENCE, exhausted).unwrap();
    let began = Instant::now();
    let before = metrics.read()[PAUSES];
    for _ in 0..20 {
        old.ask().unwrap();
    }
    let pauses = metrics.read()[PAUSES] - before;
    // At most one in 100 ms, for the one listener whose clients wait.
    let most = began.elapsed().as_secs_f64() * 10.0 + 2.0;
    assert!(pauses <= most, "{pauses} pauses, at most {most}");

    limit_descriptors(pid, 4096);
    // One that got a descriptor which svcproxy had just closed, and none for its endpoint, was reset.
    let served = waiting.iter_mut().filter_map(|of| of.ask().ok()).count();
    assert!(served >= 6, "{served} are served");
    lab.ask(lab.probe(), &SHOP[0]).unwrap();
    old.ask().unwrap();
    svcproxy.terminate();
}

/// Flows are bounded, and those that exist go on.
#[test]
#[ignore = "netns: needs root"]
fn a_flood_of_new_flows_stays_within_the_limit() {
    let lab = Lab::new("flood", SHOP_UDP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let mut command = lab.node().command("prlimit");
    command
        .arg("--nofile=256:256")
        .arg(env!("CARGO_BIN_EXE_svcproxy"))
        .args(["--mode=userspace", "--log-format=json"])
        .args(lab.settings());
    let svcproxy = Follower::start(&mut command);
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    let mut old = lab.connect(lab.client(), &SHOP_UDP[1]);
    let backend = old.ask().unwrap().backend;
    let to = SHOP_UDP[1].vip();
    lab.client().enter(|| {
        for _ in 0..2000 {
            // Each has a port of its own.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"?", to).unwrap();
        }
    });
    let refused = "svcproxy_proxied_refused_total{cause=\"over_limit\"}";
    let full = || {
        let values = values(&fetch(&lab, 10249, "/metrics"));
        match values[refused] {
            count if count > 0.0 => Ok(values),
            _ => Err(values),
        }
    };
    let values = eventually(PATIENCE, full).unwrap();
    let limit = values["svcproxy_proxied_open_limit{protocol=\"udp\"}"];
    let open = values["svcproxy_proxied_open{protocol=\"udp\"}"];
    // One Service may have half of them.
    assert!(open <= limit / 2.0 && open > 1.0, "{open} of {limit}");
    assert_eq!(values[PAUSES], 0.0, "the limit leaves descriptors");
    assert_eq!(old.ask().unwrap().backend, backend);
    svcproxy.terminate();
}

/// A port that svcproxy may not have is a condition, is not counted as served, and is served as soon as
/// it may.
#[test]
#[ignore = "netns: needs root"]
fn a_port_that_svcproxy_may_not_have_is_a_condition_until_it_may() {
    let lab = Lab::new("noport", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    lab.node()
        .ip(&["route add local 10.96.0.0/12 dev lo".to_owned()])
        .unwrap();
    let svcproxy = start_without_capabilities(&lab, &["--listen=10.96.0.0/12"]);
    let is_of_tcp = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        event["reason"] == "ListenFailed" && message.contains("tcp 10.96.0.90:80")
    };
    let condition = svcproxy.wait("the condition", is_of_tcp);
    let message = condition["message"].as_str().unwrap();
    for part in ["os error 13", "CAP_NET_BIND_SERVICE"] {
        assert!(message.contains(part), "{message}");
    }
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&succeed(&mut lab.svcproxy(arguments))).unwrap()
    };
    let state = || {
        let status = json(&["status", "-o=json"]);
        let vips = status["services"][0]["vips"].as_array().unwrap().clone();
        let mut vips = vips
            .into_iter()
            .filter(|vip| vip["address"] == "10.96.0.90" && vip["protocol"] == "tcp");
        let ports = status["totals"]["vipPorts"].as_u64().unwrap();
        (vips.next().unwrap()["state"].clone(), ports)
    };
    let (not_served, before) = state();
    assert_eq!(not_served, "notServed");
    let has_condition = || fetch(&lab, 10249, "/conditions").contains("ListenFailed");
    assert!(has_condition());

    lab.node()
        .sysctl("net/ipv4/ip_unprivileged_port_start", "80")
        .unwrap();
    eventually(PATIENCE, || lab.ask(lab.client(), &SHOP[0])).unwrap();
    eventually(PATIENCE, || match has_condition() {
        true => Err("the condition is still there"),
        false => Ok(()),
    })
    .unwrap();
    // Over TCP and UDP.
    assert_eq!(state(), ("served".into(), before + 2));
    // It was logged once, however often it was tried.
    let log = svcproxy.terminate();
    assert_eq!(
        log.iter().filter(|event| is_of_tcp(event)).count(),
        1,
        "{log:#?}"
    );
    let errors = log.iter().filter(|event| event["level"] == "ERROR");
    assert_eq!(errors.count(), 0, "{log:#?}");
}
