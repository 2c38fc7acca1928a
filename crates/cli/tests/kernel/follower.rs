//! A running svcproxy, and its log.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testbed::{eventually, spawn_confined};

/// Far more than anything takes, for a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// If it names a seccomp profile, each process that a test starts is confined by it.
const PROFILE: &str = "SVCPROXY_TEST_SECCOMP";

/// A process that logs JSON; killed when dropped.
pub(crate) struct Follower {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn start(command: &mut Command) -> Self {
        // Syncs are logged at level debug.
        command.env("SVCPROXY_LOG", "info,svcproxy=debug");
        let child = match env::var_os(PROFILE) {
            None => command.stderr(Stdio::piped()).spawn(),
            Some(profile) => {
                let child = spawn_confined(Path::new(&profile), command);
                return Self::of(child.unwrap());
            }
        };
        Self::of(child.unwrap())
    }

    /// Starts with the system calls of the shipped profile alone.
    pub(crate) fn start_confined(command: &mut Command) -> Self {
        command.env("SVCPROXY_LOG", "info,svcproxy=debug");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let profile = root.join("../../deploy/seccomp/svcproxy.json");
        Self::of(spawn_confined(&profile, command).unwrap())
    }

    fn of(mut child: Child) -> Self {
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let reader = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                    log.lock().unwrap().push(event);
                }
            })
        };
        Self {
            child,
            log,
            reader: Some(reader),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for an event in the log; existing ones count.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            self.log()
                .into_iter()
                .find(&is_it)
                .ok_or_else(|| self.log())
        };
        eventually(PATIENCE, find).unwrap_or_else(|log| panic!("no {what} in {log:#?}"))
    }

    /// The number of syncs.
    pub(crate) fn syncs(&self) -> usize {
        let log = self.log();
        log.iter()
            .filter(|event| event["message"] == "synced")
            .count()
    }

    /// Sends SIGTERM; svcproxy must exit with 0. Returns the whole log.
    pub(crate) fn terminate(mut self) -> Vec<Value> {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
        self.log()
    }

    /// Waits until it exits by itself with 0.
    pub(crate) fn ends(mut self) {
        let ended = || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err("still at work"),
        };
        let status = eventually(PATIENCE, ended).unwrap();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended, however it did.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        // An error means that it is dead already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
