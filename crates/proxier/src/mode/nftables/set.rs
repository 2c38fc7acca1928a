//! Sets and maps: the part of the tables that changes with Services.
#![cfg_attr(
    not(feature = "nftables"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::fmt;

use ipvs::Family;

use crate::mode::ipvs::rules::Field;

/// A set or map of a table. Each family's table has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Set {
    /// Destinations, with the choice among their endpoints.
    Services,
    /// Destinations with other endpoints for clients outside the cluster, with the choice among
    /// these.
    External,
    /// The endpoints of a destination, by number. Those for clients outside the cluster have
    /// numbers from 2^31.
    Endpoints,
    /// The lasting numbers of endpoints that clients with session affinity keep, by the number that
    /// is drawn.
    Numbers,
    /// Clients with session affinity, and the lasting numbers of their endpoints. The kernel adds
    /// them.
    Affinity,
    /// The chains that choose, by choice.
    Choices,
    /// The same for clients outside the cluster.
    ExternalChoices,
    /// The same for node ports.
    PortChoices,
    /// The same for node ports and clients outside the cluster.
    ExternalPortChoices,
    /// Destinations whose connections are masqueraded, whoever the client is.
    Masqueraded,
    /// Destinations with source ranges.
    Restricted,
    /// The source ranges, as networks of a few lengths. The protocol tells the length, too.
    SourceRanges,
    /// Destinations without endpoints.
    NoEndpoints,
    /// Destinations without endpoints on this node.
    Dropped,
    /// Destinations without endpoints on this node for clients outside the cluster.
    DroppedExternal,
    /// An endpoint's address, as source and as destination.
    Hairpin,
    /// Networks in which everything without a Service is rejected.
    ServiceCidrs,
    /// Networks whose addresses on this node serve node ports.
    NodePortAddresses,
    /// Health check node ports.
    HealthChecks,
}

/// A part of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A field of the packet.
    Field(Field),
    /// A number: a choice, or that of an endpoint.
    Number,
}

/// What a map yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// Nothing: it is a set.
    None,
    /// A number: a [`Choice`](super::Choice), or that of an endpoint.
    Number,
    /// An address and a port.
    Target,
    /// A chain to continue with.
    Chain,
}

const ADDRESS_OF: Part = Part::Field(Field::Destination);
const PROTOCOL_OF: Part = Part::Field(Field::Protocol);
const PORT_OF: Part = Part::Field(Field::Port);
const FRONTEND: &[Part] = &[ADDRESS_OF, PROTOCOL_OF, PORT_OF];
const ADDRESS: &[Part] = &[ADDRESS_OF];
const CHOICE: &[Part] = &[Part::Number];
const SOURCE: Part = Part::Field(Field::Source);

impl Set {
    /// Every set of a table.
    pub const ALL: [Self; 19] = [
        Self::Services,
        Self::External,
        Self::Endpoints,
        Self::Numbers,
        Self::Affinity,
        Self::Choices,
        Self::ExternalChoices,
        Self::PortChoices,
        Self::ExternalPortChoices,
        Self::Masqueraded,
        Self::Restricted,
        Self::SourceRanges,
        Self::NoEndpoints,
        Self::Dropped,
        Self::DroppedExternal,
        Self::Hairpin,
        Self::ServiceCidrs,
        Self::NodePortAddresses,
        Self::HealthChecks,
    ];

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::External => "external",
            Self::Endpoints => "endpoints",
            Self::Numbers => "numbers",
            Self::Affinity => "affinity",
            Self::Choices => "choices",
            Self::ExternalChoices => "external-choices",
            Self::PortChoices => "port-choices",
            Self::ExternalPortChoices => "external-port-choices",
            Self::Masqueraded => "masqueraded",
            Self::Restricted => "restricted",
            Self::SourceRanges => "source-ranges",
            Self::NoEndpoints => "no-endpoints",
            Self::Dropped => "dropped",
            Self::DroppedExternal => "dropped-external",
            Self::Hairpin => "hairpin",
            Self::ServiceCidrs => "service-cidrs",
            Self::NodePortAddresses => "node-port-addresses",
            Self::HealthChecks => "health-checks",
        }
    }

    /// The parts of its key.
    pub(super) const fn key(self) -> &'static [Part] {
        match self {
            Self::Services
            | Self::External
            | Self::Masqueraded
            | Self::Restricted
            | Self::NoEndpoints
            | Self::Dropped
            | Self::DroppedExternal => FRONTEND,
            Self::Endpoints | Self::Numbers => &[ADDRESS_OF, PROTOCOL_OF, PORT_OF, Part::Number],
            Self::Affinity | Self::SourceRanges => &[ADDRESS_OF, PROTOCOL_OF, PORT_OF, SOURCE],
            Self::Choices
            | Self::ExternalChoices
            | Self::PortChoices
            | Self::ExternalPortChoices => CHOICE,
            Self::Hairpin => &[SOURCE, ADDRESS_OF],
            Self::ServiceCidrs | Self::NodePortAddresses => ADDRESS,
            Self::HealthChecks => &[PROTOCOL_OF, PORT_OF],
        }
    }

    /// What it yields.
    pub(super) const fn data(self) -> Data {
        match self {
            Self::Services | Self::External | Self::Numbers | Self::Affinity => Data::Number,
            Self::Endpoints => Data::Target,
            Self::Choices
            | Self::ExternalChoices
            | Self::PortChoices
            | Self::ExternalPortChoices => Data::Chain,
            _ => Data::None,
        }
    }

    /// Whether its elements select chains.
    #[cfg(feature = "nftables")]
    pub(super) const fn has_chains(self) -> bool {
        matches!(self.data(), Data::Chain)
    }

    /// Whether its elements are ranges.
    pub(super) const fn is_interval(self) -> bool {
        matches!(self, Self::ServiceCidrs | Self::NodePortAddresses)
    }

    /// Whether packets add its elements, which expire.
    pub(super) const fn is_dynamic(self) -> bool {
        matches!(self, Self::Affinity)
    }

    /// The most elements that packets may add.
    pub(super) const MOST_CLIENTS: u32 = 262_144;

    /// Its declaration in nft's syntax.
    pub(super) fn declare(self, family: Family, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = match self.data() {
            Data::None => String::new(),
            Data::Number => " : classid".to_owned(),
            Data::Target => format!(" : {} . inet_service", address_type(family)),
            Data::Chain => " : verdict".to_owned(),
        };
        let keyword = if data.is_empty() { "set" } else { "map" };
        let parts: Vec<_> = self.key().iter().map(|part| part.kind(family)).collect();
        let key = parts.join(" . ");
        writeln!(f, "\t{keyword} {} {{\n\t\ttype {key}{data}", self.name())?;
        if self.is_dynamic() {
            writeln!(f, "\t\tsize {}", Self::MOST_CLIENTS)?;
            writeln!(f, "\t\tflags dynamic,timeout")?;
        }
        if self.is_interval() {
            writeln!(f, "\t\tflags interval")?;
        }
        writeln!(f, "\t}}")
    }
}

const fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

impl Part {
    const fn kind(self, family: Family) -> &'static str {
        match self {
            Self::Number => "classid",
            Self::Field(Field::Source | Field::Destination) => address_type(family),
            Self::Field(Field::Protocol) => "inet_proto",
            Self::Field(_) => "inet_service",
        }
    }

    /// The length in registers, in bytes.
    pub(super) const fn length(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Field(Field::Source | Field::Destination), Family::V6) => 16,
            _ => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_their_own_names() {
        let names: std::collections::BTreeSet<_> = Set::ALL.map(Set::name).into();
        assert_eq!(names.len(), Set::ALL.len());
    }
}
