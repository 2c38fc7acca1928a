//! Mode userspace beside HAProxy in TCP mode, taking turns: connections a second, and bytes a second.
//!
//! A client, a node with the proxy, and a pod with the endpoint are network namespaces of this machine.
//! Both proxies get one thread for each CPU. `cargo xtask bench userspace` installs HAProxy, builds with
//! optimization and runs it; it needs root.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::indexing_slicing, reason = "of what this program itself made")]

mod load;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, thread};

use proxier::desired::Config;
use proxier::mode::userspace::{Userspace, UserspaceProxy};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::store::Change;
use proxier::{Proxier, Runtime};
use testbed::{POD_CIDR_V4, SERVICE_CIDR_V4, Topology};

use load::{Endpoints, connections, throughput};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 7;
/// The endpoint that answers one byte and closes, and the one that sends without end.
const SHORT: u16 = 7001;
const BULK: u16 = 7002;
/// HAProxy's ports for them, on the node's address: copying, and by splice(2).
const HAPROXY: u16 = 8000;
const SPLICING: u16 = 9000;
const VIP: [u8; 4] = [10, 96, 0, 10];

fn main() -> Result<()> {
    // `cargo test --benches` runs it without this.
    if !env::args().any(|argument| argument == "--bench") {
        println!("skipped: it measures with cargo bench only");
        return Ok(());
    }
    let topology = Topology::new("userspace", &[1])?;
    let node = topology.node();
    let pod = &node.pods[0];
    for host in [&topology.client, &node.host, pod] {
        host.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    }
    let _endpoints = Endpoints::start(pod, (pod.v4, SHORT).into(), (pod.v4, BULK).into())?;
    let (_runtime, _proxier) = svcproxy(&topology)?;
    let _haproxy = haproxy(&topology)?;
    let ways = [
        ("svcproxy", VIP.into(), [SHORT, BULK]),
        ("HAProxy", node.host.v4, [HAPROXY + SHORT, HAPROXY + BULK]),
        (
            "HAProxy, splice-auto",
            node.host.v4,
            [SPLICING + SHORT, SPLICING + BULK],
        ),
        ("no proxy", pod.v4, [SHORT, BULK]),
    ];
    topology
        .client
        .ip(&[format!("route add {POD_CIDR_V4} via {}", node.host.v4)])?;
    let (mut rates, mut speeds) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    for round in 0..ROUNDS {
        for (at, (name, address, [short, bulk])) in ways.iter().enumerate() {
            let to = |port: &u16| SocketAddr::from((*address, *port));
            let rate = connections(&topology.client, to(short));
            let speed = throughput(&topology.client, to(bulk));
            println!("round {round}: {name}: {rate:.0} connections/s, {speed:.0} MB/s");
            rates[at].push(rate);
            speeds[at].push(speed);
        }
    }
    println!();
    println!("| of {ROUNDS} rounds, the median | connections/s | MB/s |");
    println!("| --- | --- | --- |");
    for (at, (name, ..)) in ways.iter().enumerate() {
        let (rate, speed) = (median(&rates[at]), median(&speeds[at]));
        println!("| {name} | {rate:.0} | {speed:.0} |");
    }
    // Beside whichever way of HAProxy is faster.
    let ratio = |of: &[Vec<f64>; 4]| median(&of[0]) / median(&of[1]).max(median(&of[2]));
    let (rate, speed) = (ratio(&rates), ratio(&speeds));
    println!("| svcproxy / HAProxy | {rate:.2} | {speed:.2} |");
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A proxy that serves the two endpoints at a cluster IP.
fn svcproxy(topology: &Topology) -> Result<(Runtime, Proxier<Userspace>)> {
    let node = topology.node();
    let mut config = Config::new("node-a", vec![node.host.v4.into()]);
    config.service_cidrs = vec![SERVICE_CIDR_V4.parse()?];
    let name = ObjectName::new("default", "bench")?;
    let mut service = Service::new(name.clone());
    service.cluster_ips = [VIP.into()].into();
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    let ports = [("short", SHORT), ("bulk", BULK)].map(|(name, port)| {
        let name = PortName::new(name)?;
        let port = port.try_into()?;
        Ok::<_, Box<dyn Error + Send + Sync>>((
            ServicePort::new(name.clone(), Protocol::Tcp, port),
            EndpointPort::new(name, Protocol::Tcp, port),
        ))
    });
    let ports = ports.into_iter().collect::<Result<Vec<_>>>()?;
    service.ports = ports.iter().map(|(port, _)| port.clone()).collect();
    slice.ports = ports.into_iter().map(|(_, port)| port).collect();
    slice.endpoints = [Endpoint::new(node.pods[0].v4.into())].into();
    let lists = vec![
        Change::ServicesReplaced(vec![service]),
        Change::EndpointSlicesReplaced(vec![slice]),
    ];
    // The runtime's threads must be in the node's namespace.
    node.host.enter(|| {
        let runtime = Runtime::for_traffic()?;
        let backend = UserspaceProxy::open(&runtime)?;
        let mut proxier = Proxier::new(Arc::new(config), Userspace::new(backend));
        let report = proxier.handle(lists)?;
        match report.is_some_and(|report| report.is_success()) {
            true => Ok((runtime, proxier)),
            false => Err("svcproxy does not serve".into()),
        }
    })
}

/// HAProxy and its configuration, ended and removed when dropped.
struct Haproxy(Child, PathBuf);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(&self.1);
    }
}

fn haproxy(topology: &Topology) -> Result<Haproxy> {
    let node = topology.node();
    let (own, pod) = (node.host.v4, node.pods[0].v4);
    let threads = thread::available_parallelism()?;
    let listen = |first: u16, port: u16, option: &str| {
        let at = first + port;
        format!("listen p{at}\n{option}  bind {own}:{at} backlog 4096\n  server pod {pod}:{port}\n")
    };
    let listeners: String = [(HAPROXY, ""), (SPLICING, "  option splice-auto\n")]
        .into_iter()
        .flat_map(|(first, option)| [SHORT, BULK].map(|port| listen(first, port, option)))
        .collect();
    let text = format!(
        "global\n  nbthread {threads}\n  maxconn 4000\ndefaults\n  mode tcp\n  \
         timeout connect 3s\n  timeout client 60s\n  timeout server 60s\n{listeners}"
    );
    let file = env::temp_dir().join(format!("svcproxy-bench-{}.cfg", std::process::id()));
    fs::write(&file, text)?;
    let mut command = node.host.command("haproxy");
    let command = command.args(["-db", "-f"]).arg(&file);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut haproxy = Haproxy(child, file);
    thread::sleep(Duration::from_secs(1));
    match haproxy.0.try_wait()? {
        Some(status) => Err(format!("HAProxy does not run: {status}").into()),
        None => Ok(haproxy),
    }
}
