//! Waiting for what other threads and processes do.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Tries until `attempt` succeeds; its last error after `limit`.
///
/// # Errors
///
/// Of the last attempt.
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

/// Checks that `attempt` succeeds for the whole of `span`; its first error.
///
/// # Errors
///
/// Of the first attempt that fails.
pub fn stays<E>(span: Duration, mut attempt: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let deadline = Instant::now() + span;
    while Instant::now() < deadline {
        attempt()?;
        thread::sleep(PAUSE);
    }
    Ok(())
}
