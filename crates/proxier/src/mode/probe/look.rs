//! Probes that both modes share.

use std::path::Path;

use ipvs::Family;

use super::{Finding, Missing, ModuleFile, Requirement};
use crate::desired::Config;
use crate::mode::conntrack::Conntrack;
use crate::mode::proc_sys::Sysctls;
use crate::mode::{BackendError, Sysctl};

/// A finding about a feature that the kernel's `module` provides, if it is in a module.
pub(crate) fn finding(
    requirement: Requirement,
    module: Option<&str>,
    result: Result<String, BackendError>,
) -> Finding {
    let missing = |error| Missing::of(&error, module, ModuleFile::find);
    Finding::new(requirement, result.map_err(missing))
}

pub(crate) fn connection_tracking() -> Finding {
    let result = Conntrack::check().map(|()| "it answers".to_owned());
    let module = Some("nf_conntrack_netlink");
    finding(Requirement::ConnectionTracking, module, result)
}

pub(crate) fn sysctl(proc_sys: &Path, sysctl: Sysctl, value: u32) -> Finding {
    let result = Sysctls(proc_sys.to_owned()).check(sysctl, value);
    let result = result.map(|found| match found == value.to_string() {
        true => found,
        false => format!("{found}, and can be written"),
    });
    let module = sysctl.name().contains(".vs.").then_some("ip_vs");
    finding(Requirement::Sysctl(sysctl, value), module, result)
}

/// The families that the node serves; IPv4 if they are unknown.
pub(crate) fn families(config: &Config) -> impl Iterator<Item = Family> {
    let families = [Family::V4, Family::V6].into_iter();
    let unknown = |family| family == Family::V4 && config.node_ips.is_empty();
    families.filter(move |family| config.node_ip(*family).is_some() || unknown(*family))
}
