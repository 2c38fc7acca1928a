//! Packs steps into transactions.

use std::collections::BTreeSet;

use ipvs::Family;
use netlink::uapi::*;
use netlink::{Batch, Packing, Refused, Socket, Writer, user_data};

use super::element::{put_chooser, put_element, put_set};
use super::expression::Encoder;
use crate::mode::conntrack::netlink_family;
use crate::mode::ipvs::kernel::nft::{RuleTag, put_hook};
use crate::mode::ipvs::rules::Fingerprint;
use crate::mode::nftables::rules::Chain;
use crate::mode::nftables::{Chooser, Element, Ruleset, Set, Step, TABLE};

/// The most choosers that one message selects: with some 100 bytes each, they fit into a list.
const MOST_SELECTIONS: usize = 500;

/// A transaction under construction.
pub(super) struct Transaction<'a> {
    batch: Batch,
    families: &'a [Family],
    /// The chains of the tables whose sets are right. Rules go into them, or into new tables.
    chains: &'a [(Family, Vec<String>)],
}

impl<'a> Transaction<'a> {
    /// Packs steps, beginning with the first, until the transaction is full. Returns the number of
    /// packed steps.
    pub(super) fn pack(
        socket: &mut Socket,
        steps: &[&Step],
        families: &'a [Family],
        chains: &'a [(Family, Vec<String>)],
        packing: Packing,
    ) -> (Self, usize) {
        let mut transaction = Self {
            batch: Batch::begin(socket),
            families,
            chains,
        };
        let mut taken = 0;
        while taken < steps.len() && !transaction.is_full(steps, taken) {
            taken = transaction.put_some(steps, taken, packing);
        }
        (transaction, taken)
    }

    fn is_full(&self, steps: &[&Step], next: usize) -> bool {
        let last = next.checked_sub(1).and_then(|last| steps.get(last));
        let pair = last.zip(steps.get(next));
        let goes_on = pair.is_some_and(|(last, next)| belong_together(last, next));
        self.batch.is_full(goes_on)
    }

    /// Writes the step at an index, with as many of the following ones as fit into one message.
    /// Returns the index after them.
    fn put_some(&mut self, steps: &[&Step], at: usize, packing: Packing) -> usize {
        match steps.get(at) {
            Some(Step::InstallRuleset(ruleset, kept)) => self.put_ruleset(at, ruleset, kept),
            Some(Step::AddChooser(chooser)) => self.add_chooser(at, *chooser),
            Some(Step::ReplaceChooser(chooser)) => self.replace_chooser(at, *chooser),
            Some(Step::DeleteChooser(chooser)) => self.delete_chooser(at, *chooser),
            Some(Step::AddElement(..) | Step::DeleteElement(_)) => {
                return self.put_elements(steps, at, packing);
            }
            _ => {}
        }
        at + 1
    }

    fn put_elements(&mut self, steps: &[&Step], start: usize, packing: Packing) -> usize {
        let Some((kind, first, _)) = steps.get(start).and_then(|step| element_of(step)) else {
            return start + 1;
        };
        let (set, family) = (first.set(), first.family());
        let alike = steps.get(start..).unwrap_or_default().iter();
        let alike = alike
            .map_while(|step| element_of(step))
            .take_while(|(k, one, _)| (*k, one.set(), one.family()) == (kind, set, family))
            .take(packing.most());
        let mut end = start;
        let flags = match kind {
            NFT_MSG_NEWSETELEM => NLM_F_CREATE,
            _ => 0,
        };
        self.message(start, kind, flags, family, |w, _| {
            w.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            w.text(NFTA_SET_ELEM_LIST_SET, set.name());
            w.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                let begin = w.len();
                for (_, element, comment) in alike {
                    if w.len() - begin > Batch::LIST_LIMIT {
                        break;
                    }
                    put_element(w, element, comment);
                    end += 1;
                }
            });
        });
        end
    }

    fn put_ruleset(&mut self, step: usize, ruleset: &Ruleset, kept: &BTreeSet<Chooser>) {
        let fingerprint = ruleset.fingerprint();
        for family in self.families {
            let family = *family;
            match self.chains.iter().find(|(of, _)| *of == family) {
                Some((_, chains)) => self.empty_table(step, family, chains, kept),
                None => self.create_table(step, family),
            }
            let chains = ruleset.chains(family);
            for chain in &chains {
                self.add_chain(step, family, chain);
            }
            self.add_rules(step, family, &chains, fingerprint);
        }
    }

    /// Creates a table with all sets, in place of one that cannot be used.
    fn create_table(&mut self, step: usize, family: Family) {
        // Created first, because it is an error to delete a table that is not there.
        let messages = [
            (NFT_MSG_NEWTABLE, NLM_F_CREATE),
            (NFT_MSG_DELTABLE, 0),
            (NFT_MSG_NEWTABLE, NLM_F_CREATE),
        ];
        for (kind, flags) in messages {
            self.message(step, kind, flags, family, |w, _| {
                w.text(NFTA_TABLE_NAME, TABLE);
            });
        }
        for set in Set::ALL {
            self.message(step, NFT_MSG_NEWSET, NLM_F_CREATE, family, |w, id| {
                put_set(w, set, family, TABLE, id);
            });
        }
    }

    /// Removes the chains of a table, with their rules, except for choosers that are kept. The sets
    /// stay.
    fn empty_table(
        &mut self,
        step: usize,
        family: Family,
        chains: &[String],
        kept: &BTreeSet<Chooser>,
    ) {
        let is_kept = |name: &str| {
            let chooser = Chooser::from_name(family, name);
            chooser.is_some_and(|chooser| kept.contains(&chooser))
        };
        let unwanted = || chains.iter().filter(|name| !is_kept(name));
        for chain in unwanted() {
            self.delete_rules(step, family, chain);
        }
        for set in Set::ALL.into_iter().filter(|set| set.has_chains()) {
            // Without a list, all elements: others than svcproxy's may refer to an unwanted chain.
            self.message(step, NFT_MSG_DELSETELEM, 0, family, |w, _| {
                w.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                w.text(NFTA_SET_ELEM_LIST_SET, set.name());
            });
            let kept = kept.iter();
            let kept = kept.filter(|kept| kept.family == family && kept.set() == set);
            self.put_selections(step, NFT_MSG_NEWSETELEM, &kept.copied().collect::<Vec<_>>());
        }
        for chain in unwanted() {
            self.delete_chain(step, family, chain);
        }
    }

    fn delete_rules(&mut self, step: usize, family: Family, chain: &str) {
        self.message(step, NFT_MSG_DELRULE, 0, family, |w, _| {
            w.text(NFTA_RULE_TABLE, TABLE);
            w.text(NFTA_RULE_CHAIN, chain);
        });
    }

    fn delete_chain(&mut self, step: usize, family: Family, chain: &str) {
        self.message(step, NFT_MSG_DELCHAIN, 0, family, |w, _| {
            w.text(NFTA_CHAIN_TABLE, TABLE);
            w.text(NFTA_CHAIN_NAME, chain);
        });
    }

    fn add_chain(&mut self, step: usize, family: Family, chain: &Chain) {
        self.message(step, NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, |w, _| {
            w.text(NFTA_CHAIN_TABLE, TABLE);
            w.text(NFTA_CHAIN_NAME, &chain.name);
            if let Some(hook) = chain.hook {
                put_hook(w, hook);
            }
        });
    }

    /// Adds the rules of chains, with tags that show whether they are complete.
    fn add_rules(&mut self, step: usize, family: Family, chains: &[Chain], of: Fingerprint) {
        let rules = chains.iter().flat_map(|chain| {
            let rules = chain.rules.iter();
            rules.map(move |rule| (chain, rule))
        });
        let count = u16::try_from(rules.clone().count()).unwrap_or(u16::MAX);
        let encoder = Encoder { family };
        for ((chain, rule), index) in rules.zip(0..) {
            let tag = RuleTag {
                fingerprint: of,
                index,
                count,
            };
            let flags = NLM_F_CREATE | NLM_F_APPEND;
            self.message(step, NFT_MSG_NEWRULE, flags, family, |w, _| {
                w.text(NFTA_RULE_TABLE, TABLE);
                w.text(NFTA_RULE_CHAIN, &chain.name);
                w.nested(NFTA_RULE_EXPRESSIONS, |w| {
                    for statement in &rule.0 {
                        encoder.put(w, statement);
                    }
                });
                w.attribute(NFTA_RULE_USERDATA, |w| {
                    user_data::put(w, user_data::RULE_TAG, &[&tag.to_bytes()]);
                });
            });
        }
    }

    fn add_chooser(&mut self, step: usize, chooser: Chooser) {
        let (family, chain) = (chooser.family, chooser.chain());
        self.add_chain(step, family, &chain);
        self.add_rules(step, family, &[chain], chooser.fingerprint());
        self.put_selections(step, NFT_MSG_NEWSETELEM, &[chooser]);
    }

    fn replace_chooser(&mut self, step: usize, chooser: Chooser) {
        let (family, chain) = (chooser.family, chooser.chain());
        self.delete_rules(step, family, &chain.name);
        self.add_rules(step, family, &[chain], chooser.fingerprint());
    }

    fn delete_chooser(&mut self, step: usize, chooser: Chooser) {
        let (family, name) = (chooser.family, chooser.name());
        self.put_selections(step, NFT_MSG_DELSETELEM, &[chooser]);
        self.delete_rules(step, family, &name);
        self.delete_chain(step, family, &name);
    }

    /// Adds or deletes the elements that select chains by their choices. The choosers are of one set
    /// and family.
    fn put_selections(&mut self, step: usize, kind: u8, choosers: &[Chooser]) {
        let flags = match kind {
            NFT_MSG_NEWSETELEM => NLM_F_CREATE,
            _ => 0,
        };
        for some in choosers.chunks(MOST_SELECTIONS) {
            let Some(first) = some.first() else { continue };
            self.message(step, kind, flags, first.family, |w, _| {
                w.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                w.text(NFTA_SET_ELEM_LIST_SET, first.set().name());
                w.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    for chooser in some {
                        put_chooser(w, chooser.choice, &chooser.name());
                    }
                });
            });
        }
    }

    /// Writes a message; `put` gets its sequence number too.
    fn message(
        &mut self,
        step: usize,
        kind: u8,
        flags: u16,
        family: Family,
        put: impl FnOnce(&mut Writer, u32),
    ) {
        let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
        let flags = NLM_F_REQUEST | flags;
        let header = netlink_family(family).header();
        self.batch.message(step, |writer, sequence| {
            writer.packet(kind, flags, sequence, header, |w| put(w, sequence));
        });
    }

    /// Sends the transaction. The steps of an error are indices into the packed slice.
    pub(super) fn commit(self, socket: &mut Socket) -> Result<(), Refused> {
        self.batch.commit(socket)
    }

    /// The datagram that [`Transaction::commit`] sends.
    #[cfg(feature = "testing")]
    pub(super) fn into_datagram(self) -> Vec<u8> {
        self.batch.into_datagram()
    }

    /// Lets the kernel validate the transaction.
    pub(super) fn check(self, socket: &mut Socket) -> Result<(), Refused> {
        self.batch.check(socket)
    }
}

/// The message type of an element step, with element and comment.
fn element_of(step: &Step) -> Option<(u8, &Element, Option<&str>)> {
    match step {
        Step::AddElement(element, comment) => {
            Some((NFT_MSG_NEWSETELEM, element, comment.as_deref()))
        }
        Step::DeleteElement(element) => Some((NFT_MSG_DELSETELEM, element, None)),
        _ => None,
    }
}

/// Whether two steps must be in one transaction: the second one adds again what the first one
/// deleted, or a part of it, which must never be missing.
fn belong_together(last: &Step, next: &Step) -> bool {
    match (last, next) {
        (Step::DeleteElement(old), Step::AddElement(new, _)) if old.excludes(new) => true,
        (Step::DeleteElement(last), Step::DeleteElement(next) | Step::AddElement(next, _))
        | (Step::AddElement(last, _), Step::AddElement(next, _)) => {
            last.is_network() && next.is_network()
        }
        _ => false,
    }
}
