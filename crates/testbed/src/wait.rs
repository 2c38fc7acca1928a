//! Waits for other threads and processes.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Repeats `attempt` until it succeeds; returns its last error after `limit`.
///
/// It pauses for as long as an attempt takes: an attempt that starts programs would otherwise
/// take the processor from what it waits for.
///
/// # Errors
///
/// The error of the last attempt.
pub fn eventually<T, E>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        let began = Instant::now();
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(began.elapsed().max(PAUSE)),
            result => return result,
        }
    }
}

/// Checks that `attempt` succeeds during the whole `span`; returns its first error.
///
/// # Errors
///
/// The error of the first failed attempt.
pub fn stays<E>(span: Duration, mut attempt: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let deadline = Instant::now() + span;
    while Instant::now() < deadline {
        attempt()?;
        thread::sleep(PAUSE);
    }
    Ok(())
}
