//! kube-proxy's dummy device, and all addresses of the node, over rtnetlink.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::Handle;

use crate::mode::ipvs::kernel::rtnetlink::{Rtnetlink, io_error};
use crate::takeover::leftovers::DEVICE;

const ENODEV: i32 = 19;

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
    let listed: Vec<_> = netlink.read(|handle| async move {
        let listed = handle.address().get().execute();
        listed.try_collect().await.map_err(io_error)
    })?;
    let its = |message: &AddressMessage| Some(message.header.index) == index;
    let (its, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(its);
    let device = index.map(|index| Device {
        index,
        addresses: its.iter().filter_map(address).collect(),
        messages: its,
    });
    Ok((device, others.iter().filter_map(address).collect()))
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
