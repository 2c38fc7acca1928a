//! External programs: each has a time limit, and is killed with all processes that it started.

use std::collections::BTreeSet;
use std::io;
#[cfg(feature = "iptables")]
use std::io::Read;
#[cfg(feature = "iptables")]
use std::os::unix::process::CommandExt;
#[cfg(feature = "iptables")]
use std::process::{ChildStdin, Command, Output, Stdio};
#[cfg(feature = "iptables")]
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "iptables")]
use std::thread;
#[cfg(feature = "iptables")]
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// The process groups of running programs.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The process group of a running program. Dropping this does not kill it.
pub(crate) struct Group(Pid);

impl Group {
    /// The group of a process that leads one.
    pub(crate) fn of(process: u32) -> io::Result<Self> {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
        running(|groups| groups.insert(pid.as_raw_nonzero().get()));
        Ok(Self(pid))
    }

    pub(crate) fn kill(&self) {
        // The group may have ended already.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        running(|groups| groups.remove(&self.0.as_raw_nonzero().get()));
    }
}

fn running<T>(f: impl FnOnce(&mut BTreeSet<i32>) -> T) -> T {
    f(&mut RUNNING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Kills every program that svcproxy is waiting for, with its process group. Call it before the
/// process exits: an orphaned `iptables-restore` would keep the xtables lock.
#[cfg(feature = "iptables")]
pub(crate) fn kill_all() {
    let groups = running(|groups| groups.clone());
    for pid in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// The most that a program may print: several times the rules of 50,000 Services.
#[cfg(feature = "iptables")]
const MOST: usize = 512 << 20;

/// Runs a program to its end. `write` writes the input, while the output is being read. The value
/// that `started` returns for the PID is kept until the program has ended.
///
/// # Errors
///
/// If the program cannot be run; [`io::ErrorKind::TimedOut`] if it has not ended in time, and
/// [`io::ErrorKind::FileTooLarge`] if it prints without end, after it was killed with its process group.
#[cfg(feature = "iptables")]
pub(crate) fn output<T>(
    command: &mut Command,
    limit: Duration,
    started: impl FnOnce(u32) -> T,
    write: impl FnOnce(ChildStdin) + Send,
) -> io::Result<Output> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).process_group(0).spawn()?;
    let _kept = started(child.id());
    let group = Group::of(child.id())?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (ended, end) = mpsc::channel::<()>();
    let (output, is_late) = thread::scope(|scope| {
        // If the program stops reading, its exit code gives the reason.
        scope.spawn(|| stdin.map(write));
        // Not `Child::wait_with_output`: it waits for both pipes with poll(2), and panics if that
        // fails (ENOMEM).
        let group = &group;
        let errors = scope.spawn(move || read(stderr, group));
        let guard = scope.spawn(move || {
            let is_late = end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_late {
                group.kill();
            }
            is_late
        });
        // The pipes close when the whole group has ended.
        let stdout = read(stdout, group);
        let stderr = errors.join().unwrap_or_else(|_| Ok(Vec::new()));
        let status = child.wait();
        drop(ended);
        let output = status.and_then(|status| {
            Ok(Output {
                status,
                stdout: stdout?,
                stderr: stderr?,
            })
        });
        (output, guard.join().unwrap_or_default())
    });
    if is_late {
        let message = format!("killed: not finished after {limit:?}");
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    }
    output
}

#[cfg(feature = "iptables")]
fn read(pipe: Option<impl Read>, group: &Group) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(pipe) = pipe else { return Ok(bytes) };
    pipe.take(MOST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MOST {
        group.kill();
        let message = format!("killed: it printed more than {} MiB", MOST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(all(test, feature = "iptables"))]
mod tests {
    use std::io::Write;

    use super::*;

    fn shell(script: &str, limit: Duration) -> io::Result<Output> {
        let mut command = Command::new("sh");
        output(command.args(["-c", script]), limit, drop, |mut stdin| {
            let _ = stdin.write_all(&[b'x'; 1 << 20]);
        })
    }

    #[test]
    fn a_hanging_program_is_killed_with_its_children() {
        // The child has the pipes too, so they close only when it dies.
        let hangs = shell("sleep 1000 & wait", Duration::from_millis(200));
        assert_eq!(hangs.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_program_may_end_without_reading_its_input() {
        let output = shell("echo done; exit 3", Duration::from_secs(60)).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"done\n");
    }

    #[test]
    fn large_outputs_on_both_pipes_are_read_completely() {
        let script = "cat >/dev/null; head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero";
        let output = shell(script, Duration::from_secs(60)).unwrap();
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (300_000, 300_000)
        );
    }

    #[test]
    fn a_program_that_prints_without_end_is_killed() {
        for script in ["yes", "yes >&2"] {
            let endless = shell(script, Duration::from_secs(60));
            let error = endless.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert_eq!(error.to_string(), "killed: it printed more than 512 MiB");
        }
    }

    #[test]
    fn a_program_is_registered_while_it_runs() {
        let (send, receive) = mpsc::channel();
        let waits = thread::spawn(move || {
            let mut command = Command::new("cat");
            output(&mut command, Duration::from_secs(60), drop, move |stdin| {
                // cat runs until its input ends.
                let _ = send.send(stdin);
            })
        });
        let stdin = receive.recv().unwrap();
        let before = running(|groups| groups.clone());
        assert!(!before.is_empty());
        drop(stdin);
        assert!(waits.join().unwrap().unwrap().status.success());
        assert_ne!(running(|groups| groups.clone()), before);
    }
}
