//! Queries a second: svcproxy's DNS server and unbound with the same zone, in turns.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use testbed::{eventually, reserve_port};

use crate::apt::{self, Tool};
use crate::{cargo, process};

const TOOLS: [Tool; 2] = [
    Tool::new("unbound", "unbound"),
    Tool::new("dnsperf", "dnsperf"),
];
/// Far more than a server needs to start, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `bench dns`.
#[derive(Args)]
pub(crate) struct DnsArgs {
    /// Number of Services.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Number of turns, of which the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that one server is asked for in a turn.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
}

/// A server; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `cargo xtask bench dns`.
pub(crate) fn run(args: &DnsArgs) -> Result<ExitCode> {
    apt::ensure(&TOOLS)?;
    let build = [
        "build",
        "--release",
        "--package=svcproxy-proxier",
        "--example=dns_zone",
        "--no-default-features",
        "--features=dns",
    ];
    let program = cargo::executable(&build)?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (own, zone) = own(&program, args.services)?;
    let unbound = unbound(scratch.path(), &zone)?;
    let queries = scratch.path().join("queries");
    fs::write(&queries, questions(&zone))?;
    println!("{} Services, queries a second, in turns:", args.services);
    println!("svcproxy  unbound  ratio   CPU time a query: svcproxy  unbound  ratio");
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let first = own.ask(&queries, args.seconds)?;
        let second = unbound.ask(&queries, args.seconds)?;
        let rate = first.rate / second.rate;
        let cost = first.cost / second.cost;
        println!(
            "{:8.0} {:8.0} {rate:6.2} {:24.2} us {:5.2} us {cost:6.2}",
            first.rate, second.rate, first.cost, second.cost
        );
        rates.push(rate);
        costs.push(cost);
    }
    let [rate, cost] = [median(rates)?, median(costs)?];
    println!("medians of the ratios: {rate:.2}, CPU time {cost:.2}");
    Ok(ExitCode::SUCCESS)
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("no rounds")
}

/// What one turn found.
struct Turn {
    /// Queries a second.
    rate: f64,
    /// Microseconds of CPU time of the server for a query, which other load changes less.
    cost: f64,
}

impl Server {
    fn ask(&self, queries: &Path, seconds: u32) -> Result<Turn> {
        let before = self.cpu_time()?;
        let (rate, completed) = ask(queries, self.address, seconds)?;
        let took = self.cpu_time()? - before;
        Ok(Turn {
            rate,
            cost: took / completed,
        })
    }

    /// The CPU time of the process, in microseconds (proc_pid_stat(5); a tick is 10 ms).
    fn cpu_time(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        // The name in parentheses may contain spaces.
        let fields = text
            .rsplit_once(')')
            .map(|(_, rest)| rest)
            .unwrap_or_default();
        let fields = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = fields
            .map(|field| field.parse::<f64>().unwrap_or_default())
            .sum();
        Ok(ticks * 10_000.0)
    }
}

fn loopback() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, reserve_port()?).into())
}

/// Waits until a server answers anything.
fn answering(child: Child, address: SocketAddr) -> Result<Server> {
    let server = Server { child, address };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    // The root's name servers: refused by one, and known to the other.
    let query = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    eventually(PATIENCE, || {
        socket.send_to(&query, address)?;
        socket.recv(&mut [0; 512])
    })
    .with_context(|| format!("no DNS server answers at {address}"))?;
    Ok(server)
}

/// svcproxy's server, and its names with their addresses.
fn own(program: &Path, services: u32) -> Result<(Server, Vec<(String, String)>)> {
    let address = loopback()?;
    let mut child = Command::new(program)
        .args([address.to_string(), services.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the example dns_zone")?;
    let out = child.stdout.take().context("no standard output")?;
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    let pair = |line: String| {
        let (name, address) = line.split_once(' ')?;
        Some((name.to_owned(), address.to_owned()))
    };
    let zone = lines.map_while(pair).collect();
    Ok((answering(child, address)?, zone))
}

fn unbound(scratch: &Path, zone: &[(String, String)]) -> Result<Server> {
    let address = loopback()?;
    let mut text = format!(
        "server:\n  interface: {}@{}\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  do-daemonize: no\n  num-threads: 2\n  so-reuseport: yes\n  \
         module-config: \"iterator\"\n  local-zone: \"cluster.local.\" static\n",
        address.ip(),
        address.port()
    );
    for (name, address) in zone {
        writeln!(text, "  local-data: \"{name} 5 IN A {address}\"")?;
    }
    let file = scratch.join("unbound.conf");
    fs::write(&file, text)?;
    let child = Command::new("/usr/sbin/unbound")
        .args(["-d", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start unbound")?;
    answering(child, address)
}

/// Nine of ten names exist, in an order that no cache likes.
fn questions(zone: &[(String, String)]) -> String {
    let mut text = String::new();
    for number in 0..zone.len() {
        let other = number.wrapping_mul(7_919) % zone.len().max(1);
        if let Some((name, _)) = zone.get(other) {
            let prefix = if number % 10 == 9 { "x" } else { "" };
            text.push_str(&format!("{prefix}{name} A\n"));
        }
    }
    text
}

/// Queries a second that a server answers, and how many it answered.
fn ask(queries: &Path, server: SocketAddr, seconds: u32) -> Result<(f64, f64)> {
    let mut dnsperf = Command::new("dnsperf");
    dnsperf
        .args([
            "-s",
            &server.ip().to_string(),
            "-p",
            &server.port().to_string(),
        ])
        .args(["-l", &seconds.to_string(), "-c", "8", "-q", "100", "-d"])
        .arg(queries);
    let text = String::from_utf8(process::output(&mut dnsperf)?)?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.contains(name))?;
        let value = line.split(':').nth(1)?.trim();
        value.split(' ').next()?.parse::<f64>().ok()
    };
    let lost = value("Queries lost").context("dnsperf printed no lost queries")?;
    anyhow::ensure!(lost < 1.0, "{server} lost {lost} queries:\n{text}");
    let rate = value("Queries per second").context("dnsperf printed no rate")?;
    let completed = value("Queries completed").context("dnsperf printed no count")?;
    Ok((rate, completed))
}
