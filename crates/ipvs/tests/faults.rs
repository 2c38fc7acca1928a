//! Replies that are cut, doubled or lost between the kernel and the client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;
use std::sync::{Arc, Mutex};

use ipvs::*;

/// What becomes of the datagrams that a client receives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// They are longer than the buffer.
    TooLong,
    /// They lack their last byte.
    Cut,
    /// They come twice.
    Doubled,
    /// The kernel says that some were lost, and they are.
    Overrun,
    /// They cannot be sent at all.
    Unsendable,
}

/// A fake kernel's socket with faults.
struct Faulty {
    socket: FakeSocket,
    fault: Arc<Mutex<Option<Fault>>>,
    again: Option<Vec<u8>>,
    capacity: usize,
}

impl Transport for Faulty {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        match *self.fault.lock().unwrap() {
            Some(Fault::Unsendable) => Err(io::Error::from_raw_os_error(90)), // EMSGSIZE
            _ => self.socket.send(packets),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(datagram) = self.again.take() {
            buffer[..datagram.len()].copy_from_slice(&datagram);
            return Ok(datagram.len());
        }
        let length = self.socket.receive(buffer)?;
        let mut fault = self.fault.lock().unwrap();
        match *fault {
            Some(Fault::TooLong) => Ok(buffer.len() + 1),
            Some(Fault::Cut) => Ok(length - 1),
            Some(Fault::Doubled) => {
                self.again = Some(buffer[..length].to_vec());
                Ok(length)
            }
            Some(Fault::Overrun) => {
                *fault = None;
                Err(io::Error::from_raw_os_error(105)) // ENOBUFS
            }
            _ => Ok(length),
        }
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

struct Bench {
    client: Client<Faulty>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        let fault = Arc::new(Mutex::new(None));
        let (socket, again) = (FakeKernel::new().socket(), None);
        let transport = Faulty {
            socket,
            fault: Arc::clone(&fault),
            again,
            capacity,
        };
        Self {
            client: Client::with_transport(transport).unwrap(),
            fault,
        }
    }

    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }
}

fn adds(count: u16) -> Vec<Change> {
    let key = |port| VirtualServerKey::tcp(([10, 0, 0, 1], port).into());
    (1..=count)
        .map(|port| Change::AddVirtualServer(VirtualServer::new(key(port))))
        .collect()
}

#[test]
fn a_mangled_listing_is_an_error_and_the_next_one_is_whole() {
    let mut bench = Bench::new(128);
    bench.client.apply(adds(40)).into_result().unwrap();
    for fault in [Fault::TooLong, Fault::Cut] {
        bench.set(Some(fault));
        let error = bench.client.virtual_servers().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Malformed(_)),
            "{fault:?}: {error}"
        );
        bench.set(None);
        assert_eq!(bench.client.virtual_servers().unwrap().len(), 40);
    }
}

#[test]
fn a_doubled_entry_is_a_sign_of_a_changed_table() {
    let mut bench = Bench::new(128);
    bench.client.apply(adds(40)).into_result().unwrap();
    bench.set(Some(Fault::Doubled));
    let error = bench.client.virtual_servers().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Interrupted);
    bench.set(None);
    assert_eq!(bench.client.virtual_servers().unwrap().len(), 40);
}

#[test]
fn a_listing_with_lost_replies_is_repeated() {
    let mut bench = Bench::new(128);
    bench.client.apply(adds(40)).into_result().unwrap();
    bench.set(Some(Fault::Overrun));
    assert_eq!(bench.client.virtual_servers().unwrap().len(), 40);
}

#[test]
fn mangled_replies_leave_a_batch_with_unknown_outcomes() {
    for fault in [Fault::TooLong, Fault::Cut, Fault::Overrun] {
        let mut bench = Bench::new(128);
        bench.set(Some(fault));
        for outcome in bench.client.apply(adds(5)) {
            assert!(
                outcome.is_err_and(|error| error.is_outcome_unknown()),
                "{fault:?}"
            );
        }
        bench.set(None);
        assert_eq!(
            bench.client.virtual_servers().unwrap().len(),
            5,
            "{fault:?}"
        );
    }
}

#[test]
fn what_cannot_be_sent_has_the_sockets_error() {
    let mut bench = Bench::new(128);
    bench.set(Some(Fault::Unsendable));
    for outcome in bench.client.apply(adds(300)) {
        let error = outcome.unwrap_err();
        assert_eq!(
            (error.errno(), error.is_outcome_unknown()),
            (Some(90), false)
        );
    }
    bench.set(None);
    assert_eq!(bench.client.virtual_servers().unwrap(), []);
}

#[test]
fn a_batch_is_no_larger_than_its_replies_may_be() {
    for (capacity, sends) in [(3, 34), (128, 1), (10_000, 1)] {
        let mut bench = Bench::new(capacity);
        let before = bench.client.counters().sends;
        bench.client.apply(adds(100)).into_result().unwrap();
        assert_eq!(bench.client.counters().sends - before, sends);
    }
    let mut bench = Bench::new(10_000);
    let before = bench.client.counters().sends;
    bench.client.apply(adds(300)).into_result().unwrap();
    assert_eq!(bench.client.counters().sends - before, 3);
}
