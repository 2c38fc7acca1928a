//! The commands, one file each.

mod check;
mod cleanup;
mod completion;
mod describe;
mod env;
mod explain;
mod man;
mod migrate;
pub(crate) mod plan;
mod proxy;
mod run;
mod services;
mod status;
mod subject;
mod support_bundle;
mod top;
mod verify;

use std::collections::BTreeSet;
use std::io::{self, Write};

use proxier::mode::{ApplyReport, PlanSteps};
use proxier::source::{Diagnostic, Location, Severity};
use serde::Serialize;

use crate::logging::{chain, write_json};

pub(crate) use check::check;
pub(crate) use cleanup::cleanup;
pub(crate) use completion::completion;
pub(crate) use describe::describe;
pub(crate) use env::env;
pub(crate) use explain::explain;
pub(crate) use man::man;
pub(crate) use migrate::migrate;
pub(crate) use plan::plan;
pub(crate) use run::run;
pub(crate) use services::services;
pub(crate) use status::status;
pub(crate) use support_bundle::support_bundle;
pub(crate) use top::top;
pub(crate) use verify::verify;

/// Logs the diagnostics of a source. Each reading of manifests reports all diagnostics again; each
/// is logged once, until it is gone.
#[derive(Debug, Default)]
struct DiagnosticLog {
    standing: BTreeSet<Diagnostic>,
}

impl DiagnosticLog {
    fn log(&mut self, diagnostics: &[Diagnostic]) {
        let mut standing = BTreeSet::new();
        for diagnostic in diagnostics {
            let is_new = match &diagnostic.location {
                Some(location) => {
                    let about = without_position(diagnostic, location);
                    let is_new = !self.standing.contains(&about);
                    standing.insert(about);
                    is_new
                }
                None => true,
            };
            if !is_new {
                continue;
            }
            match diagnostic.severity {
                Severity::Error => tracing::error!("{diagnostic}"),
                Severity::Warning => tracing::warn!("{diagnostic}"),
                // An API server's diagnostics come with each change of the object. Level debug is
                // enough: notices report what an operator must know.
                _ if diagnostic.location.is_none() => tracing::debug!("{diagnostic}"),
                _ => tracing::info!("{diagnostic}"),
            }
        }
        self.standing = standing;
    }
}

/// The diagnostic without its position, which changes when other objects of the file come and go.
fn without_position(diagnostic: &Diagnostic, location: &Location) -> Diagnostic {
    let mut fixed = Location::new(&location.file);
    if diagnostic.object.is_none() {
        fixed.document = location.document;
        fixed.item.clone_from(&location.item);
    }
    diagnostic.clone().at(fixed)
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
    // Level debug is enough: the problem is also a notice.
    for refused in &applied.refused {
        tracing::debug!("left out: {}", chain(&refused.error));
    }
}

/// Prints one JSON document and a line break. Hidden characters in its strings are JSON escapes.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::from)?;
    let mut shown = Vec::with_capacity(text.len());
    write_json(&mut shown, &text);
    let mut out = io::stdout().lock();
    out.write_all(&shown)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::testing::Lines;

    fn note(line: usize, object: &str) -> Diagnostic {
        let mut location = Location::new("web.yaml");
        location.line = Some(line);
        location.document = Some(line / 10);
        let note = Diagnostic::note("not served");
        note.with_object(format!("Service default/{object}"))
            .at(location)
    }

    #[test]
    fn a_diagnostic_is_logged_once_and_again_after_it_was_gone() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.layer());
        with_default(subscriber, || {
            let mut log = DiagnosticLog::default();
            let all: Vec<_> = (0..300).map(|n| note(n * 10, &n.to_string())).collect();
            log.log(&all);
            assert_eq!(lines.take().len(), 300);
            // A new document at the head of the file moves all positions.
            let moved: Vec<_> = (0..300)
                .map(|n| note(n * 10 + 10, &n.to_string()))
                .collect();
            log.log(&moved);
            assert_eq!(lines.take(), [""; 0]);
            log.log(&[note(0, "new"), note(10, "7")]);
            let new = lines.take();
            assert_eq!(new.len(), 1, "{new:?}");
            assert!(new[0].contains("Service default/new"), "{new:?}");
            log.log(&all);
            assert_eq!(lines.take().len(), 299);
        });
    }
}
