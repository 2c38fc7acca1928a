//! Sets and maps: the part of the table that changes with Services.
#![cfg_attr(
    not(feature = "ipvs"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::fmt;

use ipvs::Family;

use super::range;

/// A part of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The packet's source address.
    Source,
    /// The packet's destination address.
    Destination,
    /// The transport protocol's number.
    Protocol,
    /// The destination port.
    Port,
    /// The source port.
    SourcePort,
}

/// The definition of a set.
struct Definition {
    /// Its names, IPv4 first.
    names: [&'static str; 2],
    key: &'static [Field],
    is_map: bool,
    is_interval: bool,
}

const ADDRESS: &[Field] = &[Field::Destination];
const FRONTEND: &[Field] = &[Field::Destination, Field::Protocol, Field::Port];
const SOURCE_OF: &[Field] = &[
    Field::Destination,
    Field::Protocol,
    Field::Port,
    Field::Source,
];
const NODE_PORT: &[Field] = &[Field::Protocol, Field::Port];

macro_rules! sets {
    ($(#[doc = $doc:literal] $set:ident, $name:literal, $key:expr, $is_map:literal, $is_interval:literal;)*) => {
        /// A set or map of the table. There is one for each family, because address types differ.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Set {
            $(#[doc = $doc] $set(Family),)*
        }

        impl Set {
            /// Every set of the table.
            pub const ALL: &[Self] = &[$(Self::$set(Family::V4), Self::$set(Family::V6),)*];

            const fn definition(self) -> (Definition, Family) {
                match self {
                    $(Self::$set(family) => {
                        let names = [concat!($name, "-v4"), concat!($name, "-v6")];
                        let (key, is_map, is_interval) = ($key, $is_map, $is_interval);
                        (Definition { names, key, is_map, is_interval }, family)
                    })*
                }
            }
        }
    };
}

// Name, key, whether it is a map of marks, whether its elements are ranges.
sets! {
    /// Destinations with a virtual server.
    VirtualServers, "virtual-servers", FRONTEND, false, false;
    /// Destinations without endpoints.
    NoEndpoints, "no-endpoints", FRONTEND, false, false;
    /// An endpoint's address, as source and as destination.
    Hairpin, "hairpin", &[Field::Source, Field::Destination], false, false;
    /// Networks in which everything without a virtual server is rejected.
    ServiceCidrs, "service-cidrs", ADDRESS, false, true;
    /// Node ports, with the marks of their virtual servers.
    NodePorts, "node-ports", NODE_PORT, true, false;
    /// Node ports with other backends for outside clients, with the marks for these.
    ExternalNodePorts, "external-node-ports", NODE_PORT, true, false;
    /// Networks whose addresses on this node serve node ports.
    NodePortAddresses, "node-port-addresses", ADDRESS, false, true;
    /// Node ports without endpoints.
    NoEndpointsNodePorts, "no-endpoints-node-ports", NODE_PORT, false, false;
    /// Node ports without endpoints on this node for clients outside the cluster.
    DroppedExternalNodePorts, "dropped-external-node-ports", NODE_PORT, false, false;
    /// Destinations, perhaps of another node, that are delivered to this node, with their marks.
    Captured, "captured", FRONTEND, true, false;
    /// The addresses of captured destinations.
    CapturedAddresses, "captured-addresses", ADDRESS, false, false;
    /// Destinations with other backends for outside clients, with the marks for these.
    External, "external", FRONTEND, true, false;
    /// Destinations with source ranges.
    Restricted, "restricted", FRONTEND, false, false;
    /// The networks that make up source ranges. The protocol tells their lengths, too.
    SourceRanges, "source-networks", SOURCE_OF, false, false;
    /// Destinations without endpoints on this node.
    Dropped, "dropped", FRONTEND, false, false;
    /// Destinations without endpoints on this node for clients outside the cluster.
    DroppedExternal, "dropped-external", FRONTEND, false, false;
    /// Health check node ports.
    HealthChecks, "health-checks", NODE_PORT, false, false;
}

impl Set {
    /// The name.
    pub const fn name(self) -> &'static str {
        let (definition, family) = self.definition();
        let [v4, v6] = definition.names;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The set with this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|set| set.name() == name)
    }

    /// The family of its addresses; without addresses, of its packets.
    pub const fn family(self) -> Family {
        self.definition().1
    }

    /// The fields of a packet that are looked up in it.
    pub const fn fields(self) -> &'static [Field] {
        self.definition().0.key
    }

    /// Whether an address of the packet is looked up in it.
    pub(crate) fn has_address(self) -> bool {
        self.fields()
            .iter()
            .any(|field| matches!(field, Field::Source | Field::Destination))
    }

    /// Whether it is a map of marks.
    pub(crate) const fn is_map(self) -> bool {
        self.definition().0.is_map
    }

    /// Whether its elements are ranges.
    pub(crate) const fn is_interval(self) -> bool {
        self.definition().0.is_interval
    }

    /// Its declaration in nft's syntax.
    pub(super) fn declare(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = if self.is_map() { "map" } else { "set" };
        write!(f, "\t{keyword} {} {{\n\t\ttype ", self.name())?;
        self.write_fields(f, Field::type_name)?;
        if self.is_map() {
            f.write_str(" : mark")?;
        }
        if self.is_interval() {
            f.write_str("\n\t\tflags interval")?;
        }
        writeln!(f, "\n\t}}")
    }

    /// Its key in nft's syntax: `ip daddr . meta l4proto . th dport`.
    pub(super) fn write_key(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_fields(f, Field::expression)
    }

    /// Its key for answers, with source in place of destination: `ip saddr . meta l4proto . th
    /// sport`.
    pub(super) fn write_key_of_answer(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_fields(f, |field, family| field.of_answer().expression(family))
    }

    /// Its key with the network of the source, of a length: `ip daddr . meta l4proto ^ 8 . th dport
    /// . ip saddr & 255.255.255.0`.
    pub(super) fn write_key_of_network(
        self,
        length: u8,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        for (index, field) in self.fields().iter().enumerate() {
            let separator = if index == 0 { "" } else { " . " };
            write!(
                f,
                "{separator}{}",
                of_network(*field, self.family(), length)
            )?;
        }
        Ok(())
    }

    fn write_fields(
        self,
        f: &mut fmt::Formatter<'_>,
        text: fn(Field, Family) -> &'static str,
    ) -> fmt::Result {
        for (index, field) in self.fields().iter().enumerate() {
            let separator = if index == 0 { "" } else { " . " };
            write!(f, "{separator}{}", text(*field, self.family()))?;
        }
        Ok(())
    }
}

/// A field of a key with the network of the source.
pub(crate) fn of_network(field: Field, family: Family, length: u8) -> String {
    let text = field.expression(family);
    match (
        field,
        range::tag(family, length),
        range::mask(family, length),
    ) {
        (Field::Protocol, tag @ 1.., _) => format!("{text} ^ {tag}"),
        (Field::Source, 1.., Some(mask)) => format!("{text} & {mask}"),
        _ => text.to_owned(),
    }
}

impl Field {
    /// The corresponding field of an answer.
    pub(crate) const fn of_answer(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
            Self::Protocol => Self::Protocol,
            Self::Port => Self::SourcePort,
            Self::SourcePort => Self::Port,
        }
    }

    const fn type_name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Source | Self::Destination, Family::V4) => "ipv4_addr",
            (Self::Source | Self::Destination, Family::V6) => "ipv6_addr",
            (Self::Protocol, _) => "inet_proto",
            (Self::Port | Self::SourcePort, _) => "inet_service",
        }
    }

    pub(crate) const fn expression(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Source, Family::V4) => "ip saddr",
            (Self::Source, Family::V6) => "ip6 saddr",
            (Self::Destination, Family::V4) => "ip daddr",
            (Self::Destination, Family::V6) => "ip6 daddr",
            (Self::Protocol, _) => "meta l4proto",
            (Self::Port, _) => "th dport",
            (Self::SourcePort, _) => "th sport",
        }
    }
}
