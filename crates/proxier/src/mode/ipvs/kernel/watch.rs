//! Watches for changes of svcproxy's nftables tables, routes and rules by other programs, and for new
//! filters of theirs.
//!
//! IPVS has no notifications, so the audit polls it.

use netlink::uapi::*;
use netlink::{Attributes, Listener, Malformed, Message, Watch};

use super::routes::ROUTE_PROTOCOL;
use crate::mode::NodeError;
use crate::mode::ipvs::rules::TABLE;

/// include/uapi/linux/rtnetlink.h: routes and rules of both families.
const RTNLGRP: [u32; 4] = [7, 8, 11, 19];
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
/// The length of `struct rtmsg` and `struct fib_rule_hdr`.
const RT_HEADER: usize = 12;
const RT_TABLE_LOCAL: u8 = 255;
/// `RTN_LOCAL` to `RTN_MULTICAST`: the types that the kernel adds to table `local` for addresses.
const OF_ADDRESSES: std::ops::RangeInclusive<u8> = 2..=5;
const FRA_PRIORITY: u16 = 6;
const FRA_PROTOCOL: u16 = 21;

/// Calls `report` soon after another process has changed svcproxy's nftables tables (those of mode
/// nftables too), routes or
/// routing rules, or routes and rules that precede them, in the calling thread's network namespace.
/// Stops when the returned value is dropped.
///
/// # Errors
///
/// If the kernel has no such notifications, or lack of privileges.
pub fn watch(report: impl FnMut() + Send + 'static) -> Result<Watching, NodeError> {
    let listen = |protocol, groups: &[u32]| Listener::open(protocol, groups);
    let started = listen(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])
        .and_then(|netfilter| Ok(vec![netfilter, listen(NETLINK_ROUTE, &RTNLGRP)?]))
        .and_then(|listeners| Watch::start(listeners, matters, report));
    let operation = "listen to changes of nftables and routes";
    started
        .map(Watching)
        .map_err(|source| NodeError::Route { operation, source })
}

/// A running [`watch()`]. Dropping it stops the watch.
#[derive(Debug)]
pub struct Watching(#[expect(dead_code, reason = "its drop ends the thread")] Watch);

fn matters(message: &Message<'_>) -> bool {
    let [subsystem, _] = message.kind.to_be_bytes();
    match message.kind {
        _ if subsystem == NFNL_SUBSYS_NFTABLES => is_of_table(message) || is_new_filter(message),
        _ => is_route_or_rule_in_question(message),
    }
}

/// Whether a message is about a route or a rule that decides on packets to virtual IPs.
pub(crate) fn is_route_or_rule_in_question(message: &Message<'_>) -> bool {
    match message.kind {
        RTM_NEWROUTE | RTM_DELROUTE => is_route_in_question(message.payload),
        RTM_NEWRULE | RTM_DELRULE => is_rule_in_question(message),
        _ => false,
    }
}

/// Tables, chains, rules, sets, elements and objects all name their table in attribute 1. A message
/// that cannot be parsed counts as svcproxy's, to be safe.
fn is_of_table(message: &Message<'_>) -> bool {
    let family = message.payload.first().copied();
    if ![NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6]
        .map(Some)
        .contains(&family)
    {
        return false;
    }
    let attributes = message.attributes();
    attributes.map_or(true, |a| a.text(NFTA_TABLE_NAME) == Some(TABLE))
}

/// Whether another program has created a chain that sees incoming packets. Packets to Services may
/// have to be marked for it.
fn is_new_filter(message: &Message<'_>) -> bool {
    let [_, kind] = message.kind.to_be_bytes();
    let is_input = |attributes: Attributes<'_>| {
        let hook = attributes.nested(NFTA_CHAIN_HOOK)?;
        let point = hook.map(|hook| hook.require(NFTA_HOOK_HOOKNUM)?.number());
        Ok::<_, Malformed>(point.transpose()? == Some(NF_INET_LOCAL_IN))
    };
    kind == NFT_MSG_NEWCHAIN && message.attributes().and_then(is_input).unwrap_or(true)
}

/// svcproxy's routes, those in its table, and those in table `local` that do not belong to an
/// address: they may precede svcproxy's.
fn is_route_in_question(payload: &[u8]) -> bool {
    let Some([_, _, _, _, table, protocol, _, kind]) = payload.first_chunk::<8>() else {
        return true;
    };
    [*table, *protocol].contains(&ROUTE_PROTOCOL)
        || *table == RT_TABLE_LOCAL && !OF_ADDRESSES.contains(kind)
}

/// svcproxy's rules and those that precede them.
fn is_rule_in_question(message: &Message<'_>) -> bool {
    let Ok(attributes) = message.attributes_behind(RT_HEADER) else {
        return true;
    };
    let priority = attributes.get(FRA_PRIORITY);
    let priority = priority.and_then(|priority| priority.array().ok());
    let priority = priority.map_or(0, u32::from_ne_bytes);
    let is_own = attributes.value(FRA_PROTOCOL) == Some(&[ROUTE_PROTOCOL]);
    is_own || priority <= u32::from(ROUTE_PROTOCOL)
}
