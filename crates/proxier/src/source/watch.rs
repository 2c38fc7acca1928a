//! Follows the changes of files: of edits, of what replaces a file, and of ConfigMap volumes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io, mem};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// How long the files must be quiet before they are read: many changes are one edit.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes may go on before the files are read nevertheless.
const LONGEST_EDIT: Duration = Duration::from_secs(1);
/// How often the files are read where the kernel tells of no changes.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The link of a ConfigMap volume that the kubelet swaps.
const CONFIG_MAP_DATA: &str = "..data";

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("no thread to watch files with")]
pub struct WatchError(#[source] io::Error);

/// Reads files again when they change, until it is dropped.
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

/// Whether an entry of a directory that was given matters, by its name.
type Matters = fn(&Path) -> bool;

impl Watch {
    /// Watches files and directories from a thread of the name `what`, which calls `read` at once
    /// and after each edit of them. Of directories those entries count that `matters` says.
    ///
    /// The directories are watched, not the files: an editor puts a new file in the place of the
    /// old, and a ConfigMap volume swaps the link to all of them. Where the kernel has no watch
    /// left to give, that is logged and the files are read every five seconds.
    ///
    /// Write a new file beside the old and rename it over that: a file that is written in place
    /// may be read when it is half written, if the writer pauses for longer than 0.1 s. Of a link
    /// in a directory to a file elsewhere, changes of the link are seen, not of that file.
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
    /// None where the kernel has none to give.
    watcher: Option<RecommendedWatcher>,
    messages: Sender<Message>,
    /// Whether the log says that there is no watcher.
    polls: bool,
}

impl Follower {
    fn run(mut self, received: &Receiver<Message>, mut read: impl FnMut()) {
        loop {
            // At first, what changed between the reading before and the watch.
            read();
            if !self.next_edit(received) {
                return;
            }
            self.watch();
        }
    }

    /// Watches the directories, anew each time, since one that was replaced is another under the
    /// same name; and before they are read, so that no change falls between.
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

    /// Waits for the end of an edit. False when it is time to stop.
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
        // Without a path it says that events were lost.
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

/// Names of entries which matter whatever they are: all the parts of the given paths, any of which
/// may be replaced, and what links lead to.
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

/// The directories in which a change can be seen: each given directory and each given file's, and
/// for what is not there the nearest that is; where a link leads elsewhere, that place too.
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
            // Gone meanwhile: look again what there is to watch.
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
    fn reading_is_no_change() {
        let access = |kind| Ok(Event::new(EventKind::Access(kind)));
        assert!(!is_change(&access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_change(&access(AccessKind::Close(AccessMode::Read))));
        assert!(is_change(&access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(&Err(notify::Error::generic("events were lost"))));
    }

    #[test]
    fn only_what_was_given_and_what_matters_concerns_us() {
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
