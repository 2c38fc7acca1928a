//! The packet filter: svcproxy's nftables table, over netlink.

mod chain;
mod element;
mod expression;
mod list;
mod rule;
mod set;
mod transaction;

use std::io;

use ipvs::Family;

use crate::mode::ipvs::plan::{Elements, Step};
use crate::mode::ipvs::rules::{ADMIT, Fingerprint, INPUT, Ruleset, TABLE};
use crate::mode::proc_sys::legacy_tables;
use crate::mode::{ApplyReport, NodeError};
#[cfg(feature = "nftables")]
pub(crate) use chain::{ChainDefinition, put_hook};
use element::is_valid_comment;
#[cfg(feature = "nftables")]
pub(crate) use element::{address_after, comment, paired, put_part, put_value_with};
#[cfg(feature = "nftables")]
pub(crate) use expression::Load;
use list::TableShape;
#[cfg(feature = "nftables")]
pub(crate) use list::complete;
use netlink::uapi::*;
use netlink::{Batch, Packing, Refused, Socket, again, filter, nftables, without_rejected};
#[cfg(feature = "nftables")]
pub(crate) use rule::{RuleTag, put_from, put_in, put_of_network, put_statement};
use transaction::Transaction;

/// svcproxy's table in one network namespace.
#[derive(Debug)]
pub(crate) struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NodeError> {
        let socket = Socket::open().map_err(error("open nftables"))?;
        Ok(Self { socket })
    }

    /// The ruleset of the table, if it is unchanged, and the elements of the sets.
    pub(crate) fn observe(&mut self) -> Result<(Option<Fingerprint>, Elements), NodeError> {
        let shape = list::shape(&mut self.socket).map_err(error("list the table"))?;
        let elements = list::elements(&mut self.socket, &shape);
        let elements = elements.map_err(error("list elements"))?;
        Ok((shape.fingerprint(), elements))
    }

    /// Whether a filter of another program sees incoming packets between svcproxy's chains `admit`
    /// and `filter-input`, where packets to Services can be marked for it. Legacy iptables has its
    /// table `filter` at such a place.
    pub(crate) fn observe_filters(&mut self) -> Result<bool, NodeError> {
        let chains = filter::base_chains(&mut self.socket, |_, _| {});
        let chains = chains.map_err(error("list the chains of other programs"))?;
        let is_in_question = |chain: &filter::BaseChain| {
            chain.table != TABLE
                && chain.hook == filter::Hook::Input
                && ADMIT < chain.priority
                && chain.priority < INPUT
        };
        let is_legacy = |family| {
            let tables = legacy_tables(family).unwrap_or_default();
            tables.lines().any(|table| table == "filter")
        };
        Ok(
            chains.iter().any(is_in_question)
                || [Family::V4, Family::V6].into_iter().any(is_legacy),
        )
    }

    /// Executes consecutive packet-filter steps of a plan; `first` is the index of the first one.
    /// Uses as few transactions as possible. If the kernel rejects one, sends it again without the
    /// steps at fault.
    pub(crate) fn apply(&mut self, steps: &[Step], first: usize, report: &mut ApplyReport) {
        let mut sound = Vec::with_capacity(steps.len());
        let mut places = Vec::with_capacity(steps.len());
        for (step, place) in steps.iter().zip(first..) {
            match step {
                Step::AddElement(_, Some(comment)) if !is_valid_comment(comment) => {
                    let source = io::Error::from(io::ErrorKind::InvalidInput);
                    let operation = "write a comment that is too long or has a NUL in it";
                    report.fail(place, NodeError::PacketFilter { operation, source });
                }
                _ => {
                    sound.push(step);
                    places.push(place);
                }
            }
        }
        // If the table cannot be read, the kernel's error for the transaction gives the reason.
        let shape = self.shape_for(&sound).unwrap_or_default();
        if shape.is_dormant()
            && let Err(source) = self.wake(&shape)
        {
            let is_install = |step: &&Step| matches!(step, Step::InstallRuleset(_));
            if let Some(at) = sound.iter().position(is_install) {
                sound.remove(at);
                let operation = "wake the dormant table inet svcproxy";
                report.fail(
                    places.remove(at),
                    NodeError::PacketFilter { operation, source },
                );
            }
        }
        let (mut steps, mut places) = (sound.as_slice(), places.as_slice());
        while !steps.is_empty() {
            let (transaction, taken) =
                Transaction::pack(&mut self.socket, steps, &shape, Packing::Dense);
            let (now, later) = steps.split_at(taken.min(steps.len()));
            let (places_now, places_later) = places.split_at(now.len());
            let is_element = |step: &&&Step| !matches!(step, Step::InstallRuleset(_));
            let elements = now.iter().filter(is_element).count();
            report.counts.elements += u64::try_from(elements).unwrap_or(u64::MAX);
            report.counts.transactions += 1;
            match transaction.commit(&mut self.socket) {
                Ok(()) => {}
                Err(Refused::Lost(source)) => {
                    for (step, place) in now.iter().zip(places_now) {
                        report.fail(*place, refusal(step, again(&source)));
                    }
                    // The kernel may have refused them, and later steps rely on them.
                    for place in places_later {
                        report.fail(*place, NodeError::NotTried);
                    }
                    return;
                }
                Err(_) => self.apply_singly(now, places_now, &shape, report),
            }
            (steps, places) = (later, places_later);
        }
    }

    /// Reads the table if a step replaces the rules: existing parts must be known to be deleted.
    fn shape_for(&mut self, steps: &[&Step]) -> io::Result<TableShape> {
        let installs = steps
            .iter()
            .any(|step| matches!(step, Step::InstallRuleset(_)));
        if installs {
            list::shape(&mut self.socket)
        } else {
            Ok(TableShape::default())
        }
    }

    /// Clears the flag `dormant` of the table, which attaches its existing chains to the hooks
    /// again. This takes its own transaction: since 6.9 the kernel rejects chains that are created
    /// in one with a change of flags (`nf_tables_addchain`).
    fn wake(&mut self, shape: &TableShape) -> io::Result<()> {
        let mut batch = Batch::begin(&mut self.socket);
        batch.message(0, |w, sequence| {
            let flags = NLM_F_REQUEST | NLM_F_CREATE;
            w.message(NFT_MSG_NEWTABLE, flags, sequence, |w| {
                w.text(NFTA_TABLE_NAME, TABLE);
                w.number(NFTA_TABLE_FLAGS, shape.flags & !NFT_TABLE_F_DORMANT);
            });
        });
        Ok(batch.commit(&mut self.socket)?)
    }

    /// Executes steps with one message each, and again without the rejected ones.
    fn apply_singly(
        &mut self,
        steps: &[&Step],
        places: &[usize],
        shape: &TableShape,
        report: &mut ApplyReport,
    ) {
        let failed = without_rejected(steps, |rest| {
            let (transaction, taken) =
                Transaction::pack(&mut self.socket, rest, shape, Packing::Single);
            report.counts.transactions += 1;
            (taken, transaction.commit(&mut self.socket))
        });
        for (at, source) in failed {
            if let (Some(step), Some(place)) = (steps.get(at), places.get(at)) {
                report.fail(*place, refusal(step, source));
            }
        }
    }

    /// Lets the kernel validate rules without committing them.
    pub(crate) fn check(&mut self, ruleset: &Ruleset) -> Result<(), NodeError> {
        let check = |socket: &mut Socket| {
            let shape = list::shape(socket)?;
            let step = Step::InstallRuleset(ruleset.clone());
            let steps = [&step];
            let (transaction, _) = Transaction::pack(socket, &steps, &shape, Packing::Single);
            Ok(transaction.check(socket)?)
        };
        check(&mut self.socket).map_err(error("validate the rules"))
    }

    /// Deletes the table, if there is one.
    pub(crate) fn remove_table(&mut self) -> Result<(), NodeError> {
        let exists = nftables::exists(&mut self.socket);
        if !exists.map_err(error("look for nftables"))? {
            return Ok(());
        }
        let mut batch = Batch::begin(&mut self.socket);
        // Create the table first, so that deleting it succeeds even if it does not exist.
        for (kind, flags) in [(NFT_MSG_NEWTABLE, NLM_F_CREATE), (NFT_MSG_DELTABLE, 0)] {
            batch.message(0, |w, sequence| {
                w.message(kind, NLM_F_REQUEST | flags, sequence, |w| {
                    w.text(NFTA_TABLE_NAME, TABLE);
                });
            });
        }
        let deleted = batch.commit(&mut self.socket);
        deleted.map_err(|refused| error("delete the table")(refused.into()))
    }
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::PacketFilter { operation, source }
}

fn refusal(step: &Step, source: io::Error) -> NodeError {
    let operation = match step {
        Step::AddElement(..) => "add an element",
        Step::DeleteElement(_) => "delete an element",
        _ => "install the rules",
    };
    NodeError::PacketFilter { operation, source }
}
