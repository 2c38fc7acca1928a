//! Packs steps into transactions.

use super::chain::put_chain;
use super::element::{put_element, set_of};
use super::list::TableShape;
use super::rule::{RuleTag, put_rule};
use super::set::put_set;
use crate::mode::ipvs::plan::{Element, Step};
use crate::mode::ipvs::rules::{Ruleset, Set, TABLE};
use netlink::uapi::*;
use netlink::{Batch, Packing, Refused, Socket};

/// A transaction under construction.
pub(super) struct Transaction<'a> {
    batch: Batch,
    steps: &'a [&'a Step],
    shape: &'a TableShape,
}

impl<'a> Transaction<'a> {
    /// Packs steps, beginning with the first, until the transaction is full. Returns the number of
    /// packed steps.
    pub(super) fn pack(
        socket: &mut Socket,
        steps: &'a [&'a Step],
        shape: &'a TableShape,
        packing: Packing,
    ) -> (Self, usize) {
        let mut transaction = Self {
            batch: Batch::begin(socket),
            steps,
            shape,
        };
        let mut taken = 0;
        while taken < steps.len() && !transaction.is_full(taken) {
            taken = transaction.put_some(taken, packing);
        }
        (transaction, taken)
    }

    fn is_full(&self, next: usize) -> bool {
        let last = next.checked_sub(1).and_then(|last| self.steps.get(last));
        let pair = last.zip(self.steps.get(next));
        let goes_on = pair.is_some_and(|(last, next)| belong_together(last, next));
        self.batch.is_full(goes_on)
    }

    /// Writes the step at an index, with as many of the following ones as fit into one message.
    /// Returns the index after them.
    fn put_some(&mut self, at: usize, packing: Packing) -> usize {
        match self.steps.get(at) {
            Some(Step::InstallRuleset(ruleset)) => {
                self.put_ruleset(at, ruleset);
                at + 1
            }
            Some(Step::AddElement(..) | Step::DeleteElement(_)) => self.put_elements(at, packing),
            _ => at + 1,
        }
    }

    fn put_elements(&mut self, start: usize, packing: Packing) -> usize {
        let Some((kind, set, ..)) = self.steps.get(start).and_then(|step| element_of(step)) else {
            return start + 1;
        };
        let steps = self.steps.get(start..).unwrap_or_default();
        let alike = steps
            .iter()
            .map_while(|step| element_of(step))
            .take_while(|(k, s, ..)| (*k, *s) == (kind, set))
            .take(packing.most());
        let mut end = start;
        let flags = match kind {
            NFT_MSG_NEWSETELEM => NLM_F_REQUEST | NLM_F_CREATE,
            _ => NLM_F_REQUEST,
        };
        self.batch.message(start, |writer, sequence| {
            writer.message(kind, flags, sequence, |w| {
                w.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                w.text(NFTA_SET_ELEM_LIST_SET, set.name());
                w.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    let begin = w.len();
                    for (_, _, element, comment) in alike {
                        if w.len() - begin > Batch::LIST_LIMIT {
                            break;
                        }
                        put_element(w, element, comment);
                        end += 1;
                    }
                });
            });
        });
        end
    }

    /// Replaces everything in the table except the sets, which are the same in every ruleset.
    fn put_ruleset(&mut self, step: usize, ruleset: &Ruleset) {
        let fingerprint = ruleset.fingerprint();
        let shape = self.shape;
        self.batch.message(step, |w, sequence| {
            w.message(
                NFT_MSG_NEWTABLE,
                NLM_F_REQUEST | NLM_F_CREATE,
                sequence,
                |w| {
                    w.text(NFTA_TABLE_NAME, TABLE);
                },
            );
        });
        self.batch.message(step, |w, sequence| {
            w.message(NFT_MSG_DELRULE, NLM_F_REQUEST, sequence, |w| {
                w.text(NFTA_RULE_TABLE, TABLE);
            });
        });
        // Before the chains, because an element of a map may refer to a chain.
        for set in &shape.foreign_sets {
            self.delete(step, NFT_MSG_DELSET, NFTA_SET_NAME, set);
        }
        for chain in &shape.chains {
            let name = chain.name();
            self.delete(step, NFT_MSG_DELCHAIN, NFTA_CHAIN_NAME, name);
        }
        for (kind, name) in &shape.objects {
            self.batch.message(step, |w, sequence| {
                w.message(NFT_MSG_DELOBJ, NLM_F_REQUEST, sequence, |w| {
                    w.text(NFTA_OBJ_TABLE, TABLE);
                    w.text(NFTA_OBJ_NAME, name);
                    w.number(NFTA_OBJ_TYPE, *kind);
                });
            });
        }
        for name in &shape.flowtables {
            let kind = NFT_MSG_DELFLOWTABLE;
            self.delete(step, kind, NFTA_FLOWTABLE_NAME, name);
        }
        for set in Set::ALL {
            self.batch
                .message(step, |w, sequence| put_set(w, sequence, *set));
        }
        let chains = ruleset.chains();
        for chain in &chains {
            self.batch
                .message(step, |w, sequence| put_chain(w, sequence, chain));
        }
        let rules = chains
            .iter()
            .flat_map(|chain| chain.rules.iter().map(move |r| (chain, r)));
        let count = u16::try_from(rules.clone().count()).unwrap_or(u16::MAX);
        for ((chain, rule), index) in rules.zip(0..) {
            let tag = RuleTag {
                fingerprint,
                index,
                count,
            };
            self.batch
                .message(step, |w, sequence| put_rule(w, sequence, chain, rule, tag));
        }
    }

    fn delete(&mut self, step: usize, kind: u8, name_attribute: u16, name: &str) {
        self.batch.message(step, |w, sequence| {
            w.message(kind, NLM_F_REQUEST, sequence, |w| {
                // NFTA_CHAIN_TABLE, NFTA_SET_TABLE and NFTA_FLOWTABLE_TABLE are one number.
                w.text(NFTA_SET_TABLE, TABLE);
                w.text(name_attribute, name);
            });
        });
    }

    /// Sends the transaction. The steps of an error are indices into the packed slice.
    pub(super) fn commit(self, socket: &mut Socket) -> Result<(), Refused> {
        self.batch.commit(socket)
    }

    /// Lets the kernel validate the transaction.
    pub(super) fn check(self, socket: &mut Socket) -> Result<(), Refused> {
        self.batch.check(socket)
    }
}

/// The message type of an element step, with set, element and comment.
fn element_of(step: &Step) -> Option<(u8, Set, &Element, Option<&str>)> {
    match step {
        Step::AddElement(element, comment) => Some((
            NFT_MSG_NEWSETELEM,
            set_of(element),
            element,
            comment.as_deref(),
        )),
        Step::DeleteElement(element) => Some((NFT_MSG_DELSETELEM, set_of(element), element, None)),
        _ => None,
    }
}

/// Whether two steps must be in one transaction: the second one adds again, perhaps with another
/// comment, what the first one deleted, which must never be missing; or both change the source
/// ranges of one address.
fn belong_together(last: &Step, next: &Step) -> bool {
    let (Some((before, .., old, _)), Some((after, .., new, _))) =
        (element_of(last), element_of(next))
    else {
        return false;
    };
    let replaces = (before, after) == (NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM);
    match (old, new) {
        (Element::SourceRange(old, _), Element::SourceRange(new, _)) => old == new,
        (
            Element::Mark {
                key: old,
                purpose: old_purpose,
                ..
            },
            Element::Mark { key, purpose, .. },
        ) => replaces && (old, old_purpose) == (key, purpose),
        _ => replaces && old == new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::ipvs::plan::Purpose;

    #[test]
    fn steps_that_replace_an_element_share_a_transaction() {
        let key = |port: u16| crate::desired::FrontendKey {
            protocol: ipvs::Protocol::Tcp,
            address: [192, 0, 2, 1].into(),
            port: port.try_into().unwrap(),
        };
        let mark = |port, mark: u32, purpose| Element::Mark {
            key: key(port),
            purpose,
            mark: mark.try_into().unwrap(),
        };
        let range = |port, range: &str| Element::SourceRange(key(port), range.parse().unwrap());
        let server = |port| Element::VirtualServer(key(port));
        let (old, new) = (mark(1, 1, Purpose::Capture), mark(1, 2, Purpose::Capture));
        let [add, delete]: [fn(Element) -> Step; 2] = [
            |element| Step::AddElement(element, None),
            Step::DeleteElement,
        ];
        for (last, next, expected) in [
            (delete(server(1)), add(server(1)), true),
            (delete(server(1)), add(server(2)), false),
            (add(server(1)), delete(server(1)), false),
            (delete(old), add(new), true),
            (delete(old), delete(new), false),
            (delete(old), add(mark(2, 2, Purpose::Capture)), false),
            (delete(old), add(mark(1, 2, Purpose::External)), false),
            (
                delete(range(1, "10.0.0.0/8")),
                add(range(1, "10.1.0.0/16")),
                true,
            ),
            (
                delete(range(1, "10.0.0.0/8")),
                delete(range(1, "11.0.0.0/8")),
                true,
            ),
            (
                delete(range(1, "10.0.0.0/8")),
                add(range(2, "10.0.0.0/8")),
                false,
            ),
        ] {
            assert_eq!(belong_together(&last, &next), expected, "{last}, {next}");
        }
    }
}
