//! Waits for other threads and processes.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Repeats `attempt` until it succeeds; returns its last error after `limit`.
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
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
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
