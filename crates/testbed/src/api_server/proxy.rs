//! A proxy on loopback that connects to one server, whatever the requested name.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A proxy for HTTP (CONNECT and absolute URLs) and SOCKS 5. Dropping it stops it.
#[derive(Debug)]
pub struct ForwardProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    behind: SocketAddr,
    /// The answer, instead of a connection.
    refusal: Option<&'static str>,
    asks: Mutex<Vec<String>>,
    stops: AtomicBool,
}

impl ForwardProxy {
    /// Starts a proxy that connects to `behind`, or answers everything with `refusal`.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on.
    pub fn start(behind: SocketAddr, refusal: Option<&'static str>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behind,
            refusal,
            asks: Mutex::default(),
            stops: AtomicBool::new(false),
        });
        let accepted = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepted.stops.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepted);
                thread::spawn(move || {
                    // A client or server that disconnects ends only its own connection.
                    let _ = stream.and_then(|stream| shared.serve(stream));
                });
            }
        });
        Ok(Self { shared, address })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The received requests: heads of HTTP requests, or `SOCKS` with host and port.
    pub fn asks(&self) -> Vec<String> {
        let asks = self.shared.asks.lock();
        asks.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut first = [0];
        client.peek(&mut first)?;
        let (ask, answer) = if first == [5] {
            (
                socks(&mut client)?,
                Some(b"\x05\0\0\x01\0\0\0\0\0\0".as_slice()),
            )
        } else {
            let head = head(&mut client)?;
            let connects = head.starts_with("CONNECT ");
            (
                head,
                connects.then_some(b"HTTP/1.1 200 Connected\r\n\r\n".as_slice()),
            )
        };
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.push(ask.clone());
        drop(asks);
        if let Some(refusal) = self.refusal {
            return client.write_all(refusal.as_bytes());
        }
        let mut server = TcpStream::connect(self.behind)?;
        match answer {
            Some(answer) => client.write_all(answer)?,
            None => server.write_all(ask.as_bytes())?,
        }
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        let there = thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let _ = io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = there.join();
        Ok(())
    }
}

/// The head of an HTTP request.
fn head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The request of a SOCKS 5 client (RFC 1928) without credentials.
fn socks(client: &mut TcpStream) -> io::Result<String> {
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = read(2)?.get(1).copied().unwrap_or_default();
    read(methods.into())?;
    client.write_all(b"\x05\0")?;
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    if !read(4)?.ends_with(&[3]) {
        return Err(io::Error::other("not a name"));
    }
    let length = read(1)?.first().copied().unwrap_or_default();
    let name = read(length.into())?;
    let port = read(2)?
        .iter()
        .fold(0_u16, |port, byte| port << 8 | u16::from(*byte));
    Ok(format!("SOCKS {}:{port}", String::from_utf8_lossy(&name)))
}
