//! The local addresses of the node's own connections.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fs, io};

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
