//! Documents that were read before.
//!
//! Parsing YAML is by far the most of the work of a reading, and an edit leaves nearly all
//! documents as they were.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::mem;
use std::sync::Arc;

use super::object::{Key, Object};

/// The objects of documents without any diagnostic, by a keyed hash of their text.
#[derive(Debug, Default)]
pub(super) struct Cache {
    hasher: RandomState,
    /// Of the reading before.
    old: HashMap<u64, Box<[Known]>>,
    /// Of this reading, so far.
    new: HashMap<u64, Box<[Known]>>,
}

/// A good object of a document.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) key: Key,
    pub(super) item: Option<String>,
    pub(super) object: Arc<Object>,
}

impl Cache {
    pub(super) fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    /// The objects of a document, if it was read before.
    pub(super) fn get(&mut self, hash: u64) -> Option<&[Known]> {
        if let Some(known) = self.old.remove(&hash) {
            self.new.insert(hash, known);
        }
        self.new.get(&hash).map(AsRef::as_ref)
    }

    pub(super) fn insert(&mut self, hash: u64, known: impl Iterator<Item = Known>) {
        self.new.insert(hash, known.collect());
    }

    /// Ends a reading, and forgets what was not in it.
    pub(super) fn turn(&mut self) {
        self.old = mem::take(&mut self.new);
    }
}
