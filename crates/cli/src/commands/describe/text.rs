//! A Service, for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use super::Known;
use crate::args::Mode;
use crate::description::{Address, Description, EndpointOf, Port};
use crate::inventory::{ClientGroup, RealServerStatus, VipState, VipStatus};
use crate::logging::Shown;
use crate::table::Table;

/// All of it.
pub(super) struct Text<'a>(pub(super) &'a Known);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(known) = self;
        row(f, "Service", Shown(&known.service))?;
        match &known.description {
            Some(description) => {
                settings(f, description)?;
                addresses(f, description)?;
                vips(f, known)?;
                let local = wants_local(description);
                for port in &description.ports {
                    of_port(f, port, known, local)?;
                }
            }
            None => {
                let why = match known.conditions {
                    None => "no svcproxy answers: this is what the kernel has",
                    Some(_) => "the running svcproxy does not know it: it drains, or was deleted",
                };
                row(f, "Source", why)?;
                vips(f, known)?;
                of_kernel(f, &known.vips)?;
            }
        }
        problems(f, known)?;
        changes(f, known)
    }
}

/// What the running svcproxy did for the Service and reported of it.
fn changes(f: &mut Formatter<'_>, known: &Known) -> fmt::Result {
    let Some(changes) = &known.changes else {
        return Ok(());
    };
    if changes.is_empty() {
        return row(f, "Changes", "none among the last ones of this node");
    }
    writeln!(f, "Changes")?;
    let cells = changes.iter().map(|of| {
        let failed = match of.failed_steps {
            0 => String::new(),
            1 => "; 1 step of the sync failed".to_owned(),
            count => format!("; {count} steps of the sync failed"),
        };
        vec![
            of.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            format!("{}{failed}", Shown(&of.what)),
            Shown(&of.cause).to_string(),
        ]
    });
    table(f, &cells.collect::<Vec<_>>())
}

fn row(f: &mut Formatter<'_>, name: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{name:<11} {text}")
}

fn settings(f: &mut Formatter<'_>, of: &Description) -> fmt::Result {
    let zone = of
        .zone
        .as_deref()
        .map(|zone| format!(" in zone {}", Shown(zone)));
    let zone = zone.unwrap_or_default();
    row(f, "Node", format_args!("{}{zone}", Shown(&of.node)))?;
    let (internal, external) = (&of.internal_traffic_policy, &of.external_traffic_policy);
    row(
        f,
        "Policies",
        format_args!("internal {}, external {}", Shown(internal), Shown(external)),
    )?;
    match of.session_affinity_seconds {
        Some(seconds) => row(
            f,
            "Affinity",
            format_args!("a client keeps its endpoint {seconds} s"),
        )?,
        None => row(f, "Affinity", "none")?,
    }
    if let Some(scheduler) = &of.scheduler {
        row(f, "Scheduler", Shown(scheduler))?;
    }
    if let Some(port) = of.health_check_node_port {
        row(f, "Health", format_args!("check node port {port}"))?;
    }
    Ok(())
}

/// Where the Service asks to be served.
fn addresses(f: &mut Formatter<'_>, of: &Description) -> fmt::Result {
    if of.addresses.is_empty() {
        return row(f, "Addresses", "none: nothing to serve");
    }
    writeln!(f, "Addresses")?;
    let cells: Vec<_> = of.addresses.iter().map(address).collect();
    table(f, &cells)
}

fn address(of: &Address) -> Vec<String> {
    let at = match of.address {
        Some(address) => SocketAddr::new(address, of.port).to_string(),
        None => format!("{} ({})", of.port, Shown(&of.family)),
    };
    let mut notes = Vec::new();
    if let Some(ranges) = &of.source_ranges {
        notes.push(match ranges.as_slice() {
            [] => "only from this node".to_owned(),
            ranges => format!("only from {}", Shown(&ranges.join(", "))),
        });
    }
    if let Some(holder) = &of.held_by {
        notes.push(format!(
            "not served: it belongs to Service {}",
            Shown(holder)
        ));
    }
    vec![
        Shown(&of.kind).to_string(),
        format!("{} {at}", Shown(&of.protocol)),
        Shown(&of.port_name).to_string(),
        notes.join(", "),
    ]
}

/// What the kernel does with new connections, or the proxy of mode userspace.
fn vips(f: &mut Formatter<'_>, known: &Known) -> fmt::Result {
    let who = match is_proxied(known) {
        true => "Proxy",
        false => "Kernel",
    };
    if known.vips.is_empty() {
        return row(f, who, "serves none of it");
    }
    writeln!(f, "{who}")?;
    let cells: Vec<_> = known.vips.iter().map(vip).collect();
    table(f, &cells)
}

fn vip(vip: &VipStatus) -> Vec<String> {
    let clients = match vip.clients {
        ClientGroup::All => "all clients",
        ClientGroup::Inside => "clients in the cluster",
        ClientGroup::Outside => "clients outside",
    };
    let draining = vip
        .real_servers
        .iter()
        .filter(|server| server.drains())
        .count();
    let active = vip.real_servers.len() - draining;
    let mut state = match (vip.state, &vip.scheduler) {
        (VipState::Refused, _) => "refused: no endpoints".to_owned(),
        (VipState::Dropped, _) => "dropped: no endpoints here".to_owned(),
        (VipState::NotServed, _) => "not served".to_owned(),
        (VipState::Served, None) => "its virtual server is missing".to_owned(),
        (VipState::Served, Some(scheduler)) => {
            let noun = if active == 1 { "endpoint" } else { "endpoints" };
            format!("{active} {noun}, {}", Shown(scheduler))
        }
    };
    if let Some(seconds) = vip.persistence_seconds {
        state += &format!(", {seconds} s affinity");
    }
    if draining > 0 {
        state += &format!(", {draining} draining");
    }
    if let Some(reason) = &vip.reason {
        state += &format!(": {}", Shown(reason));
    }
    vec![vip.key.to_string(), clients.to_owned(), state]
}

/// Whether svcproxy itself passes connections on.
fn is_proxied(known: &Known) -> bool {
    known.mode == Mode::Userspace.name()
}

/// Whether a traffic policy makes a difference.
fn wants_local(of: &Description) -> bool {
    let policies = [&of.internal_traffic_policy, &of.external_traffic_policy];
    policies.into_iter().any(|policy| policy == "Local")
}

/// The counters of a real server at several virtual IPs.
#[derive(Clone, Copy, Default)]
struct Counted {
    weight: Option<u32>,
    active: u64,
    inactive: u64,
    per_second: u64,
    total: Option<u64>,
}

/// The real servers of one port, by address.
fn counters<'a>(vips: impl Iterator<Item = &'a VipStatus>) -> BTreeMap<SocketAddr, Counted> {
    let mut all = BTreeMap::<_, Counted>::new();
    for server in vips.flat_map(|vip| &vip.real_servers) {
        let RealServerStatus { address, port, .. } = *server;
        let sum = all.entry(SocketAddr::new(address, port)).or_default();
        if let Some(of) = server.scheduled {
            sum.weight = Some(sum.weight.unwrap_or(0).max(of.weight));
            sum.active += of.now.active_connections;
            sum.inactive += of.now.inactive_connections;
            sum.per_second += of.rates.connections_per_second;
        }
        if let Some(total) = server.total_connections {
            sum.total = Some(sum.total.unwrap_or(0) + total);
        }
    }
    all
}

const COUNTERS: [&str; 5] = ["WEIGHT", "ACTIVE", "INACTIVE", "CONN/S", "TOTAL"];

impl Counted {
    /// A mode that does not count shows no number.
    fn cells(counted: Option<&Self>) -> [String; 5] {
        let none = || "-".to_owned();
        let Some(it) = counted else {
            return [none(), none(), none(), none(), none()];
        };
        let now = |count: u64| it.weight.map_or_else(none, |_| count.to_string());
        [
            it.weight.map_or_else(none, |weight| weight.to_string()),
            now(it.active),
            now(it.inactive),
            now(it.per_second),
            it.total.map_or_else(none, |total| total.to_string()),
        ]
    }
}

fn of_port(f: &mut Formatter<'_>, port: &Port, known: &Known, local: bool) -> fmt::Result {
    let name = match port.name.is_empty() {
        true => String::new(),
        false => format!(" {}", Shown(&port.name)),
    };
    let node_port = port.node_port.map(|port| format!(", node port {port}"));
    let (number, protocol) = (port.port, Shown(&port.protocol));
    let node_port = node_port.unwrap_or_default();
    writeln!(f, "Port{name}  {number}/{protocol}{node_port}")?;
    for without in &port.without_endpoints {
        let family = Shown(&without.family);
        if let Some(why) = &without.anywhere {
            writeln!(f, "  no endpoints ({family}): {}", Shown(why))?;
        } else if let Some(why) = &without.on_this_node {
            writeln!(f, "  no endpoints on this node ({family}): {}", Shown(why))?;
        }
    }
    let missing = match is_proxied(known) {
        true => "svcproxy does not use it yet",
        false => "the kernel has no such real server",
    };
    let own = known
        .vips
        .iter()
        .filter(|vip| vip.port_name == port.name && vip.key.protocol.to_string() == port.protocol);
    let mut counted = counters(own);
    let mut cells = Vec::new();
    for endpoint in &port.endpoints {
        let at = endpoint
            .port
            .map(|port| SocketAddr::new(endpoint.address, port));
        let counters = at.and_then(|at| counted.remove(&at));
        cells.push(endpoint_cells(endpoint, counters.as_ref(), local, missing));
    }
    // Real servers that no slice has any more.
    for (at, counters) in &counted {
        let note = match counters.weight {
            Some(0) => "no: drains, and is in no slice any more",
            _ => "in no slice",
        };
        let none = || "-".to_owned();
        let first = [at.to_string(), none(), none(), none()];
        let rest = Counted::cells(Some(counters)).into_iter();
        let cells_of = first.into_iter().chain(rest).chain([note.to_owned()]);
        cells.push(cells_of.collect());
    }
    if cells.is_empty() {
        return Ok(());
    }
    let header = ["ENDPOINT", "NODE", "ZONE", "STATE"].into_iter();
    let header = header.chain(COUNTERS).chain(["USED"]);
    cells.insert(0, header.map(str::to_owned).collect());
    table(f, &cells)
}

fn endpoint_cells(
    of: &EndpointOf,
    counted: Option<&Counted>,
    local: bool,
    missing: &str,
) -> Vec<String> {
    let at = match of.port {
        Some(port) => SocketAddr::new(of.address, port).to_string(),
        None => of.address.to_string(),
    };
    let state = match (of.ready, of.serving, of.terminating) {
        (true, ..) => "ready",
        (false, true, true) => "terminating, serving",
        (false, _, true) => "terminating",
        (false, ..) => "not ready",
    };
    let or_none = |text: &Option<String>| {
        let text = text.as_deref().map(|text| Shown(text).to_string());
        text.unwrap_or_else(|| "<unknown>".to_owned())
    };
    let mut used = match (&of.unused, &of.unused_here) {
        (Some(why), _) => format!("no: {}", Shown(why)),
        (None, Some(why)) if local => format!(
            "yes; not by {}",
            Shown(&why.replacen("traffic policy Local, and", "traffic policy Local:", 1))
        ),
        (None, _) => "yes".to_owned(),
    };
    let takes_new = counted.is_some_and(|of| of.weight != Some(0));
    if of.unused.is_none() && !takes_new {
        used += &format!("; {missing}");
    }
    let first = [at, or_none(&of.node), or_none(&of.zone), state.to_owned()];
    let [mut weight, rest @ ..] = Counted::cells(counted);
    if counted.is_none() {
        weight = of.weight.to_string();
    }
    let first = first.into_iter().chain([weight]);
    first.chain(rest).chain([used]).collect()
}

/// The real servers, where nothing but the kernel is known.
fn of_kernel(f: &mut Formatter<'_>, vips: &[VipStatus]) -> fmt::Result {
    let counted = counters(vips.iter());
    if counted.is_empty() {
        return Ok(());
    }
    writeln!(f, "Endpoints")?;
    let header = ["ENDPOINT"].into_iter().chain(COUNTERS);
    let mut cells = vec![header.map(str::to_owned).collect::<Vec<_>>()];
    cells.extend(counted.iter().map(|(at, counters)| {
        let rest = Counted::cells(Some(counters));
        [at.to_string()].into_iter().chain(rest).collect()
    }));
    table(f, &cells)
}

fn problems(f: &mut Formatter<'_>, known: &Known) -> fmt::Result {
    let mut lines = Vec::new();
    let listed = known.description.iter().flat_map(|of| &of.problems);
    for of in listed {
        let (reason, field, message) = (Shown(&of.reason), Shown(&of.field), Shown(&of.message));
        lines.push(format!("{reason}  {field}: {message}"));
    }
    // The problems are conditions too, and so are reasons of ports, which are above.
    let conditions = known.conditions.iter().flatten();
    if known.description.is_none() {
        for of in conditions {
            lines.push(format!("{}  {}", Shown(&of.reason), Shown(&of.message)));
        }
    }
    match (lines.is_empty(), &known.conditions) {
        (true, None) => row(f, "Problems", "unknown, no svcproxy answers"),
        (true, Some(_)) => row(f, "Problems", "none"),
        (false, _) => {
            writeln!(f, "Problems")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
        }
    }
}

/// An indented table.
fn table(f: &mut Formatter<'_>, cells: &[Vec<String>]) -> fmt::Result {
    let mut text = Vec::new();
    // Writing to a vector does not fail.
    Table::default()
        .print(&mut text, cells)
        .map_err(|_| fmt::Error)?;
    let text = String::from_utf8_lossy(&text);
    text.lines().try_for_each(|line| writeln!(f, "  {line}"))
}
