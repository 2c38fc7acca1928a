//! Whether this node has what a mode needs.
//!
//! [`ipvs()`](crate::mode::ipvs::probe()) and
//! [`iptables()`](crate::mode::iptables::probe()) look at the node and change nothing: a virtual server is made, read
//! back and deleted in one datagram; rules are handed over to be checked and not committed. What
//! they look for is a [`Requirement`], and what became of it a [`Finding`] with a remedy in words.
//! Which mode can run is told by [`Probe`], which is pure.
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
mod module;
#[cfg(any(feature = "ipvs", feature = "iptables"))]
mod refusal;
mod remedy;
mod requirement;
#[cfg(test)]
mod tests;

use std::fmt;

pub use missing::{Missing, Reason};
pub use module::ModuleFile;
pub use requirement::{Mode, Requirement, Weight};

/// What became of a [`Requirement`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked for.
    pub requirement: Requirement,
    /// What was found of it, in words, or why it is not there.
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

    /// What to do about it, if it is missing and something can be done about it by itself.
    pub fn remedy(&self) -> Option<String> {
        let missing = self.result.as_ref().err()?;
        remedy::remedy(&self.requirement, missing)
    }
}

/// On one line, with the remedy.
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

/// What was found on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// In a fixed order, each requirement once.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Takes in another look, of which nothing is kept that is known already.
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

    /// Whether a mode can run: it was looked for, and all that it needs is there.
    pub fn can_run(&self, mode: Mode) -> bool {
        let foundation = match mode {
            Mode::Ipvs => Requirement::Ipvs,
            Mode::Iptables => Requirement::Iptables,
        };
        let mut needed = self.of_weight(mode, Weight::Needed);
        self.findings.iter().any(|f| f.requirement == foundation)
            && needed.all(|finding| finding.result.is_ok())
    }

    /// Whether it is open if a mode can run: nothing that it needs is known to be missing, and the
    /// kernel was too [busy](Reason::Busy) to answer for something.
    pub fn is_undecided(&self, mode: Mode) -> bool {
        let mut causes = self.missing(mode, Weight::Needed).peekable();
        let is_busy = |finding: &Finding| {
            let missing = finding.result.as_ref().err();
            missing.is_some_and(|missing| missing.reason == Reason::Busy)
        };
        causes.peek().is_some() && causes.all(is_busy)
    }

    /// What keeps a mode from running. What could not be tried for the lack of another is left
    /// out: the other is here.
    pub fn in_the_way_of(&self, mode: Mode) -> impl Iterator<Item = &Finding> {
        self.missing(mode, Weight::Needed)
    }

    /// What a mode would make use of and does not find.
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
