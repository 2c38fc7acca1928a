//! Addresses and networks.

use std::fmt::Arguments;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::super::api::Loose;
use super::Findings;
use crate::model::{Family, special};

/// Length of the prefix ::ffff:0:0/96 of IPv4-mapped addresses.
const MAPPED_PREFIX: u8 = 96;

/// The family of an address.
pub(super) fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Reads an address as kube-proxy does (`ParseIPSloppy` of `k8s.io/utils/net`): numbers with
/// leading zeros are decimal, and an IPv4-mapped IPv6 address is the IPv4 address. Stored objects
/// from before Kubernetes 1.31 may have both.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    let parsed = text.parse::<IpAddr>().ok();
    let parsed = parsed.or_else(|| without_leading_zeros(text).parse().ok());
    parsed.map(|address| address.to_canonical())
}

/// Reads a network, with numbers as in [`parse_address`].
fn parse_network(text: &str) -> Option<IpNet> {
    let parsed = text.parse::<IpNet>().ok();
    let parsed = parsed.or_else(|| without_leading_zeros(text).parse().ok())?;
    match parsed {
        IpNet::V6(net) => {
            let Some(address) = net.addr().to_ipv4_mapped() else {
                return Some(parsed.trunc());
            };
            // A shorter prefix contains more than the IPv4 addresses.
            let length = net.prefix_len().checked_sub(MAPPED_PREFIX)?;
            let net = Ipv4Net::new(address, length).ok()?;
            Some(IpNet::V4(net.trunc()))
        }
        IpNet::V4(net) => Some(IpNet::V4(net.trunc())),
    }
}

/// The text without superfluous leading zeros in its numbers.
fn without_leading_zeros(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut in_number = false;
    while let Some(c) = rest.next() {
        let digit_follows = rest.peek().is_some_and(char::is_ascii_hexdigit);
        if c == '0' && !in_number && digit_follows {
            continue;
        }
        in_number = c.is_ascii_hexdigit();
        kept.push(c);
    }
    kept
}

/// Checks the address of a virtual IP or an endpoint: other machines must be able to reach it. The
/// error names the kind of an invalid address.
pub(super) fn check_address(text: &str) -> Result<IpAddr, String> {
    let Some(address) = parse_address(text) else {
        return Err(format!("{text:?} is not an IP address"));
    };
    match special(address) {
        Some(special) => Err(format!("{address} is {special}")),
        None => Ok(address),
    }
}

/// A network in CIDR notation. Bits beyond its prefix are ignored, as in the API server.
fn check_network(text: &str) -> Result<IpNet, String> {
    parse_network(text).ok_or_else(|| {
        format!("{text:?} is not a range in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32")
    })
}

impl Findings {
    /// As [`check_address`]; an invalid address is left out.
    pub(super) fn address(
        &mut self,
        written: Option<&Loose<String>>,
        field: Arguments<'_>,
    ) -> Option<IpAddr> {
        let text = match written {
            Some(Loose::Right(text)) => text,
            Some(Loose::Wrong(written)) => {
                self.left_out(field, format_args!("{written} is not an IP address"));
                return None;
            }
            None => {
                self.left_out(field, "missing: not an IP address");
                return None;
            }
        };
        let address = check_address(text);
        address.map_err(|reason| self.left_out(field, reason)).ok()
    }

    /// As [`check_network`]; an invalid network is left out.
    pub(super) fn network(
        &mut self,
        written: &Loose<String>,
        field: Arguments<'_>,
    ) -> Option<IpNet> {
        let network = match written {
            // The API server allows spaces around some networks.
            Loose::Right(text) => check_network(text.trim()),
            Loose::Wrong(written) => Err(format!("{written} is not a range in CIDR notation")),
        };
        network.map_err(|reason| self.left_out(field, reason)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kube_proxy_does() {
        let cases = [
            ("10.096.01.07", "10.96.1.7"),
            ("203.000.113.007", "203.0.113.7"),
            ("0010.0.0.00", "10.0.0.0"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:010.000.0.01", "10.0.0.1"),
            ("0fd00:0000::00001", "fd00::1"),
            ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
        ];
        for (text, expected) in cases {
            let address = parse_address(text).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "10.0.0",
            "10.0.0.0256",
            "10.0.0.1 ",
            "0x0a.0.0.1",
            "-1.0.0.1",
            "::1%lo",
        ] {
            assert_eq!(parse_address(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn networks_are_read_as_kube_proxy_does() {
        let cases = [
            ("203.0.113.000/025", "203.0.113.0/25"),
            ("010.1.2.3/08", "10.0.0.0/8"),
            ("::ffff:10.1.0.0/104", "10.0.0.0/8"),
            ("fd00:0000::/0064", "fd00::/64"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/00", "::/0"),
        ];
        for (text, expected) in cases {
            let network = parse_network(text).map(|network| network.to_string());
            assert_eq!(network.as_deref(), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::ffff:10.0.0.0/80",
            "10.0.0.0/-1",
        ] {
            assert_eq!(parse_network(wrong), None, "{wrong:?}");
        }
    }
}
