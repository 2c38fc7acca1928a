//! Checks of single fields, shared by the kinds.

use std::collections::HashSet;
use std::fmt::{Arguments, Display};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Findings;
use crate::model::{Family, InvalidName, ObjectName, PortName, Protocol, check_subdomain};

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

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
    fn protocol(&mut self, protocol: Option<&str>, field: Arguments<'_>) -> Option<Protocol> {
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

    /// The address of a virtual IP or an endpoint: none of those that no other machine can be
    /// reached by.
    ///
    /// The API server's `ValidateEndpointIP` (kubernetes `pkg/apis/core/validation`) refuses the
    /// same but for two: all of multicast, of which it refuses the link-local part only, and
    /// IPv4's broadcast address; IPVS answers EINVAL to both.
    pub(super) fn address(&mut self, text: &str, field: Arguments<'_>) -> Option<IpAddr> {
        let Ok(address) = text.parse::<IpAddr>() else {
            self.error(field, format_args!("{text:?} is not an IP address"));
            return None;
        };
        let special = match address {
            a if a.is_unspecified() => "the unspecified address",
            a if a.is_loopback() => "a loopback address (127.0.0.0/8, ::1)",
            IpAddr::V4(a) if a.is_link_local() => "a link-local address (169.254.0.0/16)",
            IpAddr::V6(a) if a.is_unicast_link_local() => "a link-local address (fe80::/10)",
            IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
                "an IPv4 address written as IPv6 (::ffff:0:0/96)"
            }
            a if a.is_multicast() => "a multicast address (224.0.0.0/4, ff00::/8)",
            IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
            address => return Some(address),
        };
        self.error(field, format_args!("{address} is {special}"));
        None
    }

    /// A node's name.
    pub(super) fn node_name(
        &mut self,
        name: Option<&str>,
        field: Arguments<'_>,
    ) -> Option<Arc<str>> {
        let name = name.filter(|name| !name.is_empty())?;
        match check_subdomain("nodeName", name) {
            Ok(()) => Some(name.into()),
            Err(error) => {
                self.error(field, reason(&error));
                None
            }
        }
    }
}

/// The family of an address.
pub(super) fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// What is wrong with a name, its field left out.
pub(super) fn reason(error: &InvalidName) -> impl Display + use<> {
    if error.value.is_empty() {
        return "missing".to_owned();
    }
    format!("{:?} is not {}", error.value, error.expected)
}
