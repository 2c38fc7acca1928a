//! The last changes, each with its cause.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// At most so many changes are kept.
const MOST: usize = 200;
/// The longest text of a change or a cause, in bytes: a Service may have thousands of endpoints.
const LONGEST: usize = 400;

/// A change of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recorded {
    pub(crate) time: Timestamp,
    /// Empty if it is not known: what has drained may be of a deleted Service.
    pub(crate) service: String,
    pub(crate) what: String,
    /// The objects that caused it; empty if none did.
    pub(crate) cause: String,
    /// How many steps of the sync failed, of this Service or of others.
    pub(crate) failed_steps: usize,
}

impl Recorded {
    pub(crate) fn now(service: &str, what: String, cause: &str, failed_steps: usize) -> Self {
        Self {
            time: Timestamp::now(),
            service: service.to_owned(),
            what: cut(what),
            cause: cut(cause.to_owned()),
            failed_steps,
        }
    }
}

/// Cuts a text that is too long, between two characters.
fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// The last changes. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<VecDeque<Recorded>>>);

impl History {
    pub(crate) fn add(&self, recorded: Recorded) {
        self.with(|all| {
            if all.len() >= MOST {
                all.pop_front();
            }
            all.push_back(recorded);
        });
    }

    /// The latest ones first, of one Service or of all.
    pub(crate) fn latest(&self, service: Option<&str>, most: usize) -> Vec<Recorded> {
        self.with(|all| {
            let wanted = |of: &&Recorded| service.is_none_or(|name| of.service == name);
            all.iter()
                .rev()
                .filter(wanted)
                .take(most)
                .cloned()
                .collect()
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut VecDeque<Recorded>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_number_and_length() {
        let history = History::default();
        for number in 0..3 * MOST {
            let what = format!("{number} {}", "ü".repeat(LONGEST));
            history.add(Recorded::now(&format!("a/s{}", number % 2), what, "", 0));
        }
        let all = history.latest(None, usize::MAX);
        assert_eq!(all.len(), MOST);
        assert!(
            all.iter()
                .all(|of| of.what.len() <= LONGEST + '…'.len_utf8())
        );
        assert!(all[0].what.starts_with(&format!("{} ", 3 * MOST - 1)));
        let of_one = history.latest(Some("a/s0"), 3);
        assert_eq!(of_one.len(), 3);
        assert!(of_one.iter().all(|of| of.service == "a/s0"));
    }
}
