//! Decides which Service gets an address and port that several Services claim.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::model::{ObjectName, Protocol, Service};

type Claim = (IpAddr, Protocol, NonZeroU16);

/// The claimed addresses and ports, with the Services that have them.
#[derive(Debug, Default)]
pub(super) struct Claims<'a>(HashMap<Claim, &'a ObjectName>);

/// An address and port that another Service has.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    /// Index of the port in the Service that lost.
    pub(super) index: usize,
    claim: Claim,
    owner: &'a ObjectName,
}

impl fmt::Display for Taken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, _, port) = self.claim;
        write!(f, "{port} of {address} belongs to Service {}", self.owner)
    }
}

impl<'a> Claims<'a> {
    /// Claims everything that a Service requests or, if a part is claimed already, nothing.
    pub(super) fn take(&mut self, service: &'a Service) -> Result<(), Taken<'a>> {
        for (index, claim) in claims(service) {
            if let Some(owner) = self.0.get(&claim) {
                return Err(Taken {
                    index,
                    claim,
                    owner,
                });
            }
        }
        let claims = claims(service).map(|(_, claim)| (claim, &service.name));
        self.0.extend(claims);
        Ok(())
    }
}

fn claims(service: &Service) -> impl Iterator<Item = (usize, Claim)> + '_ {
    let ports = service.ports.iter().enumerate();
    ports.flat_map(|(index, port)| {
        let addresses = service.cluster_ips.iter();
        addresses.map(move |address| (index, (*address, port.protocol, port.port)))
    })
}

/// Whether both Services claim the same addresses and ports.
pub(super) fn same(a: &Service, b: &Service) -> bool {
    claims(a)
        .map(|(_, claim)| claim)
        .eq(claims(b).map(|(_, claim)| claim))
}
