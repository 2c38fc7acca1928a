//! Two nodes, a client outside, and svcproxy on the first node.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testbed::{
    Answer, AskError, Backend, Client, Connection, Host, Protocol, Topology, eventually,
};

use crate::follower::Follower;
use crate::ports::Port;

pub(crate) use crate::follower::PATIENCE;

/// Connections to removed endpoints may continue, however slow the machine is.
pub(crate) const SLOW_DRAIN: [&str; 1] = ["--drain-timeout=3600"];

/// The number of a pod of the first node that is no endpoint.
const PROBE: u8 = 200;

pub(crate) struct Lab {
    pub(crate) topology: Topology,
    manifests: TempDir,
    backends: Vec<Backend>,
}

impl Lab {
    /// Nodes with pods for these ports' backends, which are named after their addresses. Without
    /// manifests.
    pub(crate) fn new(name: &str, ports: &[Port]) -> Self {
        let endpoints: BTreeSet<IpAddr> = ports
            .iter()
            .flat_map(Port::backends)
            .map(|backend| backend.ip())
            .collect();
        let mut pods = [BTreeSet::from([PROBE]), BTreeSet::new()];
        for endpoint in endpoints {
            let (node, pod) = place(endpoint);
            pods[node - 1].insert(pod);
        }
        let pods = pods.map(|numbers| numbers.into_iter().collect());
        let mut lab = Self::over(Topology::with_pods(name, &pods).unwrap());
        let mut served = HashSet::new();
        for port in ports {
            for address in port.backends() {
                if served.insert((port.protocol, address)) {
                    let backend = lab.serve(port.protocol, address);
                    lab.backends.push(backend);
                }
            }
        }
        lab
    }

    /// Without backends.
    pub(crate) fn over(topology: Topology) -> Self {
        Self {
            topology,
            manifests: tempfile::tempdir().unwrap(),
            backends: Vec::new(),
        }
    }

    /// Starts a backend in the pod that has the address.
    pub(crate) fn serve(&self, protocol: Protocol, address: SocketAddr) -> Backend {
        let pod = self.pod(address);
        Backend::start(pod, protocol, address, &address.to_string()).unwrap()
    }

    pub(crate) fn node(&self) -> &Host {
        &self.topology.node().host
    }

    pub(crate) fn client(&self) -> &Host {
        &self.topology.client
    }

    /// A pod of the first node that is no endpoint.
    pub(crate) fn probe(&self) -> &Host {
        self.pod(SocketAddr::from(([10, 244, 1, PROBE], 0)))
    }

    pub(crate) fn pod(&self, address: SocketAddr) -> &Host {
        self.topology.pod(address.ip()).unwrap()
    }

    /// Whether this pod is on svcproxy's node.
    pub(crate) fn is_local(&self, address: SocketAddr) -> bool {
        place(address.ip()).0 == 1
    }

    /// The source address that a backend sees: the client's, or the node's.
    pub(crate) fn source_seen(&self, from: &Host, to: &Port) -> IpAddr {
        let is_pod = from.name() != self.node().name() && from.name() != self.client().name();
        let seen = if is_pod { from } else { self.node() };
        seen.address(to.family())
    }

    pub(crate) fn manifests(&self) -> &Path {
        self.manifests.path()
    }

    /// Writes a manifest atomically.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let hidden = self.manifests().join(format!(".{name}"));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, self.manifests().join(name)).unwrap();
    }

    /// Changes a manifest atomically.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.manifests().join(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, &text.replace(from, to));
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).unwrap();
    }

    /// Copies an example into the manifests.
    pub(crate) fn use_example(&self, name: &str) {
        self.write(name, &fs::read_to_string(examples().join(name)).unwrap());
    }

    pub(crate) fn use_all_examples(&self) {
        for entry in fs::read_dir(examples()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                self.use_example(path.file_name().unwrap().to_str().unwrap());
            }
        }
    }

    /// `svcproxy ARGUMENTS` on the node.
    pub(crate) fn svcproxy(&self, arguments: &[&str]) -> Command {
        let mut command = self.node().command(env!("CARGO_BIN_EXE_svcproxy"));
        command.args(arguments).env_remove("SVCPROXY_LOG");
        command
    }

    /// The arguments for the manifests and the node.
    pub(crate) fn settings(&self) -> Vec<String> {
        let node = self.node();
        vec![
            format!("--manifests={}", self.manifests().display()),
            "--node-name=node-a".to_owned(),
            format!("--node-ip={},{}", node.v4, node.v6),
            format!(
                "--cluster-cidr={},{}",
                testbed::POD_CIDR_V4,
                testbed::POD_CIDR_V6
            ),
            format!(
                "--service-cidr={},{}",
                testbed::SERVICE_CIDR_V4,
                testbed::SERVICE_CIDR_V6
            ),
        ]
    }

    /// `svcproxy --mode ipvs --once`, with a JSON log.
    pub(crate) fn once_command(&self) -> Command {
        let mut command = self.svcproxy(&["--mode=ipvs", "--once", "--log-format=json"]);
        command.args(self.settings());
        command
    }

    /// Syncs the node once; returns the log entry of the sync.
    pub(crate) fn once(&self) -> Value {
        let (log, code) = run_logged(&mut self.once_command());
        assert_eq!(code, 0, "{log:?}");
        log.into_iter()
            .find(|event| event["message"] == "synced")
            .expect("a sync in the log")
    }

    /// Starts `svcproxy --mode ipvs`; returns after the first sync.
    pub(crate) fn follow(&self) -> Follower {
        self.follow_with(&[])
    }

    /// As [`follow`](Self::follow), with more arguments.
    pub(crate) fn follow_with(&self, arguments: &[&str]) -> Follower {
        let mut command = self.svcproxy(&["--mode=ipvs", "--log-format=json"]);
        let follower = Follower::start(command.args(self.settings()).args(arguments));
        follower.wait("a sync", |event| event["message"] == "synced");
        follower
    }

    /// Standard output of `svcproxy plan ARGUMENTS`.
    pub(crate) fn plan(&self, arguments: &[&str]) -> String {
        succeed(
            self.svcproxy(&["plan"])
                .args(self.settings())
                .args(arguments),
        )
    }

    /// The steps that svcproxy would take now.
    pub(crate) fn steps(&self) -> Vec<String> {
        let text = self.plan(&["--against=kernel", "-o=json"]);
        let plan: Value = serde_json::from_str(&text).unwrap();
        let steps = plan["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|step| step.as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until svcproxy has nothing left to do.
    pub(crate) fn converges(&self) {
        let left = || match &self.steps()[..] {
            [] => Ok(()),
            steps => Err(steps.to_vec()),
        };
        eventually(PATIENCE, left).expect("in line with the manifests");
    }

    /// The output of `ipvsadm -Sn`, sorted.
    pub(crate) fn ipvsadm(&self) -> Vec<String> {
        sorted(&self.node().run(["ipvsadm", "-Sn"]).unwrap())
    }

    /// Asks once, over a new connection.
    pub(crate) fn ask(&self, from: &Host, to: &Port) -> Result<Answer, AskError> {
        client(to.protocol, to.vip()).ask(from)
    }

    /// A persistent connection to a port's VIP.
    pub(crate) fn connect(&self, from: &Host, to: &Port) -> Connection {
        // HTTP has only one answer per connection.
        let protocol = match to.protocol {
            Protocol::Http => Protocol::Tcp,
            other => other,
        };
        client(protocol, to.vip()).connect(from).unwrap()
    }

    /// Runs an action while `from` sends requests; none may fail.
    pub(crate) fn undisturbed<T>(&self, from: &Host, to: &Port, action: impl FnOnce() -> T) -> T {
        let (stopped, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        let flow = || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match self.ask(from, to) {
                    Ok(_) => _ = answers.fetch_add(1, Ordering::Relaxed),
                    Err(error) => failures.push(error),
                }
            }
            failures
        };
        thread::scope(|scope| {
            let flow = scope.spawn(flow);
            let some_more = || {
                let before = answers.load(Ordering::Relaxed);
                eventually(PATIENCE, || {
                    let more = answers.load(Ordering::Relaxed) > before + 3;
                    more.then_some(()).ok_or("no answers")
                })
            };
            let stop = Stop(&stopped);
            some_more().unwrap();
            let result = action();
            some_more().unwrap();
            drop(stop);
            assert_eq!(flow.join().unwrap(), [], "requests failed");
            result
        })
    }
}

/// Stops a flow of requests, also if a test panics.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client that a busy machine does not fail, and whose connections IPVS forgets soon.
pub(crate) fn client(protocol: Protocol, to: SocketAddr) -> Client {
    Client::new(protocol, to)
        .timeout(Duration::from_secs(20))
        .resets()
}

/// The lines of a text, sorted.
pub(crate) fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.sort();
    lines
}

/// Standard output of a command that must succeed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(
        status.success(),
        "{status}: {}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8(stdout).unwrap()
}

/// The JSON log of a command, and its exit code.
pub(crate) fn run_logged(command: &mut Command) -> (Vec<Value>, i32) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let log = String::from_utf8(stderr).unwrap();
    let events = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    (events.collect(), status.code().unwrap())
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Node and pod number of an endpoint: 10.244.NODE.POD or fd00:10:244:NODE::POD.
fn place(endpoint: IpAddr) -> (usize, u8) {
    match endpoint {
        IpAddr::V4(ip) => {
            let [_, _, node, pod] = ip.octets();
            (node.into(), pod)
        }
        IpAddr::V6(ip) => {
            let [_, _, _, node, .., pod] = ip.segments();
            // The hexadecimal digits are the decimal digits of the number.
            (node.into(), format!("{pod:x}").parse().unwrap())
        }
    }
}
