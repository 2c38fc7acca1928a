//! Sets and maps: what changes with the Services.

use std::fmt;

use ipvs::Family;

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

/// What a set of the table is made of.
struct Definition {
    /// Its names in the table, IPv4 first.
    names: [&'static str; 2],
    key: &'static [Field],
    is_map: bool,
    is_interval: bool,
}

const ADDRESS: &[Field] = &[Field::Destination];
const FRONTEND: &[Field] = &[Field::Destination, Field::Protocol, Field::Port];
const NODE_PORT: &[Field] = &[Field::Protocol, Field::Port];

macro_rules! sets {
    ($(#[doc = $doc:literal] $set:ident, $name:literal, $key:expr, $is_map:literal, $is_interval:literal;)*) => {
        /// A set or a map of the table. Address types differ, so there is one for each family.
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

// Name, key, whether it is a map to marks, whether its elements are ranges.
sets! {
    /// Destinations that IPVS has a virtual server for.
    VirtualServers, "virtual-servers", FRONTEND, false, false;
    /// Destinations that nobody answers at.
    NoEndpoints, "no-endpoints", FRONTEND, false, false;
    /// An endpoint's address, twice: as source and as destination.
    Hairpin, "hairpin", &[Field::Source, Field::Destination], false, false;
    /// Networks in which all that is no virtual server is refused.
    ServiceCidrs, "service-cidrs", ADDRESS, false, true;
    /// Ports of the node's own addresses, and the marks of their virtual servers.
    NodePorts, "node-ports", NODE_PORT, true, false;
    /// The same for clients from outside of the cluster that others serve than those in it.
    ExternalNodePorts, "external-node-ports", NODE_PORT, true, false;
    /// Networks whose addresses on this node serve node ports.
    NodePortAddresses, "node-port-addresses", ADDRESS, false, true;
    /// Node ports that nobody answers at.
    NoEndpointsNodePorts, "no-endpoints-node-ports", NODE_PORT, false, false;
    /// Node ports at which nobody on this node answers clients from outside of the cluster.
    DroppedExternalNodePorts, "dropped-external-node-ports", NODE_PORT, false, false;
    /// Destinations that are delivered to this node whoever's they are, and with which mark.
    Captured, "captured", FRONTEND, true, false;
    /// Their addresses.
    CapturedAddresses, "captured-addresses", ADDRESS, false, false;
    /// The marks of virtual servers that serve clients from outside of the cluster.
    External, "external", FRONTEND, true, false;
    /// Destinations that may be reached from some networks alone.
    Restricted, "restricted", FRONTEND, false, false;
    /// Those networks.
    SourceRanges, "source-ranges",
        &[Field::Destination, Field::Protocol, Field::Port, Field::Source], false, true;
    /// Destinations at which nobody on this node answers.
    Dropped, "dropped", FRONTEND, false, false;
    /// Destinations at which nobody on this node answers clients from outside of the cluster.
    DroppedExternal, "dropped-external", FRONTEND, false, false;
}

impl Set {
    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        let (definition, family) = self.definition();
        let [v4, v6] = definition.names;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The set with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|set| set.name() == name)
    }

    /// The family of its addresses, or, without any, of the packets it is for.
    pub const fn family(self) -> Family {
        self.definition().1
    }

    /// What of a packet is looked up in it.
    pub const fn fields(self) -> &'static [Field] {
        self.definition().0.key
    }

    /// Whether an address of the packet is looked up in it.
    pub fn has_address(self) -> bool {
        self.fields()
            .iter()
            .any(|field| matches!(field, Field::Source | Field::Destination))
    }

    /// Whether its elements have marks.
    pub const fn is_map(self) -> bool {
        self.definition().0.is_map
    }

    /// Whether its elements are ranges.
    pub const fn is_interval(self) -> bool {
        self.definition().0.is_interval
    }

    /// Its declaration, a block of a table in nft's language.
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

    /// What is looked up in it, in nft's language: `ip daddr . meta l4proto . th dport`.
    pub(super) fn write_key(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_fields(f, Field::expression)
    }

    /// The same for what comes from there: `ip saddr . meta l4proto . th sport`.
    pub(super) fn write_key_of_answer(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_fields(f, |field, family| field.of_answer().expression(family))
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

impl Field {
    /// Where an answer has what this is in what it answers.
    pub const fn of_answer(self) -> Self {
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

    const fn expression(self, family: Family) -> &'static str {
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
