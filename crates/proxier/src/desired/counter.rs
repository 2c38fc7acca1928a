//! Reference counts of things that several Services can need.

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
    /// Adds a reference. True if it is the first one.
    pub(super) fn add(&mut self, item: T) -> bool {
        let count = self.0.entry(item).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Removes a reference. True if it was the last one.
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
