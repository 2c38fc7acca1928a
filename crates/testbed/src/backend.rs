//! Servers that answer with their names.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::Socket;

use crate::Protocol;
use crate::command::Error;
use crate::namespace::Namespace;

/// How soon a server notices that it has been stopped.
const PATIENCE: Duration = Duration::from_millis(50);

/// A server in a namespace, stopped with its connections when dropped.
///
/// It answers every request with its name and the source address it saw.
#[derive(Debug)]
pub struct Backend {
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    stopped: AtomicBool,
    answers: AtomicU64,
}

impl Backend {
    /// Starts a server on `address`; it listens when this returns.
    ///
    /// `name` must have no white space.
    ///
    /// # Errors
    ///
    /// If the namespace does not have the address, it is in use, or the kernel lacks the protocol.
    pub fn start(
        namespace: &Namespace,
        protocol: Protocol,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, Error> {
        let socket = namespace
            .enter(|| listen(protocol, address))
            .map_err(Error::system(format!("listen on {address} for {name}")))?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            stopped: AtomicBool::new(false),
            answers: AtomicU64::new(0),
        });
        let server = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || match protocol {
                Protocol::Udp => shared.answer_datagrams(&socket.into()),
                _ => shared.accept(&socket),
            })
        };
        Ok(Self {
            shared,
            server: Some(server),
        })
    }

    /// The number of answered requests.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn listen(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let socket = protocol.socket(address)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if protocol != Protocol::Udp {
        socket.listen(1024)?;
    }
    Ok(socket)
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn answer(&self, peer: SocketAddr) -> String {
        self.answers.fetch_add(1, Ordering::Relaxed);
        format!("{} {peer}\n", self.name)
    }

    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        while !self.is_stopped() {
            if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(self.answer(peer).as_bytes(), peer);
            }
        }
    }

    fn accept(&self, listener: &Socket) {
        thread::scope(|scope| {
            while !self.is_stopped() {
                if let Ok((stream, peer)) = listener.accept() {
                    scope.spawn(move || {
                        // A client may disconnect at any time.
                        let _ = peer.as_socket().map(|peer| self.serve(&stream, peer));
                    });
                }
            }
        });
    }

    /// Answers each line of `stream`; a line of HTTP is answered after the header's end.
    fn serve(&self, stream: &Socket, peer: SocketAddr) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(Patient {
            stream,
            shared: self,
        });
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            let http = line.starts_with("GET ");
            if http {
                while line.trim_end() != "" {
                    line.clear();
                    if reader.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                }
            }
            let answer = self.answer(peer);
            let mut stream = stream;
            if http {
                let length = answer.len();
                return stream.write_all(
                    format!(
                        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\
                         Content-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
                    )
                    .as_bytes(),
                );
            }
            stream.write_all(answer.as_bytes())?;
            line.clear();
        }
        Ok(())
    }
}

/// A reader that ends when the server stops.
struct Patient<'a> {
    stream: &'a Socket,
    shared: &'a Shared,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut stream = self.stream;
            match stream.read(buffer) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && !self.shared.is_stopped() => {}
                result => return result,
            }
        }
    }
}
