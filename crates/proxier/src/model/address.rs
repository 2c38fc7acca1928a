//! Addresses that can be neither a virtual IP nor an endpoint.

use std::net::IpAddr;

/// The kind of an address that other machines cannot reach; `None` for any other address.
///
/// The API server's `ValidateNonSpecialIP` (kubernetes `pkg/apis/core/validation`) differs in two
/// cases: it rejects only link-local multicast, and it accepts IPv4's broadcast address. IPVS
/// returns EINVAL for both.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    Some(match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_loopback() => "a loopback address (127.0.0.0/8, ::1)",
        IpAddr::V4(a) if a.is_link_local() => "a link-local address (169.254.0.0/16)",
        IpAddr::V6(a) if a.is_unicast_link_local() => "a link-local address (fe80::/10)",
        a if a.is_multicast() => "a multicast address (224.0.0.0/4, ff00::/8)",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4-mapped address (::ffff:0:0/96)",
        _ => return None,
    })
}
