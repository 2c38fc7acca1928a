//! The desired state, as text and in the syntax of ipvsadm.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::net::SocketAddr;

use ipnet::IpNet;
use ipvs::ipvsadm::scheduler_flags;
use ipvs::{Change, RealServer, VirtualServer};
use proxier::desired::{
    Backend, Config, DesiredState, Frontend, FrontendKind, Place, PodInterfaces, ServicePortName,
    WithoutBackends,
};
use proxier::mode::ipvs::plan::{LocalRoute, NodeState, Plan, Scope, Step};
use proxier::model::{Protocol, SessionAffinity};

use crate::logging::Shown;

/// Prints the desired state as text.
pub(crate) fn desired_text(desired: &DesiredState) -> anyhow::Result<()> {
    write!(io::stdout().lock(), "{}", Text(desired))?;
    Ok(())
}

/// The node's settings, then each Service port with its addresses and endpoints, then health checks
/// and routes.
pub(crate) struct Text<'a>(pub(crate) &'a DesiredState);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(desired) = self;
        node(f, desired.config())?;
        for (owner, groups) in by_port(desired) {
            service_port(f, desired, &owner, &groups)?;
        }
        let mut checks: Vec<_> = desired.health_checks().collect();
        checks.sort_unstable_by_key(|check| (check.port, &check.service));
        section(f, &checks, |f, check| {
            let (port, service) = (check.port, &check.service);
            let count = check.local_endpoints;
            write!(
                f,
                "health check at port {port}  {service}  {count} ready on this node"
            )
        })?;
        let plan = from_nothing(desired);
        let routes: Vec<_> = plan.into_iter().filter(|step| is_route(step)).collect();
        section(f, &routes, |f, step| route(f, step, desired.config()))
    }
}

/// Writes the lines, after an empty one.
fn section<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    line: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    if !items.is_empty() {
        writeln!(f)?;
    }
    items.iter().try_for_each(|item| {
        line(f, item)?;
        writeln!(f)
    })
}

fn node(f: &mut Formatter<'_>, config: &Config) -> fmt::Result {
    write!(f, "node {}", config.node_name)?;
    if let Some(zone) = &config.zone {
        write!(f, " in zone {}", Shown(zone))?;
    }
    writeln!(f, ", {}", List(&config.node_ips))?;
    match &config.pod_interfaces {
        Some(PodInterfaces::Named(name)) => writeln!(f, "pod interfaces: {name}")?,
        Some(PodInterfaces::Prefixed(prefix)) => writeln!(f, "pod interfaces: {prefix}*")?,
        _ if config.cluster_cidrs.is_empty() => writeln!(f, "pod networks: unknown")?,
        _ => writeln!(f, "pod networks: {}", List(&config.cluster_cidrs))?,
    }
    if config.masquerade_all {
        writeln!(f, "masqueraded: all connections to cluster IPs")?;
    }
    let networks = config.node_port_networks();
    if networks.iter().any(|network| network.prefix_len() > 0) {
        writeln!(f, "node ports at: {}", List(&networks))?;
    }
    if !config.exclude_cidrs.is_empty() {
        writeln!(f, "excluded: {}", List(&config.exclude_cidrs))?;
    }
    if config.deny_external_ips {
        writeln!(f, "denied: external IPs")?;
    }
    if !config.deny_endpoints.is_empty() {
        writeln!(f, "denied endpoints: {}", List(&config.deny_endpoints))?;
    }
    Ok(())
}

/// A port of a Service. Two ports may have the same name, or none, and differ in the protocol.
type Port = (ServicePortName, Protocol);

/// The frontends of each port; those with equal endpoints and settings are in one group.
fn by_port(desired: &DesiredState) -> BTreeMap<Port, Vec<Vec<&Frontend>>> {
    let mut frontends: Vec<_> = desired.frontends().map(AsRef::as_ref).collect();
    frontends.sort_unstable_by_key(|frontend| (frontend.kind, frontend.key));
    let mut ports = BTreeMap::<_, Vec<Vec<&Frontend>>>::new();
    for frontend in frontends {
        let port = (frontend.owner.clone(), frontend.key.protocol);
        let groups = ports.entry(port).or_default();
        let same = |group: &&mut Vec<&Frontend>| {
            let first = group.first();
            first.is_some_and(|first| answers_alike(first, frontend))
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(frontend),
            None => groups.push(vec![frontend]),
        }
    }
    ports
}

fn answers_alike(one: &Frontend, other: &Frontend) -> bool {
    let who = |frontend: &Frontend| {
        let Frontend {
            backends,
            without_backends,
            external,
            ..
        } = frontend;
        (backends.clone(), *without_backends, external.clone())
    };
    one.key.family() == other.key.family() && who(one) == who(other)
}

fn service_port(
    f: &mut Formatter<'_>,
    desired: &DesiredState,
    (owner, _): &Port,
    groups: &[Vec<&Frontend>],
) -> fmt::Result {
    write!(f, "\n{owner}")?;
    if let Some(frontend) = groups.iter().flatten().next() {
        write!(f, "  {}", frontend.scheduler)?;
        let flags: Vec<_> = scheduler_flags(frontend.scheduler, frontend.scheduler_flags).collect();
        if !flags.is_empty() {
            write!(f, " with {}", List(&flags))?;
        }
        if let SessionAffinity::ClientIp(seconds) = frontend.session_affinity {
            write!(f, "  client keeps its endpoint {seconds} s")?;
        }
    }
    writeln!(f)?;
    for group in groups {
        for frontend in group {
            address(f, frontend)?;
        }
        if let Some(frontend) = group.first() {
            answers(f, desired, frontend)?;
        }
    }
    Ok(())
}

fn address(f: &mut Formatter<'_>, frontend: &Frontend) -> fmt::Result {
    let key = &frontend.key;
    write!(f, "  {:<17} ", frontend.kind.to_string())?;
    match frontend.kind {
        FrontendKind::NodePort => write!(f, "{} {} {}", key.protocol, key.port, key.family())?,
        _ => write!(f, "{key}")?,
    }
    if frontend.kind == FrontendKind::NodePort && keeps_clients(frontend) {
        f.write_str("  by the client's hash")?;
    }
    match frontend.source_ranges.as_deref() {
        None => {}
        Some([]) => f.write_str("  only from this node")?,
        Some(ranges) => write!(f, "  only from {}", List(ranges))?,
    }
    writeln!(f)
}

fn keeps_clients(frontend: &Frontend) -> bool {
    frontend.session_affinity != SessionAffinity::None
}

fn answers(f: &mut Formatter<'_>, desired: &DesiredState, frontend: &Frontend) -> fmt::Result {
    let why = |f: &mut Formatter<'_>, here| match desired.why_no_endpoints(frontend, here) {
        Some(why) => writeln!(f, ": {why}"),
        None => writeln!(f),
    };
    match (&*frontend.backends, frontend.without_backends) {
        ([], WithoutBackends::Refuse) => {
            f.write_str("    refused: no endpoints")?;
            why(f, false)?;
        }
        ([], _) => {
            f.write_str("    dropped: no endpoints on this node")?;
            why(f, true)?;
        }
        (all, _) => backends(f, "", all)?,
    }
    match frontend.external.as_deref() {
        None => Ok(()),
        Some([]) => {
            f.write_str("    from outside: dropped, no endpoints on this node")?;
            why(f, true)
        }
        Some(local) => {
            let how = match keeps_clients(frontend) {
                true => " and by its hash",
                false => "",
            };
            writeln!(f, "    from outside, with the client's own address{how}:")?;
            backends(f, "  ", local)
        }
    }
}

fn backends(f: &mut Formatter<'_>, indent: &str, backends: &[Backend]) -> fmt::Result {
    backends.iter().try_for_each(|backend| {
        let address = SocketAddr::new(backend.address, backend.port.get());
        let place = match backend.place {
            Place::ThisNode => "  this node",
            Place::OnThisNode => "  on this node",
            Place::Unknown => "  node not known",
            _ => "",
        };
        write!(f, "    {indent}-> {address}{place}")?;
        match backend.weight.get() {
            1 => writeln!(f),
            weight => writeln!(f, "  weight {weight}"),
        }
    })
}

fn is_route(step: &Step) -> bool {
    matches!(step, Step::AddRoute(_) | Step::AddPolicyRoute(_))
}

fn route(f: &mut Formatter<'_>, step: &Step, config: &Config) -> fmt::Result {
    match step {
        Step::AddRoute(route) => {
            write!(f, "route {route}")?;
            let LocalRoute { prefix, .. } = route;
            let is_in = |cidrs: &[IpNet]| cidrs.iter().any(|cidr| cidr.contains(prefix));
            match (is_in(&config.service_cidrs), is_in(&config.shared_cidrs)) {
                (true, _) => Ok(()),
                (false, true) => {
                    f.write_str(" (in a Service CIDR that is not captured as a whole)")
                }
                (false, false) => f.write_str(" (outside of every Service CIDR)"),
            }
        }
        Step::AddPolicyRoute(route) => write!(f, "policy route {route}"),
        _ => Ok(()),
    }
}

/// Items, separated by commas.
pub(super) struct List<'a, T>(pub(super) &'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, item)| {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{item}")
        })
    }
}

/// The plan for an empty node.
pub(super) fn from_nothing(desired: &DesiredState) -> Plan {
    Plan::new(desired, &NodeState::default(), Scope::Full)
}

/// In the syntax of `ipvsadm -Sn`, virtual servers by protocol, address and port, then those of
/// firewall marks; real servers in the order in which this node adds them.
pub(crate) fn desired_ipvsadm(desired: &DesiredState) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for (server, real_servers) in virtual_servers(desired) {
        writeln!(out, "{}", ipvs::ipvsadm::virtual_server(&server))?;
        for real_server in &real_servers {
            writeln!(
                out,
                "{}",
                ipvs::ipvsadm::real_server(&server.key, real_server)
            )?;
        }
    }
    Ok(())
}

/// The virtual servers that the plan for an empty node creates, sorted, with their real servers.
pub(crate) fn virtual_servers(desired: &DesiredState) -> Vec<(VirtualServer, Vec<RealServer>)> {
    let mut servers = BTreeMap::new();
    for step in &from_nothing(desired) {
        match step {
            Step::Ipvs(Change::AddVirtualServer(server)) => {
                servers.insert(server.key, (*server, Vec::new()));
            }
            Step::Ipvs(Change::AddRealServer {
                virtual_server,
                real_server,
            }) => {
                if let Some((_, real_servers)) = servers.get_mut(virtual_server) {
                    real_servers.push(*real_server);
                }
            }
            _ => {}
        }
    }
    servers.into_values().collect()
}
