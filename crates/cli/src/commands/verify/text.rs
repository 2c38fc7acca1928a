//! The verdicts, for people.

use std::fmt::{self, Display, Formatter};

use super::connect::{Connection, Kind};
use super::{Report, Totals, Verdict};
use crate::description::ProblemOf;
use crate::logging::Shown;
use crate::table::Table;

/// Differences that are listed of one Service, at most.
const LISTED: usize = 8;

/// A table, and below it what is not as planned.
pub(super) struct Text<'a> {
    pub(super) report: &'a Report,
    /// Whether to list every connection.
    pub(super) every: bool,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let services = &self.report.services;
        let has_tried = services.iter().any(|of| of.connections.is_some());
        let mut header = vec!["SERVICE".to_owned(), "VERDICT".to_owned()];
        header.extend(has_tried.then(|| "CONNECTED".to_owned()));
        let rows = services.iter().map(|of| {
            let mut row = vec![Shown(&of.service).to_string(), of.verdict.name().to_owned()];
            row.extend(of.connections.as_deref().map(connected));
            row
        });
        if !services.is_empty() {
            let lines: Vec<_> = [header].into_iter().chain(rows).collect();
            let mut out = Vec::new();
            Table::default()
                .print(&mut out, &lines)
                .map_err(|_| fmt::Error)?;
            f.write_str(&String::from_utf8_lossy(&out))?;
        }
        if !self.report.shared.is_empty() {
            writeln!(f, "\nshared by all Services")?;
            steps(f, &self.report.shared)?;
        }
        for of in services {
            self.details(f, of)?;
        }
        for of in &self.report.refused {
            writeln!(f, "\n{}: nothing of it is served", Shown(&of.service))?;
            notes(f, &of.problems)?;
        }
        let Totals {
            services,
            ok,
            unreachable,
            differs,
            refused,
        } = self.report.totals;
        let mode = self.report.mode;
        write!(
            f,
            "\nmode {mode}: {services} Services, {ok} ok, {differs} differ"
        )?;
        if has_tried {
            write!(f, ", {unreachable} unreachable")?;
        }
        if refused > 0 {
            write!(f, "; {refused} more refused")?;
        }
        if !self.report.shared.is_empty() {
            write!(f, "; what Services share differs")?;
        }
        writeln!(f)
    }
}

impl Text<'_> {
    fn details(&self, f: &mut Formatter<'_>, of: &Verdict) -> fmt::Result {
        let connections = of.connections.iter().flatten();
        let listed: Vec<_> = connections
            .filter(|connection| self.every || !connection.connected)
            .collect();
        let not_tried = of.ports_not_tried.filter(|_| self.every);
        let is_plain = of.differences.is_empty() && listed.is_empty() && of.problems.is_empty();
        if is_plain && not_tried.is_none() {
            return Ok(());
        }
        writeln!(f, "\n{}", Shown(&of.service))?;
        steps(f, &of.differences)?;
        notes(f, &of.problems)?;
        for connection in listed {
            write!(f, "  ")?;
            connection_line(f, connection)?;
        }
        match not_tried {
            Some(count) => writeln!(f, "  not tried: {count} UDP or SCTP ports"),
            None => Ok(()),
        }
    }
}

/// What a Service requests and does not get.
fn notes(f: &mut Formatter<'_>, problems: &[ProblemOf]) -> fmt::Result {
    for problem in problems {
        let (reason, message) = (Shown(&problem.reason), Shown(&problem.message));
        writeln!(f, "  note: {reason}: {message}")?;
    }
    Ok(())
}

/// What svcproxy would do.
fn steps(f: &mut Formatter<'_>, steps: &[String]) -> fmt::Result {
    for step in steps.iter().take(LISTED) {
        writeln!(f, "  would {}", Shown(step))?;
    }
    match steps.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more steps: svcproxy verify -o json"),
    }
}

fn connection_line(f: &mut Formatter<'_>, connection: &Connection) -> fmt::Result {
    let what = match connection.kind {
        Kind::Vip => "VIP",
        Kind::Endpoint => "endpoint",
    };
    write!(f, "{what} {}: ", connection.address)?;
    match (&connection.error, connection.milliseconds) {
        (Some(error), Some(took)) => writeln!(f, "{} after {took:.1} ms", Shown(error)),
        (Some(error), None) => writeln!(f, "{}", Shown(error)),
        (None, took) => writeln!(f, "connected in {:.1} ms", took.unwrap_or_default()),
    }
}

/// `3 of 3, at most 0.4 ms`.
fn connected(connections: &[Connection]) -> String {
    let made: Vec<_> = connections.iter().filter(|one| one.connected).collect();
    let slowest = made.iter().filter_map(|one| one.milliseconds);
    let slowest = slowest.fold(0.0, f64::max);
    match (made.len(), connections.len()) {
        (_, 0) => "-".to_owned(),
        (0, all) => format!("0 of {all}"),
        (some, all) => format!("{some} of {all}, at most {slowest:.1} ms"),
    }
}
