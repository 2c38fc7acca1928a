//! Probes that several modes share, and what is missing after an error.

use std::io;
use std::path::Path;

use ipvs::{ErrorKind, Family};

use super::{Finding, Missing, ModuleFile, Reason, Requirement};
use crate::desired::Config;
use crate::errno::{
    EAFNOSUPPORT, EAGAIN, EBUSY, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EOPNOTSUPP,
    EPROTONOSUPPORT,
};
use crate::mode::conntrack::ConntrackSocket;
use crate::mode::proc_sys::Sysctls;
use crate::mode::{NodeError, Sysctl};

/// A finding about a feature that the kernel's `module` provides, if it is in a module.
pub(crate) fn finding(
    requirement: Requirement,
    module: Option<&str>,
    result: Result<String, NodeError>,
) -> Finding {
    let missing = |error| Missing::of(&error, module, ModuleFile::find);
    Finding::new(requirement, result.map_err(missing))
}

pub(crate) fn connection_tracking() -> Finding {
    let result = ConntrackSocket::check().map(|()| "it answers".to_owned());
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
    families.filter(move |family| config.serves(*family) || unknown(*family))
}

impl Missing {
    pub(crate) fn not_tried(first: &str) -> Self {
        Self::new(Reason::NotTried, format!("not tried without {first}"))
    }

    /// The reason behind an error about a feature that the kernel's `module` provides.
    pub(crate) fn of(
        error: &NodeError,
        module: Option<&str>,
        file: impl FnOnce(&str) -> ModuleFile,
    ) -> Self {
        let kind = match error.errno() {
            Some(errno) if BUSY.contains(&errno) => Reason::Busy,
            _ => kind(error),
        };
        let reason = match (kind, module) {
            (Reason::NoModule { .. }, Some(module)) => Reason::NoModule {
                module: module.into(),
                file: file(module),
            },
            (Reason::NoModule { .. }, None) => Reason::Refused,
            (reason, _) => reason,
        };
        Self {
            message: message(error),
            errno: error.errno(),
            reason,
        }
    }
}

/// They do not show what the kernel has.
const BUSY: [i32; 7] = [EINTR, EAGAIN, ENOMEM, EBUSY, ENFILE, EMFILE, ENOBUFS];

/// The kind of reason of an error, without the module.
fn kind(error: &NodeError) -> Reason {
    let no_module = Reason::NoModule {
        module: Box::default(),
        file: ModuleFile::Unknown,
    };
    match error {
        NodeError::Ipvs(error) => match error.kind() {
            ErrorKind::Unsupported | ErrorKind::UnknownScheduler | ErrorKind::AddressFamily => {
                no_module
            }
            ErrorKind::PermissionDenied => Reason::Permission,
            _ => Reason::Refused,
        },
        NodeError::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Reason::NotInstalled
        }
        #[cfg(feature = "iptables")]
        NodeError::Iptables(refusal) => refused(&refusal.message, no_module),
        NodeError::Conntrack { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
            no_module
        }
        NodeError::PacketFilter { source, .. }
        | NodeError::Route { source, .. }
        | NodeError::Link { source, .. }
        | NodeError::Listen { source, .. }
        | NodeError::Proxy { source, .. }
        | NodeError::Conntrack { source, .. }
        | NodeError::Program { source, .. }
        | NodeError::Sysctl { source, .. } => match (source.kind(), source.raw_os_error()) {
            (io::ErrorKind::PermissionDenied, _) => Reason::Permission,
            (io::ErrorKind::ReadOnlyFilesystem, _) => Reason::ReadOnly,
            (io::ErrorKind::NotFound, _)
            | (_, Some(EPROTONOSUPPORT | EOPNOTSUPP | EAFNOSUPPORT)) => no_module,
            _ => Reason::Refused,
        },
        NodeError::RouteTaken { .. } => Reason::Refused,
        NodeError::NotTried => Reason::NotTried,
    }
}

/// iptables reports the cause as text only.
#[cfg(feature = "iptables")]
fn refused(message: &str, no_module: Reason) -> Reason {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["Permission denied", "Operation not permitted"]) {
        Reason::Permission
    } else if says(&[
        "missing kernel module",
        "No such file",
        "Table does not exist",
    ]) {
        no_module
    } else {
        Reason::Refused
    }
}

/// The message with the errno, without the hints of [`NodeError`] because there is a remedy.
fn message(error: &NodeError) -> String {
    let words = words(error);
    match error.errno() {
        Some(errno) if !words.contains("os error") => {
            format!("{words}: {}", io::Error::from_raw_os_error(errno))
        }
        _ => words,
    }
}

fn words(error: &NodeError) -> String {
    match error {
        NodeError::Ipvs(error) => match error.kind() {
            ErrorKind::Unsupported => "the kernel has no IPVS".to_owned(),
            ErrorKind::PermissionDenied => error.operation().to_string(),
            kind => kind.to_string(),
        },
        NodeError::PacketFilter { operation, source }
        | NodeError::Route { operation, source }
        | NodeError::Link { operation, source }
        | NodeError::Proxy { operation, source }
        | NodeError::Conntrack { operation, source }
        | NodeError::Sysctl {
            operation, source, ..
        } => format!("cannot {operation}: {source}"),
        NodeError::Listen {
            protocol,
            address,
            source,
        } => format!("cannot bind {protocol} {address}: {source}"),
        NodeError::Program { program, source } => format!("cannot run {program}: {source}"),
        #[cfg(feature = "iptables")]
        NodeError::Iptables(refusal) => {
            let line = refusal.message.lines().find(|line| !line.trim().is_empty());
            line.unwrap_or_default().trim().to_owned()
        }
        NodeError::NotTried | NodeError::RouteTaken { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(errno: i32) -> Missing {
        let source = io::Error::from_raw_os_error(errno);
        let operation = "validate the rules";
        let error = NodeError::PacketFilter { operation, source };
        Missing::of(&error, Some("nf_tables"), |_| ModuleFile::Absent)
    }

    #[test]
    fn errors_are_absent_forbidden_busy_or_broken_and_name_their_errno() {
        let errnos = |is: fn(&Missing) -> bool| {
            let all = 1..=133;
            all.filter(|errno| is(&missing(*errno))).collect::<Vec<_>>()
        };
        // ENOENT, EPROTONOSUPPORT, EOPNOTSUPP, EAFNOSUPPORT.
        let no_module = |missing: &Missing| matches!(missing.reason, Reason::NoModule { .. });
        assert_eq!(errnos(no_module), [2, 93, 95, 97]);
        assert_eq!(
            errnos(|missing| missing.reason == Reason::Permission),
            [1, 13]
        );
        assert_eq!(errnos(|missing| missing.reason == Reason::ReadOnly), [30]);
        assert_eq!(errnos(|missing| missing.reason == Reason::Busy), BUSY);
        assert_eq!(errnos(Missing::is_absent), [2, 22, 93, 95, 97]);
        for errno in 1..=133 {
            let missing = missing(errno);
            assert_eq!(missing.errno, Some(errno));
            assert!(
                missing.message.contains(&format!("(os error {errno})")),
                "{missing}"
            );
        }
    }

    #[test]
    fn errors_of_ipvs_name_their_errno() {
        for (errno, reason) in [
            (1, Reason::Permission),
            (12, Reason::Busy),
            (5, Reason::Refused),
        ] {
            let kernel = ipvs::FakeKernel::new();
            let mut client = kernel.client().unwrap();
            kernel.fail_request(1, errno);
            let error = NodeError::from(client.info().unwrap_err());
            let missing = Missing::of(&error, Some("ip_vs"), |_| ModuleFile::Absent);
            assert_eq!(missing.reason, reason);
            let shown = missing
                .message
                .matches(&format!("(os error {errno})"))
                .count();
            assert_eq!(shown, 1, "{missing}");
        }
    }
}
