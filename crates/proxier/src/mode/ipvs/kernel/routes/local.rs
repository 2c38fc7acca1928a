//! Routes that make prefixes local, and foreign routes that take precedence over them.
//!
//! The kernel uses the first route of the longest prefix. In table `local`, another program may
//! have a route to the same prefix before svcproxy's, or a route to a part of it; and a routing
//! rule may precede that of table `local`.
//!
//! - IPv4: a route is added before those of its prefix and metric if neither `NLM_F_EXCL` nor
//!   `NLM_F_APPEND` is set (`fib_table_insert` in `fib_trie.c`).
//! - IPv6: it is added after those of its metric (`fib6_add_rt2node` in `ip6_fib.c`), so svcproxy's
//!   has the lowest possible metric, [`METRIC`]; the default is 1024.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use ipvs::Family;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{LOOPBACK, PROTOCOL, address_family, builder, dump};
use crate::errno::{EACCES, EAGAIN, EEXIST, EHOSTUNREACH, EINVAL, ENETUNREACH, ESRCH};
use crate::mode::ipvs::kernel::rtnetlink::io_error;
use crate::mode::ipvs::plan::{LocalRoute, Obstacle};

/// RT_TABLE_LOCAL.
const TABLE: u32 = 255;
/// The metric of svcproxy's IPv6 routes.
const METRIC: u32 = 1;
/// Maximum number of routes for which the kernel is asked whether a packet uses them.
const PROBES: usize = 64;

/// A route cannot be added because another one has its place.
#[derive(Debug)]
pub(super) struct Taken(pub(super) String);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Taken {}

/// Adds a route before those of other programs to its prefix, in place of svcproxy's own.
///
/// # Errors
///
/// [`EEXIST`] if it exists already in its place; [`Taken`].
pub(super) async fn add(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    let request = handle.route().add(message(route, true)?);
    match request.execute().await.map_err(io_error) {
        Err(error) if error.raw_os_error() == Some(EEXIST) => add_among(handle, route).await,
        added => added,
    }
}

/// As [`add`], if routes to the prefix exist.
async fn add_among(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    let mut there = entries(handle, Family::of(&route.prefix.addr())).await?;
    there.retain(|entry| entry.prefix == route.prefix);
    let others = there.iter().position(|entry| entry.own.is_none());
    let own: Vec<_> = there.iter().filter_map(|entry| entry.own).collect();
    let first_own = there.iter().position(|entry| entry.own.is_some());
    let is_first = first_own.is_some_and(|own| others.is_none_or(|other| own < other));
    let obstructs = |entry: &Entry| entry.own.is_none() && entry.takes_packets();
    let obstructed = there.iter().take(first_own.unwrap_or(0)).any(obstructs);
    if own.contains(&route) && (is_first || !obstructed) {
        return Err(io::Error::from_raw_os_error(EEXIST));
    }
    if route.prefix.addr().is_ipv4() {
        // The kernel rejects an exact duplicate, wherever it is.
        if own.contains(&route) {
            remove(handle, route).await?;
        }
        prepend(handle, route).await?;
        for former in own.iter().filter(|own| **own != route) {
            remove(handle, *former).await?;
        }
        return Ok(());
    }
    let mut others = there.iter().filter(|entry| entry.own.is_none());
    if let Some(first) = others.find(|entry| entry.metric <= METRIC) {
        let name = first.describe(handle).await;
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, Taken(name)));
    }
    for own in own {
        remove(handle, own).await?;
    }
    let request = handle.route().add(message(route, true)?);
    request.execute().await.map_err(io_error)
}

/// Adds an IPv4 route before those of its prefix, as `ip route prepend`.
async fn prepend(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message(route, true)?));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let mut answers = handle.clone().request(request).map_err(io_error)?;
    while let Some(answer) = futures_util::StreamExt::next(&mut answers).await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(error.to_io());
        }
    }
    Ok(())
}

pub(super) async fn delete(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    // The kernel ignores the source of an IPv6 route when it looks for the route to delete.
    if route.prefix.addr().is_ipv6() {
        let there = entries(handle, Family::V6).await?;
        let count = there
            .iter()
            .filter(|entry| entry.own == Some(route))
            .count();
        for _ in 1..count {
            remove(handle, route).await?;
        }
        if count == 0 {
            return Err(io::Error::from_raw_os_error(ESRCH));
        }
    }
    remove(handle, route).await
}

/// Deletes one of svcproxy's routes; in IPv6 with any source and metric.
async fn remove(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    let request = handle.route().del(message(route, false)?);
    request.execute().await.map_err(io_error)
}

/// svcproxy's routes, and the obstacles in their way.
pub(super) async fn list(
    handle: &Handle,
) -> io::Result<(BTreeSet<LocalRoute>, BTreeSet<Obstacle>)> {
    let (mut routes, mut obstacles) = (BTreeSet::new(), BTreeSet::new());
    for family in [Family::V4, Family::V6] {
        let entries = entries(handle, family).await?;
        let mut seen = HashSet::new();
        for (at, entry) in entries.iter().enumerate() {
            let Some(own) = entry.own else { continue };
            routes.insert(own);
            // Only the first route of a prefix gets packets.
            if !seen.insert(own.prefix) {
                continue;
            }
            for (place, other) in entries.iter().enumerate() {
                if !other.is_in_the_way_of(entry, place < at) {
                    continue;
                }
                obstacles.insert(Obstacle {
                    prefix: own.prefix,
                    by: other.describe(handle).await,
                    can_be_passed: other.can_be_passed(&own.prefix),
                });
            }
        }
    }
    let has_none = |route: &&LocalRoute| obstacles.iter().all(|o| o.prefix != route.prefix);
    let unobstructed: Vec<_> = routes
        .iter()
        .filter(has_none)
        .take(PROBES)
        .copied()
        .collect();
    for route in unobstructed {
        if let Some(by) = detour(handle, route.prefix).await? {
            obstacles.insert(Obstacle {
                prefix: route.prefix,
                by,
                can_be_passed: false,
            });
        }
    }
    Ok((routes, obstacles))
}

/// Where the kernel routes a packet of this node to an address of a prefix, if not to this node: a
/// routing rule may precede that of table `local`.
async fn detour(handle: &Handle, prefix: IpNet) -> io::Result<Option<String>> {
    let address = prefix.hosts().next().unwrap_or(prefix.addr());
    let length = prefix.max_prefix_len();
    let asked = RouteMessageBuilder::<IpAddr>::new()
        .table_id(0)
        .protocol(RouteProtocol::Unspec)
        .kind(RouteType::Unspec)
        .destination_prefix(address, length);
    let mut asked = asked.map_err(invalid)?.build();
    // IPv6 always reports the table, and rejects the flag.
    if prefix.addr().is_ipv4() {
        asked.header.flags = RouteFlags::LookupTable;
    }
    let mut answers = handle.route().get(asked).execute();
    match answers.try_next().await.map_err(io_error) {
        Ok(Some(route)) if route.header.kind == RouteType::Local => Ok(None),
        Ok(Some(route)) => Ok(Some(format!(
            "a routing rule (a packet to {address} takes a route of kind {} in table {})",
            kind_name(route.header.kind),
            table(&route),
        ))),
        Ok(None) => Ok(None),
        Err(error) => match error.raw_os_error() {
            // The errors of blackhole, unreachable and prohibit routes, and of a lookup without a
            // result.
            Some(EINVAL | EHOSTUNREACH | EACCES | ENETUNREACH | EAGAIN) => Ok(Some(format!(
                "a routing rule (a packet to {address} gets: {error})"
            ))),
            _ => Err(error),
        },
    }
}

fn table(route: &RouteMessage) -> u32 {
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    table.unwrap_or(route.header.table.into())
}

/// A route of table `local`.
#[derive(Debug)]
struct Entry {
    prefix: IpNet,
    /// The route, if it is svcproxy's.
    own: Option<LocalRoute>,
    kind: RouteType,
    protocol: RouteProtocol,
    metric: u32,
    tos: u8,
    device: Option<u32>,
}

impl Entry {
    fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let (mut destination, mut source, mut metric, mut device) = (None, None, 0, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => destination = ip(to),
                RouteAttribute::PrefSource(from) => source = ip(from),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Oif(index) => device = Some(*index),
                _ => {}
            }
        }
        let any = match header.address_family {
            netlink_packet_route::AddressFamily::Inet => IpAddr::from([0_u8; 4]),
            _ => IpAddr::from([0_u8; 16]),
        };
        let length = header.destination_prefix_length;
        let prefix = IpNet::new(destination.unwrap_or(any), length).ok()?;
        let is_own = header.protocol == PROTOCOL && header.kind == RouteType::Local;
        Some(Self {
            prefix,
            own: is_own.then_some(LocalRoute { prefix, source }),
            kind: header.kind,
            protocol: header.protocol,
            metric,
            tos: header.tos,
            device,
        })
    }

    /// Whether it routes packets elsewhere. Routes that the kernel adds for addresses have the
    /// types local, broadcast, anycast and multicast.
    fn takes_packets(&self) -> bool {
        use RouteType::{Anycast, Broadcast, Local, Multicast};
        ![Local, Broadcast, Anycast, Multicast].contains(&self.kind)
    }

    fn is_in_the_way_of(&self, own: &Self, is_before: bool) -> bool {
        if self.own.is_some() || !self.takes_packets() {
            return false;
        }
        let same = self.prefix == own.prefix;
        same && is_before || !same && own.prefix.contains(&self.prefix)
    }

    /// Whether svcproxy's route to a prefix can precede it. A route for one type of service always
    /// precedes those for any.
    fn can_be_passed(&self, prefix: &IpNet) -> bool {
        let is_v6 = prefix.addr().is_ipv6();
        self.prefix == *prefix && self.tos == 0 && (!is_v6 || self.metric > METRIC)
    }

    async fn describe(&self, handle: &Handle) -> String {
        let device = match self.device {
            Some(index) => device(handle, index).await,
            None => String::new(),
        };
        let protocol = match self.protocol {
            RouteProtocol::Other(number) => number.to_string(),
            named => named.to_string(),
        };
        let tos = match self.tos {
            0 => String::new(),
            tos => format!(" tos {tos:#x}"),
        };
        let kind = kind_name(self.kind);
        let Self { prefix, metric, .. } = self;
        format!("{kind} {prefix}{device} proto {protocol} metric {metric}{tos}")
    }
}

/// The type, as in ip-route(8).
fn kind_name(kind: RouteType) -> String {
    format!("{kind:?}").to_ascii_lowercase()
}

async fn device(handle: &Handle, index: u32) -> String {
    let mut found = handle.link().get().match_index(index).execute();
    let name = found.try_next().await.ok().flatten().and_then(|link| {
        link.attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
    });
    name.map_or_else(|| format!(" dev {index}"), |name| format!(" dev {name}"))
}

/// All routes of table `local`, in the order in which the kernel tries those of one prefix.
async fn entries(handle: &Handle, family: Family) -> io::Result<Vec<Entry>> {
    let mut filter = RouteMessageBuilder::<IpAddr>::new()
        .table_id(TABLE)
        .protocol(RouteProtocol::Unspec)
        .kind(RouteType::Unspec)
        .scope(RouteScope::Universe)
        .build();
    filter.header.address_family = address_family(family);
    let routes = dump(handle, filter).await?;
    Ok(routes.iter().filter_map(Entry::of).collect())
}

fn message(route: LocalRoute, with_metric: bool) -> io::Result<RouteMessage> {
    let LocalRoute { prefix, source } = route;
    let mut builder = builder(TABLE).output_interface(LOOPBACK);
    if with_metric && prefix.addr().is_ipv6() {
        builder = builder.priority(METRIC);
    }
    let message = builder.destination_prefix(prefix.network(), prefix.prefix_len());
    let message = message.and_then(|message| match source {
        Some(source) => message.pref_source(source),
        None => Ok(message),
    });
    // Fails if the source has the other family.
    Ok(message.map_err(invalid)?.build())
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::from(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::from(*address)),
        _ => None,
    }
}
