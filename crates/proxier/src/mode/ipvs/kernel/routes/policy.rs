//! Delivers marked packets to this node: a rule sends them to svcproxy's own routing table, whose
//! only route makes every destination local.
//!
//! A rule before that one exempts lookups that are not for an incoming packet. With the sysctl
//! `src_valid_mark`, which WireGuard's users set, the kernel also uses the packet's mark when it
//! looks up the route back to the sender (`__fib_validate_source` in fib_frontend.c, with `lo` as
//! the incoming interface). It would find that the sender is this node, and drop the packet.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipvs::Family;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use super::{LOOPBACK, PROTOCOL, ROUTE_PROTOCOL, address_family, builder, in_table};
use crate::errno::{EAFNOSUPPORT, EEXIST, ENOENT, EOPNOTSUPP};
use crate::mode::ipvs::kernel::rtnetlink::io_error;
use crate::mode::ipvs::plan::PolicyRoute;

/// The number of the table: free in iproute2's `rt_tables`, and not used by Cilium (2004 and on),
/// Calico or kube-router (77 to 79).
const TABLE: u8 = ROUTE_PROTOCOL;

/// The priority of the rule: after the table `local` (0), before the main table, and before rules
/// of programs that would route marked packets elsewhere.
const PRIORITY: u32 = 73;
/// The priority of the exempting rule.
const EXCEPTION_PRIORITY: u32 = PRIORITY - 1;
/// The priority of the main table's rule, which the exempting rule jumps to.
const MAIN_PRIORITY: u32 = 32766;

/// The complete policy routes.
pub(super) async fn list(handle: &Handle) -> io::Result<BTreeSet<PolicyRoute>> {
    let mut routes = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        if has_route(handle, family).await? {
            let there = rules(handle, family).await?;
            let found = there.iter().filter_map(|rule| parse(rule, family));
            routes.extend(found.filter(|route| missing(&there, *route).next().is_none()));
        }
    }
    Ok(routes)
}

/// Adds the missing parts; the rule that uses the route comes last.
pub(super) async fn add(handle: &Handle, route: PolicyRoute) -> io::Result<()> {
    let there = rules(handle, route.family).await?;
    let has_route = has_route(handle, route.family).await?;
    let mut missing = missing(&there, route).peekable();
    if has_route && missing.peek().is_none() {
        return Err(io::Error::from_raw_os_error(EEXIST));
    }
    if !has_route {
        let request = handle.route().add(everything(route.family)?);
        request.execute().await.map_err(io_error)?;
    }
    for rule in missing {
        let mut request = handle.rule().add();
        *request.message_mut() = rule;
        request.execute().await.map_err(io_error)?;
    }
    Ok(())
}

/// Deletes the existing parts: the rule that uses the route first, and the route only with the last
/// rule.
pub(super) async fn delete(handle: &Handle, route: PolicyRoute) -> io::Result<()> {
    let mut there = rules(handle, route.family).await?;
    let mut is_missing = true;
    for wanted in wanted(route).iter().rev() {
        if let Some(at) = there.iter().position(|rule| is_same(rule, wanted)) {
            let request = handle.rule().del(there.remove(at));
            request.execute().await.map_err(io_error)?;
            is_missing = false;
        }
    }
    if there.is_empty() && has_route(handle, route.family).await? {
        return delete_route(handle, route.family).await;
    }
    if is_missing {
        return Err(io::Error::from_raw_os_error(ENOENT));
    }
    Ok(())
}

/// Deletes all rules and routes, also of incomplete policy routes.
pub(super) async fn clear(handle: &Handle) -> io::Result<()> {
    for family in [Family::V4, Family::V6] {
        for rule in rules(handle, family).await? {
            let request = handle.rule().del(rule);
            request.execute().await.map_err(io_error)?;
        }
        if has_route(handle, family).await? {
            delete_route(handle, family).await?;
        }
    }
    Ok(())
}

async fn delete_route(handle: &Handle, family: Family) -> io::Result<()> {
    let request = handle.route().del(everything(family)?);
    request.execute().await.map_err(io_error)
}

async fn has_route(handle: &Handle, family: Family) -> io::Result<bool> {
    let routes = in_table(handle, TABLE.into(), family).await?;
    let is_default = |route: &RouteMessage| route.header.destination_prefix_length == 0;
    Ok(routes.iter().any(is_default))
}

/// The missing rules of a policy route.
fn missing(there: &[RuleMessage], route: PolicyRoute) -> impl Iterator<Item = RuleMessage> {
    wanted(route)
        .into_iter()
        .filter(|wanted| !there.iter().any(|rule| is_same(rule, wanted)))
}

/// Whether an existing rule has all attributes of a desired one.
fn is_same(there: &RuleMessage, own: &RuleMessage) -> bool {
    there.header.action == own.header.action
        && there.header.table == own.header.table
        && own
            .attributes
            .iter()
            .all(|attribute| there.attributes.contains(attribute))
}

/// The rules with svcproxy's protocol number and priorities.
async fn rules(handle: &Handle, family: Family) -> io::Result<Vec<RuleMessage>> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let mut listed = handle.rule().get(version).execute();
    let mut rules = Vec::new();
    loop {
        match listed.try_next().await.map_err(io_error) {
            Ok(Some(rule)) => rules.extend(Some(rule).filter(is_ours)),
            Ok(None) => return Ok(rules),
            // The kernel does not have this family, or no routing rules.
            Err(error) if matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EOPNOTSUPP)) => {
                return Ok(rules);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |attribute| rule.attributes.contains(&attribute);
    has(RuleAttribute::Protocol(PROTOCOL))
        && [EXCEPTION_PRIORITY, PRIORITY]
            .into_iter()
            .any(|priority| has(RuleAttribute::Priority(priority)))
}

/// The policy route of a rule that uses svcproxy's table.
fn parse(rule: &RuleMessage, family: Family) -> Option<PolicyRoute> {
    let mark = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::FwMark(mark) => Some(*mark),
            _ => None,
        })?;
    (rule.header.action == RuleAction::ToTable).then_some(PolicyRoute { family, mark })
}

/// The rules of a policy route, in the order of adding.
fn wanted(route: PolicyRoute) -> [RuleMessage; 2] {
    let message = |action, table, priority, more: &[RuleAttribute]| {
        let mut message = RuleMessage::default();
        message.header.family = address_family(route.family);
        message.header.table = table;
        message.header.action = action;
        message.attributes = vec![
            RuleAttribute::Priority(priority),
            RuleAttribute::FwMark(route.mark),
            RuleAttribute::FwMask(route.mark),
            RuleAttribute::Protocol(PROTOCOL),
        ];
        message.attributes.extend_from_slice(more);
        message
    };
    let not_incoming = [
        RuleAttribute::Iifname("lo".to_owned()),
        RuleAttribute::Goto(MAIN_PRIORITY),
    ];
    [
        message(RuleAction::Goto, 0, EXCEPTION_PRIORITY, &not_incoming),
        message(RuleAction::ToTable, TABLE, PRIORITY, &[]),
    ]
}

/// `local default dev lo`.
fn everything(family: Family) -> io::Result<RouteMessage> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let message = builder(TABLE.into()).output_interface(LOOPBACK);
    let message = message.destination_prefix(any, 0);
    let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(message.build())
}
