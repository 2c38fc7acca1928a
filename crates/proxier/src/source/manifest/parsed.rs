//! The parsed content of a file, and the results of the previous reading.
//!
//! Parsing is by far the most work of a reading. An edit leaves nearly all files unchanged, and
//! nearly all documents of the changed file.

use std::collections::HashMap;
use std::fs::Metadata;
use std::hash::{BuildHasher as _, RandomState};
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::convert::Ingested;
use super::super::{Diagnostic, Extent, Location};
use super::object::{Key, Object};

/// Maximum number of errors, and of notes, that are reported per file.
const MAX_REPORTED: usize = 1000;

/// The objects of documents without diagnostics, by a keyed hash of their text.
pub(super) type Documents = HashMap<u64, Box<[Known]>>;

/// A valid object of a document.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) key: Key,
    pub(super) item: Option<String>,
    pub(super) object: Arc<Object>,
}

/// An object that a document defines.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    pub(super) key: Key,
    pub(super) location: Location,
    pub(super) outcome: Ingested<Arc<Object>>,
}

impl Definition {
    /// The part that can be reused when the same document is read again.
    pub(super) fn known(&self) -> Option<Known> {
        let Ingested::Good(object) = &self.outcome else {
            return None;
        };
        Some(Known {
            key: self.key.clone(),
            item: self.location.item.clone(),
            object: object.clone(),
        })
    }
}

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) definitions: Vec<Definition>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// A part of the file is so broken that its object cannot be identified.
    pub(super) unattributed: bool,
    /// A part of the file could not be read as an object.
    pub(super) unread: bool,
    /// The number of errors without the limit.
    pub(super) errors: usize,
    pub(super) notes: usize,
}

impl Parsed {
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        let count = if diagnostic.is_error() {
            &mut self.errors
        } else {
            &mut self.notes
        };
        *count += 1;
        if *count <= MAX_REPORTED {
            self.diagnostics.push(diagnostic);
        } else if *count == MAX_REPORTED + 1 {
            self.diagnostics.push(Diagnostic {
                object: None,
                field: None,
                message: "more like this in the rest of the file".to_owned(),
                ..diagnostic
            });
        }
    }

    /// The diagnostics after the first `before` ones.
    pub(super) fn since(&mut self, before: usize) -> &mut [Diagnostic] {
        self.diagnostics.get_mut(before..).unwrap_or_default()
    }
}

/// How long a file must have been unchanged for its [`Stamp`] to be trusted. Two writes within one
/// tick of the kernel's clock get the same time (4 ms, or seconds on some file systems).
const SETTLED: Duration = Duration::from_secs(2);

/// The results, by file.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The objects to keep.
    pub(super) extent: Extent,
    hasher: RandomState,
    /// Results of the previous reading.
    old: HashMap<PathBuf, File>,
    /// Results of the current reading, so far.
    new: HashMap<PathBuf, File>,
}

/// The result of reading a file.
#[derive(Debug)]
pub(super) struct File {
    /// None if the file may change without a new stamp.
    pub(super) stamp: Option<Stamp>,
    pub(super) parsed: Arc<Parsed>,
    pub(super) documents: Documents,
}

/// Distinguishes versions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// None if the file changed so recently that another change may get the same stamp.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(changed.0).ok()?);
        let age = SystemTime::now().duration_since(at).ok()?;
        // The fraction of the second is left out of `at`.
        (age > SETTLED + Duration::from_secs(1)).then_some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
        })
    }
}

impl Cache {
    pub(super) fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    /// The previous result of a file.
    pub(super) fn file(&self, path: &Path) -> Option<&File> {
        self.new.get(path).or_else(|| self.old.get(path))
    }

    /// Removes and returns the documents of the file's last reading.
    pub(super) fn take_documents(&mut self, path: &Path) -> Documents {
        let file = self.old.get_mut(path);
        file.map(|file| mem::take(&mut file.documents))
            .unwrap_or_default()
    }

    /// Keeps a file for the next reading.
    pub(super) fn insert(&mut self, path: &Path, file: File) {
        self.new.insert(path.to_owned(), file);
    }

    /// Keeps the result of an unchanged file.
    pub(super) fn keep(&mut self, path: &Path) {
        if let Some((path, file)) = self.old.remove_entry(path) {
            self.new.insert(path, file);
        }
    }

    /// Ends a reading, and drops files that were not in it.
    pub(super) fn turn(&mut self) {
        self.old = mem::take(&mut self.new);
    }
}
