//! `svcproxy plan`.

mod json;
mod restores;
mod steps;
mod text;

use std::sync::Arc;

use proxier::Proxier;
use proxier::desired::{DesiredState, Problem};
use proxier::mode::iptables;
use proxier::mode::iptables::{Iptables, IptablesBackend};
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::ipvs::{Ipvs, IpvsBackend};
use proxier::store::Store;

use super::DiagnosticLog;
use crate::args::{Mode, PlanArgs, PlanFormat, usage_error};
use crate::source::Source;
use crate::{Ending, node};
use json::desired_json;
use restores::{restores_json, restores_text};
#[cfg(test)]
pub(crate) use steps::Steps;
use steps::{steps_json, steps_text};
#[cfg(test)]
pub(crate) use text::{Text, virtual_servers};
use text::{desired_ipvsadm, desired_text};

/// Prints the desired state of the node, or with `--against kernel` the steps that lead to it.
pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<Ending> {
    if args.against.is_some() && args.output == PlanFormat::Ipvsadm {
        usage_error("-o ipvsadm cannot print steps: omit --against or -o ipvsadm");
    }
    let mode = args.mode();
    if mode == Mode::Iptables && args.output == PlanFormat::Ipvsadm {
        usage_error("-o ipvsadm cannot be used with mode iptables, which has no virtual servers");
    }
    let settings = node::config(&args.node)?;
    let reading = Source::new(&args.node.source, &settings.node_name).read()?;
    DiagnosticLog::default().log(&reading.diagnostics);
    let ending = if reading.has_errors() {
        Ending::InvalidInput
    } else {
        Ending::Done
    };

    if args.against.is_some() {
        if mode == Mode::Iptables {
            let mut proxier =
                Proxier::new(Arc::new(settings), Iptables::new(IptablesBackend::open()?));
            let plan = proxier.preview(reading.changes)?;
            restores(&plan, None, args.output)?;
            return Ok(ending);
        }
        let mut proxier = Proxier::new(Arc::new(settings), Ipvs::new(IpvsBackend::open()?));
        let plan = proxier.preview(reading.changes)?;
        match args.output {
            PlanFormat::Text => steps_text(&plan)?,
            PlanFormat::Json => steps_json(&plan)?,
            // The checks above reject this combination.
            PlanFormat::Ipvsadm => {}
        }
        return Ok(ending);
    }

    let mut store = Store::default();
    reading
        .changes
        .into_iter()
        .for_each(|change| store.apply(change));
    let config = settings.following(store.node(), store.service_cidrs())?;
    let desired = DesiredState::from_store(Arc::new(config), &store);
    let unknown_node = desired.unknown_node(&store);
    for notice in desired.config().notices().chain(unknown_node) {
        tracing::warn!("{}", notice.text());
    }
    for problem in desired.problems() {
        tracing::warn!("{problem}");
    }
    if mode == Mode::Iptables {
        let limits = iptables::limits(&desired);
        for problem in &limits {
            tracing::warn!("{problem}");
        }
        let plan = iptables::Plan::new(&desired, &iptables::NodeState::default(), Scope::Full);
        let problems = desired.problems().into_iter().chain(limits);
        restores(&plan, Some(problems.collect()), args.output)?;
        return Ok(ending);
    }
    match args.output {
        PlanFormat::Text => desired_text(&desired)?,
        PlanFormat::Json => desired_json(&desired)?,
        PlanFormat::Ipvsadm => desired_ipvsadm(&desired)?,
    }
    Ok(ending)
}

/// Prints the input for iptables-restore.
fn restores(
    plan: &iptables::Plan,
    problems: Option<Vec<Problem>>,
    format: PlanFormat,
) -> anyhow::Result<()> {
    match format {
        PlanFormat::Json => restores_json(plan, problems),
        _ => restores_text(plan),
    }
}
