//! Conditions on fields of a packet and on interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::TableFamily;
use crate::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The family (`NFPROTO_…`).
    Family,
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The transport protocol (`IPPROTO_…`).
    Protocol,
    /// The source port.
    SourcePort,
    /// The destination port.
    DestinationPort,
}

/// Whether a field lies within ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    /// The field.
    pub field: Field,
    /// The family of addresses; without effect on other fields.
    pub is_v6: bool,
    /// First and last value of each range, as numbers in network order.
    pub ranges: Vec<(u128, u128)>,
    /// Whether the field must lie outside of all of them.
    pub is_not: bool,
}

/// Whether the packet comes or leaves by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Where.
    pub side: Side,
    /// The name, or how it begins.
    pub name: String,
    /// Whether any name that begins so will do.
    pub is_prefix: bool,
    /// Whether it must be another interface.
    pub is_not: bool,
}

/// A side of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the packet arrives.
    In,
    /// Where the packet leaves.
    Out,
}

impl Field {
    /// Its length in bytes.
    pub(super) const fn length(self, is_v6: bool) -> usize {
        match self {
            Self::Family | Self::Protocol => 1,
            Self::SourcePort | Self::DestinationPort => 2,
            Self::Source | Self::Destination if is_v6 => 16,
            Self::Source | Self::Destination => 4,
        }
    }
}

impl Within {
    /// An address within a network.
    pub fn network(field: Field, address: IpAddr, prefix: u8, is_not: bool) -> Self {
        let width: u8 = if address.is_ipv6() { 128 } else { 32 };
        let ones = below(width.saturating_sub(prefix));
        let first = number(address) & !ones;
        Self {
            field,
            is_v6: address.is_ipv6(),
            ranges: vec![(first, first | ones)],
            is_not,
        }
    }

    /// Whether it is true of a value.
    pub fn holds(&self, value: u128) -> bool {
        let mut ranges = self.ranges.iter();
        let is_in = ranges.any(|(first, last)| (*first..=*last).contains(&value));
        is_in != self.is_not
    }
}

impl Interface {
    /// Whether it is true of an interface.
    pub fn holds(&self, name: &str) -> bool {
        let is_it = match self.is_prefix {
            true => name.starts_with(&self.name),
            false => name == self.name,
        };
        is_it != self.is_not
    }
}

impl TableFamily {
    /// The value of [`Field::Family`]; `None` for both.
    pub(super) const fn protocol(self) -> Option<u8> {
        match self {
            Self::Inet => None,
            Self::V4 => Some(NFPROTO_IPV4),
            Self::V6 => Some(NFPROTO_IPV6),
        }
    }
}

/// An address as a number in network order.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a number.
pub(super) fn address(number: u128, is_v6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if !is_v6 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

/// A number of this many ones.
pub(super) const fn below(bits: u8) -> u128 {
    match u128::MAX.checked_shl(bits as u32) {
        Some(ones) => !ones,
        None => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_only() {
        let within = |network: &str, prefix, is_not, address: &str| {
            let network = network.parse().unwrap();
            let within = Within::network(Field::Source, network, prefix, is_not);
            within.holds(number(address.parse().unwrap()))
        };
        assert!(within("10.0.0.0", 8, false, "10.255.255.255"));
        assert!(!within("10.0.0.0", 8, false, "11.0.0.0"));
        assert!(!within("10.0.0.0", 8, true, "10.1.2.3"));
        assert!(within("10.9.9.9", 32, false, "10.9.9.9"));
        assert!(!within("10.9.9.9", 32, false, "10.9.9.8"));
        assert!(within("0.0.0.0", 0, false, "255.255.255.255"));
        assert!(within("::", 0, false, "ffff::1"));
        assert!(within("fd00::", 64, false, "fd00::ffff"));
        assert!(!within("fd00::", 64, false, "fd00:0:0:1::"));
    }
}
