//! Things that several Services may ask for, and that stay until the last one does not.

use std::hash::Hash;

use foldhash::{HashMap, HashMapExt};

#[derive(Debug, Clone)]
pub(super) struct Counter<T>(HashMap<T, u32>);

impl<T> Default for Counter<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Counter<T> {
    /// Counts one more; true if it is the first.
    pub(super) fn add(&mut self, item: T) -> bool {
        let count = self.0.entry(item).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Counts one less; true if it was the last.
    pub(super) fn remove(&mut self, item: &T) -> bool {
        let Some(count) = self.0.get_mut(item) else {
            return false;
        };
        *count -= 1;
        *count == 0 && self.0.remove(item).is_some()
    }

    pub(super) fn contains(&self, item: &T) -> bool {
        self.0.contains_key(item)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }
}
