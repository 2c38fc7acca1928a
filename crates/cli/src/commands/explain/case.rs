//! One packet, everything that is known about its way, and what follows from that. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipvs::{Family, Protocol};
use proxier::desired::Config;
use proxier::host::{Concern, ConcernKind, Facts, ObstacleKind, Role, Ways, obstacles};
use proxier::mode::trace::{Origin, Outcome, Packet, Trace};
use serde::Serialize;

use super::plane::{DataPlane, Rules, Sockets};
use crate::args::Mode;
use crate::description::{Address, Description, EndpointOf, Port};

/// What is known.
pub(super) struct Case<'a> {
    pub(super) packet: Packet,
    pub(super) config: &'a Config,
    /// The state to explain.
    pub(super) plane: &'a DataPlane,
    /// The state that it should be, if it is another one.
    pub(super) planned: Option<&'a DataPlane>,
    /// The Services that name the address, or the node port.
    pub(super) services: Vec<Description>,
    /// What other programs on this host do.
    pub(super) concerns: &'a [Concern],
    /// The host that the packet passes; `None` if only a plan is explained.
    pub(super) around: Option<Around<'a>>,
    pub(super) is_own: &'a dyn Fn(IpAddr) -> bool,
    /// Where a packet that is not for this node leaves.
    pub(super) leaves_by: Option<String>,
}

/// What a packet meets on this host besides svcproxy's rules.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) facts: &'a Facts,
    pub(super) ways: &'a Ways,
    pub(super) role: Role<'a>,
}

/// The way of the packet, and why it goes like that.
pub(super) struct Explanation {
    pub(super) trace: Trace,
    pub(super) findings: Vec<Finding>,
    /// Whether something outside svcproxy surely keeps the connection from each endpoint.
    pub(super) is_lost: bool,
}

impl Explanation {
    /// Whether an endpoint may answer.
    pub(super) const fn is_served(&self) -> bool {
        matches!(self.trace.outcome, Outcome::Served(_)) && !self.is_lost
    }
}

/// Endpoints whose way is followed, at most.
pub(super) const FOLLOWED: usize = 100;

/// A reason for what happens to the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// A stable name.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Finding {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

impl Case<'_> {
    /// Looks for the reasons of the packet's way through the state to explain.
    pub(super) fn explain(&self, trace: Trace) -> Explanation {
        let mut findings = Vec::new();
        self.rules(&mut findings);
        if let DataPlane::Userspace(of) = self.plane {
            self.sockets(of, &mut findings);
        }
        self.route(&trace, &mut findings);
        self.disagreement(&trace, &mut findings);
        self.service(&trace, &mut findings);
        self.host(&trace, &mut findings);
        let is_lost = self.way(&trace, &mut findings);
        Explanation {
            trace,
            findings,
            is_lost,
        }
    }

    /// What is on the way to each endpoint and back. Whether the connection surely reaches none.
    fn way(&self, trace: &Trace, findings: &mut Vec<Finding>) -> bool {
        let (Outcome::Served(answers), Some(around)) = (&trace.outcome, self.around) else {
            return false;
        };
        let mut lost = 0;
        let mut named = BTreeSet::new();
        for answer in answers.iter().take(FOLLOWED) {
            let Around { facts, ways, role } = around;
            let found = obstacles(&self.packet, answer, facts, ways, &role);
            lost += usize::from(found.iter().any(|of| of.is_certain));
            for of in found {
                let reason = match of.kind {
                    ObstacleKind::NoRoute => "NoRoute",
                    ObstacleKind::NotForwarded => "NotForwarded",
                    _ => "Firewall",
                };
                if named.insert(of.message.clone()) {
                    findings.push(Finding::new(reason, of.message));
                }
            }
        }
        lost > 0 && lost == answers.len()
    }

    /// Whether svcproxy's rules are in effect.
    fn rules(&self, findings: &mut Vec<Finding>) {
        match self.plane {
            DataPlane::Ipvs(Rules::Missing, _) | DataPlane::Nftables(Rules::Missing, _) => {
                findings.push(Finding::new(
                    "RulesMissing",
                    "svcproxy's nftables table is missing, or another program changed it: nothing \
                     rejects, marks or masquerades. A running svcproxy restores it \
                     within a second",
                ));
            }
            DataPlane::Ipvs(Rules::Assumed(_), _) | DataPlane::Nftables(Rules::Assumed(_), _) => {
                findings.push(Finding::new(
                    "OtherSettings",
                    "the installed rules are complete, but those of other settings than the known \
                     ones, which this assumes: give the flags of the svcproxy that runs here",
                ));
            }
            DataPlane::Ipvs(Rules::Known(ruleset), _) if ruleset.is_retired() => {
                findings.push(Finding::new(
                    "OtherMode",
                    "another mode serves new connections: the rules of mode ipvs only keep old ones",
                ));
            }
            DataPlane::Ipvs(..)
            | DataPlane::Iptables(_)
            | DataPlane::Nftables(..)
            | DataPlane::Userspace(_) => {}
        }
        let destination = self.packet.destination;
        let mut obstacles = self.plane.obstacles();
        let obstacle = obstacles.find(|obstacle| obstacle.prefix.contains(&destination));
        if let Some(obstacle) = obstacle {
            let (by, prefix) = (&obstacle.by, obstacle.prefix);
            findings.push(Finding::new(
                "RouteInTheWay",
                format!("a route of another program gets packets to {prefix}: {by}"),
            ));
        }
        if let Some(server) = self.plane.foreign(self.packet.key()) {
            findings.push(Finding::new(
                "ForeignVirtualServer",
                format!(
                    "virtual server {server} is not svcproxy's: another program (keepalived, \
                     kube-vip, kube-proxy, ipvsadm) made it"
                ),
            ));
        }
    }

    /// Whether svcproxy runs and listens, in mode userspace.
    fn sockets(&self, of: &Sockets, findings: &mut Vec<Finding>) {
        let Packet {
            destination,
            port,
            protocol,
            ..
        } = self.packet;
        if of.is_unrouted {
            findings.push(Finding::new(
                "NoRoute",
                format!(
                    "{destination} is in --listen, so svcproxy adds no route, and this node has no local \
                     route to it: ip route add local {destination} dev lo"
                ),
            ));
        }
        if let Some(silence) = &of.silence {
            findings.push(Finding::new("NotRunning", silence.as_str()));
            return;
        }
        // In a plan, every listener can be opened.
        let Some((_, address, _)) = self.named().filter(|_| of.others.is_some()) else {
            return;
        };
        let is_node_port = address.address.is_none();
        if is_node_port && !self.serves_node_ports() {
            return;
        }
        let Some(served) = of.not_listening(&self.packet, is_node_port) else {
            return;
        };
        let frontend = &served.frontend;
        let has_none = frontend.backends.is_empty() && frontend.external.is_none();
        if protocol == Protocol::Udp && has_none {
            return;
        }
        let why = match of.in_the_way(&self.packet) {
            Some(socket) => format!("{} has the port, at {}", socket.holder, socket.address),
            None => {
                "no other program has the port: see the condition ListenFailed in `svcproxy status`"
                    .to_owned()
            }
        };
        let at = SocketAddr::new(destination, port.get());
        findings.push(Finding::new(
            "ListenFailed",
            format!("svcproxy does not listen at {protocol} {at}: {why}"),
        ));
    }

    /// Whether the destination is an address at which this node serves node ports.
    fn serves_node_ports(&self) -> bool {
        let destination = self.packet.destination;
        let networks = self.config.node_port_networks();
        let mut networks = networks.iter();
        !destination.is_loopback() && networks.any(|network| network.contains(&destination))
    }

    /// Why the packet does not come to a Service at all.
    fn route(&self, trace: &Trace, findings: &mut Vec<Finding>) {
        let Packet {
            destination, port, ..
        } = self.packet;
        let is_served = matches!(trace.outcome, Outcome::Served(_));
        let family = self.packet.family();
        if let Some(cidr) = self
            .config
            .left_out
            .iter()
            .find(|of| of.contains(&destination))
        {
            findings.push(Finding::new(
                "FamilyLeftOut",
                format!(
                    "this node does not serve {family}: {cidr} is left out, because the node \
                         has no address of that family"
                ),
            ));
        }
        // What a svcproxy that does not answer serves is not known.
        let is_silent = findings.iter().any(|of| of.reason == "NotRunning");
        if is_served || is_silent || !self.services.is_empty() || trace.owner.is_some() {
            return;
        }
        let text = if destination.is_loopback() {
            findings.push(Finding::new(
                "Loopback",
                format!("{destination} is a loopback address, and those never serve node ports"),
            ));
            return;
        } else if let Some(cidr) = self.cidr_of(destination)
            && self.plane.mode() == Mode::Userspace
        {
            format!(
                "{destination} is in the Service CIDR {cidr}, but no Service has it: in mode userspace, a \
                 program that listens on all addresses of this node gets the packet"
            )
        } else if let Some(cidr) = self.cidr_of(destination) {
            format!(
                "{destination} is in the Service CIDR {cidr}, but no Service has it: what no Service \
                 serves there is refused"
            )
        } else if (self.is_own)(destination) {
            format!(
                "{destination} is an address of this node, and no Service has the node port {port}: \
                 a program that listens there gets the packet"
            )
        } else {
            let way = self.leaves_by.as_deref().unwrap_or("the node's routes");
            format!("{destination} is not a Service's; the packet would leave by {way}")
        };
        findings.push(Finding::new("NotAService", text));
    }

    fn cidr_of(&self, address: IpAddr) -> Option<String> {
        let mut cidrs = self.config.service_cidrs.iter();
        cidrs
            .find(|cidr| cidr.contains(&address))
            .map(ToString::to_string)
    }

    /// Where the kernel differs from what it should have.
    fn disagreement(&self, trace: &Trace, findings: &mut Vec<Finding>) {
        if let Some(planned) = self.planned {
            if planned.mode() != self.plane.mode() {
                let (is, should) = (self.plane.mode().name(), planned.mode().name());
                findings.push(Finding::new(
                    "OtherMode",
                    format!("the kernel has mode {is}, and the plan is for mode {should}"),
                ));
                return;
            }
            let should = planned.trace(&self.packet, self.is_own);
            if let Some(text) = difference(&trace.outcome, &should.outcome) {
                findings.push(Finding::new(
                    "Drift",
                    format!("the kernel differs from the plan: {text}"),
                ));
            }
            return;
        }
        // The proxy of mode userspace does not listen there, or does not answer: that says it all.
        let says_all = |of: &Finding| matches!(of.reason, "ListenFailed" | "NotRunning");
        if findings.iter().any(says_all) {
            return;
        }
        // Without a plan, the endpoints that the running svcproxy knows are the measure.
        let Some((description, _, port)) = self.named() else {
            return;
        };
        let wanted = self.wanted(description, port);
        let served = endpoints(&trace.outcome);
        let is_known = port
            .endpoints
            .iter()
            .filter_map(at)
            .collect::<BTreeSet<_>>();
        let missing: Vec<_> = wanted.difference(&served).collect();
        let stray: Vec<_> = served.difference(&is_known).collect();
        let mut parts = Vec::new();
        let is_refused_for_all = served.is_empty() && self.is_denied(trace);
        if !missing.is_empty() && !is_refused_for_all {
            parts.push(format!("it does not send to {}", list(&missing)));
        }
        if !stray.is_empty() {
            parts.push(format!(
                "it sends to {}, which is in no endpoint slice",
                list(&stray)
            ));
        }
        if !parts.is_empty() {
            findings.push(Finding::new(
                "Drift",
                format!(
                    "the kernel differs from what svcproxy wants: {}",
                    parts.join("; ")
                ),
            ));
        }
    }

    /// The Service, address and port that the packet asks for.
    fn named(&self) -> Option<(&Description, &Address, &Port)> {
        let mut services = self.services.iter();
        services.find_map(|description| {
            let mut addresses = description.addresses.iter();
            let address = addresses.find(|of| self.is_it(of) && of.held_by.is_none())?;
            let mut ports = description.ports.iter();
            let port = ports
                .find(|port| port.name == address.port_name && port.protocol == address.protocol)?;
            Some((description, address, port))
        })
    }

    fn is_it(&self, of: &Address) -> bool {
        let packet = &self.packet;
        let is_there = match of.address {
            Some(address) => address == packet.destination,
            None => of.family == packet.family().to_string() && (self.is_own)(packet.destination),
        };
        let has_port = of.port == packet.port.get();
        is_there && has_port && of.protocol == packet.protocol.to_string()
    }

    /// The endpoints that this client should reach.
    fn wanted(&self, description: &Description, port: &Port) -> BTreeSet<SocketAddr> {
        let is_cluster_ip = self
            .named()
            .is_some_and(|(_, address, _)| address.kind == "cluster IP");
        let policy = match is_cluster_ip {
            true => &description.internal_traffic_policy,
            false => &description.external_traffic_policy,
        };
        let local = policy == "Local" && (is_cluster_ip || self.is_outside());
        let endpoints = port.endpoints.iter().filter(|of| {
            let unused = if local { &of.unused_here } else { &of.unused };
            unused.is_none() && Family::of(&of.address) == self.packet.family()
        });
        endpoints.filter_map(at).collect()
    }

    /// Whether the client is neither a pod nor the node.
    fn is_outside(&self) -> bool {
        let config = self.config;
        // A socket does not know the interface.
        let interfaces = config.pod_interfaces.as_ref();
        let interfaces = interfaces.filter(|_| self.plane.mode() != Mode::Userspace);
        match (&self.packet.origin, interfaces) {
            (Origin::Node, _) => false,
            (_, Some(interfaces)) => !self.packet.is_from(interfaces),
            (_, None) => {
                let mut pods = config.cluster_cidrs.iter();
                !pods.any(|pods| pods.contains(&self.packet.source))
            }
        }
    }

    /// Whether a rule denies the client on purpose.
    fn is_denied(&self, trace: &Trace) -> bool {
        trace.outcome == Outcome::Dropped && self.out_of_ranges().is_some()
    }

    /// Whether the packet is for a node port at an address that serves none.
    fn is_no_node_port(&self, trace: &Trace) -> bool {
        let is_node_port = self
            .named()
            .is_some_and(|(_, address, _)| address.address.is_none());
        // In mode userspace, it is known whether a program of the node gets it.
        let is_delivered = match self.plane {
            DataPlane::Userspace(_) => {
                matches!(trace.outcome, Outcome::Delivered | Outcome::Refused)
            }
            _ => trace.outcome == Outcome::Delivered,
        };
        is_node_port && is_delivered && !self.serves_node_ports()
    }

    /// The source ranges of the address that do not contain the client.
    fn out_of_ranges(&self) -> Option<String> {
        let (_, address, _) = self.named()?;
        let ranges = address.source_ranges.as_ref()?;
        let is_node = self.packet.origin == Origin::Node;
        let mut networks = ranges
            .iter()
            .filter_map(|range| range.parse::<ipnet::IpNet>().ok());
        let is_in = networks.any(|range| range.contains(&self.packet.source));
        (!is_node && !is_in).then(|| ranges.join(", "))
    }

    /// What the Service's own settings and endpoints explain.
    fn service(&self, trace: &Trace, findings: &mut Vec<Finding>) {
        for description in &self.services {
            self.problems(description, findings);
        }
        let is_served = matches!(trace.outcome, Outcome::Served(_));
        if let Some((description, _, port)) = self.named() {
            if is_served {
                self.weights(description, port, findings);
                return;
            }
            if let Some(ranges) = self
                .out_of_ranges()
                .filter(|_| trace.outcome == Outcome::Dropped)
            {
                findings.push(Finding::new(
                    "SourceRanges",
                    format!(
                        "{} is not in the source ranges: {ranges}",
                        self.packet.source
                    ),
                ));
                return;
            }
            if self.is_no_node_port(trace) {
                findings.push(Finding::new(
                    "NotThisPort",
                    format!(
                        "{} is a node port of Service {}, but {} does not serve node ports (loopback, \
                         or --nodeport-addresses)",
                        self.packet.port, description.service, self.packet.destination
                    ),
                ));
                return;
            }
            self.without_endpoints(description, port, findings);
            return;
        }
        if is_served || self.services.is_empty() {
            self.of_kernel(trace, findings);
            return;
        }
        self.other_port(findings);
    }

    /// What a Service requests of this address and does not get.
    fn problems(&self, description: &Description, findings: &mut Vec<Finding>) {
        let service = &description.service;
        let address = self.packet.destination.to_string();
        let named = |message: &str| {
            let mut words = message.split(|c: char| c.is_whitespace() || c == ',');
            words.any(|word| {
                let word = word.trim_end_matches([':', ';', '.']);
                let at: Option<SocketAddr> = word.parse().ok();
                word == address || at.is_some_and(|at| at.ip() == self.packet.destination)
            })
        };
        let of_port = format!("node port {}", self.packet.port);
        let about = description
            .problems
            .iter()
            .filter(|of| named(&of.message) || named(&of.field) || of.message.contains(&of_port));
        for of in about {
            let reason = match of.reason.as_str() {
                "AddressConflict" => "AddressConflict",
                "NoMarkLeft" => "NoMarkLeft",
                "ListenFailed" => "ListenFailed",
                _ => "AddressRefused",
            };
            let (field, message) = (&of.field, &of.message);
            findings.push(Finding::new(
                reason,
                format!("Service {service}: {field}: {message}"),
            ));
        }
    }

    /// Endpoints that exist and are not used.
    fn weights(&self, description: &Description, port: &Port, findings: &mut Vec<Finding>) {
        let wanted = self.wanted(description, port);
        let all = port.endpoints.len();
        if wanted.len() == all || all == 0 {
            return;
        }
        let service = &description.service;
        findings.push(Finding::new(
            "SomeEndpoints",
            format!(
                "{} of {all} endpoints of Service {service} get new connections of this client; see: \
                 svcproxy describe {service}",
                wanted.len()
            ),
        ));
    }

    /// Why the port has no endpoints for this client.
    fn without_endpoints(
        &self,
        description: &Description,
        port: &Port,
        findings: &mut Vec<Finding>,
    ) {
        let service = &description.service;
        let family = self.packet.family().to_string();
        let mut without = port.without_endpoints.iter();
        let Some(without) = without.find(|of| of.family == family) else {
            return;
        };
        if let Some(why) = &without.anywhere {
            findings.push(Finding::new(
                "NoEndpoints",
                format!("Service {service} has no endpoints: {why}"),
            ));
        } else if let Some(why) = &without.on_this_node {
            findings.push(Finding::new(
                "NoLocalEndpoints",
                format!(
                    "traffic policy Local, and Service {service} has no endpoints on this node: {why}"
                ),
            ));
        }
    }

    /// Without knowledge of the Service, what the kernel's record says.
    fn of_kernel(&self, trace: &Trace, findings: &mut Vec<Finding>) {
        let Some(owner) = &trace.owner else { return };
        let place = trace.steps.last().map(|step| step.place.as_str());
        match trace.outcome {
            Outcome::Dropped
                if place.is_some_and(|place| {
                    place.contains("restricted") || place.ends_with("source ranges")
                }) =>
            {
                findings.push(Finding::new(
                    "SourceRanges",
                    format!(
                        "{} is not in the source ranges of {owner}",
                        self.packet.source
                    ),
                ));
            }
            Outcome::Dropped => findings.push(Finding::new(
                "NoLocalEndpoints",
                format!("traffic policy Local, and {owner} has no endpoints on this node"),
            )),
            Outcome::Refused => {
                findings.push(Finding::new(
                    "NoEndpoints",
                    format!("{owner} has no endpoints"),
                ));
            }
            _ => {}
        }
    }

    /// The Service has the address, but not this port, protocol or family.
    fn other_port(&self, findings: &mut Vec<Finding>) {
        let packet = &self.packet;
        let is_told = |reason| findings.iter().any(|of: &Finding| of.reason == reason);
        if is_told("AddressRefused") || is_told("AddressConflict") || is_told("NoMarkLeft") {
            return;
        }
        let (protocol, port) = (packet.protocol, packet.port);
        for description in &self.services {
            let service = &description.service;
            let has_address = |of: &&Address| of.address == Some(packet.destination);
            let mut ports: Vec<_> = description
                .addresses
                .iter()
                .filter(has_address)
                .map(|of| format!("{}/{}", of.port, of.protocol))
                .collect();
            if !ports.is_empty() {
                ports.dedup();
                let ports = ports.join(", ");
                findings.push(Finding::new(
                    "NotThisPort",
                    format!(
                        "Service {service} has {}, but not at {port}/{protocol}, only: {ports}",
                        packet.destination
                    ),
                ));
                continue;
            }
            let of_port: Vec<_> = description
                .addresses
                .iter()
                .filter(|of| of.address.is_none() && of.port == port.get())
                .collect();
            let family = packet.family().to_string();
            let text = if of_port.is_empty() {
                format!("Service {service} names {port}, but this node does not serve it")
            } else if of_port.iter().any(|of| of.family == family)
                && !(self.is_own)(packet.destination)
            {
                format!(
                    "{port} is a node port of Service {service}, but {} is no address of this node",
                    packet.destination
                )
            } else if let Some(of) = of_port.iter().find(|of| of.family == family) {
                format!(
                    "Service {service} has node port {port} for {}, not for {protocol}",
                    of.protocol
                )
            } else {
                let families: Vec<_> = of_port.iter().map(|of| of.family.as_str()).collect();
                format!(
                    "Service {service} has node port {port} in {} only, not in {family}",
                    families.join(", ")
                )
            };
            let reason = match of_port.iter().any(|of| of.family == family) || of_port.is_empty() {
                true => "NotThisPort",
                false => "WrongFamily",
            };
            findings.push(Finding::new(reason, text));
        }
    }

    /// What other programs do to this packet.
    fn host(&self, trace: &Trace, findings: &mut Vec<Finding>) {
        let is_node = self.packet.origin == Origin::Node;
        for concern in self.concerns {
            let (reason, matters) = match concern.kind {
                // The way of the packet has them, rule by rule.
                ConcernKind::Firewall => continue,
                ConcernKind::ServiceProxy => ("OtherServiceProxy", !concern.is_note),
                ConcernKind::VipDevice => (
                    "VipDevice",
                    concern
                        .message
                        .contains(&self.packet.destination.to_string()),
                ),
                ConcernKind::ReversePath => (
                    "ReversePath",
                    !is_node && !concern.is_note && self.is_outside(),
                ),
                ConcernKind::Bridge => ("Bridge", !is_node && !self.is_outside()),
                ConcernKind::ConnectionTracking => ("ConntrackNearlyFull", true),
                _ => ("HostSetting", !concern.is_note),
            };
            let is_service = trace.owner.is_some() || !self.services.is_empty();
            if !matters || !is_service {
                continue;
            }
            let remedy = concern.remedy.as_ref().map(|remedy| format!(". {remedy}"));
            let remedy = remedy.unwrap_or_default();
            findings.push(Finding::new(reason, format!("{}{remedy}", concern.message)));
        }
    }
}

fn at(of: &EndpointOf) -> Option<SocketAddr> {
    Some(SocketAddr::new(of.address, of.port?))
}

fn endpoints(outcome: &Outcome) -> BTreeSet<SocketAddr> {
    match outcome {
        Outcome::Served(answers) => answers.iter().map(|answer| answer.endpoint).collect(),
        _ => BTreeSet::new(),
    }
}

/// Endpoints named in a message, at most.
const NAMED: usize = 5;

fn list(endpoints: &[&SocketAddr]) -> String {
    let named = endpoints.iter().take(NAMED).map(ToString::to_string);
    let named = named.collect::<Vec<_>>().join(", ");
    match endpoints.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// How the kernel's outcome differs from the planned one.
fn difference(is: &Outcome, should: &Outcome) -> Option<String> {
    if is == should {
        return None;
    }
    let (now, then) = (endpoints(is), endpoints(should));
    let mut parts = Vec::new();
    let missing: Vec<_> = then.difference(&now).collect();
    let stray: Vec<_> = now.difference(&then).collect();
    if !then.is_empty() && !now.is_empty() {
        if !missing.is_empty() {
            parts.push(format!("it does not send to {}", list(&missing)));
        }
        if !stray.is_empty() {
            parts.push(format!("it sends to {}", list(&stray)));
        }
        if parts.is_empty() {
            parts.push("weights or masquerading differ".to_owned());
        }
    } else {
        parts.push(format!(
            "the connection is {}, and should be {}",
            what(is),
            what(should)
        ));
    }
    Some(parts.join("; "))
}

/// An outcome in a word.
pub(super) const fn what(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Served(_) => "served",
        Outcome::Refused => "refused",
        Outcome::Dropped => "dropped",
        Outcome::Delivered => "delivered to the node's own programs",
        _ => "sent on by the node's routes",
    }
}

/// The mode of a data plane, for people.
pub(super) const fn mode_of(plane: &DataPlane) -> &'static str {
    plane.mode().name()
}
