//! Nodes, pods and a client outside, with svcproxy on the first node.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;
use testbed::{
    Backend, POD_CIDR_V4, POD_CIDR_V6, Protocol, SERVICE_CIDR_V4, SERVICE_CIDR_V6, Topology,
};

use crate::running::Running;
use crate::{paths, process};

/// The node that svcproxy runs on: its name in the examples, its addresses in the topology.
const NODE_NAME: &str = "node-a";
const NODE_IPS: &str = "172.18.0.1,fd00:172:18::1";

/// One port of one Service's address, as `svcproxy plan -o json` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VipPort {
    pub(super) service: String,
    address: IpAddr,
    pub(super) protocol: String,
    port: u16,
    /// Set if clients stay with the endpoint that they had first.
    persistence_seconds: Option<u32>,
    real_servers: Vec<RealServer>,
}

#[derive(Debug, Deserialize)]
struct RealServer {
    address: IpAddr,
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    vip_ports: Vec<VipPort>,
}

impl VipPort {
    pub(super) fn address(&self) -> SocketAddr {
        (self.address, self.port).into()
    }

    pub(super) fn is_sticky(&self) -> bool {
        self.persistence_seconds.is_some()
    }

    /// The protocol of its backends; those over TCP understand HTTP.
    pub(super) fn protocol(&self) -> Result<Protocol> {
        Ok(match self.protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Http,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => bail!("{} has the unknown protocol {other}", self.service),
        })
    }

    /// The names of the backends that may answer.
    pub(super) fn backends(&self) -> BTreeSet<String> {
        self.real_servers
            .iter()
            .map(|server| server.address.to_string())
            .collect()
    }
}

/// The cluster of the examples, with an editable copy of their manifests.
pub(super) struct Cluster {
    pub(super) topology: Topology,
    pub(super) vip_ports: Vec<VipPort>,
    svcproxy: PathBuf,
    scratch: TempDir,
    _backends: Vec<Backend>,
}

impl Cluster {
    /// A pod for each endpoint in the examples and each of `spare`, which serve HTTP on 8080; each
    /// backend is named after its pod's address.
    pub(super) fn new(svcproxy: &Path, spare: &[Ipv4Addr]) -> Result<Self> {
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let manifests = scratch.path().join("manifests");
        fs::create_dir(&manifests)?;
        for entry in fs::read_dir(paths::workspace().join("examples"))? {
            let entry = entry?;
            if entry.path().is_dir() {
                continue;
            }
            fs::copy(entry.path(), manifests.join(entry.file_name()))?;
        }
        let mut plan = Command::new(svcproxy);
        plan.arg("plan")
            .args(node_arguments(&manifests))
            .args(["-o", "json"]);
        let Plan { vip_ports } = serde_json::from_slice(&process::output(&mut plan)?)
            .context("cannot read what `svcproxy plan` printed")?;

        let mut servers: HashSet<_> = spare
            .iter()
            .map(|&ip| (SocketAddr::from((ip, 8080)), Protocol::Http))
            .collect();
        for vip in &vip_ports {
            let protocol = vip.protocol()?;
            let addresses = vip
                .real_servers
                .iter()
                .map(|s| SocketAddr::from((s.address, s.port)));
            servers.extend(addresses.map(|address| (address, protocol)));
        }
        let pods = pods_by_node(servers.iter().map(|(address, _)| address.ip()))?;
        let topology = Topology::with_pods("demo", &pods)?;
        let backends = servers
            .into_iter()
            .map(|(address, protocol)| {
                let pod = topology.pod(address.ip()).context("a pod is missing")?;
                Ok(Backend::start(
                    pod,
                    protocol,
                    address,
                    &address.ip().to_string(),
                )?)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            topology,
            vip_ports,
            svcproxy: svcproxy.to_owned(),
            scratch,
            _backends: backends,
        })
    }

    /// The command line of `svcproxy`, for people: one option per line.
    pub(super) fn command_line(&self) -> String {
        let arguments = node_arguments(&self.manifests());
        let options = arguments.chunks(2).map(|option| option.join(" "));
        let words = ["svcproxy --mode ipvs".to_owned()]
            .into_iter()
            .chain(options);
        words.collect::<Vec<_>>().join(" \\\n    ")
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.scratch.path().join("manifests")
    }

    /// Starts svcproxy on the first node and waits until it has synced.
    pub(super) fn start(&self) -> Result<Running> {
        let mut command = self.topology.node().host.command(&self.svcproxy);
        command
            .args(["--mode", "ipvs"])
            .args(node_arguments(&self.manifests()));
        let log = self.scratch.path().join("log");
        Running::start(command, log, Duration::from_secs(60))
    }

    /// The output of `svcproxy status` on the first node.
    pub(super) fn status(&self) -> Result<String> {
        let svcproxy = self.svcproxy.as_os_str();
        Ok(self
            .topology
            .node()
            .host
            .run([svcproxy, "status".as_ref()])?)
    }

    /// Replaces a manifest atomically, as editors do.
    pub(super) fn edit(&self, name: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
        let path = self.manifests().join(name);
        let old = fs::read_to_string(&path)?;
        let new = self.scratch.path().join(name);
        fs::write(&new, change(&old))?;
        fs::rename(new, path).with_context(|| format!("cannot replace {name}"))
    }
}

fn node_arguments(manifests: &Path) -> [String; 10] {
    [
        "--manifests".to_owned(),
        manifests.display().to_string(),
        "--node-name".to_owned(),
        NODE_NAME.to_owned(),
        "--node-ip".to_owned(),
        NODE_IPS.to_owned(),
        "--cluster-cidr".to_owned(),
        format!("{POD_CIDR_V4},{POD_CIDR_V6}"),
        "--service-cidr".to_owned(),
        format!("{SERVICE_CIDR_V4},{SERVICE_CIDR_V6}"),
    ]
}

/// The numbers of the pods of each node, by the addresses that [`Topology`] gives them.
fn pods_by_node(addresses: impl Iterator<Item = IpAddr>) -> Result<Vec<Vec<u8>>> {
    let mut nodes = vec![BTreeSet::new(); 2];
    for address in addresses {
        let (node, pod) = match address {
            IpAddr::V4(v4) => {
                let [_, _, node, pod] = v4.octets();
                (usize::from(node), Some(pod))
            }
            IpAddr::V6(v6) => {
                let [_, _, _, node, _, _, _, pod] = v6.segments();
                // Its hexadecimal digits are the decimal digits of the IPv4 address.
                (usize::from(node), format!("{pod:x}").parse().ok())
            }
        };
        let pods = node.checked_sub(1).and_then(|index| nodes.get_mut(index));
        let (pods, pod) = pods
            .zip(pod)
            .with_context(|| format!("no node of the demo has a pod {address}"))?;
        pods.insert(pod);
    }
    Ok(nodes
        .into_iter()
        .map(|pods| pods.into_iter().collect())
        .collect())
}
