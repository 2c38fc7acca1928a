//! What the program does, a file a command.

mod check;
mod cleanup;
pub(crate) mod plan;
mod run;
mod status;

pub(crate) use check::check;
pub(crate) use cleanup::cleanup;
pub(crate) use plan::plan;
pub(crate) use run::run;
pub(crate) use status::status;

use std::error::Error;
use std::iter;

use proxier::mode::ApplyReport;
use proxier::mode::PlanSteps;
use proxier::source::Diagnostic;

/// Logs what a reading of the manifests has to say.
fn log_diagnostics(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        if diagnostic.is_error() {
            tracing::error!("{diagnostic}");
        } else if diagnostic.location.is_none() {
            // Said again at each change of the object; what matters is a notice.
            tracing::debug!("{diagnostic}");
        } else {
            tracing::info!("{diagnostic}");
        }
    }
}

/// Logs the steps that failed.
fn log_failures(plan: &impl PlanSteps, applied: &ApplyReport) {
    for failure in &applied.failures {
        let step = plan.step(failure.step).unwrap_or_default();
        let error = chain(&failure.error);
        // IPVS's own errors name the step.
        if error.starts_with(&step) {
            tracing::error!("{error}");
        } else {
            tracing::error!("{step}: {error}");
        }
    }
    // What matters is a notice.
    for refused in &applied.refused {
        tracing::debug!("left out: {}", chain(&refused.error));
    }
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let errors = iter::successors(Some(error), |error| (*error).source());
    errors
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
