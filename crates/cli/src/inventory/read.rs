//! Reads the kernel.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, bail};
use ipvs::VirtualServerKey;
use proxier::desired::FrontendKey;
use proxier::mode::iptables::{self, Clients, IptablesKernel, Served, Verdict};
use proxier::mode::ipvs::plan::{Audience, Element, NodeState, Purpose};
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::{self, NftablesKernel, Target};

use super::proxied::{Proxied, inventory};
use super::{ClientGroup, Inventory, RealServerStatus, VipState, VipStatus, Wanted};
use crate::args::Mode;
use crate::running::Client;

/// The kernel has it in a network namespace as soon as the module is loaded.
const IPVS_FILE: &str = "/proc/net/ip_vs";
const NO_MODE: &str = "no mode of svcproxy is in effect here: the kernel has no rules of modes iptables \
                       and nftables, and IPVS is not loaded. Start svcproxy, run this in the network \
                       namespace of the node, or name a mode with --mode. If svcproxy runs in mode \
                       userspace, name its --metrics-bind-address";
/// The Service of rules and elements without a comment.
const UNKNOWN: &str = "unknown";

/// Reads the data plane of a mode; without one, of mode userspace if the svcproxy that runs on this node
/// has it, else of the mode whose rules the node has, or of mode ipvs.
pub(crate) fn read(
    mode: Option<Mode>,
    running: Option<&Client>,
    wanted: &Wanted<'_>,
) -> anyhow::Result<(Mode, Inventory)> {
    let is_proxy = |running: &&Client| {
        let status = running.status();
        status.is_some_and(|status| status.mode == Mode::Userspace.name())
    };
    let proxy = match mode {
        Some(Mode::Userspace) => running,
        Some(_) => None,
        None => running.filter(is_proxy),
    };
    let mode = mode.or(proxy.map(|_| Mode::Userspace));
    let page = || proxy.and_then(Client::proxied);
    read_with(mode, page, wanted)
}

/// As [`read`]; `page` is what the proxy of mode userspace serves.
pub(crate) fn read_with(
    mode: Option<Mode>,
    page: impl FnOnce() -> Option<Vec<Proxied>>,
    wanted: &Wanted<'_>,
) -> anyhow::Result<(Mode, Inventory)> {
    let (mode, iptables) = in_use(mode)?;
    let inventory = match mode {
        Mode::Ipvs => of_ipvs(wanted)?,
        Mode::Iptables => {
            let kernel = iptables.map_or_else(IptablesKernel::open, Ok)?;
            of_iptables(&kernel, wanted)?
        }
        Mode::Nftables => of_nftables(wanted)?,
        Mode::Userspace => {
            let page = page().context(
                "mode userspace serves only while svcproxy runs, and none answers at \
                 --metrics-bind-address",
            )?;
            inventory(page, wanted)
        }
    };
    Ok((mode, inventory))
}

/// The mode to read, with the kernel if that is open already: the given one, or the mode whose rules
/// the node has, or mode ipvs.
pub(crate) fn in_use(mode: Option<Mode>) -> anyhow::Result<(Mode, Option<IptablesKernel>)> {
    let iptables = match mode {
        None | Some(Mode::Iptables) => IptablesKernel::in_use()?,
        Some(_) => None,
    };
    let mode = match mode {
        Some(mode) => mode,
        None if iptables.is_some() => Mode::Iptables,
        None if has_nftables_mode() => Mode::Nftables,
        None if !Path::new(IPVS_FILE).exists() => bail!(NO_MODE),
        None => Mode::Ipvs,
    };
    Ok((mode, iptables))
}

/// Whether the node has the tables of mode nftables. If they cannot be read, the error of mode ipvs
/// says why.
fn has_nftables_mode() -> bool {
    let in_use = NftablesKernel::open().and_then(|mut kernel| kernel.is_in_use());
    in_use.unwrap_or(false)
}

fn of_nftables(wanted: &Wanted<'_>) -> anyhow::Result<Inventory> {
    let node = NftablesKernel::open()?.observe()?;
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for key in node.elements.frontends() {
        for served in nftables::served(&node, key) {
            let port = served.owner.as_deref().unwrap_or(UNKNOWN);
            // A Service's name contains no colon.
            let (service, port) = port.split_once(':').unwrap_or((port, ""));
            if !(wanted.0)(service) {
                continue;
            }
            let state = match served.outcome {
                nftables::Outcome::Served => VipState::Served,
                nftables::Outcome::Refused => VipState::Refused,
                _ => VipState::Dropped,
            };
            let vip = VipStatus {
                key: *key,
                port_name: port.to_owned(),
                state,
                reason: None,
                clients: match served.clients {
                    Clients::Inside => ClientGroup::Inside,
                    Clients::Outside => ClientGroup::Outside,
                    _ => ClientGroup::All,
                },
                // The equivalent of a scheduler in IPVS.
                scheduler: (state == VipState::Served).then(|| "random".to_owned()),
                persistence_seconds: served.affinity.map(NonZeroU32::get),
                real_servers: served.endpoints.iter().map(endpoint).collect(),
            };
            services.entry(service.to_owned()).or_default().push(vip);
        }
    }
    Ok(Inventory::new(services))
}

fn endpoint(to: &Target) -> RealServerStatus {
    RealServerStatus {
        address: to.address,
        port: to.port.get(),
        scheduled: None,
        total_connections: None,
    }
}

fn of_iptables(kernel: &IptablesKernel, wanted: &Wanted<'_>) -> anyhow::Result<Inventory> {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for served in kernel.served()? {
        let owner = served.owner.as_ref();
        let service = owner.map_or_else(|| UNKNOWN.to_owned(), |of| of.service.to_string());
        if (wanted.0)(&service) {
            services.entry(service).or_default().push(vip(served));
        }
    }
    Ok(Inventory::new(services))
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

fn of_ipvs(wanted: &Wanted<'_>) -> anyhow::Result<Inventory> {
    let mut kernel = IpvsKernel::open()?;
    let node = kernel.outline()?;
    collect(&node, kernel.ipvs(), wanted)
}

fn collect(
    node: &NodeState,
    ipvs: &mut ipvs::Client,
    wanted: &Wanted<'_>,
) -> anyhow::Result<Inventory> {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for (element, comment) in node.elements.iter() {
        let Some((key, state, clients)) = entry(element, node) else {
            continue;
        };
        let port = comment.as_deref().unwrap_or(UNKNOWN);
        // A Service's name contains no colon.
        let (service, port) = port.split_once(':').unwrap_or((port, ""));
        if !(wanted.0)(service) {
            continue;
        }
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
    Ok(Inventory::new(services))
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
