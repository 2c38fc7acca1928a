//! The way of a connection's first packet in userspace mode: the route that brings it to the node, the
//! socket that gets it, and what the proxy does with its client.
//!
//! The proxy's decisions are those of the functions that it decides with ([`verdict`]), for what it
//! serves or is planned to serve. What other programs do to the packet is not part of it
//! ([`host`](crate::host) judges that), except for the sockets that get it in place of the proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::{Protocol, Scheduler};

use super::admission::{Own, Verdict, is_out_of_range, verdict};
use super::reach::is_supported;
use super::{NodeState, Served, Socket};
use crate::desired::{Backend, FrontendKey};
use crate::mode::ipvs::plan::Audience;
use crate::mode::trace::{Answer, Origin, Outcome, Packet, Step, Surroundings, Trace};
use crate::model::{ProxyProtocol, SessionAffinity};

/// Follows the first packet of a connection. `sockets` are those of all programs but the proxy; `None`
/// if they are not known, as in a plan.
///
/// ```
/// use proxier::desired::{Config, DesiredState};
/// use proxier::mode::ipvs::plan::Scope;
/// use proxier::mode::trace::{Origin, Outcome, Packet, Surroundings};
/// use proxier::mode::userspace::{NodeState, Plan, trace};
/// use proxier::model::Protocol;
///
/// let mut config = Config::new("node-a", vec!["192.0.2.1".parse()?]);
/// config.service_cidrs = vec!["10.96.0.0/12".parse()?];
/// let desired = DesiredState::new(config.into());
/// let mut node = NodeState::default();
/// node.may_route = true;
/// node.record(&Plan::new(&desired, &node, Scope::Full), &[]);
///
/// let (client, unused) = ("10.244.0.7".parse()?, "10.96.0.99".parse()?);
/// let origin = Origin::Interface("veth0".to_owned());
/// let packet = Packet::new(client, unused, Protocol::Tcp, 80.try_into()?, origin);
/// let is_own = |address| desired.config().node_ips.contains(&address);
/// // No other program listens.
/// let trace = trace(&node, Some(&[]), &packet, Surroundings::new(&is_own));
/// assert_eq!(trace.outcome, Outcome::Refused);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn trace(
    node: &NodeState,
    sockets: Option<&[Socket]>,
    packet: &Packet,
    around: Surroundings<'_>,
) -> Trace {
    let mut way = Way {
        node,
        sockets,
        packet,
        to: SocketAddr::new(packet.destination, packet.port.get()),
        steps: Vec::new(),
        owner: None,
    };
    let outcome = match way.is_delivered(around) {
        true => way.input(),
        false => Outcome::Leaves,
    };
    Trace {
        steps: way.steps,
        outcome,
        owner: way.owner,
    }
}

struct Way<'a> {
    node: &'a NodeState,
    sockets: Option<&'a [Socket]>,
    packet: &'a Packet,
    to: SocketAddr,
    steps: Vec<Step>,
    owner: Option<String>,
}

impl Way<'_> {
    fn note(&mut self, hook: &'static str, place: impl Into<String>, effect: impl Into<String>) {
        self.steps.push(Step {
            hook,
            place: place.into(),
            rule: String::new(),
            effect: effect.into(),
        });
    }

    /// Whether the kernel delivers the packet to this node.
    fn is_delivered(&mut self, around: Surroundings<'_>) -> bool {
        let node = self.node;
        let to = self.packet.destination;
        let mut routes = node.routes.iter();
        let route = routes.find(|route| route.prefix.contains(&to));
        let (is_local, why) = if around.owns(to) || node.owns(to) {
            (true, format!("{to} is an address of this node"))
        } else if let Some(route) = route {
            let prefix = route.prefix;
            let mut obstacles = node.obstacles.iter();
            let first = obstacles.find(|of| of.prefix == prefix && !of.can_be_passed);
            let first = first
                .map(|of| format!("; another program's route may get it first: {}", of.by))
                .unwrap_or_default();
            let why = format!("delivered to this node by svcproxy's route to {prefix}{first}");
            (true, why)
        } else if node.is_given(to) {
            let why = format!("{to} is in --listen: other routes than svcproxy's deliver it here");
            (true, why)
        } else {
            (false, "not for this node".to_owned())
        };
        let hook = match self.packet.origin {
            Origin::Node => "output",
            Origin::Interface(_) => "prerouting",
        };
        self.note(hook, "routing", why);
        is_local
    }

    /// The frontend that listens at the destination.
    fn listening(&self) -> Option<Arc<Served>> {
        let keys = [self.packet.key(), self.packet.node_port()];
        let listens = |key: &FrontendKey| {
            let of = self.node.listeners.get(key);
            of.is_some_and(|addresses| addresses.contains(&self.to))
        };
        let key = keys.into_iter().find(listens)?;
        self.node.served.get(&key).map(Arc::clone)
    }

    /// What the socket does that gets the packet.
    fn input(&mut self) -> Outcome {
        match self.listening() {
            Some(served) => self.listener(&served),
            None => self.without_listener(),
        }
    }

    /// The proxy does not listen here: another program's socket gets the packet, or none does.
    fn without_listener(&mut self) -> Outcome {
        let (protocol, to) = (self.packet.protocol, self.to);
        let node = self.node;
        let port = node.served.get(&self.packet.node_port());
        // Only its listeners tell at which addresses a node port is served. It has none for datagrams
        // without an endpoint.
        let port = port.filter(|of| of.has_no_listener() && !to.ip().is_loopback());
        let served = node.served.get(&self.packet.key()).or(port);
        if let Some(served) = served {
            self.owner = Some(served.frontend.owner.to_string());
        }
        let place = format!("{protocol} {to}");
        let other = self.sockets.map(|all| Socket::at(all, protocol, to));
        match other {
            Some(Some(socket)) => {
                let Socket {
                    address, holder, ..
                } = socket;
                let holder = match holder.as_str() {
                    "" => "a program of the node",
                    holder => holder,
                };
                let effect =
                    format!("{holder} gets it, at {address}; svcproxy does not listen here");
                self.note("input", place, effect);
                return Outcome::Delivered;
            }
            Some(None) => self.note("input", place, "nobody listens here: the kernel refuses it"),
            None => self.note("input", place, "svcproxy does not listen here"),
        }
        match self.owner.is_some() || other.is_some() {
            true => Outcome::Refused,
            false => Outcome::Delivered,
        }
    }

    /// The proxy's listener, and the proxy behind it.
    fn listener(&mut self, served: &Served) -> Outcome {
        let (protocol, to) = (self.packet.protocol, self.to);
        let client = self.packet.source;
        self.owner = Some(served.frontend.owner.to_string());
        let own = self.node.addresses.iter().map(IpNet::addr);
        let own = Own(own.collect());
        let listener = format!("listener {protocol} {to}");
        match verdict(served, &own, client) {
            Verdict::Drop if is_out_of_range(served, &own, client) => {
                let effect = "its filter drops packets of clients outside of the source ranges";
                self.note("input", format!("{listener} > source ranges"), effect);
                Outcome::Dropped
            }
            Verdict::Drop => {
                let effect =
                    "its filter drops packets of clients that no endpoint on this node serves";
                self.note("input", format!("{listener} > traffic policy"), effect);
                Outcome::Dropped
            }
            Verdict::Refuse => {
                self.note("input", listener, self.accepts());
                self.note("proxy", "endpoints", self.refuses("the Service has none"));
                Outcome::Refused
            }
            Verdict::Serve(audience) => {
                self.note("input", listener, self.accepts());
                self.serve(served, audience)
            }
        }
    }

    fn accepts(&self) -> &'static str {
        match self.packet.protocol {
            Protocol::Udp => "svcproxy gets the datagram",
            _ => "svcproxy accepts the connection",
        }
    }

    fn refuses(&self, why: &str) -> String {
        match self.packet.protocol {
            Protocol::Udp => format!("drops the datagram: {why}"),
            _ => format!("resets the connection: {why}"),
        }
    }

    /// The proxy chooses an endpoint, and connects to it.
    fn serve(&mut self, served: &Served, audience: Audience) -> Outcome {
        let frontend = &served.frontend;
        let protocol = frontend.key.protocol;
        let (backends, whose) = match (&frontend.external, audience) {
            (Some(external), Audience::External) => (external, " for clients outside the cluster"),
            (Some(_), _) => (&frontend.backends, " for clients in the cluster"),
            (None, _) => (&frontend.backends, ""),
        };
        let listeners = &self.node.listeners;
        // A connection to the proxy itself would go in circles.
        let is_proxy = |address: SocketAddr| {
            let mut all = listeners.iter();
            all.any(|(key, at)| key.protocol == protocol && at.contains(&address))
        };
        let address = |of: &Backend| SocketAddr::new(of.address, of.port.get());
        let usable = backends.iter().filter(|of| !is_proxy(address(of)));
        // Only TCP has a begin at which a header could be sent.
        let header = frontend
            .proxy_protocol
            .filter(|_| protocol == Protocol::Tcp);
        let answers: Vec<_> = usable
            .map(|of| {
                let mut answer = Answer::new(address(of), of.weight.get().into(), true);
                answer.proxy_protocol = header;
                answer
            })
            .collect();
        if answers.is_empty() {
            let why = "each of them is svcproxy itself";
            self.note("proxy", "endpoints", self.refuses(why));
            return Outcome::Refused;
        }
        let scheduler = match is_supported(frontend.scheduler) {
            true => frontend.scheduler,
            false => Scheduler::RoundRobin,
        };
        let affinity = match frontend.session_affinity {
            SessionAffinity::ClientIp(seconds) => {
                format!(", unless the client had one within {seconds} s")
            }
            SessionAffinity::None => String::new(),
        };
        let (count, others) = match answers.len() {
            1 => ("the only endpoint".to_owned(), ""),
            count => (
                format!("one of {count} endpoints"),
                "; if it does not answer, another one",
            ),
        };
        let effect = format!("chooses {count}{whose} by {scheduler}{affinity}{others}");
        self.note("proxy", "endpoints", effect);
        let header = match header {
            Some(ProxyProtocol::V1) => ", and the client's in a header of the PROXY protocol v1",
            Some(ProxyProtocol::V2) => ", and the client's in a header of the PROXY protocol v2",
            None => "",
        };
        let effect = format!(
            "svcproxy connects to the endpoint itself, which sees an address of this node{header}"
        );
        self.note("output", "connection", effect);
        Outcome::Served(answers)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use super::*;
    use crate::desired::{Config, DesiredState};
    use crate::mode::ipvs::plan::Scope;
    use crate::mode::userspace::Plan;
    use crate::model::{
        Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Service, ServicePort,
    };
    use crate::store::{Change, Store};
    use ipvs::Family;

    const NODE: &str = "192.0.2.1";

    fn port(number: u16) -> NonZeroU16 {
        number.try_into().unwrap()
    }

    /// A node with one Service at 10.96.0.1, port 80 and node port 30080, that a plan has changed.
    fn node(
        protocol: Protocol,
        change: impl FnOnce(&mut Service, &mut EndpointSlice),
    ) -> NodeState {
        let name = ObjectName::new("default", "web").unwrap();
        let mut service = Service::new(name.clone());
        service.cluster_ips = [[10, 96, 0, 1].into()].into();
        let mut web = ServicePort::new(PortName::UNNAMED, protocol, port(80));
        web.node_port = Some(port(30_080));
        service.ports = [web].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        slice.ports = [EndpointPort::new(PortName::UNNAMED, protocol, port(8080))].into();
        slice.endpoints = [Endpoint::new([10, 244, 2, 1].into())].into();
        change(&mut service, &mut slice);
        let mut store = Store::default();
        store.apply(Change::ServiceApplied(service));
        store.apply(Change::EndpointSliceApplied(slice));
        let mut config = Config::new("node-a", vec![NODE.parse().unwrap()]);
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        let desired = DesiredState::from_store(Arc::new(config), &store);
        let mut node = NodeState {
            may_route: true,
            addresses: vec!["192.0.2.1/24".parse().unwrap()],
            ..NodeState::default()
        };
        node.record(&Plan::new(&desired, &node, Scope::Full), &[]);
        node
    }

    fn follow(node: &NodeState, sockets: Option<&[Socket]>, to: &str, protocol: Protocol) -> Trace {
        let to: SocketAddr = to.parse().unwrap();
        let origin = Origin::Interface("eth0".to_owned());
        let client = "198.18.0.7".parse().unwrap();
        let packet = Packet::new(client, to.ip(), protocol, port(to.port()), origin);
        let is_own = |address: IpAddr| address == NODE.parse::<IpAddr>().unwrap();
        trace(node, sockets, &packet, Surroundings::new(&is_own))
    }

    fn of_other(address: &str, protocol: Protocol) -> Socket {
        Socket {
            protocol,
            address: address.parse().unwrap(),
            inode: 1,
            holder: "PID 7 (nginx)".to_owned(),
        }
    }

    #[test]
    fn endpoints_see_the_node_and_the_header_that_they_expect() {
        let node = node(Protocol::Tcp, |service, _| {
            service.proxy_protocol = Some(ProxyProtocol::V2);
        });
        for to in ["10.96.0.1:80", "192.0.2.1:30080"] {
            let trace = follow(&node, Some(&[]), to, Protocol::Tcp);
            assert_eq!(trace.owner.as_deref(), Some("default/web"), "{to}");
            let Outcome::Served(answers) = trace.outcome else {
                panic!("{to}: {trace:?}");
            };
            let mut expected = Answer::new("10.244.2.1:8080".parse().unwrap(), 1, true);
            expected.proxy_protocol = Some(ProxyProtocol::V2);
            assert_eq!(answers, [expected], "{to}");
        }
    }

    #[test]
    fn a_socket_of_another_program_gets_what_nobody_serves() {
        let mut node = node(Protocol::Tcp, |_, _| {});
        let nginx = [of_other("0.0.0.0:80", Protocol::Tcp)];
        let outcome = |node: &NodeState, sockets| {
            let trace = follow(node, sockets, "10.96.0.1:80", Protocol::Tcp);
            let last = trace.steps.last().unwrap().effect.clone();
            (trace.outcome, last)
        };
        // The proxy's listener is bound more closely.
        assert!(matches!(outcome(&node, Some(&nginx)).0, Outcome::Served(_)));
        node.listeners.remove(
            &node
                .listeners
                .keys()
                .copied()
                .find(|key| !key.is_node_port())
                .unwrap(),
        );
        let (of, effect) = outcome(&node, Some(&nginx));
        assert_eq!(of, Outcome::Delivered);
        assert!(
            effect.starts_with("PID 7 (nginx) gets it, at 0.0.0.0:80"),
            "{effect}"
        );
        assert_eq!(outcome(&node, Some(&[])).0, Outcome::Refused);
        assert_eq!(outcome(&node, None).0, Outcome::Refused);
        // No Service has the port: in a plan, a program may.
        let unused = |sockets| follow(&node, sockets, "10.96.0.9:81", Protocol::Tcp).outcome;
        assert_eq!(unused(Some(&[][..])), Outcome::Refused);
        assert_eq!(unused(None), Outcome::Delivered);
        node.routes.clear();
        assert_eq!(outcome(&node, Some(&[])).0, Outcome::Leaves);
        node.given = ["10.96.0.0/16".parse().unwrap()].into();
        assert_eq!(outcome(&node, Some(&[])).0, Outcome::Refused);
    }

    #[test]
    fn datagrams_without_endpoint_are_refused_by_the_kernel() {
        let node = node(Protocol::Udp, |_, slice| slice.endpoints = [].into());
        for to in ["10.96.0.1:80", "192.0.2.1:30080"] {
            let trace = follow(&node, Some(&[]), to, Protocol::Udp);
            assert_eq!(trace.outcome, Outcome::Refused, "{to}: {trace:?}");
            assert_eq!(trace.owner.as_deref(), Some("default/web"), "{to}");
        }
        // Of a port that serves, a loopback address is none of its own.
        let trace = follow(&node, None, "127.0.0.1:30080", Protocol::Udp);
        assert_eq!(trace.outcome, Outcome::Delivered);
    }

    /// The proxy skips an endpoint that is one of its own listeners.
    #[test]
    fn an_endpoint_that_is_the_proxy_itself_is_not_chosen() {
        let node = node(Protocol::Tcp, |_, slice| {
            slice.endpoints = [Endpoint::new(NODE.parse().unwrap())].into();
            slice.ports = [EndpointPort::new(
                PortName::UNNAMED,
                Protocol::Tcp,
                port(30_080),
            )]
            .into();
        });
        let trace = follow(&node, Some(&[]), "10.96.0.1:80", Protocol::Tcp);
        assert_eq!(trace.outcome, Outcome::Refused, "{trace:?}");
    }
}
