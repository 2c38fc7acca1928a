//! Lets the traffic of modes ipvs and nftables pass iptables' filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipvs::Family;
use proxier::desired::{Config, Marks};
use proxier::mode::NodeError;
use proxier::mode::iptables::{Flavour, Passage, PassageWatch, Transaction};

use crate::args::Mode;
use crate::logging::chain;

/// Keeps rules in iptables' filter. Runs the iptables programs at the start and
/// after a change by another program only.
#[derive(Default)]
pub(crate) struct Passages {
    open: Option<Passage>,
    /// What the rules were written for.
    written_for: Option<Need>,
    /// Whether the rules are as they were written.
    is_unchanged: Arc<AtomicBool>,
    /// What was logged last.
    error: Option<String>,
}

/// What the rules depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    mode: Mode,
    families: [bool; 2],
    marks: Marks,
}

impl Need {
    fn of(mode: Mode, config: &Config) -> Self {
        Self {
            mode,
            families: [Family::V4, Family::V6].map(|family| config.serves(family)),
            marks: config.marks,
        }
    }
}

impl Passages {
    /// Ensures the rules after a full sync or an audit, if the mode needs them. A failure is
    /// logged once, and tried again the next time.
    pub(crate) fn follow(&mut self, mode: Mode, config: &Config) {
        let needs_none = matches!(mode, Mode::Iptables | Mode::Userspace);
        let need = Some(Need::of(mode, config));
        let is_unchanged = self.is_unchanged.swap(true, Ordering::Relaxed);
        if needs_none || is_unchanged && self.written_for == need {
            return;
        }
        let changed = match self.ensure(mode, config) {
            Ok(changed) => {
                self.error = None;
                self.written_for = need;
                changed
            }
            Err(error) => {
                self.is_unchanged.store(false, Ordering::Relaxed);
                let error = chain(&error);
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!(
                        "cannot let Service traffic pass iptables' filter; it is lost where the \
                         policy of INPUT or FORWARD is to drop: {error}"
                    );
                }
                self.error = Some(error);
                return;
            }
        };
        if changed > 0 {
            tracing::info!(tables = changed, "Service traffic passes iptables' filter");
        }
    }

    fn ensure(&mut self, mode: Mode, config: &Config) -> Result<usize, NodeError> {
        let passage = match self.open.take() {
            Some(passage) => passage,
            None => Passage::open()?,
        };
        let passage = self.open.insert(passage);
        passage.ensure(mode.probed(), config)
    }

    /// Calls `drift` soon after another program may have removed the rules.
    pub(crate) fn watch(
        &self,
        mut drift: impl FnMut() + Send + 'static,
    ) -> Result<PassageWatch, NodeError> {
        let is_unchanged = Arc::clone(&self.is_unchanged);
        Passage::watch(move || {
            is_unchanged.store(false, Ordering::Relaxed);
            drift();
        })
    }
}

/// What [`remove`] would do.
pub(crate) fn removals() -> Result<Vec<(Flavour, Transaction)>, NodeError> {
    Passage::open()?.removals()
}

/// Removes the rules. Returns the number of chains.
pub(crate) fn remove() -> Result<usize, NodeError> {
    Passage::open()?.remove()
}
