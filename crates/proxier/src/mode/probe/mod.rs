//! Probes whether this node can run a mode.
//!
//! [`ipvs()`](crate::mode::ipvs::probe()) and [`iptables()`](crate::mode::iptables::probe()) probe
//! the node and change nothing: they create, read and delete a virtual server in one datagram, and
//! let the kernel validate rules without committing them. Each [`Requirement`] yields a
//! [`Finding`], with a remedy. [`Probe`], which is pure, concludes which mode can run.
//!
//! ```no_run
//! # #[cfg(feature = "ipvs")] {
//! use proxier::desired::Config;
//! use proxier::mode::ipvs;
//! use proxier::mode::probe::Mode;
//!
//! let config = Config::new("node-a", vec!["192.0.2.1".parse()?]);
//! let probe = ipvs::probe(&config, "/proc/sys".as_ref());
//! for finding in probe.in_the_way_of(Mode::Ipvs) {
//!     println!("{finding}");
//! }
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod look;
mod missing;
mod requirement;
#[cfg(test)]
mod tests;

use std::fmt;

pub use missing::{Missing, ModuleFile, Reason};
pub use requirement::{Mode, Requirement, Weight};

/// The result of a [`Requirement`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The requirement.
    pub requirement: Requirement,
    /// A description of what was found, or why it is missing.
    pub result: Result<String, Missing>,
}

impl Finding {
    /// A finding.
    pub fn new(requirement: Requirement, result: Result<String, Missing>) -> Self {
        Self {
            requirement,
            result,
        }
    }

    /// The remedy, if it is missing and has one of its own.
    pub fn remedy(&self) -> Option<String> {
        let missing = self.result.as_ref().err()?;
        requirement::remedy(&self.requirement, missing)
    }
}

/// The finding on one line, with the remedy.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.requirement)?;
        match &self.result {
            Ok(found) => f.write_str(found),
            Err(missing) => write!(f, "{missing}"),
        }?;
        match self.remedy() {
            Some(remedy) => write!(f, " (remedy: {remedy})"),
            None => Ok(()),
        }
    }
}

/// The findings of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The findings, in a fixed order, each requirement once.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Adds the findings of another probe, except for known requirements.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for finding in other.findings {
            let is_known = |known: &Finding| known.requirement == finding.requirement;
            if !self.findings.iter().any(is_known) {
                self.findings.push(finding);
            }
        }
        self
    }

    /// Whether a mode can run: it was probed, and everything that it needs exists.
    pub fn can_run(&self, mode: Mode) -> bool {
        let foundation = match mode {
            Mode::Ipvs => Requirement::Ipvs,
            Mode::Iptables => Requirement::Iptables,
            Mode::Nftables => Requirement::NftablesRules,
            Mode::Userspace => Requirement::Listeners,
        };
        let mut needed = self.of_weight(mode, Weight::Needed);
        self.findings.iter().any(|f| f.requirement == foundation)
            && needed.all(|finding| finding.result.is_ok())
    }

    /// Whether a mode cannot run although the node may have everything that it needs: nothing is
    /// known to be [absent](Missing::is_absent).
    pub fn is_undecided(&self, mode: Mode) -> bool {
        let mut causes = self.causes(mode).peekable();
        causes.peek().is_some() && !causes.any(Missing::is_absent)
    }

    /// Whether another probe may find that a mode can run: everything in its way is
    /// [busy](Reason::Busy) or [broken](Reason::Refused).
    pub fn may_pass(&self, mode: Mode) -> bool {
        let passes = |missing: &Missing| matches!(missing.reason, Reason::Busy | Reason::Refused);
        self.is_undecided(mode) && self.causes(mode).all(passes)
    }

    fn causes(&self, mode: Mode) -> impl Iterator<Item = &Missing> {
        let causes = self.missing(mode, Weight::Needed);
        causes.filter_map(|finding| finding.result.as_ref().err())
    }

    /// The missing requirements that prevent a mode from running, without those that could not be
    /// tried because another one is missing.
    pub fn in_the_way_of(&self, mode: Mode) -> impl Iterator<Item = &Finding> {
        self.missing(mode, Weight::Needed)
    }

    /// The missing requirements that a mode would use.
    pub fn lacking_in(&self, mode: Mode) -> impl Iterator<Item = &Finding> {
        self.missing(mode, Weight::Wanted)
    }

    fn missing(&self, mode: Mode, weight: Weight) -> impl Iterator<Item = &Finding> {
        let is_cause = |finding: &&Finding| match &finding.result {
            Ok(_) => false,
            Err(missing) => missing.reason != Reason::NotTried,
        };
        self.of_weight(mode, weight).filter(is_cause)
    }

    fn of_weight(&self, mode: Mode, weight: Weight) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(move |finding| finding.requirement.weight(mode) == Some(weight))
    }
}

impl FromIterator<Finding> for Probe {
    fn from_iter<I: IntoIterator<Item = Finding>>(findings: I) -> Self {
        let findings = findings.into_iter().collect();
        Self { findings }
    }
}
