//! Routes that make prefixes local, over rtnetlink.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder, new_connection_with_strict_check};
use tokio::runtime::{Builder, Runtime};

use crate::backend::{ApplyReport, BackendError};
use crate::plan::{LocalRoute, Step};

/// The protocol number of our routes, by which they are told from those of others: free in
/// iproute2's `rt_protos` and not used by FRR, BIRD, Calico (80), OVN (84) or Open/R (99).
pub const ROUTE_PROTOCOL: u8 = 73;

const PROTOCOL: RouteProtocol = RouteProtocol::Other(ROUTE_PROTOCOL);

/// RT_TABLE_LOCAL.
const LOCAL_TABLE: u32 = 255;

/// `lo` has this index in every network namespace; the kernel's LOOPBACK_IFINDEX.
const LOOPBACK: u32 = 1;

const EEXIST: i32 = 17;
const ESRCH: i32 = 3;

/// The routes of one network namespace.
#[derive(Debug)]
pub(super) struct Routes {
    /// rtnetlink is asynchronous; this makes it blocking.
    runtime: Runtime,
    handle: Handle,
}

impl Routes {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, BackendError> {
        Self::connect().map_err(error("open rtnetlink"))
    }

    fn connect() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (connection, handle, _) = {
            let _guard = runtime.enter();
            new_connection_with_strict_check()?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// The routes with our protocol number.
    pub(super) fn observe(&self) -> Result<BTreeSet<LocalRoute>, BackendError> {
        let listed = self.runtime.block_on(list(&self.handle));
        listed.map_err(error("list routes"))
    }

    /// Carries out steps about routes; `first` is the place of the first in its plan.
    pub(super) fn apply(&self, steps: &[Step], first: usize, report: &mut ApplyReport) {
        for (step, place) in steps.iter().zip(first..) {
            let (done, operation) = match step {
                Step::AddRoute(route) => (
                    self.runtime.block_on(add(&self.handle, *route)),
                    "add a route",
                ),
                Step::DeleteRoute(route) => (
                    self.runtime.block_on(delete(&self.handle, *route)),
                    "delete a route",
                ),
                _ => continue,
            };
            report.counts.routes += 1;
            if let Err(source) = done {
                report.fail(place, BackendError::Route { operation, source });
            }
        }
    }
}

/// Adds a route. If there is one for the prefix it is replaced if it is ours and has another
/// source, and stays if not.
async fn add(handle: &Handle, route: LocalRoute) -> io::Result<()> {
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

async fn delete(handle: &Handle, route: LocalRoute) -> io::Result<()> {
    // The kernel takes no notice of an IPv6 route's source when it looks for what to delete.
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

async fn list(handle: &Handle) -> io::Result<BTreeSet<LocalRoute>> {
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        // The socket's strict checking makes the kernel pick out what fits this header.
        let filter = RouteMessageBuilder::<IpAddr>::new()
            .table_id(LOCAL_TABLE)
            .protocol(PROTOCOL)
            .kind(RouteType::Local)
            .scope(RouteScope::Universe);
        let mut filter = filter.build();
        filter.header.address_family = family;
        let mut listed = handle.route().get(filter).execute();
        loop {
            match listed.try_next().await.map_err(io_error) {
                Ok(Some(message)) => routes.extend(parse(&message)),
                Ok(None) => break,
                // The table comes into being with its first route.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(routes)
}

fn message(route: LocalRoute) -> io::Result<RouteMessage> {
    let LocalRoute { prefix, source } = route;
    let message = RouteMessageBuilder::<IpAddr>::new()
        .table_id(LOCAL_TABLE)
        .protocol(PROTOCOL)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(LOOPBACK)
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .and_then(|message| message.pref_source(source));
    // A source of the other family.
    let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(message.build())
}

/// `None` for a route that is not as [`message`] makes them.
fn parse(message: &RouteMessage) -> Option<LocalRoute> {
    let header = &message.header;
    if header.protocol != PROTOCOL || header.kind != RouteType::Local {
        return None;
    }
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
    let prefix = IpNet::new(destination?, header.destination_prefix_length).ok()?;
    let source = source?;
    Some(LocalRoute { prefix, source })
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> BackendError {
    move |source| BackendError::Route { operation, source }
}
