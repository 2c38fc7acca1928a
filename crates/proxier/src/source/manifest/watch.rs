//! Follows the files' changes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, PollWatcher, RecommendedWatcher, RecursiveMode, Watcher};

use super::{Manifests, Reading, files};

/// How long the files must be quiet before they are read: many changes are one edit.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes may go on before the files are read nevertheless.
const LONGEST_EDIT: Duration = Duration::from_secs(1);
/// Where the kernel tells of no changes.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The link of a ConfigMap volume that the kubelet swaps.
const CONFIG_MAP_DATA: &str = "..data";

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("no thread to watch the manifests with")]
pub struct WatchError(#[source] io::Error);

/// Reads manifests again when they change, until it is dropped.
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

impl Manifests {
    /// Watches the files from a thread of its own, which calls `deliver` when a reading differs
    /// from the one before, in its changes or its diagnostics; and with the first of all, where
    /// nothing was read before.
    ///
    /// The directories are watched, not the files: an editor puts a new file in the place of the
    /// old, and a ConfigMap volume swaps the link to all of them. Where the kernel has no watch
    /// left to give, that is logged and the files are looked at every five seconds.
    ///
    /// Write a new file beside the old and rename it over that: a file that is written in place
    /// may be read when it is half written, if the writer pauses for longer than 0.1 s. Of a link
    /// in a directory to a file elsewhere, changes of the link are seen, not of that file.
    ///
    /// # Errors
    ///
    /// [`WatchError`] if the thread cannot be started.
    pub fn watch(self, deliver: impl FnMut(Reading) + Send + 'static) -> Result<Watch, WatchError> {
        let (messages, received) = mpsc::channel();
        let follower = Follower {
            watcher: watcher(&self.paths, &messages),
            messages: messages.clone(),
            manifests: self,
        };
        let thread = thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || follower.run(&received, deliver))
            .map_err(WatchError)?;
        Ok(Watch {
            messages,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    /// Waits for the thread, so that nothing is delivered afterwards.
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    manifests: Manifests,
    watcher: Box<dyn Watcher + Send>,
    messages: Sender<Message>,
}

impl Follower {
    fn run(mut self, received: &Receiver<Message>, mut deliver: impl FnMut(Reading)) {
        // What changed between the first reading and the watch.
        loop {
            if let Some(reading) = self.manifests.read_again() {
                deliver(reading);
            }
            if !self.next_edit(received) {
                return;
            }
            // Made anew, since a directory that was replaced is another one under the same name;
            // and made first, so that no change falls between the reading and the watch.
            self.watcher = watcher(&self.manifests.paths, &self.messages);
        }
    }

    /// Waits for the end of an edit. False when it is time to stop.
    fn next_edit(&self, received: &Receiver<Message>) -> bool {
        let names = names(&self.manifests.paths);
        loop {
            match received.recv() {
                Ok(Message::Changed(event)) if concerns(&event, &names) => break,
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
}

/// Whether an event may have changed a manifest. Reading them is an event too.
fn is_change(event: &notify::Result<Event>) -> bool {
    let kind = event.as_ref().map(|event| event.kind);
    !matches!(kind, Ok(EventKind::Access(access))
        if access != AccessKind::Close(AccessMode::Write))
}

fn concerns(event: &notify::Result<Event>, names: &BTreeSet<OsString>) -> bool {
    let Ok(event) = event else {
        return true;
    };
    // Without a path it says that events were lost.
    event.paths.is_empty()
        || event.paths.iter().any(|path| {
            files::is_manifest(path) || path.file_name().is_some_and(|name| names.contains(name))
        })
}

/// Names of entries which matter although they are no manifests' names: all the parts of the
/// given paths, any of which may be replaced, and what links lead to.
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

fn watcher(paths: &[PathBuf], messages: &Sender<Message>) -> Box<dyn Watcher + Send> {
    match watching::<RecommendedWatcher>(paths, messages) {
        Ok(watcher) => return Box::new(watcher),
        Err(error) => tracing::warn!(
            %error,
            "the kernel cannot watch the manifests (see fs.inotify.max_user_watches and \
             max_user_instances): looking every {} s",
            POLL_INTERVAL.as_secs()
        ),
    }
    match watching::<PollWatcher>(paths, messages) {
        Ok(watcher) => Box::new(watcher),
        Err(error) => {
            tracing::error!(%error, "changes of the manifests go unseen");
            Box::new(notify::NullWatcher)
        }
    }
}

fn watching<W: Watcher>(paths: &[PathBuf], messages: &Sender<Message>) -> notify::Result<W> {
    let (messages, retry) = (messages.clone(), messages);
    let handler = move |event| {
        if is_change(&event) {
            let _ = messages.send(Message::Changed(event));
        }
    };
    let config = Config::default().with_poll_interval(POLL_INTERVAL);
    let mut watcher = W::new(handler, config)?;
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
