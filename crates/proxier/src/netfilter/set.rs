//! Sets: what changes with the Services.

use std::fmt;

use ipvs::Family;

/// A set of the table. Address types differ, so there is one for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Set {
    /// Destinations that IPVS has a virtual server for.
    VirtualServers(Family),
    /// Destinations that nobody answers at.
    NoEndpoints(Family),
    /// An endpoint's address, twice: as source and as destination.
    Hairpin(Family),
    /// Networks in which all that is no virtual server is refused.
    ServiceCidrs(Family),
}

/// A part of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The packet's source address.
    Source(Family),
    /// The packet's destination address.
    Destination(Family),
    /// The transport protocol's number.
    Protocol,
    /// The destination port.
    Port,
}

impl Set {
    /// Every set of the table.
    pub const ALL: [Self; 8] = [
        Self::VirtualServers(Family::V4),
        Self::VirtualServers(Family::V6),
        Self::NoEndpoints(Family::V4),
        Self::NoEndpoints(Family::V6),
        Self::Hairpin(Family::V4),
        Self::Hairpin(Family::V6),
        Self::ServiceCidrs(Family::V4),
        Self::ServiceCidrs(Family::V6),
    ];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtualServers(Family::V4) => "virtual-servers-v4",
            Self::VirtualServers(Family::V6) => "virtual-servers-v6",
            Self::NoEndpoints(Family::V4) => "no-endpoints-v4",
            Self::NoEndpoints(Family::V6) => "no-endpoints-v6",
            Self::Hairpin(Family::V4) => "hairpin-v4",
            Self::Hairpin(Family::V6) => "hairpin-v6",
            Self::ServiceCidrs(Family::V4) => "service-cidrs-v4",
            Self::ServiceCidrs(Family::V6) => "service-cidrs-v6",
        }
    }

    /// The set with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// The family of its addresses.
    pub const fn family(self) -> Family {
        match self {
            Self::VirtualServers(family)
            | Self::NoEndpoints(family)
            | Self::Hairpin(family)
            | Self::ServiceCidrs(family) => family,
        }
    }

    /// What of a packet is looked up in it.
    pub const fn fields(self) -> &'static [Field] {
        use Field::{Destination, Port, Protocol, Source};
        match self {
            Self::VirtualServers(Family::V4) | Self::NoEndpoints(Family::V4) => {
                &[Destination(Family::V4), Protocol, Port]
            }
            Self::VirtualServers(Family::V6) | Self::NoEndpoints(Family::V6) => {
                &[Destination(Family::V6), Protocol, Port]
            }
            Self::Hairpin(Family::V4) => &[Source(Family::V4), Destination(Family::V4)],
            Self::Hairpin(Family::V6) => &[Source(Family::V6), Destination(Family::V6)],
            Self::ServiceCidrs(Family::V4) => &[Destination(Family::V4)],
            Self::ServiceCidrs(Family::V6) => &[Destination(Family::V6)],
        }
    }

    /// Whether its elements are networks.
    pub const fn is_interval(self) -> bool {
        matches!(self, Self::ServiceCidrs(_))
    }

    /// Its declaration, a block of a table in nft's language.
    pub(super) fn declare(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\tset {} {{\n\t\ttype ", self.name())?;
        for (index, field) in self.fields().iter().enumerate() {
            let separator = if index == 0 { "" } else { " . " };
            write!(f, "{separator}{}", field.type_name())?;
        }
        let flags = if self.is_interval() {
            "\n\t\tflags interval"
        } else {
            ""
        };
        writeln!(f, "{flags}\n\t}}")
    }
}

/// As it is looked up in a rule: `ip daddr . meta l4proto . th dport @virtual-servers-v4`.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.fields().iter().enumerate() {
            let separator = if index == 0 { "" } else { " . " };
            write!(f, "{separator}{field}")?;
        }
        write!(f, " @{}", self.name())
    }
}

impl Field {
    const fn type_name(self) -> &'static str {
        match self {
            Self::Source(Family::V4) | Self::Destination(Family::V4) => "ipv4_addr",
            Self::Source(Family::V6) | Self::Destination(Family::V6) => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source(Family::V4) => "ip saddr",
            Self::Source(Family::V6) => "ip6 saddr",
            Self::Destination(Family::V4) => "ip daddr",
            Self::Destination(Family::V6) => "ip6 daddr",
            Self::Protocol => "meta l4proto",
            Self::Port => "th dport",
        })
    }
}
