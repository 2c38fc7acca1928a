//! `svcproxy explain`.

mod case;
mod plane;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, bail};
use ipvs::Family;
use proxier::desired::Config;
use proxier::host::{Facts, Host, Role, Ways, judge};
use proxier::mode::trace::{Origin, Outcome, Packet, Step, Trace};
use proxier::model::ProxyProtocol;
use serde::Serialize;

use self::case::{Around, Case, Explanation, FOLLOWED, Finding, mode_of, what};
use self::plane::{DataPlane, Look};
use self::text::Text;
use super::subject::Planned;
use super::{DiagnosticLog, json};
use crate::args::{ExplainArgs, StatusFormat, Target};
use crate::description::{self, Description};
use crate::running::Client;
use crate::source::Source;
use crate::{Ending, node};

/// Prints the way of a connection's first packet, and why it goes like that.
pub(crate) fn explain(args: &ExplainArgs) -> anyhow::Result<Ending> {
    let client = Client::at(&args.node.monitor.metrics_bind_address);
    let planned = args.has_source().then(|| read(args)).transpose()?;
    let wants_kernel = planned.is_none() || args.against.is_some();
    let own = match wants_kernel {
        true => addresses()?,
        false => Vec::new(),
    };
    let config = match &planned {
        Some(planned) => planned.desired.config().clone(),
        None => settings(args, client.as_ref())?,
    };
    let is_own = |address: IpAddr| match wants_kernel {
        true => own.contains(&address),
        false => config.node_ips.contains(&address),
    };
    let packet = packet(args, &config, &is_own, wants_kernel)?;
    let look = Look {
        client: client.as_ref(),
        listen: &args.node.listen,
        proc_sys: &args.mode.proc_sys,
    };
    let kernel = match wants_kernel {
        true => Some(DataPlane::of_kernel(
            args.mode.mode,
            &config,
            &packet,
            &look,
        )?),
        false => None,
    };
    let plan = planned.as_ref().map(|planned| {
        let mode = args.planned_mode();
        DataPlane::planned(mode, &planned.desired, &args.node.listen, kernel.as_ref())
    });
    let (plane, of) = match (&kernel, &plan) {
        (Some(kernel), Some(_)) => (kernel, "this node's kernel, against the plan"),
        (Some(kernel), None) => (kernel, "this node's kernel"),
        (None, Some(plan)) => (plan, "the plan"),
        (None, None) => bail!("neither a plan nor the kernel to explain"),
    };
    let trace = plane.trace(&packet, &is_own);
    let services = match &planned {
        Some(planned) => {
            let key = packet.key();
            description::at(
                key.address,
                key.port.get(),
                &planned.store,
                &planned.desired,
            )
        }
        None => client
            .and_then(|client| client.services_at(&packet))
            .unwrap_or_default(),
    };
    let host = kernel
        .as_ref()
        .map(|_| observe(args, &answering(&trace, &packet)));
    let (facts, ways) = host.unwrap_or_default();
    let around = kernel.as_ref().map(|kernel| {
        let mut role = Role::new(kernel.mode().probed(), &config);
        role.captures = true;
        Around {
            facts: &facts,
            ways: &ways,
            role,
        }
    });
    let concerns = around.map_or_else(Vec::new, |around| judge(&facts, &around.role));
    let case = Case {
        leaves_by: wants_kernel.then(|| leaves_by(packet.destination)),
        packet,
        config: &config,
        plane,
        planned: plan.as_ref().filter(|_| kernel.is_some()),
        services,
        concerns: &concerns,
        around,
        is_own: &is_own,
    };
    let explanation = case.explain(trace);
    match args.output {
        StatusFormat::Json => json(&Document::of(&case, &explanation, of))?,
        StatusFormat::Text => {
            let text = Text {
                case: &case,
                explanation: &explanation,
                of,
            };
            write!(io::stdout().lock(), "{text}")?;
        }
    }
    let is_served = explanation.is_served();
    Ok(match planned.is_some_and(|planned| planned.is_invalid) {
        true => Ending::InvalidInput,
        false if is_served => Ending::Done,
        false => Ending::Failed,
    })
}

/// Reads the source.
fn read(args: &ExplainArgs) -> anyhow::Result<Planned> {
    let settings = node::config(&args.node)?;
    let reading = Source::new(&args.node.source, &settings.node_name).read()?;
    DiagnosticLog::default().log(&reading.diagnostics);
    Planned::of(&settings, reading)
}

/// The settings of the running svcproxy, or without one those of the command line.
fn settings(args: &ExplainArgs, client: Option<&Client>) -> anyhow::Result<Config> {
    let given = node::config(&args.node)?;
    Ok(match client.and_then(Client::settings) {
        Some(running) => running.over(given),
        None => given,
    })
}

/// The addresses of this machine.
fn addresses() -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs().context("cannot list this node's addresses")?;
    Ok(interfaces.iter().map(if_addrs::Interface::ip).collect())
}

/// The packet of the command line.
fn packet(
    args: &ExplainArgs,
    config: &Config,
    is_own: &dyn Fn(IpAddr) -> bool,
    asks_kernel: bool,
) -> anyhow::Result<Packet> {
    let Target {
        address,
        port,
        protocol,
    } = args.target;
    let family = match (address, args.from) {
        (Some(address), _) => Family::of(&address),
        (None, Some(from)) => Family::of(&from),
        (None, None) if config.node_ip(Family::V4).is_some() => Family::V4,
        (None, None) => Family::V6,
    };
    let own = config.node_ip(family);
    let destination = match address.or(own) {
        Some(address) => address,
        None => bail!("the node has no {family} address for a node port: give --node-ip"),
    };
    let (source, origin) = match args.from {
        Some(from) if !is_own(from) && !from.is_loopback() => {
            let interface = args.interface.clone().unwrap_or_default();
            (from, Origin::Interface(interface))
        }
        Some(own) => (own, Origin::Node),
        None => {
            let by_route = asks_kernel.then(|| source_to(destination).ok()).flatten();
            let loopback: IpAddr = match family {
                Family::V4 => Ipv4Addr::LOCALHOST.into(),
                Family::V6 => Ipv6Addr::LOCALHOST.into(),
            };
            (by_route.or(own).unwrap_or(loopback), Origin::Node)
        }
    };
    if Family::of(&source) != family {
        bail!("{source} and {destination} have different families");
    }
    Ok(Packet::new(source, destination, protocol, port, origin))
}

/// The address that this machine would use as source to another one. Sends nothing.
fn source_to(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((destination, 9))?;
    socket.local_addr().map(|own: SocketAddr| own.ip())
}

/// Where packets to an address leave, for people.
fn leaves_by(destination: IpAddr) -> String {
    let source = match source_to(destination) {
        Ok(source) => source,
        Err(error) => return format!("no route ({error})"),
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let interface = interfaces.iter().find(|interface| interface.ip() == source);
    match interface {
        Some(interface) => format!("interface {} (source {source})", interface.name),
        None => format!("the route with source {source}"),
    }
}

/// The addresses that the connection needs routes to.
fn answering(trace: &Trace, packet: &Packet) -> BTreeSet<IpAddr> {
    let answers = match &trace.outcome {
        Outcome::Served(answers) => answers,
        _ => return BTreeSet::new(),
    };
    let endpoints = answers.iter().take(FOLLOWED);
    let endpoints = endpoints.map(|answer| answer.endpoint.ip());
    endpoints
        .chain([packet.source, packet.destination])
        .collect()
}

/// What other programs on this host do, and its routes to these addresses. What cannot be observed is
/// logged.
fn observe(args: &ExplainArgs, addresses: &BTreeSet<IpAddr>) -> (Facts, Ways) {
    let mut host = match Host::open(&args.mode.proc_sys) {
        Ok(host) => host,
        Err(error) => {
            tracing::warn!("cannot observe the host: {error}");
            return Default::default();
        }
    };
    let facts = host.facts_in_full();
    for unknown in &facts.unknown {
        tracing::warn!("cannot observe {unknown}");
    }
    let ways = host.ways(addresses.iter().copied());
    let ways = ways.unwrap_or_else(|error| {
        tracing::warn!("cannot observe the routes: {error}");
        Ways::default()
    });
    (facts, ways)
}

/// The explanation, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    packet: PacketOf,
    /// Where the state comes from.
    state: &'a str,
    mode: &'static str,
    /// The Service port, as svcproxy recorded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_port: Option<&'a str>,
    /// The Services that name the address or the node port.
    named_by: Vec<&'a str>,
    steps: Vec<StepOf<'a>>,
    result: &'static str,
    /// Whether something outside svcproxy surely keeps the connection from each endpoint.
    lost_on_the_way: bool,
    endpoints: Vec<AnswerOf>,
    findings: &'a [Finding],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PacketOf {
    source: IpAddr,
    destination: IpAddr,
    protocol: String,
    port: u16,
    from_this_node: bool,
}

#[derive(Serialize)]
struct StepOf<'a> {
    hook: &'a str,
    place: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rule: &'a str,
    effect: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerOf {
    address: IpAddr,
    port: u16,
    weight: u32,
    /// Whether it sees an address of this node instead of the client's.
    masqueraded: bool,
    /// The version of the PROXY protocol in whose header it finds the client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<&'static str>,
}

/// A version of the PROXY protocol, as the annotation has it.
const fn version(of: ProxyProtocol) -> &'static str {
    match of {
        ProxyProtocol::V1 => "v1",
        _ => "v2",
    }
}

impl<'a> Document<'a> {
    fn of(case: &'a Case<'_>, explanation: &'a Explanation, state: &'a str) -> Self {
        let Explanation {
            trace,
            findings,
            is_lost,
        } = explanation;
        let packet = &case.packet;
        let answers = match &trace.outcome {
            Outcome::Served(answers) => answers.as_slice(),
            _ => &[],
        };
        let step = |of: &'a Step| StepOf {
            hook: of.hook,
            place: &of.place,
            rule: &of.rule,
            effect: &of.effect,
        };
        let name = |of: &'a Description| of.service.as_str();
        Self {
            packet: PacketOf {
                source: packet.source,
                destination: packet.destination,
                protocol: packet.protocol.to_string(),
                port: packet.port.get(),
                from_this_node: packet.origin == Origin::Node,
            },
            state,
            mode: mode_of(case.plane),
            service_port: trace.owner.as_deref(),
            named_by: case.services.iter().map(name).collect(),
            steps: trace.steps.iter().map(step).collect(),
            result: what(&trace.outcome),
            lost_on_the_way: *is_lost,
            endpoints: answers
                .iter()
                .map(|of| AnswerOf {
                    address: of.endpoint.ip(),
                    port: of.endpoint.port(),
                    weight: of.weight,
                    masqueraded: of.masqueraded,
                    proxy_protocol: of.proxy_protocol.map(version),
                })
                .collect(),
            findings,
        }
    }
}
