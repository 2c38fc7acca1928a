//! Addresses and networks.

use std::fmt::Arguments;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Findings;
use crate::model::Family;

/// The family of an address.
pub(super) fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// The address of a virtual IP or an endpoint: none of those that no other machine can be reached
/// by. The error says what it is instead.
///
/// The API server's `ValidateNonSpecialIP` (kubernetes `pkg/apis/core/validation`) refuses the
/// same but for two: all of multicast, of which it refuses the link-local part only, and IPv4's
/// broadcast address; IPVS answers EINVAL to both.
pub(super) fn check_address(text: &str) -> Result<IpAddr, String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(format!("{text:?} is not an IP address"));
    };
    let special = match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_loopback() => "a loopback address (127.0.0.0/8, ::1)",
        IpAddr::V4(a) if a.is_link_local() => "a link-local address (169.254.0.0/16)",
        IpAddr::V6(a) if a.is_unicast_link_local() => "a link-local address (fe80::/10)",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            "an IPv4 address written as IPv6 (::ffff:0:0/96)"
        }
        a if a.is_multicast() => "a multicast address (224.0.0.0/4, ff00::/8)",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        address => return Ok(address),
    };
    Err(format!("{address} is {special}"))
}

/// A network in CIDR notation; bits beyond its prefix do not matter, as for the API server.
pub(super) fn check_network(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} is an IPv4 range written as IPv6"))
        }
        Ok(net) => Ok(net.trunc()),
        Err(_) => Err(format!(
            "{text:?} is not a range in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32"
        )),
    }
}

impl Findings {
    /// [`check_address`], its error told of `field`.
    pub(super) fn address(&mut self, text: &str, field: Arguments<'_>) -> Option<IpAddr> {
        let address = check_address(text);
        address.map_err(|reason| self.error(field, reason)).ok()
    }

    /// [`check_network`], its error told of `field`.
    pub(super) fn network(&mut self, text: &str, field: Arguments<'_>) -> Option<IpNet> {
        let network = check_network(text);
        network.map_err(|reason| self.error(field, reason)).ok()
    }
}
