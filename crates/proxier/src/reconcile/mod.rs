//! Keeps a node in sync with its Services: the [`Proxier`], which connects the stages, and the loop
//! around it.

mod failing;
mod proxier;
mod run;
mod schedule;
mod standing;

pub use proxier::{Concerned, Proxier, SyncKind, SyncReport};
pub use run::{Cause, Driver, Event, Observed, Round, Settings, run};
pub use schedule::Intervals;
pub use standing::Standing;
