//! What served this node before, and has left something that must go once ours carries the
//! traffic.

use proxier::Proxier;
use proxier::backend::{BackendError, KubeProxy, Removal};
use proxier::data_plane::DataPlane;
use proxier::notice::{Notice, Reason};
use proxier::proxier::{SyncKind, SyncReport};

use crate::commands::chain;
use crate::notices::Notices;

/// One that served this node before.
pub(crate) trait Predecessor {
    /// Its name for people.
    fn name(&self) -> &'static str;

    /// Removes what it left. What cannot be removed now is tried again.
    ///
    /// # Errors
    ///
    /// If it cannot be found out what there is.
    fn remove(&mut self) -> Result<Outcome, BackendError>;
}

/// What became of a removal.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What is gone, in words; none if there was nothing.
    pub(crate) removed: Vec<String>,
    /// What is still there that is to go, with the reason.
    pub(crate) left: Vec<String>,
}

/// Those that may have left something.
pub(crate) struct Predecessors {
    left: Vec<Box<dyn Predecessor>>,
    notices: Notices,
}

impl Predecessors {
    /// All that there may be.
    pub(crate) fn all(notices: Notices) -> Self {
        let left = vec![Box::new(OfKubeProxy) as Box<dyn Predecessor>];
        Self { left, notices }
    }

    /// Takes note of a sync. Once all was in force, what they left is removed; what cannot be is
    /// tried again after the next audit.
    pub(crate) fn follow<B: DataPlane>(&mut self, _: &Proxier<B>, report: &SyncReport<B::Plan>) {
        if report.kind == SyncKind::Full && report.is_success() {
            let notices = &self.notices;
            self.left.retain_mut(|left| !is_gone(&mut **left, notices));
        }
    }

    /// Whether nothing of anyone's is left.
    pub(crate) fn are_gone(&self) -> bool {
        self.left.is_empty()
    }
}

fn is_gone(predecessor: &mut dyn Predecessor, notices: &Notices) -> bool {
    let name = predecessor.name();
    let Outcome { removed, left } = predecessor.remove().unwrap_or_else(|error| Outcome {
        left: vec![chain(&error)],
        ..Outcome::default()
    });
    for (what, reason, words) in [
        (removed, Reason::PredecessorRemoved, "was removed"),
        (left.clone(), Reason::PredecessorLeft, "was not all removed"),
    ] {
        if !what.is_empty() {
            let message = format!("what {name} left {words}: {}", what.join(", "));
            notices.tell(&Notice::of_node(reason, message));
        }
    }
    left.is_empty()
}

/// kube-proxy, in whichever of its modes.
struct OfKubeProxy;

impl Predecessor for OfKubeProxy {
    fn name(&self) -> &'static str {
        "kube-proxy"
    }

    fn remove(&mut self) -> Result<Outcome, BackendError> {
        let Removal {
            removed, failures, ..
        } = KubeProxy::open()?.remove();
        Ok(Outcome {
            removed: removed.words(),
            left: failures.iter().map(|failure| chain(failure)).collect(),
        })
    }
}
