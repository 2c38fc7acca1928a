//! kube-proxy's dummy device, all addresses of the node, over rtnetlink, and the local addresses of
//! the node's own connections.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fs, io};

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::Handle;

use crate::errno::ENODEV;
use crate::mode::ipvs::kernel::rtnetlink::{Rtnetlink, io_error};
use crate::takeover::leftovers::DEVICE;

/// A device with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    index: u32,
    pub(super) addresses: HashSet<IpAddr>,
    messages: Vec<AddressMessage>,
}

/// kube-proxy's device, if it exists and is a dummy, and the addresses of all other devices.
pub(super) fn addresses(netlink: &mut Rtnetlink) -> io::Result<(Option<Device>, HashSet<IpAddr>)> {
    let index = netlink.read(index)?;
    let listed = netlink.read(listed)?;
    let its = |message: &AddressMessage| Some(message.header.index) == index;
    let (its, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(its);
    let device = index.map(|index| Device {
        index,
        addresses: its.iter().filter_map(address).collect(),
        messages: its,
    });
    Ok((device, others.iter().filter_map(address).collect()))
}

/// All addresses, each with the index of its device.
pub(crate) fn all_addresses(netlink: &mut Rtnetlink) -> io::Result<Vec<(u32, IpAddr)>> {
    let listed = netlink.read(listed)?.into_iter();
    let indexed = listed.filter_map(|message| Some((message.header.index, address(&message)?)));
    Ok(indexed.collect())
}

async fn listed(netlink: Handle) -> io::Result<Vec<AddressMessage>> {
    let listed = netlink.address().get().execute();
    listed.try_collect().await.map_err(io_error)
}

/// Deletes the device, with its addresses.
pub(super) fn delete(netlink: &mut Rtnetlink, device: &Device) -> io::Result<()> {
    netlink.change(|handle| async move {
        let delete = handle.link().del(device.index);
        delete.execute().await.map_err(io_error)
    })
}

/// Deletes the addresses of a device except some. Returns the number of deleted ones.
pub(super) fn delete_all_but(
    netlink: &mut Rtnetlink,
    device: &Device,
    kept: &HashSet<IpAddr>,
) -> io::Result<usize> {
    let mut deleted = 0;
    for message in &device.messages {
        if address(message).is_none_or(|address| !kept.contains(&address)) {
            netlink.change(|handle| async move {
                let delete = handle.address().del(message.clone());
                delete.execute().await.map_err(io_error)
            })?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

async fn index(netlink: Handle) -> io::Result<Option<u32>> {
    let request = netlink.link().get().match_name(DEVICE.to_owned());
    match request.execute().try_next().await.map_err(io_error) {
        Ok(link) => Ok(link.filter(is_dummy).map(|link| link.header.index)),
        Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_dummy(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let mut infos = infos.flatten();
    infos.any(|info| matches!(info, LinkInfo::Kind(InfoKind::Dummy)))
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link, IFA_ADDRESS is the peer's address.
    let local = |a: &AddressAttribute| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |a: &AddressAttribute| match a {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = &message.attributes;
    let local = attributes.iter().find_map(local);
    local.or_else(|| attributes.iter().find_map(any))
}

/// Local addresses of the TCP connections of the calling thread's network namespace.
pub(super) fn local_addresses() -> io::Result<HashSet<IpAddr>> {
    let mut addresses = HashSet::new();
    for family in ["tcp", "tcp6"] {
        match fs::read_to_string(format!("/proc/thread-self/net/{family}")) {
            Ok(text) => addresses.extend(text.lines().filter_map(parse)),
            // The kernel has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(addresses)
}

/// A line, as the kernel's tcp_ipv4.c and tcp_ipv6.c print it: number, local and remote address
/// with their ports, state.
fn parse(line: &str) -> Option<IpAddr> {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let (address, _) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let word = |hexadecimal: &str| {
        let word = u32::from_str_radix(hexadecimal, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(address)?)),
        32 => {
            let mut octets = [0; 16];
            for (place, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(address.get(8 * place..8 * place + 8)?)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    (![TIME_WAIT, LISTEN].contains(&state)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_of_connections_are_read() {
        for (line, expected) in [
            ("  sl  local_address rem_address   st tx_queue", None),
            (
                "   0: 5A7100CB:9C40 5A7100CB:0050 01 00000000:00000000",
                Some("203.0.113.90"),
            ),
            (
                "   1: 00000000:0016 00000000:0000 0A 00000000:00000000",
                None,
            ),
            (
                "   2: 5A7100CB:9C41 5A7100CB:0050 06 00000000:00000000",
                None,
            ),
            ("   3: 5A7100:9C40 5A7100CB:0050 01", None),
            (
                "   3: B80D0120000003020000000090000000:1F90 00000000000000000000000000000000:0000 01 0",
                Some("2001:db8:203::90"),
            ),
            (
                "   4: 0000000000000000FFFF00005A7100CB:1F90 00000000000000000000000000000000:0000 08 0",
                Some("203.0.113.90"),
            ),
        ] {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
