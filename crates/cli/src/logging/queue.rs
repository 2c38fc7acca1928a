//! The queue of log lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// Maximum number of queued bytes: some 20,000 lines.
const MOST: usize = 4 << 20;

/// A bounded queue of lines, and the thread that writes them. Clones share the queue.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    is_writing: bool,
    /// Lines dropped since the last report, because the queue was full or a write failed.
    lost: u64,
}

/// Lines dropped since the start of the process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// The number of lines dropped since the start of the process.
pub(crate) fn lines_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

impl State {
    fn lose_one(&mut self) {
        self.lost += 1;
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

impl Queue {
    /// Starts the thread. It runs until the process ends.
    pub(super) fn start(out: File) -> io::Result<Self> {
        let queue = Self(Arc::default());
        let writer = queue.clone();
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || writer.write_to(out))?;
        Ok(queue)
    }

    /// Adds a line, or counts it as dropped. Never blocks.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes + line.len() > MOST {
            state.lose_one();
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.is_writing || !state.lines.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: File) {
        let mut is_torn = false;
        loop {
            let line = self.next();
            let result = write(&mut out, &line, &mut is_torn);
            let mut state = self.lock();
            state.is_writing = false;
            if result.is_err() {
                state.lose_one();
            }
            let lost = if result.is_ok() {
                std::mem::take(&mut state.lost)
            } else {
                0
            };
            drop(state);
            if lost > 0 {
                // This is queued like any other line.
                tracing::warn!(
                    lines = lost,
                    "log lines dropped: standard error did not accept them"
                );
            }
            self.0.changed.notify_all();
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            let waited = self.0.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes a line; if the previous one was written in part, writes a line break first. Waits for
/// room in a non-blocking pipe.
fn write(out: &mut File, line: &[u8], is_torn: &mut bool) -> io::Result<()> {
    let mut left = line;
    if *is_torn {
        write_some(out, b"\n")?;
    }
    *is_torn = false;
    while !left.is_empty() {
        let written = write_some(out, left)?;
        left = left.get(written..).unwrap_or_default();
        *is_torn = !left.is_empty();
    }
    Ok(())
}

fn write_some(out: &mut File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let out = out.as_fd();
                poll(&mut [PollFd::new(&out, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, pipe};
    use std::os::fd::OwnedFd;

    use super::*;

    /// Longer than any step of a test takes, on a machine under load.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn queue(out: impl Into<OwnedFd>) -> Queue {
        Queue::start(File::from(out.into())).unwrap()
    }

    #[test]
    fn a_log_without_a_reader_blocks_nothing() {
        let (mut reader, mut writer) = pipe().unwrap();
        // With a full pipe, no line is written before the first read.
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut filling = Vec::new();
        while let Ok(written) = writer.write(&[b'x'; 4096]) {
            filling.resize(filling.len() + written, 0);
        }
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        let queue = queue(writer);
        // More than the capacity of the queue.
        let line = [b'x'; 999];
        let line = [&line[..], b"\n"].concat();
        let count = 2 * MOST / line.len();
        for _ in 0..count {
            queue.push(&line);
        }
        let (bytes, lost) = {
            let state = queue.lock();
            (state.bytes, state.lost)
        };
        assert!(bytes <= MOST);
        assert!(lost > 0);
        // Returns at the limit.
        queue.flush(Duration::from_millis(1));
        // Once the pipe is read, all kept lines arrive, and each is complete.
        reader.read_exact(&mut filling).unwrap();
        let kept = count as u64 - lost;
        let lines = BufReader::new(reader)
            .lines()
            .take(usize::try_from(kept).unwrap());
        assert!(lines.map(Result::unwrap).all(|read| read.len() == 999));
        queue.flush(PATIENCE);
        // The report of dropped lines goes through this process's subscriber, if any.
        assert_eq!(queue.lock().lost, 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let queue = queue(full);
        for _ in 0..3 {
            queue.push(b"line\n");
        }
        queue.flush(PATIENCE);
        assert_eq!(queue.lock().lost, 3);
    }

    #[test]
    fn a_reader_that_has_gone_costs_lines_only() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let queue = queue(writer);
        queue.push(b"line\n");
        queue.flush(PATIENCE);
        assert_eq!(queue.lock().lost, 1);
    }

    #[test]
    fn a_full_non_blocking_pipe_is_waited_for() {
        let (reader, writer) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let queue = queue(writer);
        let count = 1000;
        let line = [&[b'x'; 999][..], b"\n"].concat();
        for _ in 0..count {
            queue.push(&line);
        }
        let lines = BufReader::new(reader).lines().take(count);
        assert!(lines.map(Result::unwrap).all(|read| read.len() == 999));
        queue.flush(PATIENCE);
        assert_eq!(queue.lock().lost, 0);
    }
}
