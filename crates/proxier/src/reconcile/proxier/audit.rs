//! Looking whether the node is still as it was left.
//!
//! To list the real servers takes a request for each virtual server, so that is done a slice at a
//! time. What is known of the node is kept up by every change, and a slice compares the kernel with
//! that: so a change that comes between two slices is no difference.

use crate::desired::Touched;
use crate::mode::BackendError;
use crate::mode::ipvs::plan::Scope;
use crate::mode::{DataPlane, PlanSteps};
use crate::reconcile::{Concerned, Proxier, SyncKind, SyncReport};

type Synced<P> = Result<SyncReport<P>, BackendError>;

impl<B: DataPlane> Proxier<B> {
    /// Of so many virtual servers the real servers are read in one go.
    pub const AUDIT_SLICE: usize = 64;

    /// Looks whether the node is still as it was left, and mends what differs.
    ///
    /// Where that takes long it is done in slices: as long as [`is_auditing`](Self::is_auditing)
    /// says so, this is to be called again, and changes can be handled in between. `None` if a
    /// slice has found nothing and is not the last, and as long as not every kind of object has
    /// been listed. Its first slice compares everything, so it tries again all that failed.
    ///
    /// # Errors
    ///
    /// If the node cannot be read. The audit has ended then, and what is known of the node stays.
    pub fn audit(&mut self) -> Result<Option<SyncReport<B::Plan>>, BackendError> {
        if !self.take_in([]) {
            return Ok(None);
        }
        let mut report = match self.node.take() {
            None => self.sync()?,
            Some(node) if self.is_auditing() => self.audit_slice(node)?,
            Some(node) => self.begin_audit(node)?,
        };
        if self.is_auditing() {
            report.kind = SyncKind::Slice;
            let tells = report.plan.count() > 0 || !report.notices.is_empty();
            return Ok(tells.then_some(report));
        }
        self.unread = Vec::new();
        (report.kind, report.concerned) = (SyncKind::Full, Concerned::All);
        Ok(Some(report))
    }

    /// Whether an audit has begun that [`audit`](Self::audit) is to go on with.
    pub fn is_auditing(&self) -> bool {
        !self.unread.is_empty()
    }

    fn begin_audit(&mut self, mut node: B::Node) -> Synced<B::Plan> {
        let (desired, memory) = (&self.desired, &mut self.memory);
        let begun = self.backend.begin_audit(desired, &mut node, memory);
        match begun {
            Ok(unread) => self.unread = unread,
            Err(error) => {
                // Nothing was learned; what was known stands.
                self.node = Some(node);
                return Err(error);
            }
        }
        self.attempt.tried.extend(Scope::Full);
        self.touched = Touched::default();
        let plan = B::plan(desired, &node, Scope::Full, memory);
        let mut report = self.apply(SyncKind::Full, plan, node, Concerned::All);
        // What was mended is told before anything else can fail.
        if report.plan.count() == 0
            && self.is_auditing()
            && let Some(node) = self.node.take()
        {
            report.append(self.audit_slice(node)?);
        }
        Ok(report)
    }

    fn audit_slice(&mut self, mut node: B::Node) -> Synced<B::Plan> {
        let rest = self.unread.len().saturating_sub(Self::AUDIT_SLICE);
        let slice = self.unread.split_off(rest);
        let found = self.backend.audit(&mut node, &slice, &mut self.memory);
        self.node = Some(node);
        match found {
            Ok(found) => {
                self.touch(found);
                self.sync()
            }
            Err(error) => {
                self.unread.clear();
                Err(error)
            }
        }
    }
}
