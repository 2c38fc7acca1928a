//! ICMP echo.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::client::AskError;
use crate::namespace::Namespace;

/// Sends one echo request to `to` and waits up to 3 seconds for the reply.
///
/// # Errors
///
/// See [`AskError`].
pub fn ping(namespace: &Namespace, to: IpAddr) -> Result<(), AskError> {
    Ok(namespace.enter(|| echo(to))?)
}

/// ICMP types of request and reply, RFC 792 and RFC 4443.
fn types(to: IpAddr) -> (u8, u8) {
    if to.is_ipv4() { (8, 0) } else { (128, 129) }
}

fn echo(to: IpAddr) -> io::Result<()> {
    let protocol = if to.is_ipv4() {
        Protocol::ICMPV4
    } else {
        Protocol::ICMPV6
    };
    let to_socket = SocketAddr::from((to, 0));
    let socket = Socket::new(Domain::for_address(to_socket), Type::RAW, Some(protocol))?;
    // A connected socket receives only packets from this host.
    socket.connect(&to_socket.into())?;
    let (request, reply) = types(to);
    // code 0, checksum, identifier, sequence number, in the order of the packet
    let mut packet = [request, 0, 0, 0, 0x74, 0x62, 0, 1];
    if to.is_ipv4() {
        // The kernel computes the checksum for IPv6.
        let [high, low] = checksum(&packet).to_be_bytes();
        packet[2] = high;
        packet[3] = low;
    }
    socket.send(&packet)?;
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut buffer = [0; 1500];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = (&socket).read(&mut buffer)?;
        // IPv4 raw sockets deliver the IP header too; its length is in the first byte.
        let header = if to.is_ipv4() {
            usize::from(buffer[0] & 0xf) * 4
        } else {
            0
        };
        let message = buffer.get(header..length).unwrap_or_default();
        if message.first() == Some(&reply) && message.get(4..8) == packet.get(4..8) {
            return Ok(());
        }
    }
}

/// The internet checksum, RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn checksum_of_rfc_1071_example() {
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&example), !0xddf2);
    }
}
