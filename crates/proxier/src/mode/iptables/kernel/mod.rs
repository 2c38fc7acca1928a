//! iptables, sysctls and connection tracking of the network namespace that the process is in.

mod flavour;
mod isolation;
mod program;
mod refusal;

use std::fs;
use std::path::PathBuf;

use ipvs::Family;

use crate::mode::conntrack::Conntrack;
use crate::mode::iptables::{Counters, Node, Plan, Rules, Served, Step, Transaction};
use crate::mode::ipvs::plan;
use crate::mode::sysctl::Sysctls;
use crate::mode::{ApplyReport, BackendError};
use program::{Program, Verb};

#[cfg(feature = "ipvs")]
pub(crate) use flavour::has_legacy_tables;

/// Kills the iptables programs that run now, with what they have started.
///
/// For a process that is about to end without waiting for them: one that is left behind keeps the
/// xtables lock, and may change rules later.
pub fn kill_programs() {
    crate::program::kill_all();
}

pub use flavour::Flavour;
pub use refusal::Refusal;

/// The data plane over iptables.
///
/// It works in the network namespace of the calling thread, but for connection tracking, which is
/// that of the thread that opened it.
///
/// ```no_run
/// use proxier::mode::iptables::IptablesBackend;
///
/// let mut backend = IptablesBackend::open()?;
/// let node = backend.observe()?;
/// println!("{} chains by {}", node.v4.chains().count(), backend.flavour());
/// # Ok::<(), proxier::mode::BackendError>(())
/// ```
#[derive(Debug)]
pub struct IptablesBackend {
    flavour: Flavour,
    conntrack: Conntrack,
    sysctls: Sysctls,
}

impl IptablesBackend {
    /// Finds out which iptables the node uses, and changes nothing.
    ///
    /// # Errors
    ///
    /// If there is no iptables, or it cannot be run; lack of privileges.
    pub fn open() -> Result<Self, BackendError> {
        Self::with_flavour(Flavour::find()?)
    }

    /// A backend over this iptables.
    ///
    /// # Errors
    ///
    /// Lack of privileges.
    pub fn with_flavour(flavour: Flavour) -> Result<Self, BackendError> {
        Ok(Self {
            flavour,
            conntrack: Conntrack::open()?,
            sysctls: Sysctls::default(),
        })
    }

    /// Reads and writes sysctls below `proc_sys` in place of `/proc/sys`: containers have that
    /// read-only, and nothing can be mounted there.
    pub fn proc_sys(mut self, proc_sys: impl Into<PathBuf>) -> Self {
        self.sysctls = Sysctls(proc_sys.into());
        self
    }

    /// Which iptables it is.
    pub const fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Reads what the node has.
    ///
    /// # Errors
    ///
    /// If some part cannot be read.
    pub fn observe(&mut self) -> Result<Node, BackendError> {
        let sysctls = self.sysctls.observe()?;
        let rules = |family| rules(self.flavour, family);
        let (v4, v6) = (rules(Family::V4)?, rules(Family::V6)?);
        Ok(Node::new(sysctls, v4, v6))
    }

    /// A backend over the iptables that has rules of svcproxy's, if one has.
    ///
    /// # Errors
    ///
    /// If one cannot be run; lack of privileges.
    pub fn in_use() -> Result<Option<Self>, BackendError> {
        let flavour = Flavour::with_rules()?.into_iter().next();
        flavour.map(Self::with_flavour).transpose()
    }

    /// What the rules do with connections to Services, and how often they did.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn served(&self) -> Result<Vec<Served>, BackendError> {
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

    /// Carries out a plan in its order. A step that fails does not keep the others from being
    /// taken, and of a transaction only what is for the Services that are refused is left out.
    pub fn apply(&mut self, plan: &Plan) -> ApplyReport {
        self.carry_out(plan).0
    }

    /// As [`apply`](Self::apply), with what was carried out if somebody was left out.
    pub(crate) fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Option<Plan>) {
        let mut report = ApplyReport::default();
        for (place, step) in plan.steps().iter().enumerate() {
            if let Step::SetSysctl(sysctl, value) = step {
                let shared = plan::Step::SetSysctl(*sysctl, *value);
                self.sysctls.apply(&[shared], place, &mut report);
            }
        }
        let mut restore = |some: &Transaction| restore(self.flavour, some);
        let done = isolation::restore_all(plan, &mut report, &mut restore);
        let carried_out = done.as_ref().unwrap_or(plan).steps();
        let is_flows = |step: &Step| matches!(step, Step::DeleteFlows(_));
        if let Some(first) = carried_out.iter().position(is_flows) {
            // Those that follow one another: connection tracking is listed once for all.
            let flows = carried_out.iter().skip(first);
            let flows = flows.filter_map(|step| match step {
                Step::DeleteFlows(flows) => Some(plan::Step::DeleteFlows(*flows)),
                _ => None,
            });
            let flows: Vec<_> = flows.collect();
            self.conntrack.apply(&flows, first, &mut report);
        }
        (report, done)
    }

    /// Has iptables-restore(8) read a transaction without carrying it out.
    ///
    /// # Errors
    ///
    /// [`BackendError::Iptables`] if it is refused.
    pub fn test(&self, transaction: &Transaction) -> Result<(), BackendError> {
        run_restore(self.flavour, transaction, Verb::Test)
    }

    /// Removes all that is ours, from whichever iptables has it; how many chains.
    ///
    /// # Errors
    ///
    /// If some of it cannot be removed.
    pub fn remove_all() -> Result<usize, BackendError> {
        let mut removed = 0;
        for flavour in Flavour::with_rules()? {
            for family in [Family::V4, Family::V6] {
                let removal = Transaction::removal(family, &rules(flavour, family)?);
                if !removal.is_empty() {
                    restore(flavour, &removal)?;
                    removed += removal.chains();
                }
            }
        }
        Ok(removed)
    }
}

fn rules(flavour: Flavour, family: Family) -> Result<Rules, BackendError> {
    if !kernel_speaks(family) {
        return Ok(Rules::default());
    }
    Ok(Rules::parse(&save(flavour, family)?))
}

/// The output of iptables-save(8).
pub(crate) fn save(flavour: Flavour, family: Family) -> Result<String, BackendError> {
    Program::new(flavour, family, Verb::Save).run(&"")
}

/// Has iptables-restore(8) carry a transaction out.
pub(crate) fn restore(flavour: Flavour, transaction: &Transaction) -> Result<(), BackendError> {
    run_restore(flavour, transaction, Verb::Restore)
}

fn run_restore(
    flavour: Flavour,
    transaction: &Transaction,
    verb: Verb,
) -> Result<(), BackendError> {
    let program = Program::new(flavour, transaction.family, verb);
    let outcome = program.run(transaction);
    outcome.map(drop).map_err(|error| match error {
        BackendError::Iptables(refusal) => {
            BackendError::Iptables(Box::new(refusal.located(transaction)))
        }
        error => error,
    })
}

/// Without a family's protocol in the kernel its iptables fails.
pub(crate) fn kernel_speaks(family: Family) -> bool {
    family == Family::V4 || fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}
