//! Rows of the table: what is measured, at which sizes, and what should hold.

use serde::Serialize;

use crate::Result;
use crate::measure::Cost;

/// The number of Services, and of endpoints of each; or of something else, which the row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) count: u32,
    pub(crate) endpoints: u32,
}

/// Sizes with three endpoints.
pub(crate) const fn of(count: u32) -> Size {
    Size {
        count,
        endpoints: 3,
    }
}

/// Of all rows that show growth.
pub(crate) const GROWTH: &[Size] = &[of(1_000), of(5_000), of(10_000), of(20_000), of(50_000)];
/// Of rows that compare with something raw.
pub(crate) const COMPARED: &[Size] = &[of(1_000), of(10_000), of(50_000)];

/// What should hold.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "limit")]
pub(crate) enum Goal {
    /// At most so many times the raw work, at each size.
    Ratio(f64),
    /// At the largest size at most so many times the work at the smallest.
    Flat(f64),
    /// The fitted exponent is at most this.
    Linear(f64),
    /// At most so many bytes, one limit for each size.
    Memory(&'static [u64]),
}

/// Linear growth, and what deeper trees and fuller caches of the allocator add.
pub(crate) const LINEAR: Goal = Goal::Linear(1.1);
pub(crate) const FLAT: Goal = Goal::Flat(1.2);

/// What a row needs of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Needs {
    Nothing,
    /// IPVS, nftables and root.
    Ipvs,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) cost: Cost,
    /// The work of what it is compared with.
    pub(crate) raw: Option<u64>,
    /// Resident memory, for rows about memory.
    pub(crate) resident: Option<u64>,
}

impl From<Cost> for Sample {
    fn from(cost: Cost) -> Self {
        Self {
            cost,
            ..Self::default()
        }
    }
}

impl Sample {
    /// The cost beside that of something raw.
    pub(crate) fn beside(cost: Cost, raw: u64) -> Self {
        Self {
            raw: Some(raw),
            ..cost.into()
        }
    }
}

/// A row.
pub(crate) struct Row {
    /// A short name without spaces, to select it.
    pub(crate) name: &'static str,
    /// What is counted, and beside what.
    pub(crate) about: &'static str,
    /// What the sizes count.
    pub(crate) sizes_of: &'static str,
    pub(crate) sizes: &'static [Size],
    pub(crate) goal: Goal,
    pub(crate) needs: Needs,
    pub(crate) run: fn(Size) -> Result<Sample>,
}
