//! Endpoints, and clients that measure.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testbed::Host;

use super::Result;

/// How long one figure is measured.
const TIME: Duration = Duration::from_secs(3);
/// Clients that connect at a time, and connections that carry much.
const CLIENTS: usize = 8;
const STREAMS: usize = 4;
const CHUNK: usize = 256 * 1024;

/// The servers of the pod, stopped when dropped.
pub(super) struct Endpoints(Arc<AtomicBool>);

impl Endpoints {
    pub(super) fn start(pod: &Host, short: SocketAddr, bulk: SocketAddr) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (short, bulk) = pod
            .enter(|| Ok::<_, io::Error>((TcpListener::bind(short)?, TcpListener::bind(bulk)?)))?;
        for _ in 0..CLIENTS {
            let (short, is_over) = (short.try_clone()?, Arc::clone(&is_over));
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // A client that has gone meanwhile does not matter.
                    let _ = short.accept().and_then(|(stream, _)| answer(stream));
                }
            });
        }
        let over = Arc::clone(&is_over);
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = bulk.accept() {
                    thread::spawn(move || {
                        let chunk = vec![7; CHUNK];
                        while stream.write_all(&chunk).is_ok() {}
                    });
                }
            }
        });
        Ok(Self(is_over))
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One byte for one byte; the server closes first.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

/// Complete exchanges a second: connect, a byte there and back, close.
pub(super) fn connections(from: &Host, to: SocketAddr) -> f64 {
    let done = measure(from, CLIENTS, |is_over, count| {
        while !is_over.load(Ordering::Relaxed) {
            let exchanged = TcpStream::connect(to).and_then(|mut stream| {
                stream.write_all(b"x")?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)
            });
            count.fetch_add(u64::from(matches!(exchanged, Ok(1))), Ordering::Relaxed);
        }
    });
    done / TIME.as_secs_f64()
}

/// Megabytes a second.
pub(super) fn throughput(from: &Host, to: SocketAddr) -> f64 {
    let bytes = measure(from, STREAMS, |is_over, count| {
        let Ok(mut stream) = TcpStream::connect(to) else {
            return;
        };
        let mut buffer = vec![0; CHUNK];
        while !is_over.load(Ordering::Relaxed) {
            let Ok(read @ 1..) = stream.read(&mut buffer) else {
                return;
            };
            count.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed);
        }
    });
    bytes / TIME.as_secs_f64() / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn measure(from: &Host, threads: usize, work: impl Fn(&AtomicBool, &AtomicU64) + Sync) -> f64 {
    let (is_over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    from.enter(|| {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| work(&is_over, &count));
            }
            let begin = Instant::now();
            thread::sleep(TIME.saturating_sub(begin.elapsed()));
            is_over.store(true, Ordering::Relaxed);
        });
    });
    count.load(Ordering::Relaxed) as f64
}
