//! Routes that deliver packets to this node, over rtnetlink.

mod local;
mod policy;

use std::collections::BTreeSet;
use std::io;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipvs::Family;

use crate::errno::EEXIST;
#[cfg(feature = "userspace")]
use crate::errno::ESRCH;
use crate::mode::ipvs::kernel::rtnetlink::{Rtnetlink, io_error};
use crate::mode::ipvs::plan::{LocalRoute, Obstacle, PolicyRoute, Step};
use crate::mode::{ApplyReport, NodeError};

/// The protocol number of svcproxy's routes, which identifies them: free in iproute2's `rt_protos`,
/// and not used by FRR, BIRD, Calico (80), OVN (84) or Open/R (99).
pub const ROUTE_PROTOCOL: u8 = 73;

const PROTOCOL: RouteProtocol = RouteProtocol::Other(ROUTE_PROTOCOL);

/// `lo` has this index in every network namespace; the kernel's LOOPBACK_IFINDEX.
const LOOPBACK: u32 = 1;

/// The routes of one network namespace.
#[derive(Debug)]
pub(crate) struct Routes(Rtnetlink);

impl Routes {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NodeError> {
        Rtnetlink::open().map(Self).map_err(error("open rtnetlink"))
    }

    /// The `local` routes with svcproxy's protocol number, and the obstacles in their way.
    pub(crate) fn observe(
        &mut self,
    ) -> Result<(BTreeSet<LocalRoute>, BTreeSet<Obstacle>), NodeError> {
        let listed = self
            .0
            .read(|handle| async move { local::list(&handle).await });
        listed.map_err(error("list routes"))
    }

    /// The policy routes with svcproxy's protocol number.
    pub(super) fn observe_policy(&mut self) -> Result<BTreeSet<PolicyRoute>, NodeError> {
        let listed = self
            .0
            .read(|handle| async move { policy::list(&handle).await });
        listed.map_err(error("list policy routes"))
    }

    /// Executes steps about routes; `first` is the index of the first one in its plan.
    pub(super) fn apply(&mut self, steps: &[Step], first: usize, report: &mut ApplyReport) {
        for (step, place) in steps.iter().zip(first..) {
            let done = match *step {
                Step::AddRoute(route) => self.add(route),
                Step::DeleteRoute(route) => self.delete(route),
                Step::AddPolicyRoute(route) => self
                    .0
                    .change(|handle| async move { policy::add(&handle, route).await })
                    .map_err(error("add a policy route")),
                Step::DeletePolicyRoute(route) => self
                    .0
                    .change(|handle| async move { policy::delete(&handle, route).await })
                    .map_err(error("delete a policy route")),
                _ => continue,
            };
            report.counts.routes += 1;
            if let Err(error) = done {
                report.fail(place, error);
            }
        }
    }

    /// Adds a `local` route before those of other programs, or replaces svcproxy's of its prefix.
    pub(crate) fn add(&mut self, route: LocalRoute) -> Result<(), NodeError> {
        let netlink = &mut self.0;
        let added = netlink.change(|handle| async move { local::add(&handle, route).await });
        added.map_err(|source| not_added(route, source))
    }

    /// Deletes a `local` route of svcproxy.
    pub(crate) fn delete(&mut self, route: LocalRoute) -> Result<(), NodeError> {
        let netlink = &mut self.0;
        let deleted = netlink.change(|handle| async move { local::delete(&handle, route).await });
        deleted.map_err(error("delete a route"))
    }

    /// Checks that routes may be changed: the kernel looks at the privilege before it looks for a
    /// route to delete that does not exist.
    #[cfg(feature = "userspace")]
    pub(crate) fn check_change(&mut self) -> Result<(), NodeError> {
        let route = LocalRoute {
            // For documentation (RFC 5737), and no single address, which may be a virtual IP.
            prefix: ipnet::Ipv4Net::new_assert([192, 0, 2, 0].into(), 31).into(),
            source: None,
        };
        match self.delete(route) {
            Err(error) if error.errno() == Some(ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Deletes incomplete policy routes.
    pub(super) fn remove_halves(&mut self) -> Result<(), NodeError> {
        let removed = self
            .0
            .read(|handle| async move { policy::clear(&handle).await });
        removed.map_err(error("delete policy routes"))
    }
}

fn not_added(route: LocalRoute, source: io::Error) -> NodeError {
    let taken = source.get_ref().and_then(|inner| inner.downcast_ref());
    let by = match taken {
        Some(local::Taken(by)) => by.clone(),
        None if source.raw_os_error() == Some(EEXIST) => {
            format!("{route} proto {ROUTE_PROTOCOL}")
        }
        None => return error("add a route")(source),
    };
    NodeError::RouteTaken { route, by }
}

/// The local routes with svcproxy's protocol number in a table.
async fn in_table(handle: &Handle, table: u32, family: Family) -> io::Result<Vec<RouteMessage>> {
    let mut filter = builder(table).scope(RouteScope::Universe).build();
    filter.header.address_family = address_family(family);
    let mut routes = dump(handle, filter).await?;
    routes.retain(|route| {
        let header = &route.header;
        header.protocol == PROTOCOL && header.kind == RouteType::Local
    });
    Ok(routes)
}

/// The routes that match a filter: with strict checking, the kernel filters by its header.
async fn dump(handle: &Handle, filter: RouteMessage) -> io::Result<Vec<RouteMessage>> {
    let listed = handle.route().get(filter).execute().map_err(io_error);
    match listed.try_collect().await {
        // The table exists only while it has routes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

fn builder(table: u32) -> RouteMessageBuilder<IpAddr> {
    RouteMessageBuilder::<IpAddr>::new()
        .table_id(table)
        .protocol(PROTOCOL)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
}

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::Route { operation, source }
}
