//! How source ranges are stored and looked up: by hash, at a few lengths of prefixes.
//!
//! A set of ranges with concatenated keys is cloned as a whole by the kernel for each change
//! (`nft_set_pipapo.c`), and cannot be searched by hash. So a range is split into networks whose
//! length is a multiple of [`STEP`], and a packet's source is looked up once for each such length.
//! The key of a network has the bit after its prefix set, so that it tells its length: 10.0.0.0/8 is
//! 10.128.0.0, and 10.0.0.0/12 is 10.8.0.0. Single addresses have no such bit, and a set of their
//! own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ipvs::Family;

/// A range becomes at most 2 to the power of `STEP - 1` networks, and a packet costs one lookup for
/// each multiple of it.
const STEP: u8 = 4;

/// The lengths of networks, longest first, without single addresses.
pub(super) fn lengths(family: Family) -> impl Iterator<Item = u8> {
    let count = bits(family) / STEP;
    (0..count).rev().map(|number| number * STEP)
}

/// The networks that make up a range, in order.
pub(crate) fn split(range: IpNet) -> impl Iterator<Item = IpNet> {
    let length = range.prefix_len().next_multiple_of(STEP);
    range.subnets(length).into_iter().flatten()
}

/// The key of a network, or of a single address.
#[cfg_attr(not(feature = "ipvs"), allow(dead_code, reason = "for the kernel"))]
pub(crate) fn key(network: IpNet) -> IpAddr {
    let bit = bit(Family::of(&network.addr()), network.prefix_len());
    match (network.network(), bit) {
        (IpAddr::V4(address), Some(IpAddr::V4(bit))) => (address | bit).into(),
        (IpAddr::V6(address), Some(IpAddr::V6(bit))) => (address | bit).into(),
        (address, _) => address,
    }
}

/// The network with a key that has the bit after its prefix.
#[cfg_attr(not(feature = "ipvs"), allow(dead_code, reason = "for the kernel"))]
pub(crate) fn network(key: IpAddr) -> Option<IpNet> {
    let zeros = match key {
        IpAddr::V4(key) => key.to_bits().trailing_zeros(),
        IpAddr::V6(key) => key.to_bits().trailing_zeros(),
    };
    let used = u8::try_from(zeros).ok()?.checked_add(1)?;
    let length = bits(Family::of(&key)).checked_sub(used)?;
    IpNet::new(key, length).ok().map(|network| network.trunc())
}

/// The mask for a length, and the bit after the prefix.
pub(crate) fn mask_and_bit(family: Family, length: u8) -> Option<(IpAddr, IpAddr)> {
    let unspecified = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let network = IpNet::new(unspecified, length).ok()?;
    Some((network.netmask(), bit(family, length)?))
}

/// `None` for single addresses.
fn bit(family: Family, length: u8) -> Option<IpAddr> {
    let place = u32::from(bits(family).checked_sub(length)?.checked_sub(1)?);
    Some(match family {
        Family::V4 => Ipv4Addr::from_bits(1 << place).into(),
        Family::V6 => Ipv6Addr::from_bits(1 << place).into(),
    })
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

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_tells_the_length_of_its_network() {
        for (network_text, key_text) in [
            ("0.0.0.0/0", "128.0.0.0"),
            ("10.0.0.0/8", "10.128.0.0"),
            ("10.0.0.0/12", "10.8.0.0"),
            ("192.0.2.16/28", "192.0.2.24"),
            ("::/0", "8000::"),
            ("fd00::/8", "fd80::"),
            ("2001:db8::/124", "2001:db8::8"),
        ] {
            assert_eq!(key(net(network_text)).to_string(), key_text);
            assert_eq!(network(key_text.parse().unwrap()), Some(net(network_text)));
        }
        assert_eq!(key(net("192.0.2.1/32")).to_string(), "192.0.2.1");
        assert_eq!(key(net("2001:db8::1/128")).to_string(), "2001:db8::1");
        assert_eq!(network([0, 0, 0, 0].into()), None);
    }

    #[test]
    fn lengths_are_those_of_split_ranges() {
        let lengths = |family| lengths(family).collect::<Vec<_>>();
        assert_eq!(lengths(Family::V4), [28, 24, 20, 16, 12, 8, 4, 0]);
        let v6 = lengths(Family::V6);
        assert_eq!((v6.len(), v6[0], v6[31]), (32, 124, 0));
    }

    /// What the rules and the sets do together with one source.
    fn is_admitted(source: IpAddr, ranges: &[IpNet]) -> bool {
        let family = Family::of(&source);
        let (mut hosts, mut networks) = (HashSet::new(), HashSet::new());
        for part in ranges.iter().flat_map(|range| split(*range)) {
            let set = match part.prefix_len() == part.max_prefix_len() {
                true => &mut hosts,
                false => &mut networks,
            };
            assert!(set.insert(key(part)), "{part} has another one's key");
        }
        let masked = |length| match (source, mask_and_bit(family, length).unwrap()) {
            (IpAddr::V4(source), (IpAddr::V4(mask), IpAddr::V4(bit))) => {
                IpAddr::from(source & mask | bit)
            }
            (IpAddr::V6(source), (IpAddr::V6(mask), IpAddr::V6(bit))) => {
                (source & mask | bit).into()
            }
            _ => unreachable!(),
        };
        hosts.contains(&source) || lengths(family).any(|length| networks.contains(&masked(length)))
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
