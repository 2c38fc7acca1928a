//! Delivering packets by their mark: a rule that sends them to a table of ours, and that table's
//! only route, by which everything is local.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipvs::Family;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use super::{
    EEXIST, ENOENT, LOOPBACK, PROTOCOL, ROUTE_PROTOCOL, address_family, builder, in_table, io_error,
};
use crate::plan::PolicyRoute;

/// The table's number, free in iproute2's `rt_tables` as in those of Cilium (2004 and on), Calico
/// and kube-router (77 to 79).
const TABLE: u8 = ROUTE_PROTOCOL;

/// The rule's place: behind that of the table `local`, 0, before the main one, 32766, and before
/// those of anyone who would take marked packets elsewhere.
const PRIORITY: u32 = 73;

const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

/// Both parts are there, or neither is listed.
pub(super) async fn list(handle: &Handle) -> io::Result<BTreeSet<PolicyRoute>> {
    let mut routes = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        if has_route(handle, family).await? {
            let rules = rules(handle, family).await?;
            routes.extend(rules.iter().filter_map(|rule| parse(rule, family)));
        }
    }
    Ok(routes)
}

/// Adds what is missing of the two. There is no rule without the route.
pub(super) async fn add(handle: &Handle, route: PolicyRoute) -> io::Result<()> {
    let has_rule = find_rule(handle, route).await?.is_some();
    let has_route = has_route(handle, route.family).await?;
    if has_rule && has_route {
        return Err(io::Error::from_raw_os_error(EEXIST));
    }
    if !has_route {
        let request = handle.route().add(everything(route.family)?);
        request.execute().await.map_err(io_error)?;
    }
    if !has_rule {
        let mut request = handle.rule().add();
        *request.message_mut() = rule(route);
        request.execute().await.map_err(io_error)?;
    }
    Ok(())
}

/// Deletes what there is of the two; the route only with the last rule that leads to it.
pub(super) async fn delete(handle: &Handle, route: PolicyRoute) -> io::Result<()> {
    let found = find_rule(handle, route).await?;
    let is_missing = found.is_none();
    if let Some(rule) = found {
        let request = handle.rule().del(rule);
        request.execute().await.map_err(io_error)?;
    }
    let is_last = rules(handle, route.family).await?.is_empty();
    if is_last && has_route(handle, route.family).await? {
        return delete_route(handle, route.family).await;
    }
    if is_missing {
        return Err(io::Error::from_raw_os_error(ENOENT));
    }
    Ok(())
}

/// Deletes all rules and routes, also where only one of the two is there.
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

async fn find_rule(handle: &Handle, route: PolicyRoute) -> io::Result<Option<RuleMessage>> {
    let mut rules = rules(handle, route.family).await?;
    rules.retain(|rule| parse(rule, route.family) == Some(route));
    Ok(rules.pop())
}

/// The rules that carry our protocol number and lead to our table.
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
            // A kernel without this family, or without rules.
            Err(error) if matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EOPNOTSUPP)) => {
                return Ok(rules);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |attribute| rule.attributes.contains(&attribute);
    rule.header.action == RuleAction::ToTable
        && rule.header.table == TABLE
        && has(RuleAttribute::Protocol(PROTOCOL))
        && has(RuleAttribute::Priority(PRIORITY))
}

fn parse(rule: &RuleMessage, family: Family) -> Option<PolicyRoute> {
    let find = |wanted: fn(&RuleAttribute) -> Option<u32>| rule.attributes.iter().find_map(wanted);
    let mark = find(|attribute| match attribute {
        RuleAttribute::FwMark(mark) => Some(*mark),
        _ => None,
    })?;
    let mask = find(|attribute| match attribute {
        RuleAttribute::FwMask(mask) => Some(*mask),
        _ => None,
    })?;
    (mark == mask).then_some(PolicyRoute { family, mark })
}

fn rule(route: PolicyRoute) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(route.family);
    message.header.table = TABLE;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(route.mark),
        RuleAttribute::FwMask(route.mark),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    message
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
