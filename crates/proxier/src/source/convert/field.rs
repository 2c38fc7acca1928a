//! Checks of single fields that several kinds share.

use std::collections::HashSet;
use std::fmt::Arguments;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::super::api::{Loose, Metadata, Port};
use super::Findings;
use super::names::{intern, reason};
use crate::model::{InvalidName, ObjectName, PortName, Protocol, check_label};

/// The namespace of an object without one.
const DEFAULT_NAMESPACE: &str = "default";

/// A label that excludes an object from svcproxy, whatever its value. kube-proxy selects Services
/// without the first one and slices without the second one (kubernetes
/// `cmd/kube-proxy/app/server.go`).
pub(super) struct Exclusion {
    pub(super) label: &'static str,
    meaning: &'static str,
}

pub(super) const OTHER_PROXY: Exclusion = Exclusion {
    label: "service.kubernetes.io/service-proxy-name",
    meaning: "assigns it to another service proxy",
};

pub(super) const OF_HEADLESS: Exclusion = Exclusion {
    label: "service.kubernetes.io/headless",
    meaning: "marks endpoints of a headless Service",
};

/// The namespace of an object, where an empty one means `default`.
pub(super) fn namespace(metadata: &Metadata) -> &str {
    match metadata.namespace.as_deref() {
        None | Some("") => DEFAULT_NAMESPACE,
        Some(namespace) => namespace,
    }
}

impl Findings {
    /// The name of an object, checked by `check`.
    pub(super) fn object_name(
        &mut self,
        metadata: &Metadata,
        check: fn(&str, &str) -> Result<ObjectName, InvalidName>,
    ) -> Option<ObjectName> {
        let name = metadata.name.as_deref().unwrap_or_default();
        match check(namespace(metadata), name) {
            Ok(name) => Some(name),
            Err(error) => {
                self.error(format_args!("{}", error.field), reason(&error));
                None
            }
        }
    }

    /// Whether a label excludes the object from svcproxy; notes it.
    pub(super) fn is_excluded(&mut self, metadata: &Metadata, by: &Exclusion) -> bool {
        let excluded = metadata.labels.contains_key(by.label);
        if excluded {
            self.note(
                format_args!("metadata.labels"),
                format_args!("not used: the label {} {}", by.label, by.meaning),
            );
        }
        excluded
    }

    /// A host name, of one label. An invalid one is left out.
    pub(super) fn hostname(
        &mut self,
        written: Option<&Loose<String>>,
        field: Arguments<'_>,
    ) -> Option<Arc<str>> {
        let name = self.text(written, field).ok()??;
        match check_label("hostname", name) {
            Ok(()) => Some(intern(name)),
            Err(error) => {
                self.left_out(field, reason(&error));
                None
            }
        }
    }

    /// A string. A value of another type is left out; an empty string counts as absent.
    pub(super) fn text<'a>(
        &mut self,
        written: Option<&'a Loose<String>>,
        field: Arguments<'_>,
    ) -> Result<Option<&'a str>, LeftOut> {
        match written {
            None => Ok(None),
            Some(Loose::Right(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(Loose::Wrong(written)) => {
                self.left_out(field, format_args!("{written} is not a string"));
                Err(LeftOut)
            }
        }
    }

    /// A port number.
    pub(super) fn port(
        &mut self,
        written: Option<&Loose<i32>>,
        field: Arguments<'_>,
    ) -> Result<NonZeroU16, LeftOut> {
        let number = match written {
            Some(Loose::Right(number)) => u16::try_from(*number).ok().and_then(NonZeroU16::new),
            _ => None,
        };
        number.ok_or_else(|| {
            let wrong = match written {
                Some(Loose::Right(number)) => number.to_string(),
                Some(Loose::Wrong(written)) => written.clone(),
                None => {
                    self.left_out(field, "missing: a port number (1 to 65535) is required");
                    return LeftOut;
                }
            };
            self.left_out(
                field,
                format_args!("{wrong} is not a port number (1 to 65535)"),
            );
            LeftOut
        })
    }

    /// A protocol; TCP if absent.
    pub(super) fn protocol(
        &mut self,
        written: Option<&Loose<String>>,
        field: Arguments<'_>,
    ) -> Result<Protocol, LeftOut> {
        match self.text(written, field)? {
            None | Some("TCP") => Ok(Protocol::Tcp),
            Some("UDP") => Ok(Protocol::Udp),
            Some("SCTP") => Ok(Protocol::Sctp),
            Some(other) => {
                self.left_out(
                    field,
                    format_args!("{other:?} is not a protocol (TCP, UDP or SCTP)"),
                );
                Err(LeftOut)
            }
        }
    }

    /// The name of a port.
    pub(super) fn port_name(
        &mut self,
        written: Option<&Loose<String>>,
        field: Arguments<'_>,
    ) -> Result<PortName, LeftOut> {
        let name = self.text(written, field)?.unwrap_or_default();
        PortName::new(name).map_err(|error| {
            self.left_out(field, reason(&error));
            LeftOut
        })
    }

    /// An item of a list.
    pub(super) fn item<'a, T>(
        &mut self,
        written: &'a Loose<T>,
        field: Arguments<'_>,
    ) -> Option<&'a T> {
        match written {
            Loose::Right(item) => Some(item),
            Loose::Wrong(written) => {
                self.left_out(field, format_args!("{written} is not a mapping of fields"));
                None
            }
        }
    }
}

/// A part of an object that is left out; the findings say why.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeftOut;

/// The ports of a list, which have distinct names.
#[derive(Debug)]
pub(super) struct PortList<'a> {
    /// Path of the list.
    field: &'a str,
    /// Whether each port must have a name.
    named: bool,
    seen: HashSet<PortName>,
}

impl<'a> PortList<'a> {
    pub(super) fn new(field: &'a str, named: bool) -> Self {
        Self {
            field,
            named,
            seen: HashSet::new(),
        }
    }

    /// The port of this index; none if it is left out.
    pub(super) fn port(
        &mut self,
        index: usize,
        port: &Port,
        findings: &mut Findings,
    ) -> Option<(PortName, Protocol, NonZeroU16)> {
        let field = format_args!("{}[{index}]", self.field);
        let name = findings.port_name(port.name.as_ref(), format_args!("{field}.name"));
        let protocol = findings.protocol(port.protocol.as_ref(), format_args!("{field}.protocol"));
        let number = findings.port(port.port.as_ref(), format_args!("{field}.port"));
        let (Ok(name), Ok(protocol), Ok(number)) = (name, protocol, number) else {
            return None;
        };
        let field = format_args!("{field}.name");
        if self.named && name.is_unnamed() {
            findings.left_out(
                field,
                "missing: each of several ports must have its own name",
            );
            return None;
        }
        if !self.seen.insert(name.clone()) {
            findings.left_out(
                field,
                format_args!("{name:?} is the name of another port too"),
            );
            return None;
        }
        Some((name, protocol, number))
    }
}
