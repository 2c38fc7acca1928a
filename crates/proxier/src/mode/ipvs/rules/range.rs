//! How source ranges are stored and looked up: by hash, at a few lengths of prefixes.
//!
//! A set of ranges with concatenated keys is cloned as a whole by the kernel for each change
//! (`nft_set_pipapo.c`), and cannot be searched by hash. So a range is split into networks whose
//! length is a multiple of [`STEP`], and a packet's source is looked up once for each such length.
//!
//! The key must tell the length, too: 10.0.0.0/8 does not contain what 10.0.0.0/12 does. The number of
//! bits behind the prefix, a multiple of [`STEP`], flips bits of the protocol in the key. The numbers
//! of TCP, UDP and SCTP differ from each other by no multiple of it, so both can be read back. A bit
//! in the source's own field would do as well, but nft 1.0.6 cannot read what it lists of that for
//! IPv6 (`ip6 saddr & fff0:: | 0x800…`), and a host could not load its saved rules.

use std::net::IpAddr;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

/// A range becomes at most 2 to the power of `STEP - 1` networks, and a packet costs one lookup for
/// each multiple of it.
const STEP: u8 = 4;

/// The lengths of networks, longest first.
pub(crate) fn lengths(family: Family) -> impl Iterator<Item = u8> {
    let count = bits(family) / STEP;
    (0..=count).rev().map(|number| number * STEP)
}

/// The networks that make up a range, in order.
pub(crate) fn split(range: IpNet) -> impl Iterator<Item = IpNet> {
    let length = range.prefix_len().next_multiple_of(STEP);
    range.subnets(length).into_iter().flatten()
}

/// The bits of the protocol that a length flips.
pub(crate) const fn tag(family: Family, length: u8) -> u8 {
    bits(family).saturating_sub(length)
}

/// The protocol and the length that a protocol in a key stands for.
#[cfg_attr(not(feature = "ipvs"), allow(dead_code, reason = "for the kernel"))]
pub(crate) fn untagged(family: Family, number: u8) -> Option<(Protocol, u8)> {
    let mut protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
    protocols.find_map(|protocol| {
        let tag = number ^ u8::try_from(protocol.number()).ok()?;
        let length = bits(family).checked_sub(tag)?;
        (length % STEP == 0).then_some((protocol, length))
    })
}

/// The mask of a length.
pub(crate) fn mask(family: Family, length: u8) -> Option<IpAddr> {
    let any: IpAddr = match family {
        Family::V4 => [0; 4].into(),
        Family::V6 => [0; 16].into(),
    };
    IpNet::new(any, length)
        .ok()
        .map(|network| network.netmask())
}

const fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn protocol_and_length_can_be_told_from_each_other() {
        for family in [Family::V4, Family::V6] {
            let mut numbers = HashSet::new();
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                for length in lengths(family) {
                    let number = u8::try_from(protocol.number()).unwrap() ^ tag(family, length);
                    assert!(numbers.insert(number), "{protocol} {length}");
                    assert_eq!(untagged(family, number), Some((protocol, length)));
                }
            }
            let others = (0..=u8::MAX).filter(|number| !numbers.contains(number));
            assert!(
                others
                    .into_iter()
                    .all(|number| untagged(family, number).is_none())
            );
        }
    }

    #[test]
    fn lengths_are_those_of_split_ranges() {
        let lengths = |family| lengths(family).collect::<Vec<_>>();
        assert_eq!(lengths(Family::V4), [32, 28, 24, 20, 16, 12, 8, 4, 0]);
        let v6 = lengths(Family::V6);
        assert_eq!((v6.len(), v6[0], v6[32]), (33, 128, 0));
    }

    /// What the rules and the set do together with one source.
    fn is_admitted(source: IpAddr, ranges: &[IpNet]) -> bool {
        let family = Family::of(&source);
        let mut networks = HashSet::new();
        for part in ranges.iter().flat_map(|range| split(*range)) {
            let key = (tag(family, part.prefix_len()), part.network());
            assert!(networks.insert(key), "{part} has another one's key");
        }
        let masked = |length| match (source, mask(family, length).unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(mask)) => IpAddr::from(source & mask),
            (IpAddr::V6(source), IpAddr::V6(mask)) => (source & mask).into(),
            _ => unreachable!(),
        };
        lengths(family).any(|length| networks.contains(&(tag(family, length), masked(length))))
    }

    fn networks(family: Family) -> impl Strategy<Value = (IpAddr, Vec<IpNet>)> {
        // Few different bits, so that sources and ranges often meet.
        let address = (any::<u32>(), any::<u128>()).prop_map(move |(short, bits)| match family {
            Family::V4 => IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | short & 0x0080_8819)),
            Family::V6 => {
                let few = 0x8000_8800_0000_0019 | (0x8008_u128 << 96);
                Ipv6Addr::from_bits(0xfd00_u128 << 112 | bits & few).into()
            }
        });
        let range = (address.clone(), 0..=bits(family));
        let range =
            range.prop_map(|(address, length)| IpNet::new(address, length).unwrap().trunc());
        (address, prop::collection::vec(range, 0..6))
    }

    proptest! {
        #[test]
        fn exactly_the_sources_in_a_range_are_admitted(
            (source, ranges) in prop_oneof![networks(Family::V4), networks(Family::V6)],
        ) {
            let ranges = IpNet::aggregate(&ranges);
            let is_in = ranges.iter().any(|range| range.contains(&source));
            prop_assert_eq!(is_admitted(source, &ranges), is_in);
        }

        #[test]
        fn a_range_is_the_sum_of_few_networks((_, ranges) in networks(Family::V4)) {
            for range in ranges {
                let parts: Vec<_> = split(range).collect();
                prop_assert!(parts.len() <= 8);
                prop_assert_eq!(IpNet::aggregate(&parts), vec![range]);
            }
        }
    }
}
