//! ipsets, over netlink (include/uapi/linux/netfilter/ipset/ip_set.h).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::socket::{Refusal, Socket};
use crate::uapi::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use crate::{Attribute, Attributes, Malformed, Writer};

/// Numbers in the kernel's spelling.
#[rustfmt::skip]
mod numbers {
    pub(super) const NFNL_SUBSYS_IPSET: u8 = 6;
    pub(super) const IPSET_PROTOCOL: u8 = 6;
    pub(super) const IPSET_CMD_DESTROY: u8 = 3;
    pub(super) const IPSET_CMD_LIST: u8 = 7;
    pub(super) const IPSET_ATTR_PROTOCOL: u16 = 1;
    pub(super) const IPSET_ATTR_SETNAME: u16 = 2;
    pub(super) const IPSET_ATTR_FLAGS: u16 = 6;
    pub(super) const IPSET_ATTR_ADT: u16 = 8;
    pub(super) const IPSET_FLAG_LIST_SETNAME: u32 = 2;
    pub(super) const IPSET_ATTR_IP: u16 = 1;
    pub(super) const IPSET_ATTR_PORT: u16 = 4;
    pub(super) const IPSET_ATTR_PROTO: u16 = 7;
    pub(super) const IPSET_ATTR_IPADDR_IPV4: u16 = 1;
    pub(super) const IPSET_ATTR_IPADDR_IPV6: u16 = 2;
    pub(super) const IPSET_ERR_BUSY: i32 = 4100;
}

use numbers::*;

/// An entry of a set of addresses, protocols and ports, or of ports only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The address, if the set has addresses.
    pub address: Option<IpAddr>,
    /// The number of the protocol, if the set has protocols.
    pub protocol: Option<u8>,
    /// The port.
    pub port: u16,
}

/// The names of all sets.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn names(socket: &mut Socket) -> io::Result<Vec<String>> {
    // A request to a kernel without sets would load the module.
    if !fs::exists("/sys/module/ip_set").unwrap_or(true) {
        return Ok(Vec::new());
    }
    let listed = socket.list_with(
        |writer, sequence| {
            message(writer, IPSET_CMD_LIST, NLM_F_DUMP, sequence, |w| {
                w.number(IPSET_ATTR_FLAGS, IPSET_FLAG_LIST_SETNAME);
            });
        },
        |names: &mut Vec<String>, set| {
            names.extend(set.text(IPSET_ATTR_SETNAME).map(str::to_owned));
            Ok(())
        },
    );
    match listed.map_err(io::Error::from) {
        // The answers of nfnetlink for an unknown subsystem, and of ipset without any set.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
            ) =>
        {
            Ok(Vec::new())
        }
        listed => listed,
    }
}

/// The entries of a set that have a port.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn entries(socket: &mut Socket, name: &str) -> io::Result<Vec<Entry>> {
    let listed = socket.list_with(
        |writer, sequence| {
            message(writer, IPSET_CMD_LIST, NLM_F_DUMP, sequence, |w| {
                w.text(IPSET_ATTR_SETNAME, name);
            });
        },
        |entries: &mut Vec<_>, set| {
            for entry in set.list(IPSET_ATTR_ADT)? {
                entries.extend(Entry::parse(entry.attributes()?)?);
            }
            Ok(())
        },
    )?;
    Ok(listed)
}

impl Entry {
    /// `None` for an entry without a port.
    fn parse(entry: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let Some(port) = entry.get(IPSET_ATTR_PORT) else {
            return Ok(None);
        };
        let address = match entry.nested(IPSET_ATTR_IP)? {
            Some(address) => parse_address(address)?,
            None => None,
        };
        let protocol = entry.get(IPSET_ATTR_PROTO).map(Attribute::array);
        let protocol = protocol.transpose()?;
        Ok(Some(Self {
            address,
            protocol: protocol.map(|[number]| number),
            port: u16::from_be_bytes(port.array()?),
        }))
    }
}

fn parse_address(address: Attributes<'_>) -> Result<Option<IpAddr>, Malformed> {
    if let Some(v4) = address.get(IPSET_ATTR_IPADDR_IPV4) {
        return Ok(Some(Ipv4Addr::from(v4.array::<4>()?).into()));
    }
    let v6 = address.get(IPSET_ATTR_IPADDR_IPV6).map(Attribute::array);
    Ok(v6
        .transpose()?
        .map(|v6: [u8; 16]| Ipv6Addr::from(v6).into()))
}

/// Destroys a set. False if it is in use. A missing set is no error.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn destroy(socket: &mut Socket, name: &str) -> io::Result<bool> {
    const ENOENT: i32 = 2;
    let first = socket.reserve(2);
    let mut writer = Writer::default();
    // The request must contain the name: without one, the kernel destroys all sets.
    message(&mut writer, IPSET_CMD_DESTROY, NLM_F_ACK, first + 1, |w| {
        w.text(IPSET_ATTR_SETNAME, name);
    });
    let errno = match socket.commit(&writer, first, 1) {
        Ok(()) => return Ok(true),
        Err(Refusal::Whole(error) | Refusal::Lost(error)) => return Err(error.into()),
        Err(Refusal::Messages(errors)) => errors.first().map_or(0, |(_, errno)| *errno),
    };
    match errno {
        IPSET_ERR_BUSY => Ok(false),
        ENOENT => Ok(true),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn message(
    writer: &mut Writer,
    command: u8,
    flags: u16,
    sequence: u32,
    content: impl FnOnce(&mut Writer),
) {
    let kind = u16::from_be_bytes([NFNL_SUBSYS_IPSET, command]);
    writer.packet(kind, NLM_F_REQUEST | flags, sequence, [0; 4], |w| {
        w.put(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
        content(w);
    });
}
