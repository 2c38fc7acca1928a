//! The sockets of all programs that wait for connections or datagrams, from `/proc/net`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipvs::{Family, Protocol};

/// The kernel's lists, of the network namespace of the calling thread.
const FILES: [(&str, Protocol); 4] = [
    ("/proc/thread-self/net/tcp", Protocol::Tcp),
    ("/proc/thread-self/net/tcp6", Protocol::Tcp),
    ("/proc/thread-self/net/udp", Protocol::Udp),
    ("/proc/thread-self/net/udp6", Protocol::Udp),
];

/// `TCP_LISTEN` of `include/net/tcp_states.h`.
const LISTEN: &str = "0A";
/// `TCP_CLOSE`: a UDP socket that is not connected.
const UNCONNECTED: &str = "07";

/// A socket of any program that waits for connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Socket {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where it is bound; the unspecified address stands for all addresses.
    pub address: SocketAddr,
    /// Its number, which the links in `/proc/PID/fd` name.
    pub inode: u64,
    /// The program that has it, for people. [`sockets`] leaves it empty.
    pub holder: String,
}

impl Socket {
    /// A socket without an inode and a known holder.
    pub const fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Self {
            protocol,
            address,
            inode: 0,
            holder: String::new(),
        }
    }

    /// Whether the kernel gives it what arrives at an address, unless another socket is bound to that
    /// very address. A socket that is bound to all IPv6 addresses gets IPv4 as well, by default.
    pub fn takes(&self, protocol: Protocol, to: SocketAddr) -> bool {
        let own = self.address;
        let is_for_all = own.ip().is_unspecified()
            && (own.is_ipv6() || Family::of(&own.ip()) == Family::of(&to.ip()));
        self.protocol == protocol && own.port() == to.port() && (is_for_all || own.ip() == to.ip())
    }

    /// The socket among these that gets what arrives at an address: the one that is bound most closely.
    pub(super) fn at(sockets: &[Self], protocol: Protocol, to: SocketAddr) -> Option<&Self> {
        let taking = sockets.iter().filter(|of| of.takes(protocol, to));
        taking.max_by_key(|of| {
            let own = of.address;
            (own == to, Family::of(&own.ip()) == Family::of(&to.ip()))
        })
    }
}

/// The sockets that wait for TCP connections or for datagrams in the network namespace of the calling
/// thread. A UDP socket of a client that is not connected is among them: the kernel makes no difference.
///
/// # Errors
///
/// If `/proc` cannot be read. A kernel without IPv6 has no sockets of it.
pub fn sockets() -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    for (path, protocol) in FILES {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => {
                continue;
            }
            file => file?,
        };
        for line in BufReader::new(file).lines() {
            found.extend(socket(&line?, protocol));
        }
    }
    Ok(found)
}

/// The socket of a line, if it waits: number, own address, other address, state, six other fields, and
/// the inode (`get_tcp4_sock` in `net/ipv4/tcp_ipv4.c`).
fn socket(line: &str, protocol: Protocol) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace();
    let own = words.nth(1)?;
    let state = words.nth(1)?;
    let waits = match protocol {
        Protocol::Tcp => LISTEN,
        _ => UNCONNECTED,
    };
    if state != waits {
        return None;
    }
    Some(Socket {
        protocol,
        address: address(own)?,
        inode: words.nth(5)?.parse().ok()?,
        holder: String::new(),
    })
}

/// `0100007F:0050`: each group of eight digits is a part of the address as a number of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let part = |at: usize| -> Option<[u8; 4]> {
        let digits = address.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(part(0)?),
        32 => {
            let parts = [part(0)?, part(1)?, part(2)?, part(3)?];
            let octets: [u8; 16] = parts.concat().try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn waiting_sockets_are_found_with_their_inodes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = sockets().unwrap();
        let inode = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        for (protocol, address, fd) in [
            (
                Protocol::Tcp,
                listener.local_addr().unwrap(),
                listener.as_raw_fd(),
            ),
            (Protocol::Tcp, six.local_addr().unwrap(), six.as_raw_fd()),
            (
                Protocol::Udp,
                datagrams.local_addr().unwrap(),
                datagrams.as_raw_fd(),
            ),
        ] {
            let of = found
                .iter()
                .find(|of| of.protocol == protocol && of.address == address)
                .unwrap_or_else(|| panic!("{address} in {found:?}"));
            let link = inode(fd);
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", of.inode));
        }
        let own = connected.local_addr().unwrap();
        assert!(found.iter().all(|of| of.address != own));
    }

    #[test]
    fn the_socket_that_is_bound_most_closely_gets_the_packet() {
        let socket = |address: &str| Socket {
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            inode: 1,
            holder: String::new(),
        };
        let at = |sockets: &[Socket], to: &str| {
            let found = Socket::at(sockets, Protocol::Tcp, to.parse().unwrap());
            found.map(|of| of.address.to_string())
        };
        let all = ["[::]:80", "0.0.0.0:80", "192.0.2.1:80", "0.0.0.0:81"].map(socket);
        assert_eq!(at(&all, "192.0.2.1:80").as_deref(), Some("192.0.2.1:80"));
        assert_eq!(at(&all, "192.0.2.2:80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(at(&all, "[fd00::1]:80").as_deref(), Some("[::]:80"));
        assert_eq!(at(&all[..1], "192.0.2.2:80").as_deref(), Some("[::]:80"));
        assert_eq!(at(&all, "[fd00::1]:81"), None);
        assert_eq!(
            Socket::at(&all, Protocol::Udp, "192.0.2.1:80".parse().unwrap()),
            None
        );
    }
}
