//! Probes what userspace mode needs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::engine::raise_descriptors;
use crate::mode::NodeError;
use crate::mode::ipvs::kernel::Routes;
use crate::mode::probe::look::finding;
use crate::mode::probe::{Probe, Requirement};

/// An address that no node has (RFC 5737), with the port discard.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Probes what userspace mode needs. Changes nothing: it binds sockets, and listens to none; and it
/// asks the kernel to delete a route that does not exist.
pub fn probe() -> Probe {
    let descriptors = raise_descriptors();
    let sockets = bind(0).map(|()| format!("any address, {descriptors} open files"));
    let sockets = finding(Requirement::Listeners, None, sockets);
    let low_ports = bind(ADDRESS.1).map(|()| "allowed".to_owned());
    let low_ports = finding(Requirement::LowPorts, None, low_ports);
    let routes = Routes::open().and_then(|mut routes| routes.check_change());
    let routes = routes.map(|()| "may be added".to_owned());
    let routes = finding(Requirement::VipRoutes, None, routes);
    [sockets, low_ports, routes].into_iter().collect()
}

fn bind(port: u16) -> Result<(), NodeError> {
    let bound = || -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_freebind_v4(true)?;
        socket.bind(&SocketAddr::from((ADDRESS.0, port)).into())
    };
    bound().map_err(|source| NodeError::Listen {
        protocol: ipvs::Protocol::Tcp,
        address: (ADDRESS.0, port).into(),
        source,
    })
}
