//! Services from manifests: YAML or JSON files as people write them and `kubectl get -o yaml`
//! prints them.
//!
//! Services, EndpointSlices, Endpoints, Pods and Nodes are taken, in any number of documents a file
//! and in lists; other kinds are skipped with a note. Where a Service with a selector has neither
//! EndpointSlices nor Endpoints, its slices [follow](super::derive) from the Pods. Each (re-)read
//! looks at every file and swaps the result in as a whole:
//!
//! - an object with an error is refused whole, and its last good version stays in force;
//! - a document that cannot be read at all, or not as far as its name, takes nothing away that
//!   came from its file before; nor does a file or directory that cannot be read;
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
mod fields;
mod files;
mod lines;
mod object;
mod state;

use std::mem;
use std::path::{Path, PathBuf};

use self::cache::Cache;
use self::files::Source;
use self::state::State;
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
    diagnostics: Vec<Diagnostic>,
}

impl Manifests {
    /// Manifests at these paths, not yet read. Of a directory the files `*.yaml`, `*.yml` and
    /// `*.json` are read in the order of their names, but neither hidden ones nor those of
    /// directories within: as `kubectl apply -f` does.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            node: None,
            cache: Cache::default(),
            state: None,
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

    /// Reads every file. What cannot be read is told in the diagnostics, and what was good of it
    /// stays. Documents that are as they were are not parsed again.
    pub fn read(&mut self) -> Reading {
        let sources = files::read(&self.paths, &mut self.cache);
        self.merge(sources)
    }

    /// Reads the files again when they change, from a thread of its own, which calls `deliver` when
    /// a reading differs from the one before, in its changes or its diagnostics; and with the first
    /// of all, where nothing was read before. What counts as a change: see [`Watch::start`].
    ///
    /// # Errors
    ///
    /// [`WatchError`] if the thread cannot be started.
    pub fn watch(
        mut self,
        mut deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Watch, WatchError> {
        let paths = self.paths.clone();
        Watch::start("manifests", paths, files::is_manifest, move || {
            if let Some(reading) = self.read_again() {
                deliver(reading);
            }
        })
    }

    fn merge(&mut self, sources: Vec<Source>) -> Reading {
        let (state, mut diagnostics) = State::merge(self.state.as_ref(), sources);
        let (old, node) = (self.state.as_ref(), self.node.as_deref());
        let changes = state.changes_since(old, node, &mut diagnostics);
        // Stable: those of one object stay in the order of its fields.
        diagnostics.sort_by(|a, b| a.location.cmp(&b.location));
        self.state = Some(state);
        self.diagnostics.clone_from(&diagnostics);
        Reading {
            changes,
            diagnostics,
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

/// Reads one manifest that is in memory already; `file` is its name in the diagnostics.
pub fn parse(file: &Path, text: &str) -> Reading {
    let content = Ok(decode::decode(file, text, &mut Cache::default()));
    Manifests::new([file]).merge(vec![Source {
        path: file.to_owned(),
        content,
    }])
}
