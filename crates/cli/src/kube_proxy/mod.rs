//! kube-proxy's configuration file and flags: their names and types. `component_config` applies a file
//! to the command line.

mod config;
mod duration;
mod inert;

pub(crate) use config::{
    ClientConnection, Conntrack, DetectLocal, KubeProxyConfiguration, Logging, VModule,
};
pub(crate) use duration::GoDuration;
pub(crate) use inert::{FIELDS, OBSOLETE_FIELDS, Takes, all_flags};
#[cfg(test)]
pub(crate) use inert::{FLAGS, OBSOLETE_FLAGS};
