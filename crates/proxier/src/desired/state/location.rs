//! Whether this node has the name by which the cluster knows it.

use std::collections::BTreeSet;

use super::{DesiredState, Location};
use crate::notice::{Notice, Reason};
use crate::store::Store;

/// At most so many names of nodes are listed.
const NAMED: usize = 5;

impl DesiredState {
    pub(super) fn count_location(&mut self, was: Option<&Location>, is: Option<&Location>) {
        let [here, elsewhere] = &mut self.located;
        let mut count = |location: &Location, change: fn(&mut usize)| match location {
            Location::Here => change(here),
            Location::Elsewhere(_) => change(elsewhere),
        };
        if let Some(is) = is {
            count(is, |count| *count += 1);
        }
        if let Some(was) = was {
            count(was, |count| *count = count.saturating_sub(1));
        }
    }

    /// Whether no Node and no endpoint has this node's name, although there are some.
    pub(crate) fn is_node_unknown(&self, store: &Store) -> bool {
        let [here, elsewhere] = self.located;
        store.node().is_none() && here == 0 && (elsewhere > 0 || store.lacks_node())
    }

    /// The condition of a node whose name no Node and no endpoint has, with names that are known.
    pub fn unknown_node(&self, store: &Store) -> Option<Notice> {
        if !self.is_node_unknown(store) {
            return None;
        }
        let locations = self.services.values().map(|of| &of.location);
        let names: BTreeSet<_> = locations
            .filter_map(|location| match location {
                Some(Location::Elsewhere(name)) => Some(&**name),
                _ => None,
            })
            .collect();
        let there = match names.is_empty() {
            true => String::new(),
            false => {
                let more = if names.len() > NAMED { ", …" } else { "" };
                let names: Vec<_> = names.into_iter().take(NAMED).collect();
                format!("; there are endpoints on {}{more}", names.join(", "))
            }
        };
        let message = format!(
            "no Node and no endpoint has the name {name}{there}. If this machine's Node has another \
             name, Services with traffic policy Local find no endpoints here, and the Node's \
             addresses, zone and pod CIDRs are not used: set --hostname-override (or --node-name) to \
             that name",
            name = self.config.node_name
        );
        Some(Notice::of_node(Reason::NodeUnknown, message))
    }
}
