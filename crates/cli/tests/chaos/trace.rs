//! strace counts the system calls of svcproxy's main thread, which alone changes the kernel, and
//! kills the process at one of them. A number of calls is the same point in every run; a time is
//! not.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testbed::eventually;

use crate::follower::{Follower, PATIENCE};

/// Calls that change something, start a program, or wait for one.
const CALLS: &str =
    "sendto,sendmsg,sendmmsg,write,openat,clone,clone3,vfork,poll,ppoll,wait4,waitid";

/// A phase is over when the main thread has made no call for so long after its sync.
const QUIET: Duration = Duration::from_millis(700);

/// When svcproxy is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    /// Instead of its call with this number, from 1.
    AtCall(u64),
    /// After this time, wherever it is.
    After(Duration),
    /// When the phase is over.
    AtTheEnd,
}

impl Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtCall(number) => write!(f, "at system call {number}"),
            Self::After(time) => write!(f, "after {time:.1?}"),
            Self::AtTheEnd => write!(f, "at the end"),
        }
    }
}

/// What happened in a phase.
pub(crate) struct Traced {
    /// The number of calls.
    pub(crate) calls: u64,
    /// The time until the last of them.
    pub(crate) took: Duration,
    /// Whether the phase was over before the point of the kill came.
    pub(crate) was_over: bool,
}

pub(crate) struct Trace {
    directory: TempDir,
    kill: Kill,
}

impl Trace {
    pub(crate) fn new(kill: Kill) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            kill,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("calls")
    }

    fn arguments(&self) -> Vec<String> {
        let file = self.file().display().to_string();
        let mut arguments: Vec<String> =
            ["-qq", "-e", "signal=none", "-o"].map(str::to_owned).into();
        arguments.extend([file, "-e".to_owned(), format!("trace={CALLS}")]);
        if let Kill::AtCall(number) = self.kill {
            let inject = format!("inject={CALLS}:signal=KILL:when={number}");
            arguments.extend(["-e".to_owned(), inject]);
        }
        arguments
    }

    /// The same command under strace, which is no parent of it.
    pub(crate) fn over(&self, command: &Command) -> Command {
        let mut words = command.get_args();
        // nsenter --net=… -- PROGRAM …
        let mut traced = Command::new(command.get_program());
        traced.args(words.by_ref().take(2));
        traced
            .args(["strace", "-D"])
            .args(self.arguments())
            .args(words);
        traced
    }

    /// Attaches to a running svcproxy.
    pub(crate) fn attach(&self, svcproxy: &Follower) -> Tracer {
        let id = svcproxy.id();
        let mut strace = Command::new("strace");
        let child = strace
            .args(self.arguments())
            .args(["-p", &id.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let is_traced = || {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let is_traced = status
                .lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
            is_traced.then_some(()).ok_or("strace does not trace it")
        };
        eventually(PATIENCE, is_traced).unwrap();
        Tracer(child)
    }

    /// Waits until svcproxy is dead: by strace, after the time, or when the phase is over. It had
    /// made a number of syncs before the phase.
    pub(crate) fn ends(&self, mut svcproxy: Follower, syncs: usize, began: Instant) -> Traced {
        let (mut calls, mut last) = (0, began);
        let was_over = loop {
            let now = lines(&self.file());
            if now > calls {
                (calls, last) = (now, Instant::now());
            }
            if svcproxy.has_ended() {
                break false;
            }
            let limit = match svcproxy.syncs() > syncs {
                true => QUIET,
                false => PATIENCE,
            };
            match self.kill {
                Kill::After(time) if began.elapsed() >= time => break false,
                Kill::After(time) => thread::sleep((time - began.elapsed().min(time)).min(POLL)),
                _ if last.elapsed() > limit => break true,
                _ => thread::sleep(POLL),
            }
        };
        svcproxy.kill();
        Traced {
            calls: lines(&self.file()),
            took: last.duration_since(began),
            was_over,
        }
    }
}

const POLL: Duration = Duration::from_millis(5);

/// strace, which ends with what it traces; killed when dropped.
pub(crate) struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(file: &Path) -> u64 {
    let text = fs::read(file).unwrap_or_default();
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    lines.try_into().unwrap()
}
