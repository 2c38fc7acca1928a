//! Probes what nftables mode needs.

use std::path::Path;

use super::NftablesKernel;
use crate::desired::Config;
use crate::mode::Sysctl;
use crate::mode::ipvs::plan::base_sysctls;
use crate::mode::probe::look::{connection_tracking, finding, sysctl};
use crate::mode::probe::{Probe, Requirement};

/// Probes what nftables mode needs with these settings. Changes nothing, but the kernel may load
/// modules on request.
pub fn probe(config: &Config, proc_sys: &Path) -> Probe {
    let rules = NftablesKernel::open().and_then(|mut backend| backend.check(config));
    let rules = rules.map(|()| "accepts the rules".to_owned());
    let rules = finding(Requirement::NftablesRules, Some("nf_tables"), rules);
    let forward =
        |(name, _): &(Sysctl, u32)| [Sysctl::IPV4_FORWARD, Sysctl::IPV6_FORWARD].contains(name);
    let sysctls = base_sysctls(config).filter(forward);
    let sysctls = sysctls.map(|(name, value)| sysctl(proc_sys, name, value));
    [rules, connection_tracking()]
        .into_iter()
        .chain(sysctls)
        .collect()
}
