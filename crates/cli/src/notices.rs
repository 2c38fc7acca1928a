//! What an operator must know: told in the log.

use std::sync::Arc;

use proxier::notice::{Notice, Subject};

/// Tells notices. Clones tell as one.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    node: Arc<str>,
}

impl Notices {
    /// Those of the node of this name.
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.into() }
    }

    /// Tells one, each time it is called.
    pub(crate) fn tell(&self, notice: &Notice) {
        let Notice {
            about,
            reason,
            message,
            ..
        } = notice;
        let about = match about {
            Subject::Service(name) => format!("Service {name}"),
            _ => format!("Node {}", self.node),
        };
        if reason.is_warning() {
            tracing::warn!(%reason, "{about}: {message}");
        } else {
            tracing::info!(%reason, "{about}: {message}");
        }
    }
}
