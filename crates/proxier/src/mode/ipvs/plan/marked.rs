//! Firewall-mark virtual servers.

use std::mem;
use std::num::NonZeroU32;

use ipvs::{Protocol, VirtualServerKey};

use super::diff::Builder;
use super::forgotten::tagged;
use super::lower::{marked, virtual_server};
use super::{Comment, Element, Purpose, Step};
use crate::desired::{Backend, Frontend, FrontendKey};

impl Builder<'_> {
    /// Plans a firewall-mark virtual server, and the element that gives packets the mark.
    pub(super) fn marked_server(
        &mut self,
        key: FrontendKey,
        purpose: Purpose,
        frontend: Option<&Frontend>,
        comment: impl Fn() -> Comment,
    ) {
        let element = |mark| Element::Mark { key, purpose, mark };
        let there = self.node.elements.mark(key, purpose);
        let wanted = frontend.and_then(|f| Some((f, marked(f, purpose)?)));
        let marks = self.desired.config().marks;
        let masquerade = purpose == Purpose::NodePort;
        // Marks of earlier settings or policies may no longer be in use.
        let is_asked_for = match purpose {
            Purpose::External => frontend.is_some_and(|f| f.external.is_some()),
            _ => frontend.is_some(),
        };
        let kept = there.filter(|mark| is_asked_for && marks.is_number(*mark, masquerade));
        let mark = match (kept, wanted) {
            (None, Some((_, backends))) => {
                let mark = self.adopt(key, masquerade, backends);
                let mark = mark.or_else(|| self.allot(key, masquerade));
                if mark.is_none() {
                    self.unmarked.push(key);
                }
                mark
            }
            (kept, _) => kept,
        };
        if let Some(old) = there.filter(|old| Some(*old) != mark) {
            // Delete the element first, so that no new packet reaches a virtual server that accepts
            // no connections.
            self.open.push(Step::DeleteElement(element(old)));
            let server = VirtualServerKey::firewall_mark(old, key.family());
            // Without its frontend, an address of another node is not captured any more.
            let is_reached = frontend.is_some() || key.is_node_port();
            self.leave(server, key.protocol, is_reached, Some(key));
        }
        let Some(mark) = mark else { return };
        let server = VirtualServerKey::firewall_mark(mark, key.family());
        let after = wanted.map(|(f, backends)| virtual_server(server, f, backends));
        let stays = self.server(key, server, true, after);
        self.element(element(mark), stays, comment);
    }

    /// The mark of a forgotten virtual server that has some of these backends.
    fn adopt(
        &mut self,
        key: FrontendKey,
        masquerade: bool,
        backends: &[Backend],
    ) -> Option<NonZeroU32> {
        let marks = self.desired.config().marks;
        let fits = |server: &VirtualServerKey| match server {
            VirtualServerKey::FirewallMark { mark, family } => {
                *family == key.family() && marks.is_number(*mark, masquerade)
            }
            _ => false,
        };
        match self.forgotten.adopt(key.protocol, backends, fits)? {
            VirtualServerKey::FirewallMark { mark, .. } => Some(mark),
            _ => None,
        }
    }

    /// Drains the virtual servers that no frontend has adopted.
    pub(super) fn leave_forgotten(&mut self) {
        for (server, protocol) in mem::take(&mut self.forgotten).left() {
            self.leave(server, protocol, true, None);
        }
    }

    /// Drains a virtual server whose mark no packet gets any more if its connections are still
    /// `reached` (IPVS knows their packets by address and port), and deletes it otherwise.
    /// Meanwhile its tag records the ownership.
    fn leave(
        &mut self,
        key: VirtualServerKey,
        protocol: Protocol,
        is_reached: bool,
        of: Option<FrontendKey>,
    ) {
        let Some(before) = self.node.virtual_servers.get(&key) else {
            return;
        };
        let is_known = tagged(&before.server) == Some(protocol);
        if is_reached && is_known && self.drains(protocol) && !before.real_servers.is_empty() {
            self.drain(key, before);
        } else {
            self.delete(key, before, of);
        }
    }

    /// Allocates a free mark.
    fn allot(&mut self, key: FrontendKey, masquerade: bool) -> Option<NonZeroU32> {
        let (family, marks) = (key.family(), self.desired.config().marks);
        let used = self.node.elements.marked_count() + self.allotted.len();
        let first = u32::try_from(used).unwrap_or(0).saturating_add(1);
        let is_free = |mark: &NonZeroU32| {
            !self.allotted.contains(&(family, *mark))
                && self.node.elements.marked(family, *mark).is_none()
                && !self
                    .node
                    .virtual_servers
                    .contains_key(&VirtualServerKey::firewall_mark(*mark, family))
                && !self.node.foreign_marks.contains(mark)
        };
        let up = (first..).map_while(|n| marks.number(n, masquerade));
        let below = (1..first).map_while(|n| marks.number(n, masquerade));
        let mark = up.chain(below).find(is_free)?;
        self.allotted.insert((family, mark));
        Some(mark)
    }
}
