//! The parts of the rules that exist only while something needs them.

use crate::desired::{DesiredState, Need};
use crate::model::Family;

/// The parts of a [`Ruleset`](super::Ruleset) that a node needs only while a Service or another
/// program does. Each chain at a hook costs every packet there some hundred instructions, whether it
/// has something to do or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parts {
    /// Capture of load-balancer and external IPs.
    pub capture: bool,
    /// Marks that choose a virtual server: for node ports, and for clients outside the cluster that
    /// have other backends.
    pub marks: bool,
    /// Rejection of connections to something without backends.
    pub refusal: bool,
    /// Checks of clients against source ranges.
    pub ranges: bool,
    /// Marks by which filters of other programs can let packets to Services pass.
    pub admission: bool,
}

impl Parts {
    /// All of them.
    pub const ALL: Self = Self {
        capture: true,
        marks: true,
        refusal: true,
        ranges: true,
        admission: true,
    };

    /// The chains at hooks that can be missing.
    #[cfg(feature = "ipvs")]
    pub(crate) const CHAINS: [&str; 4] = [CAPTURE, ADMIT, AFTER_IPVS, FILTER_OUTPUT];

    /// The parts that a node needs. `is_filtered` tells whether a filter of another program sees the
    /// packets that the node receives.
    pub fn needed(desired: &DesiredState, is_filtered: bool) -> Self {
        let captured = |family| desired.needs(&Need::Delivery(family));
        Self {
            capture: captured(Family::V4) || captured(Family::V6),
            marks: desired.needs(&Need::Marks),
            refusal: desired.needs(&Need::Refusal),
            ranges: desired.needs(&Need::SourceRanges),
            admission: is_filtered,
        }
    }

    /// Whether the parts depend on this need.
    pub(crate) const fn depend_on(need: &Need) -> bool {
        matches!(
            need,
            Need::Delivery(_) | Need::Marks | Need::Refusal | Need::SourceRanges
        )
    }

    /// Whether a chain at a hook is part of the rules.
    pub(super) fn have(self, chain: &str) -> bool {
        match chain {
            CAPTURE => self.capture,
            ADMIT => self.admission,
            AFTER_IPVS => self.marks,
            FILTER_OUTPUT => self.marks || self.refusal,
            _ => true,
        }
    }
}

pub(super) const CAPTURE: &str = "capture";
pub(super) const ADMIT: &str = "admit";
pub(super) const AFTER_IPVS: &str = "after-ipvs";
pub(super) const FILTER_OUTPUT: &str = "filter-output";
