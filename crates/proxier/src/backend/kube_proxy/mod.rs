//! Removing what kube-proxy left on the node, of the network namespace that the process is in.

mod nftables;

use std::io;

use super::BackendError;
use super::nfnetlink::socket::Socket;

/// What kube-proxy left on a node.
///
/// ```no_run
/// use proxier::backend::KubeProxy;
///
/// let removal = KubeProxy::open()?.remove();
/// println!("{} tables", removal.removed.nftables_tables);
/// # Ok::<(), proxier::backend::BackendError>(())
/// ```
#[derive(Debug)]
pub struct KubeProxy {
    netfilter: Socket,
}

/// What a removal did.
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "something may be left"]
pub struct Removal {
    /// What is gone.
    pub removed: Removed,
    /// What could not be removed, and why.
    pub failures: Vec<BackendError>,
}

/// How much of kube-proxy's is gone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Tables of its nftables mode.
    pub nftables_tables: usize,
}

impl Removal {
    /// Whether nothing of kube-proxy's is left that is to be removed.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Removed {
    /// In words, what there was none of left out.
    pub fn words(&self) -> Vec<String> {
        let counts = [(self.nftables_tables, "nftables tables")];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}"))
            .collect()
    }
}

impl KubeProxy {
    /// Opens what it needs, and changes nothing.
    ///
    /// # Errors
    ///
    /// Lack of privileges.
    pub fn open() -> Result<Self, BackendError> {
        let netfilter = Socket::open().map_err(packet_filter("open nftables"))?;
        Ok(Self { netfilter })
    }

    /// Finds what kube-proxy left, and removes it.
    pub fn remove(&mut self) -> Removal {
        let mut removal = Removal::default();
        if let Err(error) = self.nftables_tables(&mut removal.removed) {
            removal.failures.push(error);
        }
        removal
    }

    fn nftables_tables(&mut self, removed: &mut Removed) -> Result<(), BackendError> {
        let families = nftables::tables(&mut self.netfilter);
        let families = families.map_err(packet_filter("list tables"))?;
        if families.is_empty() {
            return Ok(());
        }
        nftables::delete_tables(&mut self.netfilter, &families)
            .map_err(packet_filter("delete kube-proxy's tables"))?;
        removed.nftables_tables += families.len();
        Ok(())
    }
}

fn packet_filter(operation: &'static str) -> impl Fn(io::Error) -> BackendError {
    move |source| BackendError::PacketFilter { operation, source }
}
