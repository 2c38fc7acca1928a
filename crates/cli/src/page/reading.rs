//! Readings of the kernel for the page: one at a time, and shared by requests that come together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::args::Mode;
use crate::inventory::{self, Inventory, Proxied, Wanted};
use crate::load::Loads;

/// For so long, requests for the same Services share a reading.
const SHARED: Duration = Duration::from_secs(1);
/// So many readings are kept, to count rates between two.
const MOST: usize = 16;
/// An older reading says nothing about the rates of now.
const STALE: Duration = Duration::from_secs(60);

/// What the kernel had at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    /// What was read: a Service, or the query of a list.
    about: String,
    at: Instant,
    pub(super) inventory: Inventory,
    pub(super) loads: Loads,
    /// Whether [`loads`](Self::loads) has rates, in a mode that counts: the kernel has averages, or there
    /// was an earlier reading.
    pub(super) has_rates: bool,
}

impl Reading {
    pub(super) fn new(
        about: &str,
        at: Instant,
        inventory: Inventory,
        loads: Loads,
        has_rates: bool,
    ) -> Self {
        Self {
            about: about.to_owned(),
            at,
            inventory,
            loads,
            has_rates,
        }
    }
}

/// Reads the kernel.
#[derive(Debug, Default)]
pub(super) struct Reader(Mutex<VecDeque<Arc<Reading>>>);

impl Reader {
    /// Reads the Services that are wanted; `about` identifies them. `page` is what the proxy of mode
    /// userspace serves.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be read.
    pub(super) fn read(
        &self,
        about: &str,
        mode: Mode,
        page: impl FnOnce() -> Option<Vec<Proxied>>,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Arc<Reading>> {
        // Held while the kernel is read: many requests cost as much as one.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.iter().rev().find(|of| of.about == about);
        let before = before.filter(|of| of.at.elapsed() < STALE).cloned();
        if let Some(last) = before.as_ref().filter(|of| of.at.elapsed() < SHARED) {
            return Ok(Arc::clone(last));
        }
        let (_, inventory) = inventory::read_with(Some(mode), page, wanted)?;
        let at = Instant::now();
        let since = before.as_ref().map(|before| {
            let seconds = at.saturating_duration_since(before.at).as_secs_f64();
            (&before.loads, seconds)
        });
        let loads = Loads::new(&inventory, since);
        let has_rates = mode == Mode::Ipvs || since.is_some();
        let reading = Arc::new(Reading::new(about, at, inventory, loads, has_rates));
        kept.retain(|of| of.about != about && of.at.elapsed() < STALE);
        if kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&reading));
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mode whose state is given, so that nothing is read.
    fn read(reader: &Reader, about: &str) -> Arc<Reading> {
        let page = || Some(Vec::new());
        reader
            .read(about, Mode::Userspace, page, &Wanted::ALL)
            .unwrap()
    }

    #[test]
    fn requests_that_come_together_share_a_reading() {
        let reader = Reader::default();
        let first = read(&reader, "?");
        assert!(!first.has_rates);
        assert!(Arc::ptr_eq(&first, &read(&reader, "?")));
        assert!(!Arc::ptr_eq(&first, &read(&reader, "?q=web")));
        let nothing = reader.read("default/web", Mode::Userspace, || None, &Wanted::ALL);
        assert!(nothing.is_err());
    }

    #[test]
    fn few_readings_are_kept() {
        let reader = Reader::default();
        for number in 0..5 * MOST {
            read(&reader, &number.to_string());
        }
        assert_eq!(reader.0.lock().unwrap().len(), MOST);
    }
}
