//! The source of Services in manifests: YAML or JSON files, hand-written or from `kubectl get -o
//! yaml`.
//!
//! It uses Services, EndpointSlices, Endpoints, Pods and Nodes. A file may contain any number of
//! documents, lists, and consecutive JSON texts; other kinds are skipped with a note. For a Service
//! with a selector and without EndpointSlices and Endpoints, it [derives](super::derive) slices
//! from the Pods. The path `-` is standard input, which is read once. Each reading covers every
//! file and replaces the previous one:
//!
//! - an invalid port, address or range is left out, and the rest of its object is used;
//! - an object with any other error, or without any valid part, is rejected, and its last good
//!   version stays in effect;
//! - a document that cannot be parsed, or whose object has no readable name, removes nothing that
//!   came from its file before, and neither does an unreadable file or directory;
//! - until each file has been read once, nothing is replaced or removed: an unread file counts as
//!   not listed;
//! - if an object is defined twice, the first definition counts; if two Services claim one address
//!   and port, the one that already has it keeps it.
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

mod decode;
mod derived;
mod document;
mod files;
mod lines;
mod object;
mod parsed;
mod state;

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::files::Source;
use self::parsed::Cache;
use self::state::{LastGood, Merged};
pub use super::Reading;
use super::{Diagnostic, Extent};
pub use crate::source::watch::{Watch, WatchError};

/// Manifest files and directories, and the last good state of their objects.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    /// This node's name.
    node: Option<String>,
    cache: Cache,
    /// None before the first read.
    state: Option<LastGood>,
    /// Whether each file has been read once.
    listed: bool,
    diagnostics: Vec<Diagnostic>,
}

impl Manifests {
    /// Manifests at these paths, not read yet. In a directory, the files `*.yaml`, `*.yml`,
    /// `*.json` and `*.jsonl` are read in the order of their names, without hidden ones and
    /// subdirectories, as `kubectl apply -f` does.
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

    /// The paths.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Sets the name of this node: its Node becomes
    /// [`Change::NodeReplaced`](crate::store::Change::NodeReplaced).
    pub fn for_node(self, name: impl Into<String>) -> Self {
        Self {
            node: Some(name.into()),
            ..self
        }
    }

    /// Sets the objects that are read. Call it before the first reading.
    #[must_use]
    pub fn extent(mut self, extent: Extent) -> Self {
        self.cache.extent = extent;
        self
    }

    /// Reads every changed file. Errors are in the diagnostics, and the last good versions stay.
    /// Unchanged documents are not parsed again.
    pub fn read(&mut self) -> Reading {
        let sources = files::read(&self.paths, &mut self.cache);
        self.merge(sources)
    }

    /// Reads the files again when they change, from a separate thread. Calls `deliver` with each
    /// reading whose changes or diagnostics differ from the previous one, and with the first one if
    /// nothing was read before. [`Watch::start`] describes what counts as a change.
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
        } = LastGood::merge(self.state.as_ref(), sources);
        let old = self.state.as_ref().filter(|_| self.listed);
        self.listed |= unread.is_empty();
        let node = self.node.as_deref();
        let changes = state.changes_since(old, self.listed, node, &mut diagnostics);
        // A stable sort: diagnostics of one object stay in the order of its fields.
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

    /// Reads every file. Returns the reading if it differs from the previous one.
    fn read_again(&mut self) -> Option<Reading> {
        let first = self.state.is_none();
        let before = mem::take(&mut self.diagnostics);
        let reading = self.read();
        let news = first || !reading.changes.is_empty() || reading.diagnostics != before;
        news.then_some(reading)
    }
}

/// The diagnostic for manifests that have not been read yet.
fn not_listed(unread: &[PathBuf]) -> Diagnostic {
    /// Maximum number of named files.
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

/// Parses one manifest in memory; `file` is its name in diagnostics.
pub fn parse(file: &Path, text: &str) -> Reading {
    let (parsed, _) = decode::decode(file, text, &mut Cache::default(), file);
    let mut manifests = Manifests::new([file]);
    // There are no other files to wait for.
    manifests.listed = true;
    manifests.merge(vec![Source {
        path: file.to_owned(),
        content: Ok(Arc::new(parsed)),
    }])
}
