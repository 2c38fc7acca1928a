//! `svcproxy status`.

use std::collections::BTreeMap;

use ipvs::VirtualServerKey;
use proxier::backend::{Backend, IpvsBackend};
use proxier::plan::{Element, NodeState};

use crate::Ending;
use crate::args::StatusFormat;
use crate::output::{self, RealServerStatus, Status, VipStatus};

/// Shows what this node carries, as the kernel has it.
pub(crate) fn status(format: StatusFormat) -> anyhow::Result<Ending> {
    let mut backend = IpvsBackend::open()?;
    let node = backend.observe()?;
    let status = collect(&node, backend.ipvs())?;
    match format {
        StatusFormat::Text => output::status_text(&status)?,
        StatusFormat::Json => output::status_json(&status)?,
    }
    Ok(Ending::Done)
}

fn collect(node: &NodeState, ipvs: &mut ipvs::Client) -> anyhow::Result<Status> {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for (element, comment) in &node.elements {
        let (key, served) = match element {
            Element::VirtualServer(key) => (key, true),
            Element::NoEndpoints(key) => (key, false),
            _ => continue,
        };
        let port = comment.as_deref().unwrap_or("unknown");
        // A Service's name holds no colon.
        let (service, port) = port.split_once(':').unwrap_or((port, ""));
        let server = node
            .virtual_servers
            .get(&VirtualServerKey::from(*key))
            .map(|vs| vs.server);
        let vip = VipStatus {
            address: key.address,
            protocol: key.protocol.to_string(),
            port: key.port.get(),
            port_name: port.to_owned(),
            scheduler: server.map(|server| server.scheduler.to_string()),
            persistence_seconds: server.and_then(|s| s.persistence).map(|p| p.timeout),
            real_servers: if served {
                real_servers(ipvs, (*key).into())?
            } else {
                Vec::new()
            },
        };
        services.entry(service.to_owned()).or_default().push(vip);
    }
    Ok(Status::new(services))
}

fn real_servers(
    ipvs: &mut ipvs::Client,
    key: VirtualServerKey,
) -> anyhow::Result<Vec<RealServerStatus>> {
    let entries = match ipvs.real_servers(&key) {
        // Gone since it was listed.
        Err(error) if error.is_not_found() => Vec::new(),
        entries => entries?,
    };
    Ok(entries.iter().map(RealServerStatus::from).collect())
}
