//! Sysctls, as files below /proc/sys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use crate::backend::{ApplyReport, BackendError};
use crate::plan::{Step, Sysctl};

/// The network namespace of /proc/sys/net is that of the thread that opens the file.
fn path(sysctl: Sysctl) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys");
    path.extend(sysctl.name().split('.'));
    path
}

/// The values of all sysctls that there are. IPVS has its own once its module is loaded; a
/// kernel without IPv6 lacks that one's.
pub(super) fn observe() -> Result<BTreeMap<Sysctl, String>, BackendError> {
    let mut values = BTreeMap::new();
    for sysctl in Sysctl::ALL {
        match fs::read_to_string(path(sysctl)) {
            Ok(text) => {
                values.insert(sysctl, text.trim().to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let operation = "read it";
                return Err(BackendError::Sysctl {
                    sysctl,
                    operation,
                    source,
                });
            }
        }
    }
    Ok(values)
}

pub(super) fn apply(steps: &[Step], first: usize, report: &mut ApplyReport) {
    for (step, place) in steps.iter().zip(first..) {
        let Step::SetSysctl(sysctl, value) = *step else {
            continue;
        };
        report.counts.sysctls += 1;
        if let Err(source) = fs::write(path(sysctl), value.to_string()) {
            let operation = "write it";
            report.fail(
                place,
                BackendError::Sysctl {
                    sysctl,
                    operation,
                    source,
                },
            );
        }
    }
}
