//! nftables, sysctls and connection tracking of the process's network namespace.

mod element;
mod expression;
mod list;
mod transaction;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;

use ipvs::Family;
use netlink::{Packing, Refused, Socket, again, nftables, without_rejected};

use super::{Choice, Chooser, NodeState, Plan, Ruleset, Step, TABLE};
use crate::desired::Config;
use crate::mode::conntrack::{ConntrackSocket, netlink_family};
use crate::mode::ipvs::plan::Audience;
use crate::mode::proc_sys::Sysctls;
use crate::mode::{ApplyReport, NodeError};
use transaction::Transaction;

/// The part of the kernel that nftables mode uses.
///
/// It works in the network namespace of the thread that opened it, except for sysctls, which are
/// those of the calling thread.
///
/// ```no_run
/// use proxier::mode::nftables::NftablesKernel;
///
/// let mut kernel = NftablesKernel::open()?;
/// let node = kernel.observe()?;
/// println!("{} elements", node.elements.len());
/// # Ok::<(), proxier::mode::NodeError>(())
/// ```
#[derive(Debug)]
pub struct NftablesKernel {
    socket: Socket,
    conntrack: ConntrackSocket,
    sysctls: Sysctls,
    /// The families that the kernel has.
    families: Vec<Family>,
    /// The families whose tables can be used as they are.
    sound: Vec<Family>,
}

impl NftablesKernel {
    /// Opens all sockets, and changes nothing.
    ///
    /// # Errors
    ///
    /// Lack of nftables or of privileges.
    pub fn open() -> Result<Self, NodeError> {
        let speaks = |family: &Family| match family {
            Family::V4 => true,
            Family::V6 => std::fs::exists("/proc/sys/net/ipv6").unwrap_or(false),
        };
        Ok(Self {
            socket: Socket::open().map_err(error("open nftables"))?,
            conntrack: ConntrackSocket::open()?,
            sysctls: Sysctls::default(),
            families: [Family::V4, Family::V6]
                .into_iter()
                .filter(speaks)
                .collect(),
            sound: Vec::new(),
        })
    }

    /// Uses the sysctls below `proc_sys` instead of `/proc/sys`, which is read-only in containers
    /// and cannot be mounted over.
    pub fn proc_sys(mut self, proc_sys: impl Into<PathBuf>) -> Self {
        self.sysctls = Sysctls(proc_sys.into());
        self
    }

    /// Reads the state of the node. A table with other sets than svcproxy's, of an older version for
    /// instance, counts as missing; the next plan makes it anew. The other family's table stays: its
    /// new connections would fail until all elements are back.
    ///
    /// # Errors
    ///
    /// If some part cannot be read.
    pub fn observe(&mut self) -> Result<NodeState, NodeError> {
        let mut node = NodeState {
            sysctls: self.sysctls.observe()?,
            ..NodeState::default()
        };
        self.sound.clear();
        let (mut rules, mut elements) = (Vec::new(), Vec::new());
        for family in &self.families {
            let table = list::table(&mut self.socket, *family, &mut elements);
            let table = table.map_err(error("list the table"))?;
            let Some(table) = table.filter(|table| table.is_sound) else {
                rules.push(None);
                continue;
            };
            self.sound.push(*family);
            rules.push(table.rules);
            node.choosers.extend(table.choosers);
            node.outdated.extend(table.outdated);
        }
        node.elements = elements.into_iter().collect();
        let first = rules.first().copied().flatten();
        node.ruleset = first.filter(|_| rules.iter().all(|rules| *rules == first));
        Ok(node)
    }

    /// Executes a plan in order. A rejected step does not stop the others.
    pub fn apply(&mut self, plan: &Plan) -> ApplyReport {
        let mut report = ApplyReport::default();
        let mut filter = Vec::new();
        let mut flows = Vec::new();
        for (place, step) in plan.steps().iter().enumerate() {
            match step {
                Step::SetSysctl(sysctl, value) => {
                    self.sysctls.set(*sysctl, *value, place, &mut report);
                }
                Step::DeleteFlows(unwanted) => flows.push((place, *unwanted)),
                step => filter.push((place, step)),
            }
        }
        self.apply_filter(&filter, &mut report);
        // Behind all changes, so that connection tracking is listed once.
        self.conntrack.delete_flows(flows, &mut report);
        report.failures.sort_by_key(|failure| failure.step);
        report
    }

    /// Executes the steps of the packet filter in as few transactions as possible. If the kernel
    /// rejects one, sends it again without the steps at fault.
    fn apply_filter(&mut self, steps: &[(usize, &Step)], report: &mut ApplyReport) {
        let bare: Vec<_> = steps.iter().map(|(_, step)| *step).collect();
        let chains = match bare.iter().any(|step| installs(step)) {
            true => self.chains(),
            false => Vec::new(),
        };
        let (mut steps, mut bare) = (steps, bare.as_slice());
        while !bare.is_empty() {
            let (taken, outcome) = self.commit(bare, &chains, Packing::Dense, report);
            let (now, later) = bare.split_at(taken.clamp(1, bare.len()));
            let (places, places_later) = steps.split_at(now.len());
            let is_element =
                |step: &&&Step| matches!(step, Step::AddElement(..) | Step::DeleteElement(_));
            let elements = now.iter().filter(is_element).count();
            report.counts.elements += u64::try_from(elements).unwrap_or(u64::MAX);
            if let Err(Refused::Lost(source)) = outcome {
                for (step, (place, _)) in now.iter().zip(places) {
                    report.fail(*place, refusal(step, again(&source)));
                }
                // The kernel may have refused them, and later steps rely on them.
                for (place, _) in places_later {
                    report.fail(*place, NodeError::NotTried);
                }
                return;
            } else if outcome.is_err() {
                let failed = without_rejected(now, |rest| {
                    self.commit(rest, &chains, Packing::Single, report)
                });
                for (at, source) in failed {
                    if let Some((place, step)) = places.get(at) {
                        report.fail(*place, refusal(step, source));
                    }
                }
            }
            (steps, bare) = (places_later, later);
        }
    }

    /// The datagrams that [`NftablesKernel::apply`] sends for the packet filter's steps of a plan on a
    /// node without tables, if the kernel accepts them all: for a benchmark that sends them itself.
    #[cfg(feature = "testing")]
    pub fn datagrams(&mut self, plan: &Plan) -> Vec<Vec<u8>> {
        let is_filter = |step: &&Step| !matches!(step, Step::SetSysctl(..) | Step::DeleteFlows(_));
        let steps: Vec<_> = plan.steps().iter().filter(is_filter).collect();
        let mut datagrams = Vec::new();
        let mut rest = steps.as_slice();
        while !rest.is_empty() {
            let (transaction, taken) =
                Transaction::pack(&mut self.socket, rest, &self.families, &[], Packing::Dense);
            datagrams.push(transaction.into_datagram());
            rest = rest.get(taken.max(1)..).unwrap_or_default();
        }
        datagrams
    }

    /// Commits as many steps as fit into one transaction. Returns their number and the outcome.
    fn commit(
        &mut self,
        steps: &[&Step],
        chains: &[(Family, Vec<String>)],
        packing: Packing,
        report: &mut ApplyReport,
    ) -> (usize, Result<(), Refused>) {
        let (transaction, taken) =
            Transaction::pack(&mut self.socket, steps, &self.families, chains, packing);
        report.counts.transactions += 1;
        let outcome = transaction.commit(&mut self.socket);
        if outcome.is_ok() && steps.iter().take(taken).any(|step| installs(step)) {
            self.sound.clone_from(&self.families);
        }
        (taken, outcome)
    }

    /// The chains of the tables that can be used as they are. If they cannot be read, the kernel's
    /// error for the transaction gives the reason.
    fn chains(&mut self) -> Vec<(Family, Vec<String>)> {
        let mut all = Vec::new();
        for family in &self.sound {
            let listed = nftables::chains(&mut self.socket, netlink_family(*family));
            let listed = listed.unwrap_or_default().into_iter();
            let own = listed.filter_map(|(table, chain)| (table == TABLE).then_some(chain));
            all.push((*family, own.collect()));
        }
        all
    }

    /// Lets the kernel validate all kinds of rules without committing them.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub(crate) fn check(&mut self, config: &Config) -> Result<(), NodeError> {
        let ruleset = Step::InstallRuleset(Ruleset::new(config), BTreeSet::new());
        // The rules of both families are too many for one transaction.
        for family in self.families.clone() {
            let chooser = Step::AddChooser(Chooser {
                family,
                is_node_port: false,
                audience: Audience::External,
                choice: Choice {
                    count: NonZeroU32::MIN,
                    affinity: Some(NonZeroU32::MIN),
                },
            });
            let steps = [&ruleset, &chooser];
            let only = [family];
            let (transaction, taken) =
                Transaction::pack(&mut self.socket, &steps, &only, &[], Packing::Single);
            debug_assert_eq!(taken, steps.len(), "a chooser is not checked");
            let checked = transaction.check(&mut self.socket);
            checked.map_err(|refused| error("validate the rules")(refused.into()))?;
        }
        Ok(())
    }

    /// Deletes the tables, if there are any. Returns the number of tables.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn remove_all(&mut self) -> Result<usize, NodeError> {
        let found = nftables::families_with(&mut self.socket, TABLE);
        let found = found.map_err(error("list tables"))?;
        if !found.is_empty() {
            let deleted = nftables::delete(&mut self.socket, TABLE, &found);
            deleted.map_err(error("delete the tables"))?;
        }
        self.sound.clear();
        Ok(found.len())
    }

    /// The families of the tables of this mode that the node has, as nft names them: `ip`, `ip6`.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    pub fn tables(&mut self) -> Result<Vec<&'static str>, NodeError> {
        let found = nftables::families_with(&mut self.socket, TABLE);
        let found = found.map_err(error("list tables"))?.into_iter();
        let name = |family| match family {
            netlink::Family::V4 => "ip",
            netlink::Family::V6 => "ip6",
        };
        Ok(found.map(name).collect())
    }

    /// Whether the node has tables of this mode.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    pub fn is_in_use(&mut self) -> Result<bool, NodeError> {
        Ok(!self.tables()?.is_empty())
    }
}

const fn installs(step: &Step) -> bool {
    matches!(step, Step::InstallRuleset(..))
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::PacketFilter { operation, source }
}

fn refusal(step: &Step, source: io::Error) -> NodeError {
    let operation = match step {
        Step::AddElement(..) => "add an element",
        Step::DeleteElement(_) => "delete an element",
        Step::AddChooser(_) => "add a chain",
        Step::ReplaceChooser(_) => "replace the rules of a chain",
        Step::DeleteChooser(_) => "delete a chain",
        _ => "install the rules",
    };
    NodeError::PacketFilter { operation, source }
}
