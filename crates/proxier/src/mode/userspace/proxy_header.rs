//! The header of the PROXY protocol, which tells an endpoint the client's address.
//!
//! Specification: `doc/proxy-protocol.txt` of HAProxy, sections 2.1 and 2.2.

use std::net::{IpAddr, SocketAddr};

use crate::model::ProxyProtocol;

/// The signature, version 2 with the command PROXY.
const V2: [u8; 13] = [
    0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21,
];
/// TCP over IPv4, with the length of the addresses and ports.
const TCP4: [u8; 3] = [0x11, 0, 12];
/// TCP over IPv6.
const TCP6: [u8; 3] = [0x21, 0, 36];

/// The header of a connection from a client to an address of a Service, which have one family.
pub(super) fn header(version: ProxyProtocol, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let family = match client {
        SocketAddr::V4(_) => TCP4,
        SocketAddr::V6(_) => TCP6,
    };
    match version {
        ProxyProtocol::V1 => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, at) = (client.ip(), to.ip());
            let (from_port, port) = (client.port(), to.port());
            format!("PROXY {family} {from} {at} {from_port} {port}\r\n").into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut header = [&V2[..], &family[..]].concat();
            for address in [client.ip(), to.ip()] {
                match address {
                    IpAddr::V4(address) => header.extend(address.octets()),
                    IpAddr::V6(address) => header.extend(address.octets()),
                }
            }
            for port in [client.port(), to.port()] {
                header.extend(port.to_be_bytes());
            }
            header
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(client: &str, to: &str) -> [Vec<u8>; 2] {
        let (client, to) = (client.parse().unwrap(), to.parse().unwrap());
        [ProxyProtocol::V1, ProxyProtocol::V2].map(|version| header(version, client, to))
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let [v1, v2] = headers("192.0.2.7:4711", "10.96.0.1:80");
        assert_eq!(v1, b"PROXY TCP4 192.0.2.7 10.96.0.1 4711 80\r\n");
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        let rest = [
            0x21, 0x11, 0, 12, 192, 0, 2, 7, 10, 96, 0, 1, 0x12, 0x67, 0, 80,
        ];
        assert_eq!(v2, [&signature[..], &rest].concat());
        let [v1, v2] = headers("[2001:db8::7]:4711", "[fd00::1]:80");
        assert_eq!(v1, b"PROXY TCP6 2001:db8::7 fd00::1 4711 80\r\n");
        assert_eq!(v2.len(), 16 + 36);
        assert_eq!(v2[13..16], [0x21, 0, 36]);
        assert_eq!(v2[16..20], [0x20, 0x01, 0x0d, 0xb8]);
    }

    /// A reader of version 1 needs no more than 107 bytes.
    #[test]
    fn the_longest_header_has_its_limit() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let [v1, _] = headers(longest, longest);
        assert!(v1.len() <= 107, "{}", v1.len());
    }
}
