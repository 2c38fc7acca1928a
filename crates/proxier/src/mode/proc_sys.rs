//! Sysctls, as files below /proc/sys or another mount of it, and legacy iptables' tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use ipvs::Family;

use crate::mode::{ApplyReport, NodeError, Sysctl};

/// The directory of the sysctls.
#[derive(Debug)]
pub(crate) struct Sysctls(pub(crate) PathBuf);

impl Default for Sysctls {
    fn default() -> Self {
        Self(PathBuf::from("/proc/sys"))
    }
}

impl Sysctls {
    /// The file of a sysctl. /proc/sys/net belongs to the network namespace of the thread that
    /// opens the file.
    fn path(&self, sysctl: Sysctl) -> PathBuf {
        let mut path = self.0.clone();
        path.extend(sysctl.name().split('.'));
        path
    }

    /// The values of all existing sysctls. Those of IPVS exist once its module is loaded; a kernel
    /// without IPv6 lacks its sysctls.
    pub(crate) fn observe(&self) -> Result<BTreeMap<Sysctl, String>, NodeError> {
        let mut values = BTreeMap::new();
        for sysctl in Sysctl::ALL {
            match fs::read_to_string(self.path(sysctl)) {
                Ok(text) => {
                    values.insert(sysctl, text.trim().to_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let operation = "read it";
                    return Err(NodeError::Sysctl {
                        sysctl,
                        operation,
                        source,
                    });
                }
            }
        }
        Ok(values)
    }

    /// The value of a sysctl; an error if it is not `value` and cannot be changed. Changes nothing.
    pub(crate) fn check(&self, sysctl: Sysctl, value: u32) -> Result<String, NodeError> {
        let error = |operation| {
            move |source| NodeError::Sysctl {
                sysctl,
                operation,
                source,
            }
        };
        let path = self.path(sysctl);
        let found = fs::read_to_string(&path).map_err(error("read it"))?;
        let found = found.trim().to_owned();
        if found != value.to_string() {
            let opened = fs::OpenOptions::new().write(true).open(&path);
            opened.map_err(error("write it"))?;
        }
        Ok(found)
    }

    /// Writes a value; `place` is the index of the step in its plan.
    pub(crate) fn set(&self, sysctl: Sysctl, value: u32, place: usize, report: &mut ApplyReport) {
        report.counts.sysctls += 1;
        if let Err(source) = fs::write(self.path(sysctl), value.to_string()) {
            let operation = "write it";
            report.fail(
                place,
                NodeError::Sysctl {
                    sysctl,
                    operation,
                    source,
                },
            );
        }
    }
}

/// The names of the kernel's tables of legacy iptables for a family, one on each line.
pub(crate) fn legacy_tables(family: Family) -> io::Result<String> {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    fs::read_to_string(names)
}
