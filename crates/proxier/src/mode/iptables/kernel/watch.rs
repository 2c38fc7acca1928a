//! Watches for changes of iptables mode's chains by other programs.
//!
//! iptables-nft's tables are nftables tables, so the kernel sends notifications. Legacy iptables
//! replaces whole tables with setsockopt(2), and the kernel sends no notification: the audit finds
//! such changes.

use netlink::uapi::*;
use netlink::{Listener, Message, Watch};

use super::Flavour;
use crate::mode::NodeError;
use crate::mode::iptables::name::PREFIX;

/// The tables in which svcproxy has chains.
const TABLES: [Option<&str>; 2] = [Some("nat"), Some("filter")];

/// Calls `report` soon after another process has changed svcproxy's chains, or the rules that jump
/// to them, in the calling thread's network namespace. Stops when the returned value is dropped.
/// `None` with legacy iptables, which has no notifications.
///
/// # Errors
///
/// If the kernel has no nftables, or lack of privileges; if the flavour cannot be found out.
pub fn watch(
    flavour: Flavour,
    report: impl FnMut() + Send + 'static,
) -> Result<Option<Watching>, NodeError> {
    if !flavour.is_nft()? {
        return Ok(None);
    }
    let listener = Listener::open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]);
    let started = listener.and_then(|listener| Watch::start(vec![listener], matters, report));
    let started = started.map_err(|source| NodeError::PacketFilter {
        operation: "listen to changes of nftables",
        source,
    });
    Ok(Some(Watching(started?)))
}

/// A running [`watch()`]. Dropping it stops the watch.
#[derive(Debug)]
pub struct Watching(#[expect(dead_code, reason = "its drop ends the thread")] Watch);

/// The kind of a message about nftables, if it is of a family that iptables has.
pub(crate) fn kind_in_iptables(message: &Message<'_>) -> Option<u8> {
    let [subsystem, kind] = message.kind.to_be_bytes();
    let family = message.payload.first().copied();
    let is_of_iptables = subsystem == NFNL_SUBSYS_NFTABLES
        && [Some(NFPROTO_IPV4), Some(NFPROTO_IPV6)].contains(&family);
    is_of_iptables.then_some(kind)
}

/// An unreadable message counts as one about svcproxy's chains, to be safe.
fn matters(message: &Message<'_>) -> bool {
    let Some(kind) = kind_in_iptables(message) else {
        return false;
    };
    let Ok(attributes) = message.attributes() else {
        return true;
    };
    // Tables, chains and rules name their table in attribute 1.
    if !TABLES.contains(&attributes.text(NFTA_TABLE_NAME)) {
        return false;
    }
    let is_own = |name: Option<&str>| name.is_none_or(|name| name.starts_with(PREFIX));
    match kind {
        NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE => true,
        NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => is_own(attributes.text(NFTA_CHAIN_NAME)),
        // A rule of another chain that jumps to one of svcproxy's contains its name. If the kernel
        // leaves out the expressions of a deleted rule, it may have been such a rule.
        NFT_MSG_NEWRULE | NFT_MSG_DELRULE => {
            let mut words = message.payload.windows(PREFIX.len());
            let is_bare = attributes.get(NFTA_RULE_EXPRESSIONS).is_none();
            is_own(attributes.text(NFTA_RULE_CHAIN))
                || words.any(|word| word == PREFIX.as_bytes())
                || kind == NFT_MSG_DELRULE && is_bare
        }
        _ => false,
    }
}
