//! Removes what an earlier proxy (kube-proxy, or svcproxy's other mode) left on this node, once the
//! current mode is in effect.

pub(crate) mod other_mode;

use std::time::Instant;

use ipnet::IpNet;
use ipvs::VirtualServerKey;
use proxier::Proxier;
use proxier::desired::{FrontendKey, Need};
use proxier::mode::DataPlane;
use proxier::mode::NodeError;
use proxier::notice::{Notice, Reason};
use proxier::reconcile::{SyncKind, SyncReport};
use proxier::takeover::{KubeProxy, NewProxy};

use crate::args::Mode;
use crate::logging::chain;
use crate::notices::Notices;
use other_mode::is_without_netfilter;

/// A proxy that ran on this node before.
pub(crate) trait EarlierProxy {
    /// The name, for messages.
    fn name(&self) -> &'static str;

    /// Removes what the proxy left. What cannot be removed now is tried again.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    fn remove(&mut self, new_proxy: &NewProxy<'_>) -> Result<Removal, NodeError>;

    /// Checks what has been draining since [`remove`](Self::remove), and removes it if its connections
    /// have ended.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    fn look(&mut self) -> Result<Removal, NodeError> {
        Ok(Removal::default())
    }
}

/// The result of a removal.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// What was removed, as text.
    pub(crate) removed: Option<String>,
    /// What other programs use, and so stays.
    pub(crate) in_use: Vec<String>,
    /// What could not be removed yet, with the reason.
    pub(crate) left: Vec<String>,
    /// Whether the rest drains; call [`look`](EarlierProxy::look) until it has.
    pub(crate) is_draining: bool,
}

impl Removal {
    fn draining() -> Self {
        Self {
            is_draining: true,
            ..Self::default()
        }
    }
}

/// The proxies that may have left something.
pub(crate) struct EarlierProxies {
    left: Vec<Left>,
    notices: Notices,
    /// The mode in effect runs without the privileges to look for them, too.
    may_be_unprivileged: bool,
}

/// One proxy, and the last report about it.
struct Left {
    earlier_proxy: Box<dyn EarlierProxy>,
    is_draining: bool,
    /// svcproxy has not the privileges to look. It will not get them while it runs.
    is_forbidden: bool,
    reported: Vec<Notice>,
}

impl EarlierProxies {
    /// Creates the list of these proxies, for a mode that takes their place.
    pub(crate) fn new(
        all: impl IntoIterator<Item = Box<dyn EarlierProxy>>,
        mode: Mode,
        notices: Notices,
    ) -> Self {
        let left = all.into_iter().map(|earlier_proxy| Left {
            earlier_proxy,
            is_draining: false,
            is_forbidden: false,
            reported: Vec::new(),
        });
        Self {
            left: left.collect(),
            notices,
            may_be_unprivileged: mode == Mode::Userspace,
        }
    }

    /// Called after each sync. After the first one in which nothing failed, removes what the proxies
    /// left; retries failures after the next audit. A Service that the kernel refuses for good does not
    /// keep the old rules of all others in effect.
    pub(crate) fn follow<B: DataPlane>(
        &mut self,
        proxier: &Proxier<B>,
        report: &SyncReport<B::Plan>,
    ) {
        if self.left.is_empty() || report.kind != SyncKind::Full || !report.is_success() {
            return;
        }
        let desired = proxier.desired();
        let config = desired.config();
        let has_node_port = |key: &FrontendKey| desired.frontend(key).is_some();
        let has = |key: &VirtualServerKey| proxier.has_virtual_server(key);
        // Virtual servers exist only together with local routes.
        let mut local = Vec::new();
        if proxier.servers().is_some() {
            local.extend(&config.service_cidrs);
            local.extend(desired.all_needs().filter_map(|need| match need {
                Need::Route(vip) => Some(IpNet::from(*vip)),
                _ => None,
            }));
        }
        let new_proxy = NewProxy::new(&has, &has_node_port)
            .excluding(&config.exclude_cidrs)
            .with_local(&local)
            .draining(config.drain_timeout);
        let (notices, may_be_unprivileged) = (&self.notices, self.may_be_unprivileged);
        let mut forbidden = Vec::new();
        self.left.retain_mut(|left| {
            if left.is_forbidden {
                return true;
            }
            let outcome = left.earlier_proxy.remove(&new_proxy);
            // Whether there is anything is not known: no condition.
            let is_denied = |error: &NodeError| may_be_unprivileged && error.is_permission_denied();
            if outcome.as_ref().is_err_and(is_denied) {
                left.is_forbidden = true;
                forbidden.push(left.earlier_proxy.name());
                return true;
            }
            !left.is_gone(outcome, notices)
        });
        if !forbidden.is_empty() {
            tracing::warn!(
                "cannot check whether {} left something on this node: svcproxy lacks CAP_NET_ADMIN. Rules \
                 of theirs would get packets before svcproxy does; remove them as root if they ran here",
                forbidden.join(", ")
            );
        }
    }

    /// Checks what drains.
    pub(crate) fn look(&mut self) {
        let notices = &self.notices;
        self.left.retain_mut(|left| {
            if !left.is_draining {
                return true;
            }
            let outcome = left.earlier_proxy.look();
            !left.is_gone(outcome, notices)
        });
    }

    /// Whether anything drains.
    pub(crate) fn are_draining(&self) -> bool {
        self.left.iter().any(|left| left.is_draining)
    }

    /// Whether nothing is left of any of them.
    pub(crate) fn are_gone(&self) -> bool {
        self.left.is_empty()
    }
}

impl Left {
    /// Reports the result of a removal; returns whether nothing is left. An unchanged result is not
    /// reported again.
    fn is_gone(&mut self, outcome: Result<Removal, NodeError>, notices: &Notices) -> bool {
        let name = self.earlier_proxy.name();
        let outcome = outcome.unwrap_or_else(|error| Removal {
            left: vec![chain(&error)],
            ..Removal::default()
        });
        if let Some(removed) = outcome.removed {
            let message = format!("removed what {name} left: {removed}");
            notices.send(&Notice::of_node(Reason::PredecessorRemoved, message));
        }
        let some = [
            (&outcome.in_use, "is used by other programs and stays"),
            (
                &outcome.left,
                "could not be removed, retrying after the next audit",
            ),
        ];
        let some = some.into_iter().filter(|(what, _)| !what.is_empty());
        let some = some.map(|(what, why)| {
            let message = format!("some of what {name} left {why}: {}", what.join("; "));
            Notice::of_node(Reason::PredecessorLeft, message)
        });
        let some: Vec<_> = some.collect();
        for notice in some.iter().filter(|notice| !self.reported.contains(notice)) {
            notices.send(notice);
        }
        self.reported = some;
        self.is_draining = outcome.is_draining;
        outcome.left.is_empty() && !outcome.is_draining
    }
}

/// kube-proxy, in any of its modes.
#[derive(Default)]
pub(crate) struct OfKubeProxy(Option<KubeProxy>);

impl EarlierProxy for OfKubeProxy {
    fn name(&self) -> &'static str {
        "kube-proxy"
    }

    fn remove(&mut self, new_proxy: &NewProxy<'_>) -> Result<Removal, NodeError> {
        let kube_proxy = match &mut self.0 {
            Some(kube_proxy) => kube_proxy,
            unopened => match KubeProxy::open() {
                Err(error) if is_without_netfilter(&error) => return Ok(Removal::default()),
                opened => unopened.insert(opened?),
            },
        };
        let mut removal = kube_proxy.remove(new_proxy, Instant::now());
        let mut failures = removal.failures.iter();
        let is_denied = removal.removed.is_empty() && failures.all(NodeError::is_permission_denied);
        if let (true, Some(denied)) = (is_denied, removal.failures.pop()) {
            return Err(denied);
        }
        let failures = removal.failures.iter().map(|failure| chain(failure));
        let draining = removal.draining.iter();
        let draining = draining.map(|key| format!("{key} still carries connections"));
        let connected = removal.connected.iter();
        let connected = connected.map(|ip| format!("{ip} is the source of a connection"));
        let in_use = removal.in_use.iter();
        let removed = Some(removal.removed).filter(|removed| !removed.is_empty());
        Ok(Removal {
            removed: removed.map(|removed| removed.to_string()),
            in_use: in_use.cloned().collect(),
            left: failures.chain(draining).chain(connected).collect(),
            is_draining: false,
        })
    }
}
