//! Under construction.
#![forbid(unsafe_code)]

pub mod model;
pub mod source;
pub mod store;
