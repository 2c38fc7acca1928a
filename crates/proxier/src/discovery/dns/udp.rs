//! Queries over UDP.

use std::net::{Shutdown, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::answer::{Outcome, Transport};
use super::shared::{Forward, LONGEST_QUERY, MOST_FAILURES, PAUSE, Shared};

/// A socket for datagrams, from which a thread receives until it is closed.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: UdpSocket,
    is_closed: AtomicBool,
}

impl Receiver {
    pub(super) const fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            is_closed: AtomicBool::new(false),
        }
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a datagram, although it is an error for a socket without
        // peer (inet_shutdown of net/ipv4/af_inet.c).
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }
}

/// Answers queries one after another, until the socket is closed or fails. Those for upstream servers
/// wait in tasks of the runtime.
pub(super) fn receive(
    shared: &Arc<Shared>,
    receiver: &Arc<Receiver>,
    runtime: &Handle,
) -> io::Error {
    let socket = &receiver.socket;
    let mut buffer = vec![0; LONGEST_QUERY];
    let mut waiting = JoinSet::new();
    let mut failures = 0;
    loop {
        while waiting.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error)
                if receiver.is_closed.load(Ordering::SeqCst) || failures == MOST_FAILURES =>
            {
                return error;
            }
            Err(_) => {
                // The kernel has no memory, for instance.
                failures += 1;
                thread::sleep(PAUSE);
                continue;
            }
        };
        failures = 0;
        let query = buffer.get(..length).unwrap_or_default();
        let forward = match shared.decide(query, Transport::Udp) {
            Outcome::Ignore => continue,
            Outcome::Answer(bytes, code) => {
                shared.counters.answered(code);
                // A client that cannot be reached asks again.
                let _ = socket.send_to(&bytes, client);
                continue;
            }
            Outcome::Relay(draft) => Forward::Relay(draft),
            Outcome::Follow(draft, query) => Forward::Follow(draft, query),
        };
        let Some(place) = shared.upstream.place(client.ip()) else {
            let _ = socket.send_to(&shared.busy(forward), client);
            continue;
        };
        let (shared, receiver) = (Arc::clone(shared), Arc::clone(receiver));
        let query = query.to_vec();
        let task = async move {
            let _place = place;
            let answer = shared.forward(&query, Transport::Udp, forward).await;
            let _ = receiver.socket.send_to(&answer, client);
        };
        waiting.spawn_on(task, runtime);
    }
}
