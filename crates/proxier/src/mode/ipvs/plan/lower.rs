//! Translates the desired state into IPVS, nftables and routes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::{
    Family, Flags, Persistence, RealServer, RealServerKey, Scheduler, Timeouts, VirtualServer,
    VirtualServerKey,
};

use super::forgotten::tag;
use super::{Audience, Element, LocalRoute, PolicyRoute, Purpose, VirtualServerState};
use crate::desired::{Backend, Config, Conntrack, Frontend, WithoutBackends};
use crate::mode::Sysctl;
use crate::mode::ipvs::rules::split_range;
use crate::model::{Forwarding, SessionAffinity};

/// A virtual server with its real servers, sorted like the backends.
///
/// Persistence of a firewall mark would send to the port that the client asked for, not to the real
/// server's port (`ip_vs_sched_persist` in the kernel's ip_vs_core.c). So a hash of the client's
/// address replaces it: a client keeps its endpoint while the endpoint exists, and few clients move
/// when other endpoints come or go.
pub(super) fn virtual_server(
    key: VirtualServerKey,
    frontend: &Frontend,
    backends: &[Backend],
) -> VirtualServerState {
    let chosen = VirtualServer::new(key)
        .with_scheduler(frontend.scheduler)
        .with_flags(frontend.scheduler_flags);
    let is_mark = matches!(key, VirtualServerKey::FirewallMark { .. });
    let server = match frontend.session_affinity {
        SessionAffinity::ClientIp(_) if is_mark => VirtualServer::new(key)
            .with_scheduler(Scheduler::MaglevHash)
            .with_flags(Flags::MH_FALLBACK),
        SessionAffinity::ClientIp(timeout) => {
            chosen.with_persistence(Persistence::new(timeout.get()))
        }
        SessionAffinity::None => chosen,
    };
    let server = if is_mark {
        server.with_tag(tag(frontend.key.protocol))
    } else {
        server
    };
    let real_server = |backend: &Backend| {
        RealServer::new(RealServerKey {
            address: backend.address,
            port: backend.port.get(),
        })
        .with_weight(backend.weight.get().into())
        .with_forwarding(frontend.forwarding.into())
    };
    VirtualServerState {
        server,
        real_servers: backends.iter().map(real_server).collect(),
    }
}

/// The elements of a frontend besides its virtual servers, with their comments. Elements that
/// restrict come before those that admit.
pub(super) fn elements(frontend: &Frontend, config: &Config) -> Vec<Element> {
    let key = frontend.key;
    let mut elements = Vec::new();
    if let Some(ranges) = &frontend.source_ranges {
        elements.push(Element::Restricted(key));
        let networks = ranges.iter().flat_map(|range| split_range(*range));
        elements.extend(networks.map(|network| Element::SourceRange(key, network)));
    }
    let nobody = frontend.backends.is_empty();
    elements.extend(match (nobody, frontend.without_backends) {
        (true, WithoutBackends::Refuse) => Some(Element::NoEndpoints(key)),
        (true, WithoutBackends::Drop) => Some(Element::Dropped(key, Audience::All)),
        (false, _) => match &frontend.external {
            Some(backends) if backends.is_empty() => {
                Some(Element::Dropped(key, Audience::External))
            }
            _ => None,
        },
    });
    if frontend.is_captured() {
        // Answers that do not come back through this node must find the client's own address.
        let masquerade = frontend.forwarding == Forwarding::Masquerade;
        let mark = config
            .marks
            .captured(masquerade && frontend.external.is_none());
        elements.extend(NonZeroU32::new(mark).map(|mark| Element::Mark {
            key,
            purpose: Purpose::Capture,
            mark,
        }));
    }
    elements
}

/// The firewall-mark virtual server that a frontend needs for a purpose: its backends.
pub(super) fn marked(frontend: &Frontend, purpose: Purpose) -> Option<&Arc<[Backend]>> {
    let backends = match purpose {
        Purpose::Capture => None,
        Purpose::NodePort => Some(&frontend.backends).filter(|_| frontend.key.is_node_port()),
        Purpose::External => frontend.external.as_ref(),
    };
    backends.filter(|backends| !backends.is_empty())
}

/// The elements that do not depend on Services.
pub fn base_elements(config: &Config) -> impl Iterator<Item = Element> {
    let node_ports = config.node_port_networks();
    let service_cidrs = config.service_cidrs.iter();
    let service_cidrs = service_cidrs.map(|cidr| Element::ServiceCidr(cidr.trunc()));
    service_cidrs.chain(node_ports.into_iter().map(Element::NodePortAddresses))
}

/// The routes that do not depend on Services.
pub fn base_routes(config: &Config) -> impl Iterator<Item = LocalRoute> {
    config
        .service_cidrs
        .iter()
        .filter_map(|cidr| local_route(config, *cidr))
}

/// The route that makes a prefix local, if its family is served.
pub(crate) fn local_route(config: &Config, prefix: IpNet) -> Option<LocalRoute> {
    let family = Family::of(&prefix.addr());
    config.serves(family).then(|| LocalRoute {
        prefix: prefix.trunc(),
        source: config.node_ip(family),
    })
}

/// The route that captured packets take.
pub(super) fn policy_route(config: &Config, family: Family) -> PolicyRoute {
    let mark = config.marks.own();
    PolicyRoute { family, mark }
}

/// The sysctls that IPVS needs as a service proxy (Documentation/networking/ipvs-sysctl.rst in the
/// kernel), and the requested ones.
pub fn base_sysctls(config: &Config) -> impl Iterator<Item = (Sysctl, u32)> {
    let switches = [
        Sysctl::VS_CONNTRACK,
        Sysctl::VS_EXPIRE_NODEST_CONN,
        Sysctl::VS_EXPIRE_QUIESCENT_TEMPLATE,
    ];
    let arp = [(Sysctl::ARP_IGNORE, 1), (Sysctl::ARP_ANNOUNCE, 2)];
    let switches = switches.into_iter().chain(forwarding(config));
    let arp = arp.into_iter().filter(|_| config.strict_arp);
    switches.map(|sysctl| (sysctl, 1)).chain(arp)
}

/// The sysctls of forwarding, which are 1.
fn forwarding(config: &Config) -> impl Iterator<Item = Sysctl> {
    let all = [
        (Family::V4, Sysctl::IPV4_FORWARD),
        (Family::V6, Sysctl::IPV6_FORWARD),
    ];
    let served = all.into_iter().filter(|(family, _)| config.serves(*family));
    served.map(|(_, sysctl)| sysctl)
}

/// The sysctls that a mode without IPVS must set, with their values.
pub(crate) fn missing_sysctls(
    config: &Config,
    there: &BTreeMap<Sysctl, String>,
) -> impl Iterator<Item = (Sysctl, u32)> {
    let is_off = |sysctl: &Sysctl| there.get(sysctl).is_none_or(|value| value != "1");
    let forwarding = forwarding(config).filter(is_off);
    let forwarding = forwarding.map(|sysctl| (sysctl, 1));
    forwarding.chain(conntrack_sysctls(&config.conntrack, there))
}

/// The sysctls of connection tracking that are below their minimum, with the minimum.
pub(super) fn conntrack_sysctls(
    wanted: &Conntrack,
    there: &BTreeMap<Sysctl, String>,
) -> impl Iterator<Item = (Sysctl, u32)> {
    let all = [
        (Sysctl::CT_MAX, wanted.max),
        (Sysctl::CT_BUCKETS, wanted.max.map(|max| max / 4)),
        (Sysctl::CT_TCP_ESTABLISHED, wanted.tcp_established),
        (Sysctl::CT_TCP_CLOSE_WAIT, wanted.tcp_close_wait),
        (
            Sysctl::CT_TCP_BE_LIBERAL,
            wanted.tcp_be_liberal.then_some(1),
        ),
        (Sysctl::CT_UDP, wanted.udp),
        (Sysctl::CT_UDP_STREAM, wanted.udp_stream),
    ];
    let wanted = all
        .into_iter()
        .filter_map(|(sysctl, least)| Some((sysctl, least?)));
    wanted.filter(|(sysctl, least)| {
        let there = there.get(sysctl);
        let there = there.and_then(|there| there.parse::<u32>().ok());
        there.is_none_or(|there| there < *least)
    })
}

/// The timeouts that differ from the desired ones.
pub(super) fn timeouts(wanted: Timeouts, there: Timeouts) -> Option<Timeouts> {
    let differs = |wanted: Option<u32>, there| wanted.filter(|seconds| Some(*seconds) != there);
    let mut change = Timeouts::default();
    change.tcp = differs(wanted.tcp, there.tcp);
    change.tcp_fin = differs(wanted.tcp_fin, there.tcp_fin);
    change.udp = differs(wanted.udp, there.udp);
    (change != Timeouts::default()).then_some(change)
}
