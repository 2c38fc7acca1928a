//! Watches for changes of the node's addresses, and of svcproxy's routes by other programs.

use netlink::uapi::NETLINK_ROUTE;
use netlink::{Listener, Message, Watch};

use crate::mode::NodeError;
use crate::mode::ipvs::kernel::is_route_or_rule_in_question;

/// include/uapi/linux/rtnetlink.h: addresses, routes and rules of both families.
const RTNLGRP: [u32; 6] = [5, 7, 8, 9, 11, 19];
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;

/// Calls `report` soon after an address of the node has come or gone, and after another process has
/// changed svcproxy's routes, or those that precede them, in the calling thread's network namespace.
/// Stops when the returned value is dropped.
///
/// # Errors
///
/// If the kernel has no such notifications.
pub fn watch(report: impl FnMut() + Send + 'static) -> Result<Watching, NodeError> {
    let matters = |message: &Message<'_>| match message.kind {
        RTM_NEWADDR | RTM_DELADDR => true,
        _ => is_route_or_rule_in_question(message),
    };
    let listener = Listener::open(NETLINK_ROUTE, &RTNLGRP);
    let started = listener.and_then(|listener| Watch::start(vec![listener], matters, report));
    let operation = "listen to changes of addresses and routes";
    started
        .map(Watching)
        .map_err(|source| NodeError::Route { operation, source })
}

/// A running [`watch()`]. Dropping it stops the watch.
#[derive(Debug)]
pub struct Watching(#[expect(dead_code, reason = "its drop ends the thread")] Watch);
