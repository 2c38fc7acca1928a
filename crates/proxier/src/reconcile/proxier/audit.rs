//! Looking whether the node is still as it was left.
//!
//! To list the real servers takes a request for each virtual server, so that is done a slice at a
//! time. What is known of the node is kept up by every change, and a slice compares the kernel with
//! that: so a change that comes between two slices is no difference.

use crate::mode::{BackendError, DataPlane, PlanSteps, Reading};
use crate::reconcile::{Concerned, Proxier, SyncKind, SyncReport};

impl<D: DataPlane> Proxier<D> {
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
    pub fn audit(&mut self) -> Result<Option<SyncReport<D::Plan>>, BackendError> {
        let goes_on = self.is_auditing();
        self.audit_from(if goes_on {
            Reading::Slice
        } else {
            Reading::Audit
        })
    }

    /// Whether an audit has begun that [`audit`](Self::audit) is to go on with.
    pub fn is_auditing(&self) -> bool {
        self.data_plane.status().is_auditing
    }

    pub(super) fn audit_from(
        &mut self,
        reading: Reading,
    ) -> Result<Option<SyncReport<D::Plan>>, BackendError> {
        if !self.take_in([]) {
            return Ok(None);
        }
        let mut report = if !self.is_known() {
            self.sync()?
        } else if reading == Reading::Slice {
            self.audit_slice()?
        } else {
            self.begin_audit()?
        };
        if self.is_auditing() {
            report.kind = SyncKind::Slice;
            let tells = report.plan.count() > 0 || !report.notices.is_empty();
            return Ok(tells.then_some(report));
        }
        (report.kind, report.concerned) = (SyncKind::Full, Concerned::All);
        Ok(Some(report))
    }

    fn begin_audit(&mut self) -> Result<SyncReport<D::Plan>, BackendError> {
        self.data_plane.read(Reading::Audit, &self.desired)?;
        let mut report = self.sync_all();
        // What was mended is told before anything else can fail.
        if report.plan.count() == 0 && self.is_auditing() {
            report.append(self.audit_slice()?);
        }
        Ok(report)
    }

    fn audit_slice(&mut self) -> Result<SyncReport<D::Plan>, BackendError> {
        let found = self.data_plane.read(Reading::Slice, &self.desired)?;
        self.touch(found);
        self.sync()
    }
}
