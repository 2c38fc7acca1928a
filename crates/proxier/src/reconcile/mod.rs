//! Keeping a node in line with its Services: the stages put together, and the loop around them.

mod proxier;
mod run;
mod schedule;
mod standing;

pub use proxier::{Concerned, Proxier, SyncKind, SyncReport};
pub use run::{Cause, Event, Observed, Round, Settings, run};
pub use schedule::Intervals;
pub use standing::Standing;
