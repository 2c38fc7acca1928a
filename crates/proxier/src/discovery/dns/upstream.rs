//! Asks other servers for the names of other domains.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{Transport, UDP_LIMIT};
use super::quota::{Place, Quota};

/// How long one server may take. A client waits for 5 seconds by default (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a question is asked, of one server after another.
const ATTEMPTS: usize = 2;
/// Limit of questions that wait for an answer, each of which needs a socket.
const OUTSTANDING: usize = 256;
/// Limit of those of one client; in IPv6 of one /64. A client whose questions no server answers leaves
/// places to others.
const OUTSTANDING_OF_ONE: usize = 128;
/// The longest answer over UDP that a client may have asked for.
const LONGEST_DATAGRAM: usize = 4096;
/// Length of a header.
const HEADER: usize = 12;

/// The servers for other domains.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    /// The index of the server to ask first: the last one that answered.
    first: AtomicUsize,
    places: Arc<Quota>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("cannot ask {server}")]
    Io {
        server: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{0} did not answer within {PATIENCE:?}")]
    Silent(SocketAddr),
    #[error("there is no upstream server")]
    NoServer,
    #[error("the question is not plain, so no answer to it can be recognised")]
    NotPlain,
}

impl Upstream {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            first: AtomicUsize::new(0),
            places: Quota::new(OUTSTANDING, OUTSTANDING_OF_ONE),
        }
    }

    /// A place among the questions that wait, if one is free for this client.
    pub(super) fn place(&self, client: IpAddr) -> Option<Place> {
        self.places.take(client)
    }

    /// Sends a query as it is, but for its number, and returns the answer with the client's number.
    pub(super) async fn relay(
        &self,
        query: &[u8],
        transport: Transport,
    ) -> Result<Vec<u8>, ForwardError> {
        // A compressed name, for instance, which a server may repeat in full.
        if question(query).is_none() {
            return Err(ForwardError::NotPlain);
        }
        // A number that the client does not choose: else it could tell others what to forge.
        let number = Message::query().metadata.id.to_be_bytes();
        let own = numbered(query, number);
        let mut failure = ForwardError::NoServer;
        let first = self.first.load(Ordering::Relaxed);
        let servers = self.servers.iter().copied().enumerate().cycle();
        for (index, server) in servers.skip(first).take(ATTEMPTS) {
            let ask = async {
                match transport {
                    Transport::Udp => ask_udp(server, &own).await,
                    Transport::Tcp => ask_tcp(server, &own).await,
                }
            };
            match timeout(PATIENCE, ask).await {
                Ok(Ok(answer)) => {
                    self.first.store(index, Ordering::Relaxed);
                    let theirs = query.get(..2).and_then(|number| number.try_into().ok());
                    return Ok(numbered(&answer, theirs.unwrap_or_default()));
                }
                Ok(Err(source)) => failure = ForwardError::Io { server, source },
                Err(_) => failure = ForwardError::Silent(server),
            }
        }
        // Others get their turn.
        let next = (first + ATTEMPTS) % self.servers.len().max(1);
        self.first.store(next, Ordering::Relaxed);
        Err(failure)
    }

    /// Asks a question. A truncated answer is asked for again over TCP.
    pub(super) async fn ask(&self, query: Query) -> Result<Message, ForwardError> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query);
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        message.set_edns(edns);
        let invalid = |error: String| ForwardError::Io {
            server: self
                .servers
                .first()
                .copied()
                .unwrap_or_else(|| ([0; 4], 0).into()),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        };
        let bytes = message
            .to_vec()
            .map_err(|error| invalid(error.to_string()))?;
        let mut answer = self.relay(&bytes, Transport::Udp).await?;
        if answer.get(2).is_some_and(|flags| flags & 0x02 != 0) {
            answer = self.relay(&bytes, Transport::Tcp).await?;
        }
        Message::from_vec(&answer).map_err(|error| invalid(error.to_string()))
    }
}

/// The message with another number.
fn numbered(message: &[u8], number: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    for (to, from) in message.iter_mut().zip(number) {
        *to = from;
    }
    message
}

/// The question of a message with exactly one.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        // The first name of a message has nothing to be compressed with.
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            return message.get(HEADER..at + 4);
        }
    }
}

/// Whether this is the answer to the query: anyone can send to the socket's port.
pub(super) fn answers(query: &[u8], answer: &[u8]) -> bool {
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same_number = query
        .get(..2)
        .is_some_and(|number| answer.get(..2) == Some(number));
    let same_question = match (question(query), question(answer)) {
        (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
        _ => false,
    };
    // An error without a question is an answer, too.
    let has_failed = answer.len() == HEADER
        && answer.get(4..6) == Some(&[0, 0])
        && answer.get(3).is_some_and(|flags| flags & 0x0f != 0);
    is_answer && same_number && (same_question || has_failed)
}

/// Each question has a socket, and so a port, of its own, which the kernel chooses at random.
async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From now on, the kernel drops what others send.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if answers(query, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), query].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    match answers(query, &answer) {
        true => Ok(answer),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is not one to this question",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query, or its answer, for one name and type A.
    fn message(number: u16, answer: bool, name: &str) -> Vec<u8> {
        let flags = if answer { 0x80 } else { 0 };
        let mut bytes = [
            &number.to_be_bytes()[..],
            &[flags, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        for label in name.split('.') {
            bytes.push(label.len().try_into().unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = message(7, false, "www.example.com");
        assert!(answers(&query, &message(7, true, "www.example.com")));
        assert!(answers(&query, &message(7, true, "WWW.example.com")));
        assert!(!answers(&query, &message(8, true, "www.example.com")));
        assert!(!answers(&query, &message(7, false, "www.example.com")));
        assert!(!answers(&query, &message(7, true, "www.example.org")));
        for length in 0..query.len() {
            assert!(!answers(
                &query,
                &message(7, true, "www.example.com")[..length]
            ));
        }
        assert!(!answers(&query, &[0xff; 64]));
        // An error may have no question.
        let bare = |code| [0, 7, 0x80, code, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(answers(&query, &bare(2)) && !answers(&query, &bare(0)));
    }

    /// No answer to it could be recognised, so it must not take a place.
    #[test]
    fn a_question_with_a_compressed_name_is_not_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let upstream = Upstream::new(vec![([127, 0, 0, 1], 9).into()]);
        let query = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 4, 0, 1, 0, 1];
        let asked = runtime.block_on(upstream.relay(&query, Transport::Udp));
        assert!(matches!(asked, Err(ForwardError::NotPlain)), "{asked:?}");
    }

    #[test]
    fn a_server_that_is_silent_is_not_asked_first_again() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let all = [&silent, &server].map(|socket| socket.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = server.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                server.send_to(&buffer[..length], client).unwrap();
            }
        });
        let upstream = Upstream::new(all.into());
        let query = message(7, false, "www.example.com");
        for _ in 0..3 {
            let asked = runtime.block_on(upstream.relay(&query, Transport::Udp));
            assert!(answers(&query, &asked.unwrap()));
        }
        silent.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        assert!(silent.recv(&mut buffer).is_ok());
        assert!(silent.recv(&mut buffer).is_err(), "asked twice");
    }
}
