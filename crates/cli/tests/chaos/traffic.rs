//! Connections from every client to every kind of address, while something happens to svcproxy.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Stop, client};
use crate::ports::SHOP;
use crate::shop::Lasting;

/// Between two requests of a client: the machine has other work.
const PAUSE: Duration = Duration::from_millis(5);

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// New connections that were tried.
    pub(crate) tried: usize,
    /// Those that failed, and why.
    pub(crate) failed: Vec<String>,
    /// Open connections that broke or moved to another endpoint.
    pub(crate) lost: Vec<String>,
}

/// Runs an action while clients open connections, which must be answered within `patience`, and use
/// the open ones.
pub(crate) fn during<T>(
    lab: &Lab,
    patience: Duration,
    mut lasting: Option<&mut Lasting<'_>>,
    action: impl FnOnce() -> T,
) -> (T, Seen) {
    let stopped = AtomicBool::new(false);
    let tried = AtomicUsize::new(0);
    let (failed, lost) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let result = thread::scope(|scope| {
        for from in [lab.probe(), lab.node(), lab.client()] {
            let (stopped, tried, failed) = (&stopped, &tried, &failed);
            scope.spawn(move || {
                for port in SHOP.iter().cycle() {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let asked = client(port.protocol, port.vip()).timeout(patience);
                    let began = Instant::now();
                    let connected = asked.connect(from).map_err(|error| ("connect", error));
                    let answer =
                        connected.and_then(|mut open| open.ask().map_err(|error| ("ask", error)));
                    if let Err((what, error)) = answer {
                        let (name, vip, took) = (from.name(), port.vip(), began.elapsed());
                        let failure = format!("{name} to {vip}: {what}: {error} after {took:.1?}");
                        failed.lock().unwrap().push(failure);
                    }
                    tried.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            });
        }
        if let Some(lasting) = lasting.as_mut() {
            let (stopped, lost) = (&stopped, &lost);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) && lost.lock().unwrap().is_empty() {
                    lost.lock().unwrap().extend(lasting.lost());
                    thread::sleep(PAUSE);
                }
            });
        }
        let _stop = Stop(&stopped);
        action()
    });
    let mut lost = lost.into_inner().unwrap();
    if let Some(lasting) = lasting
        && lost.is_empty()
    {
        lost = lasting.lost();
    }
    let seen = Seen {
        tried: tried.into_inner(),
        failed: failed.into_inner().unwrap(),
        lost,
    };
    (result, seen)
}
