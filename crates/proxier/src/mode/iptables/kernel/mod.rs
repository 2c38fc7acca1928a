//! iptables, sysctls and connection tracking of the process's network namespace.

mod flavour;
mod isolation;
mod program;
mod watch;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use ipvs::Family;

use crate::mode::conntrack::ConntrackSocket;
use crate::mode::iptables::{Counters, NodeState, Plan, Rules, Served, Step, Transaction};
use crate::mode::proc_sys::Sysctls;
use crate::mode::{ApplyReport, NodeError};
use program::{Program, Verb};

#[cfg(feature = "ipvs")]
pub(crate) use flavour::has_legacy_tables;
#[cfg(feature = "ipvs")]
#[cfg(feature = "ipvs")]
pub(super) use watch::kind_in_iptables;

/// Kills all running programs, with their process groups: iptables, and exec plugins for
/// credentials.
///
/// Call it before the process exits without waiting: an orphaned iptables-restore keeps the xtables
/// lock, and may change rules later.
pub fn kill_programs() {
    crate::program::kill_all();
}

pub use flavour::Flavour;
#[cfg(any(feature = "testing", test))]
pub(super) use isolation::restore_all;
pub use program::Refusal;
pub use watch::{Watching, watch};

/// The part of the kernel that iptables mode uses.
///
/// It works in the network namespace of the calling thread, except for connection tracking, which
/// is that of the thread that opened it.
///
/// ```no_run
/// use proxier::mode::iptables::IptablesKernel;
///
/// let mut kernel = IptablesKernel::open()?;
/// let node = kernel.observe()?;
/// println!("{} chains by {}", node.v4.chains().count(), kernel.flavour());
/// # Ok::<(), proxier::mode::NodeError>(())
/// ```
#[derive(Debug)]
pub struct IptablesKernel {
    flavour: Flavour,
    conntrack: ConntrackSocket,
    sysctls: Sysctls,
}

impl IptablesKernel {
    /// Finds out which iptables the node uses, and changes nothing.
    ///
    /// # Errors
    ///
    /// If iptables is not installed or cannot be run; lack of privileges.
    pub fn open() -> Result<Self, NodeError> {
        Self::with_flavour(Flavour::find()?)
    }

    /// The kernel through the programs of this flavour.
    ///
    /// # Errors
    ///
    /// Lack of privileges.
    pub fn with_flavour(flavour: Flavour) -> Result<Self, NodeError> {
        Ok(Self {
            flavour,
            conntrack: ConntrackSocket::open()?,
            sysctls: Sysctls::default(),
        })
    }

    /// Uses the sysctls below `proc_sys` instead of `/proc/sys`, which is read-only in containers
    /// and cannot be mounted over.
    pub fn proc_sys(mut self, proc_sys: impl Into<PathBuf>) -> Self {
        self.sysctls = Sysctls(proc_sys.into());
        self
    }

    /// The flavour.
    pub const fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Reads the state of the node.
    ///
    /// # Errors
    ///
    /// If some part cannot be read.
    pub fn observe(&mut self) -> Result<NodeState, NodeError> {
        let sysctls = self.sysctls.observe()?;
        let rules = |family| rules(self.flavour, family);
        let (v4, v6) = (rules(Family::V4)?, rules(Family::V6)?);
        Ok(NodeState::new(sysctls, v4, v6))
    }

    /// The kernel through the iptables that has svcproxy's rules, if one has.
    ///
    /// # Errors
    ///
    /// If a program cannot be run; lack of privileges.
    pub fn in_use() -> Result<Option<Self>, NodeError> {
        let flavour = Flavour::with_rules()?.into_iter().next();
        flavour.map(Self::with_flavour).transpose()
    }

    /// What the rules do with connections to Services, with their counters.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn served(&self) -> Result<Vec<Served>, NodeError> {
        let mut served = Vec::new();
        for family in [Family::V4, Family::V6] {
            if kernel_speaks(family) {
                let saved = Program::new(self.flavour, family, Verb::Count).run(&"")?;
                let (rules, counters) = (Rules::parse(&saved), Counters::parse(&saved));
                served.extend(rules.served(family, &counters));
            }
        }
        Ok(served)
    }

    /// Executes a plan in order. After a failed step, the others are still executed. In a
    /// transaction, only the rejected Services are left out.
    pub fn apply(&mut self, plan: &Plan) -> ApplyReport {
        self.carry_out(plan).0
    }

    /// As [`apply`](Self::apply), and returns the executed part if a Service was left out.
    pub(crate) fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Option<Plan>) {
        let mut report = ApplyReport::default();
        for (place, step) in plan.steps().iter().enumerate() {
            if let Step::SetSysctl(sysctl, value) = step {
                self.sysctls.set(*sysctl, *value, place, &mut report);
            }
        }
        let mut restore = |some: &Transaction| restore(self.flavour, some);
        let done = isolation::restore_all(plan, &mut report, &mut restore);
        // Without those of Services that were left out.
        let kept = done.as_ref().map(|done| {
            let flows = done.steps().iter().filter_map(Step::flows);
            flows.copied().collect::<BTreeSet<_>>()
        });
        let flows = plan.steps().iter().enumerate();
        let flows = flows.filter_map(|(place, step)| Some((place, *step.flows()?)));
        // All at once, so that connection tracking is listed once for all of them.
        let flows =
            flows.filter(|(_, flows)| kept.as_ref().is_none_or(|kept| kept.contains(flows)));
        self.conntrack.delete_flows(flows, &mut report);
        (report, done)
    }

    /// Checks a transaction with `iptables-restore --test`.
    ///
    /// # Errors
    ///
    /// [`NodeError::Iptables`] if it is rejected.
    pub fn test(&self, transaction: &Transaction) -> Result<(), NodeError> {
        run_restore(self.flavour, transaction, Verb::Test)
    }

    /// Removes all of svcproxy's rules from both iptables. Returns the number of chains.
    ///
    /// # Errors
    ///
    /// If some rules cannot be removed.
    pub fn remove_all() -> Result<usize, NodeError> {
        let mut removed = 0;
        for (flavour, removal) in Self::removals()? {
            restore(flavour, &removal)?;
            removed += removal.chains();
        }
        Ok(removed)
    }

    /// What [`remove_all`](Self::remove_all) would do now. Changes nothing.
    ///
    /// # Errors
    ///
    /// If the rules cannot be read.
    pub fn removals() -> Result<Vec<(Flavour, Transaction)>, NodeError> {
        let mut removals = Vec::new();
        for flavour in Flavour::with_rules()? {
            for family in [Family::V4, Family::V6] {
                let removal = Transaction::removal(family, &rules(flavour, family)?);
                if !removal.is_empty() {
                    removals.push((flavour, removal));
                }
            }
        }
        Ok(removals)
    }
}

fn rules(flavour: Flavour, family: Family) -> Result<Rules, NodeError> {
    if !kernel_speaks(family) {
        return Ok(Rules::default());
    }
    Ok(Rules::parse(&save(flavour, family)?))
}

/// The output of iptables-save(8).
pub(crate) fn save(flavour: Flavour, family: Family) -> Result<String, NodeError> {
    Program::new(flavour, family, Verb::Save).run(&"")
}

/// Executes a transaction with iptables-restore(8).
pub(crate) fn restore(flavour: Flavour, transaction: &Transaction) -> Result<(), NodeError> {
    run_restore(flavour, transaction, Verb::Restore)
}

fn run_restore(flavour: Flavour, transaction: &Transaction, verb: Verb) -> Result<(), NodeError> {
    let program = Program::new(flavour, transaction.family, verb);
    let outcome = program.run(transaction);
    outcome.map(drop).map_err(|error| match error {
        NodeError::Iptables(refusal) => NodeError::Iptables(Box::new(refusal.located(transaction))),
        error => error,
    })
}

/// Whether the kernel has the protocol of a family. Without it, the iptables program of the family
/// fails.
pub(crate) fn kernel_speaks(family: Family) -> bool {
    family == Family::V4 || fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}
