//! The input for iptables-restore.

use std::io::{self, Write};

use proxier::desired::Problem;
use proxier::mode::iptables::{Plan, Step};
use proxier::model::Family;
use serde::Serialize;

use super::json::ProblemView;
use crate::commands::json as write_json;

/// Prints the input for iptables-restore. All other steps are comments in it.
pub(crate) fn restores_text(plan: &Plan) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if plan.is_empty() {
        writeln!(out, "# nothing to do")?;
    }
    for step in plan.steps() {
        match step {
            Step::Restore(transaction) => {
                let program = program(transaction.family);
                write!(out, "# {program} --noflush\n{transaction}")?;
            }
            other => writeln!(out, "# {other}")?,
        }
    }
    Ok(())
}

const fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

#[derive(Serialize)]
struct RestoresView {
    steps: Vec<String>,
    restores: Vec<RestoreView>,
    /// None with `--against kernel`, which does not ask for problems.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<ProblemView>>,
}

#[derive(Serialize)]
struct RestoreView {
    family: String,
    text: String,
}

/// Prints the steps as JSON strings, with the input for iptables-restore.
pub(crate) fn restores_json(plan: &Plan, problems: Option<Vec<Problem>>) -> anyhow::Result<()> {
    let restores = plan.steps().iter().filter_map(|step| match step {
        Step::Restore(transaction) => Some(RestoreView {
            family: transaction.family.to_string(),
            text: transaction.to_string(),
        }),
        _ => None,
    });
    let problems = problems.map(|all| all.into_iter().map(ProblemView::from).collect());
    write_json(&RestoresView {
        steps: plan.steps().iter().map(ToString::to_string).collect(),
        restores: restores.collect(),
        problems,
    })
}
