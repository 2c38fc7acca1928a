//! Prints the steps of a plan, one per line.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};

use ipvs::ipvsadm::scheduler_flags;
use ipvs::{Change, Timeouts, VirtualServer};
use proxier::mode::PlanSteps;
use proxier::mode::ipvs::plan::{Plan, Step};
use serde::Serialize;

use super::text::List;
use crate::commands::json as write_json;

/// The steps, one per line.
pub(crate) struct Steps<'a>(pub(crate) &'a Plan);

/// A step with the values that it sets.
struct Detailed<'a>(&'a Step);

impl Display for Steps<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            writeln!(f, "nothing to do")?;
        }
        let mut steps = self.0.into_iter();
        steps.try_for_each(|step| writeln!(f, "{}", Detailed(step)))
    }
}

impl Display for Detailed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(step) = self;
        write!(f, "{step}")?;
        match step {
            Step::Ipvs(Change::AddVirtualServer(server) | Change::UpdateVirtualServer(server)) => {
                virtual_server(f, server)
            }
            Step::Ipvs(Change::UpdateRealServer { real_server, .. }) => {
                write!(f, ": weight {}", real_server.weight)
            }
            Step::Ipvs(Change::SetTimeouts(change)) => timeouts(f, change),
            _ => Ok(()),
        }
    }
}

fn virtual_server(f: &mut Formatter<'_>, server: &VirtualServer) -> fmt::Result {
    write!(f, ": {}", server.scheduler)?;
    let flags: Vec<_> = scheduler_flags(server.scheduler, server.flags).collect();
    if !flags.is_empty() {
        write!(f, " with {}", List(&flags))?;
    }
    match server.persistence {
        Some(persistence) => write!(f, ", persistence {} s", persistence.timeout),
        None => Ok(()),
    }
}

fn timeouts(f: &mut Formatter<'_>, change: &Timeouts) -> fmt::Result {
    let all = [
        ("TCP", change.tcp),
        ("TCP after FIN", change.tcp_fin),
        ("UDP", change.udp),
    ];
    let set = all
        .iter()
        .filter_map(|(name, timeout)| Some(format!("{name} {} s", (*timeout)?)));
    write!(f, ": {}", List(&set.collect::<Vec<_>>()))
}

/// Prints the steps as text.
pub(crate) fn steps_text(plan: &Plan) -> anyhow::Result<()> {
    write!(io::stdout().lock(), "{}", Steps(plan))?;
    Ok(())
}

#[derive(Serialize)]
struct StepsView {
    steps: Vec<String>,
}

/// Prints the steps as JSON strings.
pub(crate) fn steps_json(plan: &Plan) -> anyhow::Result<()> {
    let steps = plan.into_iter().map(|step| Detailed(step).to_string());
    write_json(&StepsView {
        steps: steps.collect(),
    })
}

/// Prints the steps of any mode, one on each line.
pub(crate) fn any_steps_text(plan: &impl PlanSteps) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if plan.steps().is_empty() {
        writeln!(out, "nothing to do")?;
    }
    for step in plan.steps() {
        writeln!(out, "{step}")?;
    }
    Ok(())
}

/// Prints the steps of any mode as JSON strings.
pub(crate) fn any_steps_json(plan: &impl PlanSteps) -> anyhow::Result<()> {
    let steps = plan.steps().iter();
    write_json(&StepsView {
        steps: steps.map(ToString::to_string).collect(),
    })
}
