//! The status of IPVS mode, from IPVS and nftables.

use std::collections::BTreeMap;

use ipvs::VirtualServerKey;
use proxier::desired::FrontendKey;
use proxier::mode::ipvs::plan::{Audience, Element, NodeState, Purpose};
use proxier::mode::ipvs::{Backend, IpvsBackend};

use super::{Clients, RealServerStatus, Status, VipState, VipStatus};

pub(super) fn status() -> anyhow::Result<Status> {
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
fn entry(element: &Element, node: &NodeState) -> Option<(FrontendKey, VipState, Clients)> {
    let all_or_inside = |key| match node.elements.mark(key, Purpose::External) {
        Some(_) => Clients::Inside,
        None if node
            .elements
            .contains(&Element::Dropped(key, Audience::External)) =>
        {
            Clients::Inside
        }
        None => Clients::All,
    };
    Some(match *element {
        Element::VirtualServer(key) => (key, VipState::Served, all_or_inside(key)),
        Element::Mark { key, purpose, .. } => match purpose {
            Purpose::NodePort => (key, VipState::Served, all_or_inside(key)),
            Purpose::External => (key, VipState::Served, Clients::Outside),
            _ => return None,
        },
        Element::NoEndpoints(key) => (key, VipState::Refused, Clients::All),
        Element::Dropped(key, Audience::All) => (key, VipState::Dropped, Clients::All),
        Element::Dropped(key, _) => (key, VipState::Dropped, Clients::Outside),
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
