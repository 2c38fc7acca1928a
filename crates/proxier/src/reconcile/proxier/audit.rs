//! Audits: compare the node with the desired state, and repair drift.
//!
//! Listing real servers takes one request per virtual server, so an audit reads them in slices.
//! Every change updates the known state of the node, and a slice compares the kernel with the state
//! known at that moment. So a change between two slices is no drift. Changes that wait for their sync
//! are not looked at: they are no drift either, and their sync is due soon.

use crate::mode::{DataPlane, NodeError, PlanSteps, Reading};
use crate::reconcile::proxier::Attempt;
use crate::reconcile::{Concerned, Proxier, SyncKind, SyncReport};

impl<D: DataPlane> Proxier<D> {
    /// Compares the node with the desired state, and repairs drift.
    ///
    /// A long audit runs in slices: call this again while [`is_auditing`](Self::is_auditing) is
    /// true; changes can be handled between two slices. `None` if a slice found nothing and is not
    /// the last one, and until every kind of object has been listed. The first slice compares
    /// everything else, so it retries everything that failed.
    ///
    /// # Errors
    ///
    /// If the node cannot be read. The audit ends, and the known state of the node is kept.
    pub fn audit(&mut self) -> Result<Option<SyncReport<D::Plan>>, NodeError> {
        let goes_on = self.is_auditing();
        self.audit_from(if goes_on {
            Reading::Slice
        } else {
            Reading::Audit
        })
    }

    /// Whether an audit is under way, which [`audit`](Self::audit) continues.
    pub fn is_auditing(&self) -> bool {
        self.data_plane.status().is_auditing
    }

    pub(super) fn audit_from(
        &mut self,
        reading: Reading,
    ) -> Result<Option<SyncReport<D::Plan>>, NodeError> {
        if !self.is_known() {
            return self.handle([]);
        }
        self.attempt = Attempt::default();
        let mut report = if reading == Reading::Slice {
            self.audit_slice()?
        } else {
            self.begin_audit()?
        };
        if self.is_auditing() {
            report.kind = SyncKind::Slice;
            let is_notable = report.plan.count() > 0 || !report.notices.is_empty();
            return Ok(is_notable.then_some(report));
        }
        (report.kind, report.concerned) = (SyncKind::Full, Concerned::All);
        Ok(Some(report))
    }

    fn begin_audit(&mut self) -> Result<SyncReport<D::Plan>, NodeError> {
        self.data_plane.read(Reading::Audit, &self.desired)?;
        let mut report = self.sync_all();
        // Report repairs before anything else can fail.
        if report.plan.count() == 0 && self.is_auditing() {
            report.append(self.audit_slice()?);
        }
        Ok(report)
    }

    fn audit_slice(&mut self) -> Result<SyncReport<D::Plan>, NodeError> {
        let found = self.data_plane.read(Reading::Slice, &self.desired)?;
        self.touch(found);
        self.sync()
    }
}
