//! Routes that make prefixes local.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use ipvs::Family;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::Handle;

use super::{EEXIST, ESRCH, LOOPBACK, builder, in_table};
use crate::mode::ipvs::kernel::rtnetlink::io_error;
use crate::mode::ipvs::plan::LocalRoute;

/// RT_TABLE_LOCAL.
const TABLE: u32 = 255;

/// Adds a route. An existing route of the prefix is replaced if it is svcproxy's and has another
/// source; otherwise it stays.
pub(super) async fn add(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    let request = handle.route().add(message(route)?);
    match request.execute().await.map_err(io_error) {
        Err(error) if error.raw_os_error() == Some(EEXIST) => {
            let ours = list(handle).await?;
            let is_other = |r: &LocalRoute| r.prefix == route.prefix && r.source != route.source;
            if !ours.iter().any(is_other) {
                return Err(error);
            }
            let request = handle.route().add(message(route)?).replace();
            request.execute().await.map_err(io_error)
        }
        added => added,
    }
}

pub(super) async fn delete(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    // The kernel ignores the source of an IPv6 route when it looks for the route to delete.
    if route.prefix.addr().is_ipv6() && !list(handle).await?.contains(&route) {
        return Err(io::Error::from_raw_os_error(ESRCH));
    }
    handle
        .route()
        .del(message(route)?)
        .execute()
        .await
        .map_err(io_error)
}

pub(super) async fn list(handle: &Handle) -> io::Result<BTreeSet<LocalRoute>> {
    let mut routes = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        let listed = in_table(handle, TABLE, family).await?;
        routes.extend(listed.iter().filter_map(parse));
    }
    Ok(routes)
}

fn message(route: LocalRoute) -> io::Result<RouteMessage> {
    let LocalRoute { prefix, source } = route;
    let message = builder(TABLE)
        .output_interface(LOOPBACK)
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .and_then(|message| message.pref_source(source));
    // Fails if the source has the other family.
    let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(message.build())
}

/// `None` for a route that [`message`] cannot have created.
fn parse(message: &RouteMessage) -> Option<LocalRoute> {
    let address = |wanted: fn(&RouteAttribute) -> Option<&RouteAddress>| match message
        .attributes
        .iter()
        .find_map(wanted)?
    {
        RouteAddress::Inet(address) => Some(IpAddr::from(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::from(*address)),
        _ => None,
    };
    let destination = address(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    let source = address(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => Some(address),
        _ => None,
    });
    let prefix = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    let source = source?;
    Some(LocalRoute { prefix, source })
}
