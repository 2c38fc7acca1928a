//! `svcproxy status`.

mod print;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::time::Duration;

use ipvs::VirtualServerKey;
use proxier::desired::FrontendKey;
use proxier::mode::iptables::{self, IptablesBackend, Served, Verdict};
use proxier::mode::ipvs::plan::{Audience, Element, NodeState, Purpose};
use proxier::mode::ipvs::{Backend, IpvsBackend};

use crate::Ending;
use crate::args::{BindAddress, Mode, StatusArgs, StatusFormat};
use crate::notices::Condition;
use print::{ClientGroup, RealServerStatus, Status, VipState, VipStatus, status_json, status_text};

/// Prints the state of this node's kernel, and the conditions of the svcproxy that runs here.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<Ending> {
    let mut status = match args.mode {
        Some(Mode::Ipvs) => of_ipvs()?,
        Some(Mode::Iptables) => of_iptables(&IptablesBackend::open()?)?,
        None => match IptablesBackend::in_use()? {
            Some(backend) => of_iptables(&backend)?,
            None => of_ipvs()?,
        },
    };
    if let Some(conditions) = ask_conditions(&args.metrics_bind_address) {
        status.set_conditions(conditions);
    }
    match args.output {
        StatusFormat::Text => status_text(&status)?,
        StatusFormat::Json => status_json(&status)?,
    }
    Ok(Ending::Done)
}

/// For each of connecting, writing and reading.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit of the answer's size.
const LONGEST: u64 = 16 << 20;

/// The conditions of the svcproxy that runs on this node, from its metrics address. `None` if no svcproxy answers.
fn ask_conditions(address: &BindAddress) -> Option<Vec<Condition>> {
    let mut address = address.0?;
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let answer = get(address)
        .inspect_err(|error| tracing::debug!("no conditions from {address}: {error}"))
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_ok = head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ");
    is_ok.then(|| serde_json::from_str(body).ok()).flatten()
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In version 1.0 an answer has no chunks.
    write!(
        stream,
        "GET /conditions HTTP/1.0\r\nHost: {address}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The status of iptables mode, from its rules.
fn of_iptables(backend: &IptablesBackend) -> anyhow::Result<Status> {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for served in backend.served()? {
        let owner = served.owner.as_ref();
        let service = owner.map_or_else(|| "unknown".to_owned(), |of| of.service.to_string());
        services.entry(service).or_default().push(vip(served));
    }
    Ok(Status::new(services))
}

fn vip(served: Served) -> VipStatus {
    let (state, sent) = match served.outcome {
        Verdict::Sent(backends) => (VipState::Served, backends),
        Verdict::Refused => (VipState::Refused, Vec::new()),
        _ => (VipState::Dropped, Vec::new()),
    };
    VipStatus {
        key: served.key,
        port_name: served
            .owner
            .map_or_else(String::new, |owner| owner.port.to_string()),
        state,
        reason: None,
        clients: match served.clients {
            iptables::Clients::Inside => ClientGroup::Inside,
            iptables::Clients::Outside => ClientGroup::Outside,
            _ => ClientGroup::All,
        },
        // The equivalent of a scheduler in IPVS.
        scheduler: (state == VipState::Served).then(|| "random".to_owned()),
        persistence_seconds: served.affinity.map(NonZeroU32::get),
        real_servers: sent.iter().map(RealServerStatus::from).collect(),
    }
}

/// The status of mode ipvs, from IPVS and nftables.
fn of_ipvs() -> anyhow::Result<Status> {
    let mut backend = IpvsBackend::open()?;
    let node = backend.outline()?;
    collect(&node, backend.ipvs())
}

fn collect(node: &NodeState, ipvs: &mut ipvs::Client) -> anyhow::Result<Status> {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for (element, comment) in node.elements.iter() {
        let Some((key, state, clients)) = entry(element, node) else {
            continue;
        };
        let port = comment.as_deref().unwrap_or("unknown");
        // A Service's name contains no colon.
        let (service, port) = port.split_once(':').unwrap_or((port, ""));
        let recorded = element.recorded();
        let server = recorded.and_then(|key| node.virtual_servers.get(&key));
        let server = server.map(|state| state.server);
        let vip = VipStatus {
            key,
            port_name: port.to_owned(),
            state,
            reason: None,
            clients,
            scheduler: server.map(|server| server.scheduler.to_string()),
            persistence_seconds: server.and_then(|s| s.persistence).map(|p| p.timeout),
            real_servers: match recorded {
                Some(key) => real_servers(ipvs, key)?,
                None => Vec::new(),
            },
        };
        services.entry(service.to_owned()).or_default().push(vip);
    }
    Ok(Status::new(services))
}

/// The frontend that an element stands for, and its state. `None` if another element stands for the
/// same frontend.
fn entry(element: &Element, node: &NodeState) -> Option<(FrontendKey, VipState, ClientGroup)> {
    let all_or_inside = |key| match node.elements.mark(key, Purpose::External) {
        Some(_) => ClientGroup::Inside,
        None if node
            .elements
            .contains(&Element::Dropped(key, Audience::External)) =>
        {
            ClientGroup::Inside
        }
        None => ClientGroup::All,
    };
    Some(match *element {
        Element::VirtualServer(key) => (key, VipState::Served, all_or_inside(key)),
        Element::Mark { key, purpose, .. } => match purpose {
            Purpose::NodePort => (key, VipState::Served, all_or_inside(key)),
            Purpose::External => (key, VipState::Served, ClientGroup::Outside),
            _ => return None,
        },
        Element::NoEndpoints(key) => (key, VipState::Refused, ClientGroup::All),
        Element::Dropped(key, Audience::All) => (key, VipState::Dropped, ClientGroup::All),
        Element::Dropped(key, _) => (key, VipState::Dropped, ClientGroup::Outside),
        _ => return None,
    })
}

fn real_servers(
    ipvs: &mut ipvs::Client,
    key: VirtualServerKey,
) -> anyhow::Result<Vec<RealServerStatus>> {
    let entries = match ipvs.real_servers(&key) {
        // The virtual server was deleted after it was listed.
        Err(error) if error.is_not_found() => Vec::new(),
        entries => entries?,
    };
    Ok(entries.iter().map(RealServerStatus::from).collect())
}
