//! The svcproxy that runs on this node, as it describes itself over HTTP.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use proxier::desired::{Config, Marks, PodInterfaces};
use proxier::mode::trace::Packet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::BindAddress;
use crate::description::Description;
use crate::history::Recorded;
use crate::notices::Condition;

/// For connecting and writing.
const PATIENCE: Duration = Duration::from_secs(2);
/// For reading: the process may be in the middle of a sync, and answers within 5 seconds.
const READING: Duration = Duration::from_secs(6);
/// Limit of an answer's size.
const LONGEST: u64 = 16 << 20;

/// The page `/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    pub(crate) version: String,
    pub(crate) commit: String,
    pub(crate) pid: u32,
    pub(crate) started_at: Timestamp,
    /// Now, by the clock of the process.
    pub(crate) time: Timestamp,
    pub(crate) mode: String,
    pub(crate) mode_wanted: String,
    /// Why the modes differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fallback_reason: Option<String>,
    /// Whether changes are applied in time.
    pub(crate) healthy: bool,
    pub(crate) source: SourceState,
    /// The last complete sync or audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_sync: Option<Timestamp>,
    /// Changes that are not applied yet.
    pub(crate) pending_changes: u64,
    /// The addresses of the DNS server, each with the error if it cannot be served now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) dns: BTreeMap<SocketAddr, Option<String>>,
}

/// The source of Services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceState {
    /// Which one it is, for people.
    pub(crate) name: String,
    /// Whether it is an API server and every kind is watched; none for manifests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connected: Option<bool>,
    /// When it last sent something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_heard: Option<Timestamp>,
    /// The kinds that are not watched, each with the error.
    #[serde(default)]
    pub(crate) failing: BTreeMap<String, String>,
}

/// The settings in effect that decide on packets, from the page `/configz`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    node_name: String,
    #[serde(rename = "nodeIPs")]
    node_ips: Vec<IpAddr>,
    #[serde(rename = "clusterCIDRs")]
    cluster_cidrs: Vec<IpNet>,
    #[serde(rename = "serviceCIDRs")]
    service_cidrs: Vec<IpNet>,
    #[serde(rename = "excludeCIDRs")]
    exclude_cidrs: Vec<IpNet>,
    masquerade_all: bool,
    pod_interface: Option<String>,
    pod_interface_prefix: Option<String>,
    masquerade_mark: String,
    mark_mask: String,
    zone: Option<String>,
    #[serde(default, rename = "denyExternalIPs")]
    deny_external_ips: bool,
    #[serde(default)]
    deny_endpoints: Vec<IpNet>,
    /// Virtual IPs without a route of svcproxy, in mode userspace.
    #[serde(default)]
    pub(crate) listen: Vec<IpNet>,
    /// The absolute paths of the manifests; none for an API server.
    #[serde(default)]
    pub(crate) manifests: Vec<PathBuf>,
}

/// The page `/configz`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Configz {
    /// The settings in effect, in the form of kube-proxy's configuration file.
    #[serde(rename = "kubeproxy.config.k8s.io")]
    pub(crate) kube_proxy: Value,
    /// Those that have no field there.
    pub(crate) svcproxy: Settings,
}

impl Settings {
    /// These settings, and all others from the command line.
    pub(crate) fn over(self, given: Config) -> Config {
        let named = |name: Option<String>| name.and_then(|name| name.parse().ok());
        let prefixed = named(self.pod_interface_prefix).map(PodInterfaces::Prefixed);
        let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let bit = number(&self.masquerade_mark).map(u32::trailing_zeros);
        let bit = bit.and_then(|bit| u8::try_from(bit).ok());
        let marks = bit.zip(number(&self.mark_mask));
        let marks = marks.and_then(|(bit, mask)| Marks::new(bit, mask).ok());
        let mut config = given;
        config.marks = marks.unwrap_or(config.marks);
        config.node_name = self.node_name.into();
        config.node_ips = self.node_ips;
        config.cluster_cidrs = self.cluster_cidrs;
        config.service_cidrs = self.service_cidrs;
        config.exclude_cidrs = self.exclude_cidrs;
        config.masquerade_all = self.masquerade_all;
        config.pod_interfaces = named(self.pod_interface)
            .map(PodInterfaces::Named)
            .or(prefixed);
        config.zone = self.zone.map(Into::into);
        config.deny_external_ips = self.deny_external_ips;
        config.deny_endpoints = self.deny_endpoints;
        config
    }
}

/// Asks the process at this metrics address.
pub(crate) struct Client(SocketAddr);

impl Client {
    /// `None` if the address is empty. The unspecified address means this machine.
    pub(crate) fn at(address: &BindAddress) -> Option<Self> {
        let mut address = address.0?;
        if address.ip().is_unspecified() {
            address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
        }
        Some(Self(address))
    }

    /// The state of the process. `None` if none answers.
    pub(crate) fn status(&self) -> Option<Running> {
        self.document("/status")
    }

    /// Its conditions. `None` if none answers.
    pub(crate) fn conditions(&self) -> Option<Vec<Condition>> {
        self.document("/conditions")
    }

    /// The last changes of Services, the latest first. `None` if none answers, or if the page for people
    /// is off, for which it keeps them.
    pub(crate) fn changes(&self) -> Option<Vec<Recorded>> {
        self.document("/changes")
    }

    /// What it knows about a Service, by `NAMESPACE/NAME`. `None` if none answers, or if it does not
    /// know the Service.
    pub(crate) fn service(&self, name: &str) -> Option<Description> {
        self.document(&format!("/services/{name}"))
    }

    /// What it serves in mode userspace. `None` if none answers, or if it has another mode.
    pub(crate) fn proxied<P: DeserializeOwned>(&self) -> Option<P> {
        self.document("/services/")
    }

    /// The Services that name the destination of a packet. `None` if none answers.
    pub(crate) fn services_at(&self, packet: &Packet) -> Option<Vec<Description>> {
        let (address, port) = (packet.destination, packet.port);
        self.document(&format!("/services/{address}@{port}"))
    }

    /// Its settings that decide on packets. `None` if none answers.
    pub(crate) fn settings(&self) -> Option<Settings> {
        self.configz().map(|page| page.svcproxy)
    }

    /// Its settings. `None` if none answers.
    pub(crate) fn configz(&self) -> Option<Configz> {
        self.document("/configz")
    }

    fn document<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let address = self.0;
        let answer = self
            .page(path)
            .inspect_err(|error| tracing::debug!("no {path} from {address}: {error}"))
            .ok()?;
        serde_json::from_str(&answer)
            .inspect_err(|error| tracing::debug!("no {path} from {address}: {error}"))
            .ok()
    }

    /// The text of a page.
    ///
    /// # Errors
    ///
    /// If no process answers, or it answers with an error.
    pub(crate) fn page(&self, path: &str) -> io::Result<String> {
        let answer = get(self.0, path)?;
        let cut = || io::Error::other("the answer was cut off");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
        let is_ok = head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ");
        if !is_ok {
            let first = head.lines().next().unwrap_or_default();
            return Err(io::Error::other(first.to_owned()));
        }
        Ok(body.to_owned())
    }
}

fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(READING))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In version 1.0 an answer has no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}
