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

use crate::mode::ipvs::kernel::rtnetlink::{Rtnetlink, io_error};
use crate::mode::ipvs::plan::{LocalRoute, PolicyRoute, Step};
use crate::mode::{ApplyReport, BackendError};

/// The protocol number of svcproxy's routes, which identifies them: free in iproute2's `rt_protos`,
/// and not used by FRR, BIRD, Calico (80), OVN (84) or Open/R (99).
pub const ROUTE_PROTOCOL: u8 = 73;

const PROTOCOL: RouteProtocol = RouteProtocol::Other(ROUTE_PROTOCOL);

/// `lo` has this index in every network namespace; the kernel's LOOPBACK_IFINDEX.
const LOOPBACK: u32 = 1;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;

/// The routes of one network namespace.
#[derive(Debug)]
pub(super) struct Routes(Rtnetlink);

impl Routes {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, BackendError> {
        Rtnetlink::open().map(Self).map_err(error("open rtnetlink"))
    }

    /// The `local` routes with svcproxy's protocol number.
    pub(super) fn observe(&self) -> Result<BTreeSet<LocalRoute>, BackendError> {
        let listed = self.0.wait(local::list(&self.0.handle));
        listed.map_err(error("list routes"))
    }

    /// The policy routes with svcproxy's protocol number.
    pub(super) fn observe_policy(&self) -> Result<BTreeSet<PolicyRoute>, BackendError> {
        let listed = self.0.wait(policy::list(&self.0.handle));
        listed.map_err(error("list policy routes"))
    }

    /// Executes steps about routes; `first` is the index of the first one in its plan.
    pub(super) fn apply(&self, steps: &[Step], first: usize, report: &mut ApplyReport) {
        for (step, place) in steps.iter().zip(first..) {
            let (done, operation) = match step {
                Step::AddRoute(route) => (
                    self.0.wait(local::add(&self.0.handle, *route)),
                    "add a route",
                ),
                Step::DeleteRoute(route) => (
                    self.0.wait(local::delete(&self.0.handle, *route)),
                    "delete a route",
                ),
                Step::AddPolicyRoute(route) => (
                    self.0.wait(policy::add(&self.0.handle, *route)),
                    "add a policy route",
                ),
                Step::DeletePolicyRoute(route) => (
                    self.0.wait(policy::delete(&self.0.handle, *route)),
                    "delete a policy route",
                ),
                _ => continue,
            };
            report.counts.routes += 1;
            if let Err(source) = done {
                report.fail(place, BackendError::Route { operation, source });
            }
        }
    }

    /// Deletes incomplete policy routes.
    pub(super) fn remove_halves(&self) -> Result<(), BackendError> {
        let removed = self.0.wait(policy::clear(&self.0.handle));
        removed.map_err(error("delete policy routes"))
    }
}

/// The local routes with svcproxy's protocol number in a table.
async fn in_table(handle: &Handle, table: u32, family: Family) -> io::Result<Vec<RouteMessage>> {
    let mut filter = builder(table).scope(RouteScope::Universe).build();
    // With strict checking, the kernel filters by this header.
    filter.header.address_family = address_family(family);
    let mut listed = handle.route().get(filter).execute();
    let mut routes = Vec::new();
    loop {
        match listed.try_next().await.map_err(io_error) {
            Ok(Some(route)) => {
                let header = &route.header;
                if header.protocol == PROTOCOL && header.kind == RouteType::Local {
                    routes.push(route);
                }
            }
            Ok(None) => return Ok(routes),
            // The table exists only while it has routes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(routes),
            Err(error) => return Err(error),
        }
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

fn error(operation: &'static str) -> impl Fn(io::Error) -> BackendError {
    move |source| BackendError::Route { operation, source }
}
