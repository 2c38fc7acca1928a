//! An explanation, for people.

use std::fmt::{self, Display, Formatter};

use proxier::mode::trace::{Answer, Outcome, Step};

use super::case::{Case, Explanation, mode_of, what};
use super::version;
use crate::logging::Shown;

/// Endpoints that are listed, at most.
const LISTED: usize = 20;

/// The way of a packet.
pub(super) struct Text<'a> {
    pub(super) case: &'a Case<'a>,
    pub(super) explanation: &'a Explanation,
    /// Where the state comes from.
    pub(super) of: &'a str,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Explanation {
            trace,
            findings,
            is_lost,
        } = self.explanation;
        row(f, "Packet", &self.case.packet)?;
        let mode = mode_of(self.case.plane);
        row(f, "State", format_args!("{}, mode {mode}", self.of))?;
        self.service(f)?;
        if !trace.steps.is_empty() {
            writeln!(f, "Way")?;
        }
        let mut hook = "";
        for step in &trace.steps {
            if step.hook != hook {
                hook = step.hook;
                writeln!(f, "  {hook}")?;
            }
            way(f, step)?;
        }
        result(f, &trace.outcome, *is_lost)?;
        if findings.is_empty() {
            return Ok(());
        }
        writeln!(f, "Why")?;
        for of in findings {
            writeln!(f, "  {}: {}", of.reason, Shown(&of.message))?;
        }
        Ok(())
    }
}

fn row(f: &mut Formatter<'_>, name: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{name:<9} {text}")
}

fn way(f: &mut Formatter<'_>, step: &Step) -> fmt::Result {
    writeln!(f, "    {}: {}", Shown(&step.place), Shown(&step.effect))?;
    match step.rule.is_empty() {
        true => Ok(()),
        false => writeln!(f, "      {}", Shown(&step.rule)),
    }
}

impl Text<'_> {
    fn service(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let case = self.case;
        match (&self.explanation.trace.owner, case.services.as_slice()) {
            (Some(owner), _) => row(f, "Service", Shown(owner))?,
            (None, []) => row(f, "Service", "none")?,
            (None, services) => {
                let names: Vec<_> = services.iter().map(|of| of.service.as_str()).collect();
                let names = names.join(", ");
                row(
                    f,
                    "Service",
                    format_args!("none; named by {}", Shown(&names)),
                )?;
            }
        }
        let owner = self.explanation.trace.owner.as_deref().unwrap_or_default();
        let service = owner.split(':').next().unwrap_or_default();
        let of = case.services.iter().find(|of| of.service == service);
        let Some(of) = of else { return Ok(()) };
        let (internal, external) = (&of.internal_traffic_policy, &of.external_traffic_policy);
        row(
            f,
            "Policies",
            format_args!("internal {}, external {}", Shown(internal), Shown(external)),
        )
    }
}

fn result(f: &mut Formatter<'_>, outcome: &Outcome, is_lost: bool) -> fmt::Result {
    let Outcome::Served(answers) = outcome else {
        return row(f, "Result", what(outcome));
    };
    let count = answers.len();
    let noun = if count == 1 { "endpoint" } else { "endpoints" };
    let lost = match is_lost {
        true => ", but the connection is lost on the way",
        false => "",
    };
    row(f, "Result", format_args!("served by {count} {noun}{lost}"))?;
    for Answer {
        endpoint,
        weight,
        masqueraded,
        proxy_protocol,
        ..
    } in answers.iter().take(LISTED)
    {
        let sees = match masqueraded {
            true => "sees an address of this node",
            false => "sees the client's address",
        };
        let header = proxy_protocol.map(|of| {
            let version = version(of);
            format!(", and the client's by the PROXY protocol {version}")
        });
        let sees = format!("{sees}{}", header.unwrap_or_default());
        let weight = match weight {
            1 => String::new(),
            weight => format!(", weight {weight}"),
        };
        writeln!(f, "  -> {endpoint}  {sees}{weight}")?;
    }
    match count.saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more"),
    }
}
