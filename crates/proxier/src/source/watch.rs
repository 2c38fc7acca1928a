//! Follows changes of files: edits, replaced files, and ConfigMap volumes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io, mem};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// How long the files must be quiet before they are read: one edit may consist of many changes.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes may continue before the files are read anyway.
const LONGEST_EDIT: Duration = Duration::from_secs(1);
/// How often the files are read if the kernel cannot watch them.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The link of a ConfigMap volume that the kubelet swaps.
const CONFIG_MAP_DATA: &str = "..data";

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread that watches files")]
pub struct WatchError(#[source] io::Error);

/// Reads files again when they change. Dropping it stops the thread.
#[derive(Debug)]
pub struct Watch {
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Message {
    Changed(notify::Result<Event>),
    Stop,
}

/// Decides by its name whether an entry of a given directory is relevant.
type Matters = fn(&Path) -> bool;

impl Watch {
    /// Watches files and directories from a thread with the name `what`, which calls `read` at once
    /// and after each edit. In directories, only entries for which `matters` is true count.
    ///
    /// It watches the directories, not the files: an editor replaces the old file by a new one, and
    /// a ConfigMap volume swaps the link to all of them. If the kernel has no free watch, it logs
    /// that and reads the files every five seconds.
    ///
    /// To change a file atomically, write a new one beside it and rename it: a file that is written
    /// in place may be read half written, if the writer pauses for longer than 0.1 s. For a link to
    /// a file elsewhere, only changes of the link are noticed, not of that file.
    ///
    /// # Errors
    ///
    /// [`WatchError`] if the thread cannot be started.
    pub fn start(
        what: &'static str,
        paths: Vec<PathBuf>,
        matters: Matters,
        read: impl FnMut() + Send + 'static,
    ) -> Result<Self, WatchError> {
        let (messages, received) = mpsc::channel();
        let mut follower = Follower {
            what,
            paths,
            matters,
            watcher: None,
            messages: messages.clone(),
            polls: false,
        };
        follower.watch();
        let thread = thread::Builder::new()
            .name(what.to_owned())
            .spawn(move || follower.run(&received, read))
            .map_err(WatchError)?;
        Ok(Self {
            messages,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    /// Waits for the thread, so that nothing is read afterwards.
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    what: &'static str,
    paths: Vec<PathBuf>,
    matters: Matters,
    /// None if the kernel has no free watch.
    watcher: Option<RecommendedWatcher>,
    messages: Sender<Message>,
    /// Whether the missing watcher has been logged.
    polls: bool,
}

impl Follower {
    fn run(mut self, received: &Receiver<Message>, mut read: impl FnMut()) {
        loop {
            // The first call covers changes between the previous reading and the start of the
            // watch.
            read();
            if !self.next_edit(received) {
                return;
            }
            self.watch();
        }
    }

    /// Watches the directories. Repeated each time, because a replaced directory is a different one
    /// with the same name; and before they are read, so that no change is missed.
    fn watch(&mut self) {
        match watcher(&self.paths, &self.messages) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.polls = false;
            }
            Err(error) => {
                self.watcher = None;
                if !mem::replace(&mut self.polls, true) {
                    tracing::warn!(
                        %error,
                        "the kernel cannot watch the {} (see fs.inotify.max_user_watches \
                         and max_user_instances): reading them every {} s",
                        self.what,
                        POLL_INTERVAL.as_secs()
                    );
                }
            }
        }
    }

    /// Waits for the end of an edit. False to stop.
    fn next_edit(&self, received: &Receiver<Message>) -> bool {
        if self.watcher.is_none() {
            let message = received.recv_timeout(POLL_INTERVAL);
            return !matches!(message, Ok(Message::Stop));
        }
        let names = names(&self.paths);
        loop {
            match received.recv() {
                Ok(Message::Changed(event)) if self.concerns(&event, &names) => break,
                Ok(Message::Changed(_)) => {}
                Ok(Message::Stop) | Err(_) => return false,
            }
        }
        let latest = Instant::now() + LONGEST_EDIT;
        loop {
            let left = latest.saturating_duration_since(Instant::now());
            match received.recv_timeout(QUIET.min(left)) {
                Ok(Message::Changed(_)) => {}
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn concerns(&self, event: &notify::Result<Event>, names: &BTreeSet<OsString>) -> bool {
        let Ok(event) = event else {
            return true;
        };
        // An event without a path means that events were lost.
        event.paths.is_empty()
            || event.paths.iter().any(|path| {
                (self.matters)(path) || path.file_name().is_some_and(|name| names.contains(name))
            })
    }
}

/// Whether an event may have changed a file. Reading them is an event too.
fn is_change(event: &notify::Result<Event>) -> bool {
    let kind = event.as_ref().map(|event| event.kind);
    !matches!(kind, Ok(EventKind::Access(access))
        if access != AccessKind::Close(AccessMode::Write))
}

/// Names of entries that are always relevant: all components of the given paths, any of which may
/// be replaced, and the targets of links.
fn names(paths: &[PathBuf]) -> BTreeSet<OsString> {
    let parts = paths.iter().flat_map(|path| {
        let target = fs::canonicalize(path).unwrap_or_default();
        let parts = path.components().chain(target.components());
        let name = |part: Component<'_>| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        };
        parts.filter_map(name).collect::<Vec<_>>()
    });
    parts.chain([CONFIG_MAP_DATA.into()]).collect()
}

/// The directories to watch: each given directory, and that of each given file; for a missing one,
/// its nearest existing ancestor; and the directories of link targets.
fn directories(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    let mut directories = BTreeSet::new();
    for path in paths {
        if path.is_dir() {
            directories.extend(canonical(path));
            continue;
        }
        let above = path.ancestors().skip(1).map(|above| match above {
            above if above.as_os_str().is_empty() => Path::new("."),
            above => above,
        });
        directories.extend(above.filter(|above| above.is_dir()).find_map(canonical));
        let target = canonical(path);
        directories.extend(target.and_then(|target| target.parent().map(Path::to_owned)));
    }
    directories
}

fn watcher(paths: &[PathBuf], messages: &Sender<Message>) -> notify::Result<RecommendedWatcher> {
    let (messages, retry) = (messages.clone(), messages);
    let mut watcher = notify::recommended_watcher(move |event| {
        if is_change(&event) {
            let _ = messages.send(Message::Changed(event));
        }
    })?;
    for directory in directories(paths) {
        match watcher.watch(&directory, RecursiveMode::NonRecursive) {
            // It was deleted in the meantime: determine the directories again.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {
                let _ = retry.send(Message::Changed(Err(error)));
            }
            other => other?,
        }
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(path: &str) -> (Follower, Receiver<Message>) {
        let (messages, received) = mpsc::channel();
        let follower = Follower {
            what: "test",
            paths: vec![path.into()],
            matters: |path| {
                path.extension()
                    .is_some_and(|extension| extension == "yaml")
            },
            watcher: None,
            messages,
            polls: true,
        };
        (follower, received)
    }

    #[test]
    fn without_a_watcher_the_files_are_polled() {
        let (follower, received) = follower("");
        assert!(follower.next_edit(&received), "without a message");
        follower.messages.send(Message::Stop).unwrap();
        assert!(!follower.next_edit(&received));
    }

    #[test]
    fn reading_a_file_is_no_change() {
        let access = |kind| Ok(Event::new(EventKind::Access(kind)));
        assert!(!is_change(&access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_change(&access(AccessKind::Close(AccessMode::Read))));
        assert!(is_change(&access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(&Err(notify::Error::generic("events were lost"))));
    }

    #[test]
    fn only_given_paths_and_relevant_entries_count() {
        let (follower, _received) = follower("/etc/svcproxy/config.conf");
        let names = names(&follower.paths);
        let concerned = |path: &str| {
            let event = Event::new(EventKind::Any).add_path(path.into());
            follower.concerns(&Ok(event), &names)
        };
        assert!(concerned("/etc/svcproxy/config.conf"));
        assert!(concerned("/etc/svcproxy/services.yaml"));
        assert!(concerned("/etc/svcproxy/..data"));
        assert!(concerned("/etc/svcproxy"));
        assert!(!concerned("/etc/passwd"));
        assert!(!concerned("/etc/svcproxy/.config.conf.swp"));
        let lost = Ok(Event::new(EventKind::Other));
        assert!(follower.concerns(&lost, &names), "events were lost");
    }
}
