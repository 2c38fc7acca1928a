//! Services from manifests: YAML or JSON files as people write them and `kubectl get -o yaml`
//! prints them.
//!
//! Services, EndpointSlices, Endpoints, Pods and Nodes are used, in any number of documents a file,
//! in lists, and as JSON texts one after another; other kinds are skipped with a note. Where a
//! Service with a selector has neither EndpointSlices nor Endpoints, its slices
//! [follow](super::derive) from the Pods. The path `-` is standard input, which is read once. Each
//! reading looks at every file and replaces the one before as a whole:
//!
//! - a port, address or range that is wrong is left out, and the rest of its object is used;
//! - an object with any other error, or of which nothing is left, is rejected, and its last good
//!   version stays in effect;
//! - a document that cannot be parsed, or not as far as its name, removes nothing that came from its
//!   file before; nor does a file or directory that cannot be read;
//! - until each file has been read once, nothing is replaced or removed: what was not read has not
//!   been listed;
//! - of two definitions of one object the first counts, and of two Services that claim one
//!   address and port the one that has it.
//!
//! ```
//! use std::path::Path;
//! use proxier::source::manifest;
//! use proxier::store::Change;
//!
//! let reading = manifest::parse(Path::new("web.yaml"), "
//! apiVersion: v1
//! kind: Service
//! metadata: {name: web}
//! spec:
//!   clusterIP: 10.96.0.80
//!   ports: [{port: 80}]
//! ---
//! apiVersion: v1
//! kind: Service
//! metadata: {name: bad}
//! spec: {clusterIP: 127.0.0.1, ports: [{port: 80}]}
//! ");
//! let Change::ServicesReplaced(services) = &reading.changes[0] else { panic!() };
//! assert_eq!(services[0].name.as_str(), "default/web");
//! assert_eq!(
//!     reading.diagnostics[0].to_string(),
//!     "web.yaml: document 2 (line 12): Service default/bad: spec.clusterIP: \
//!      127.0.0.1 is a loopback address (127.0.0.0/8, ::1)",
//! );
//! ```

mod cache;
mod claims;
mod decode;
mod derived;
mod document;
mod files;
mod lines;
mod object;
mod raw;
mod state;

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::cache::Cache;
use self::files::Source;
use self::state::{Merged, State};
use super::Diagnostic;
pub use super::Reading;
pub use crate::source::watch::{Watch, WatchError};

/// Manifest files and directories, and the last good state of what is in them.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    /// This node's name.
    node: Option<String>,
    cache: Cache,
    /// None before the first read.
    state: Option<State>,
    /// Whether each file could be read once.
    listed: bool,
    diagnostics: Vec<Diagnostic>,
}

impl Manifests {
    /// Manifests at these paths, not yet read. Of a directory the files `*.yaml`, `*.yml`, `*.json`
    /// and `*.jsonl` are read in the order of their names, but neither hidden ones nor those of
    /// directories within: as `kubectl apply -f` does.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            node: None,
            cache: Cache::default(),
            state: None,
            listed: false,
            diagnostics: Vec::new(),
        }
    }

    /// The same, read for the node of this name: its Node becomes
    /// [`Change::NodeReplaced`](crate::store::Change::NodeReplaced).
    pub fn for_node(self, name: impl Into<String>) -> Self {
        Self {
            node: Some(name.into()),
            ..self
        }
    }

    /// Reads every file that has changed. What cannot be read is in the diagnostics, and what was
    /// good of it stays. Documents that are as they were are not parsed again.
    pub fn read(&mut self) -> Reading {
        let sources = files::read(&self.paths, &mut self.cache);
        self.merge(sources)
    }

    /// Reads the files again when they change, from a thread of its own. It calls `deliver` with
    /// each reading that differs from the one before in its changes or its diagnostics, and with
    /// the first one if nothing was read before. What counts as a change: see [`Watch::start`].
    ///
    /// # Errors
    ///
    /// [`WatchError`] if the thread cannot be started.
    pub fn watch(
        mut self,
        mut deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Watch, WatchError> {
        let paths = self.paths.iter().filter(|path| !files::is_stdin(path));
        let paths = paths.cloned().collect();
        Watch::start("manifests", paths, files::is_manifest, move || {
            if let Some(reading) = self.read_again() {
                deliver(reading);
            }
        })
    }

    fn merge(&mut self, sources: Vec<Source>) -> Reading {
        let Merged {
            state,
            mut diagnostics,
            unread,
        } = State::merge(self.state.as_ref(), sources);
        let old = self.state.as_ref().filter(|_| self.listed);
        self.listed |= unread.is_empty();
        let node = self.node.as_deref();
        let changes = state.changes_since(old, self.listed, node, &mut diagnostics);
        // Stable: those of one object stay in the order of its fields.
        diagnostics.sort_by(|a, b| a.location.cmp(&b.location));
        if !self.listed {
            diagnostics.push(not_listed(&unread));
        }
        self.state = Some(state);
        self.diagnostics.clone_from(&diagnostics);
        Reading {
            changes,
            diagnostics,
            ..Reading::default()
        }
    }

    /// Reads every file, and yields what is found if it is not what was found before.
    fn read_again(&mut self) -> Option<Reading> {
        let first = self.state.is_none();
        let before = mem::take(&mut self.diagnostics);
        let reading = self.read();
        let news = first || !reading.changes.is_empty() || reading.diagnostics != before;
        news.then_some(reading)
    }
}

/// What cannot be read has not been listed.
fn not_listed(unread: &[PathBuf]) -> Diagnostic {
    /// Most that are named.
    const NAMED: usize = 5;
    let named = unread
        .iter()
        .take(NAMED)
        .map(|path| path.display().to_string());
    let named: Vec<_> = named.collect();
    let more = match unread.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Diagnostic::error(format_args!(
        "nothing on this node is changed until each manifest has been read once: repair or remove \
         {}{more}",
        named.join(", ")
    ))
}

/// Reads one manifest that is in memory already; `file` is its name in the diagnostics.
pub fn parse(file: &Path, text: &str) -> Reading {
    let (parsed, _) = decode::decode(file, text, &mut Cache::default(), file);
    let mut manifests = Manifests::new([file]);
    // It is all there is, whatever it is.
    manifests.listed = true;
    manifests.merge(vec![Source {
        path: file.to_owned(),
        content: Ok(Arc::new(parsed)),
    }])
}
