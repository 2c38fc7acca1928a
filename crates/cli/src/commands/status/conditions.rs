//! The conditions of the svcproxy that runs on this node, from its metrics address.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::args::BindAddress;
use crate::notices::Condition;

/// For each of connecting, writing and reading.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit of the answer's size.
const LONGEST: u64 = 16 << 20;

/// `None` if no svcproxy answers.
pub(super) fn ask(address: &BindAddress) -> Option<Vec<Condition>> {
    let mut address = address.0?;
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let answer = get(address)
        .inspect_err(|error| tracing::debug!("no conditions from {address}: {error}"))
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_ok = head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ");
    is_ok.then(|| serde_json::from_str(body).ok()).flatten()
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In version 1.0 an answer has no chunks.
    write!(
        stream,
        "GET /conditions HTTP/1.0\r\nHost: {address}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}
