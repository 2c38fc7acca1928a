//! Checks of single fields, shared by the kinds.

use std::collections::HashSet;
use std::fmt::{Arguments, Display};
use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Findings;
use crate::model::{InvalidName, ObjectName, PortName, Protocol};

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Labels that take an object from the service proxy of a node by their presence, whatever their
/// value: kube-proxy asks the API server for objects without them only (kubernetes
/// `cmd/kube-proxy/app`).
const NOT_OURS: [(&str, &str); 2] = [
    (
        "service.kubernetes.io/service-proxy-name",
        "leaves it to another service proxy",
    ),
    (
        "service.kubernetes.io/headless",
        "marks what belongs to a headless Service",
    ),
];

/// A port as the API's three port types have it.
pub(super) struct Port<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) protocol: Option<&'a str>,
    pub(super) port: i32,
}

/// The namespace of an object, where an empty one means `default`.
pub(super) fn namespace(metadata: &ObjectMeta) -> &str {
    match metadata.namespace.as_deref() {
        None | Some("") => DEFAULT_NAMESPACE,
        Some(namespace) => namespace,
    }
}

impl Findings {
    /// The name of an object, checked by `check`.
    pub(super) fn object_name(
        &mut self,
        metadata: &ObjectMeta,
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

    /// Whether a label takes the object from this service proxy, which is noted then.
    pub(super) fn not_ours(&mut self, metadata: &ObjectMeta) -> bool {
        let Some(labels) = &metadata.labels else {
            return false;
        };
        let label = NOT_OURS.iter().find(|(key, _)| labels.contains_key(*key));
        if let Some((key, meaning)) = label {
            self.note(
                format_args!("metadata.labels"),
                format_args!("not used: the label {key} {meaning}"),
            );
        }
        label.is_some()
    }

    /// A port number.
    pub(super) fn port(&mut self, port: i32, field: Arguments<'_>) -> Option<NonZeroU16> {
        let checked = u16::try_from(port).ok().and_then(NonZeroU16::new);
        if checked.is_none() {
            self.error(
                field,
                format_args!("{port} is not a port number (1 to 65535)"),
            );
        }
        checked
    }

    /// A protocol; TCP where none is given.
    pub(super) fn protocol(
        &mut self,
        protocol: Option<&str>,
        field: Arguments<'_>,
    ) -> Option<Protocol> {
        match protocol {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                self.error(
                    field,
                    format_args!("{other:?} is not a protocol (TCP, UDP or SCTP)"),
                );
                None
            }
        }
    }

    /// One port of the list `field`.
    pub(super) fn port_of_list(
        &mut self,
        index: usize,
        port: &Port<'_>,
        field: &str,
    ) -> Option<(PortName, Protocol, NonZeroU16)> {
        let name = match PortName::new(port.name.unwrap_or_default()) {
            Ok(name) => Some(name),
            Err(error) => {
                self.error(format_args!("{field}[{index}].name"), reason(&error));
                None
            }
        };
        let protocol = self.protocol(port.protocol, format_args!("{field}[{index}].protocol"));
        let number = self.port(port.port, format_args!("{field}[{index}].port"));
        Some((name?, protocol?, number?))
    }

    /// That no two ports of the list `field` share a name, and that each has one where that is
    /// asked for.
    pub(super) fn distinct_port_names<'a>(
        &mut self,
        names: impl Iterator<Item = Option<&'a str>>,
        required: bool,
        field: &str,
    ) {
        let mut seen = HashSet::new();
        for (index, name) in names.enumerate() {
            let name = name.unwrap_or_default();
            let field = format_args!("{field}[{index}].name");
            if required && name.is_empty() {
                self.error(
                    field,
                    "missing: each of several ports must have its own name",
                );
            } else if !seen.insert(name) {
                self.error(
                    field,
                    format_args!("{name:?} is the name of another port too"),
                );
            }
        }
    }
}

/// What is wrong with a name, its field left out.
pub(super) fn reason(error: &InvalidName) -> impl Display + use<> {
    if error.value.is_empty() {
        return "missing".to_owned();
    }
    format!("{:?} is not {}", error.value, error.expected)
}
