//! kube-proxy's chains in iptables-nft and iptables-legacy.

use std::collections::BTreeSet;

use ipvs::Family;
use netlink::{Socket, nftables};

use crate::mode::NodeError;
use crate::mode::conntrack::netlink_family;
use crate::mode::iptables::kernel::{Flavour, has_legacy_tables, kernel_speaks, restore, save};
use crate::mode::iptables::{Table, Transaction};
use crate::takeover::leftovers::{CANARY, Chains, NFTABLES_TABLE, chain};

use super::{Removal, packet_filter};

/// Removes the chains, and the rules of the built-in chains that jump to them. Asks the kernel
/// first and runs no program if there is nothing to remove: for iptables-nft, whether there are
/// such chains; for legacy iptables, whether it is in use at all.
pub(super) fn remove(netfilter: &mut Socket, removal: &mut Removal) {
    for family in [Family::V4, Family::V6] {
        match has_nft_chains(netfilter, family) {
            Ok(true) => of_flavour(Flavour::Nft, family, removal),
            Ok(false) => {}
            Err(error) => removal.failures.push(error),
        }
        if kernel_speaks(family) && has_legacy_tables(family) {
            of_flavour(Flavour::Legacy, family, removal);
        }
    }
}

/// The number of kube-proxy's chains, in iptables and in the tables of its nftables mode, without
/// canaries; `None` if there are not even canaries.
pub(super) fn count(netfilter: &mut Socket) -> Result<Option<usize>, NodeError> {
    let (mut all, mut serving) = (0, 0);
    let mut see = |name: &str| {
        all += 1;
        serving += usize::from(name != CANARY);
    };
    for family in [Family::V4, Family::V6] {
        let found = nft_chains(netfilter, family)?;
        found.iter().for_each(|(_, name)| see(name));
        if kernel_speaks(family) && has_legacy_tables(family) {
            let saved = save(Flavour::Legacy.or_plain()?, family)?;
            let found = Chains::parse(&saved).rules;
            found.chains().for_each(|(_, name)| see(name.as_str()));
        }
    }
    Ok((all > 0).then_some(serving))
}

/// The number of its chains in iptables-nft and iptables-legacy, with canaries.
pub(super) fn count_iptables(netfilter: &mut Socket) -> Result<usize, NodeError> {
    let mut count = 0;
    for family in [Family::V4, Family::V6] {
        let found = nft_chains(netfilter, family)?;
        count += found
            .iter()
            .filter(|(table, _)| table != NFTABLES_TABLE)
            .count();
        if kernel_speaks(family) && has_legacy_tables(family) {
            let saved = save(Flavour::Legacy.or_plain()?, family)?;
            count += Chains::parse(&saved).rules.chains().count();
        }
    }
    Ok(count)
}

fn has_nft_chains(netfilter: &mut Socket, family: Family) -> Result<bool, NodeError> {
    let chains = nft_chains(netfilter, family)?;
    Ok(chains.iter().any(|(table, _)| table != NFTABLES_TABLE))
}

/// The tables and names of its chains in nftables' tables.
fn nft_chains(netfilter: &mut Socket, family: Family) -> Result<Vec<(String, String)>, NodeError> {
    let chains = nftables::chains(netfilter, netlink_family(family));
    let mut chains = chains.map_err(packet_filter("list chains"))?;
    let table_of = |table: &str| Table::ALL.into_iter().find(|t| t.to_string() == table);
    chains.retain(|(of, name)| {
        of == NFTABLES_TABLE || table_of(of).is_some_and(|table| chain(table, name).is_some())
    });
    Ok(chains)
}

fn of_flavour(flavour: Flavour, family: Family, removal: &mut Removal) {
    let saved = flavour.or_plain().and_then(|flavour| {
        let saved = save(flavour, family)?;
        Ok((flavour, Chains::parse(&saved)))
    });
    let (flavour, chains) = match saved {
        Ok(found) => found,
        Err(error) => return removal.failures.push(error),
    };
    for transaction in Transaction::removal(family, &chains.rules).by_table() {
        match restore(flavour, &transaction) {
            Ok(()) => removal.removed.chains += transaction.chains(),
            Err(error) => removal.failures.push(error),
        }
    }
    let in_use: BTreeSet<_> = chains.in_use.into_iter().collect();
    removal
        .in_use
        .extend(in_use.iter().map(|name| format!("chain {name}")));
}
