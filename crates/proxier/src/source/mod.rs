//! Sources of Services.
//!
//! A source yields [`Change`](crate::store::Change)s of checked [`model`](crate::model) objects,
//! and a [`Diagnostic`] for each part of the input that it cannot use.

#[cfg(feature = "k8s")]
pub mod api;
mod connection;
#[cfg(feature = "k8s")]
pub mod convert;
#[cfg(feature = "k8s")]
pub mod derive;
mod diagnostic;
#[cfg(feature = "kube")]
pub mod kube;
#[cfg(feature = "manifest")]
pub mod manifest;
mod reading;
#[cfg(feature = "manifest")]
pub mod watch;

pub use connection::{ConnectionState, RequestOutcome};
pub use diagnostic::{Diagnostic, Location, Severity};
pub use reading::{Cause, Reading};
