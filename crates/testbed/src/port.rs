//! Ports for servers of a test.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A TCP port that no other program on this machine gets before this process ends: on all addresses
/// of both families, also not as a client's port.
///
/// A bound socket that never listens reserves it. A server with `SO_REUSEADDR`, which servers
/// usually set, can still listen there, unless another one already does.
///
/// # Errors
///
/// If no port is free.
pub fn reserve_port() -> io::Result<u16> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    let address = socket.local_addr()?.as_socket();
    // Open until the process ends.
    std::mem::forget(socket);
    address
        .map(|address| address.port())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_refuses_clients_and_takes_one_server() {
        let port = reserve_port().unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        assert_eq!(connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let server = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        connect().unwrap();
        let second = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(server);
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
