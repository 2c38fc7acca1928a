//! The proxy's listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use super::super::admission::Filter;

/// Connections that wait to be accepted; the kernel's `net.core.somaxconn` limits it.
const BACKLOG: i32 = 4096;
/// When an idle connection is probed, how often, and how many probes may stay without answer.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 6);

/// A socket of this type at an address, which need not be the node's.
fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(socket)
}

/// A TCP socket that listens at an address. Accepted connections inherit its options.
pub(super) fn listen(
    address: SocketAddr,
    filter: Option<&Filter>,
) -> io::Result<std::net::TcpListener> {
    let socket = bound(address, Type::STREAM)?;
    // A restart must not wait for the end of earlier connections.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    // Before the first packet.
    attach(&SockRef::from(&socket), filter);
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A UDP socket at an address.
pub(super) fn datagrams(
    address: SocketAddr,
    filter: Option<&Filter>,
) -> io::Result<std::net::UdpSocket> {
    let socket = bound(address, Type::DGRAM)?;
    attach(&SockRef::from(&socket), filter);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Makes the kernel notice that the other end of an idle connection is gone.
pub(super) fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let (idle, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle);
    let keepalive = keepalive.with_interval(interval).with_retries(retries);
    socket.set_tcp_keepalive(&keepalive)
}

/// Makes the kernel drop packets of clients that the filter does not let pass. Where it cannot (the
/// filter is too long, or memory is short), the proxy itself turns the clients away, with a reset.
pub(super) fn attach(socket: &SockRef<'_>, filter: Option<&Filter>) {
    let attached = match filter.map(program) {
        Some(program) if program.len() <= MOST_INSTRUCTIONS => socket.attach_filter(&program),
        Some(_) => Err(io::ErrorKind::ArgumentListTooLong.into()),
        None => return drop(socket.detach_filter()),
    };
    if let Err(error) = attached {
        let _ = socket.detach_filter();
        tracing::debug!("cannot filter the packets of a listener: {error}");
    }
}

/// BPF_MAXINSNS of linux/bpf_common.h.
const MOST_INSTRUCTIONS: usize = 4096;
/// SKF_NET_OFF of linux/filter.h: offsets from the network header.
const NETWORK_HEADER: u32 = 0xfff0_0000;
/// Where the source address is in the headers of IPv4 and IPv6.
const SOURCE: (u32, u32) = (12, 8);

/// The filter as a classic BPF program, in which 0 drops a packet.
fn program(filter: &Filter) -> Vec<SockFilter> {
    // BPF_LD | BPF_W | BPF_ABS, BPF_ALU | BPF_AND | BPF_K, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET.
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let outcome = |passes| SockFilter::new(RETURN, 0, 0, if passes { u32::MAX } else { 0 });
    let mut program = Vec::new();
    for (network, passes) in &filter.rules {
        let words = words(network);
        let mut left = u8::try_from(words.len()).unwrap_or_default();
        for (offset, mask, value) in words {
            left -= 1;
            program.push(SockFilter::new(LOAD, 0, 0, NETWORK_HEADER + offset));
            program.push(SockFilter::new(AND, 0, 0, mask));
            // Past the other words, and the outcome.
            program.push(SockFilter::new(EQUAL, 0, left * 3 + 1, value));
        }
        program.push(outcome(*passes));
    }
    program.push(outcome(filter.otherwise));
    program
}

/// The 32-bit words of a source address that a network decides: offset, mask, value.
fn words(network: &IpNet) -> Vec<(u32, u32, u32)> {
    let network = network.trunc();
    let (base, bytes, mask) = match (network.addr(), network.netmask()) {
        (IpAddr::V4(net), IpAddr::V4(mask)) => {
            (SOURCE.0, net.octets().to_vec(), mask.octets().to_vec())
        }
        (net, mask) => (SOURCE.1, octets(net), octets(mask)),
    };
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte))
    };
    let pairs = bytes.chunks(4).zip(mask.chunks(4));
    let all = (base..).step_by(4).zip(pairs);
    all.map(|(offset, (net, mask))| (offset, word(mask), word(net)))
        .filter(|(_, mask, _)| *mask != 0)
        .collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
