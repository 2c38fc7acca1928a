//! Under construction.
#![forbid(unsafe_code)]

pub mod backend;
pub mod desired;
pub mod model;
pub mod netfilter;
pub mod plan;
pub mod source;
pub mod store;
