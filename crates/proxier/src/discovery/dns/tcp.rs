//! Queries over TCP.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{Outcome, Transport};
use super::quota::Place;
use super::shared::{Forward, LONGEST_QUERY, MOST_FAILURES, PAUSE, Shared};
use crate::errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM};

/// How long a TCP client may take to send a query, and keep a connection idle (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// How long a TCP client may take to read an answer.
const READING: Duration = Duration::from_secs(10);

/// Accepts connections until the listener fails.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) -> io::Error {
    let mut clients = JoinSet::new();
    let mut failures = 0;
    loop {
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                failures = 0;
                match Connection::admit(&shared, client.ip()) {
                    Some(connection) => _ = clients.spawn(connection.serve(stream)),
                    None => shared.counters.connection_refused(),
                }
            }
            // The process or the machine lacks something, which another listener would not get either.
            Err(error) if is_exhaustion(&error) => sleep(PAUSE).await,
            Err(error) if failures == MOST_FAILURES => return error,
            Err(_) => {
                failures += 1;
                sleep(PAUSE).await;
            }
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    [EMFILE, ENFILE, ENOBUFS, ENOMEM]
        .map(Some)
        .contains(&error.raw_os_error())
}

/// A TCP connection, which has a place until it is dropped.
struct Connection {
    shared: Arc<Shared>,
    client: IpAddr,
    _place: Place,
}

impl Connection {
    /// `None` if there are too many.
    fn admit(shared: &Arc<Shared>, client: IpAddr) -> Option<Self> {
        Some(Self {
            _place: shared.connections.take(client)?,
            shared: Arc::clone(shared),
            client,
        })
    }

    /// Answers queries one after another, until the client ends the connection or is too slow.
    async fn serve(self, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(IDLE, read(&mut stream)).await {
            let Some(answer) = self.answer(&query).await else {
                return;
            };
            match timeout(READING, write(&mut stream, &answer)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let shared = &self.shared;
        let forward = match shared.decide(query, Transport::Tcp) {
            Outcome::Ignore => return None,
            Outcome::Answer(bytes, code) => {
                shared.counters.answered(code);
                return Some(bytes);
            }
            Outcome::Relay(draft) => Forward::Relay(draft),
            Outcome::Follow(draft, query) => Forward::Follow(draft, query),
        };
        let Some(_place) = shared.upstream.place(self.client) else {
            return Some(shared.busy(forward));
        };
        Some(shared.forward(query, Transport::Tcp, forward).await)
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

/// Length and answer in one segment.
async fn write(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), answer].concat())
        .await
}
