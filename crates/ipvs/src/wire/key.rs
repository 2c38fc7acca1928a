//! The attributes that identify a virtual server.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::attribute::{Attribute, DecodeError, Decoded, Sink, put_address, put_fixed};
use super::{AF_INET, AF_INET6};
use crate::{Family, Protocol, VirtualServerKey};

const IPVS_SVC_ATTR_AF: u16 = 1;
const IPVS_SVC_ATTR_PROTOCOL: u16 = 2;
const IPVS_SVC_ATTR_ADDR: u16 = 3;
const IPVS_SVC_ATTR_PORT: u16 = 4;
const IPVS_SVC_ATTR_FWMARK: u16 = 5;

pub(super) const fn family_number(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

pub(super) fn family_from(number: u16, attribute: &'static str) -> Decoded<Family> {
    match number {
        AF_INET => Ok(Family::V4),
        AF_INET6 => Ok(Family::V6),
        value => Err(DecodeError::Value {
            attribute,
            value: value.into(),
        }),
    }
}

pub(super) fn put_key<S: Sink>(sink: &mut S, key: &VirtualServerKey) {
    put_fixed(
        sink,
        IPVS_SVC_ATTR_AF,
        family_number(key.family()).to_ne_bytes(),
    );
    match *key {
        VirtualServerKey::FirewallMark { mark, .. } => {
            put_fixed(sink, IPVS_SVC_ATTR_FWMARK, mark.get().to_ne_bytes());
        }
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        } => {
            put_fixed(
                sink,
                IPVS_SVC_ATTR_PROTOCOL,
                protocol.number().to_ne_bytes(),
            );
            put_address(sink, IPVS_SVC_ATTR_ADDR, address);
            put_fixed(sink, IPVS_SVC_ATTR_PORT, port.to_be_bytes());
        }
    }
}

/// Collects the identifying attributes. The family can come after the address.
#[derive(Default)]
pub(super) struct KeyParser<'a> {
    family: Option<Family>,
    protocol: Option<Protocol>,
    address: Option<Attribute<'a>>,
    port: Option<u16>,
    mark: Option<NonZeroU32>,
}

impl<'a> KeyParser<'a> {
    /// Takes the attribute if it identifies a virtual server. Returns whether it did.
    pub(super) fn take(&mut self, attribute: Attribute<'a>) -> Decoded<bool> {
        match attribute.kind {
            IPVS_SVC_ATTR_AF => {
                let name = "address family";
                self.family = Some(family_from(attribute.u16(name)?, name)?);
            }
            IPVS_SVC_ATTR_PROTOCOL => {
                self.protocol = Some(Protocol::from_number(attribute.u16("protocol")?));
            }
            IPVS_SVC_ATTR_ADDR => self.address = Some(attribute),
            IPVS_SVC_ATTR_PORT => self.port = Some(attribute.be16("port")?),
            IPVS_SVC_ATTR_FWMARK => self.mark = NonZeroU32::new(attribute.u32("firewall mark")?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn finish(self) -> Decoded<VirtualServerKey> {
        let family = self.family.ok_or(DecodeError::Missing("address family"))?;
        if let Some(mark) = self.mark {
            return Ok(VirtualServerKey::FirewallMark { mark, family });
        }
        let address: IpAddr = self
            .address
            .ok_or(DecodeError::Missing("virtual address"))?
            .address(family, "virtual address")?;
        Ok(VirtualServerKey::Address {
            protocol: self.protocol.ok_or(DecodeError::Missing("protocol"))?,
            address,
            port: self.port.ok_or(DecodeError::Missing("port"))?,
        })
    }
}
