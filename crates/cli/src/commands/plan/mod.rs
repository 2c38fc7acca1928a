//! `svcproxy plan`.

mod json;
mod restores;
mod steps;
mod text;

use std::sync::Arc;

use proxier::desired::{Config, DesiredState, Problem};
use proxier::mode::PlanSteps;
use proxier::mode::iptables;
use proxier::mode::iptables::{Iptables, IptablesKernel};
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::ipvs::{Ipvs, IpvsKernel};
use proxier::mode::nftables::{self, Nftables, NftablesKernel};
use proxier::mode::userspace::{self, Userspace};
use proxier::source::Reading;
use proxier::store::Change;
use proxier::{Proxier, Runtime};

use super::DiagnosticLog;
use super::run::userspace_proxy;
use super::subject::Planned;
use crate::args::{Mode, PlanArgs, PlanFormat, usage_error};
use crate::source::Source;
use crate::{Ending, node};
use json::desired_json;
use restores::{restores_json, restores_text};
#[cfg(test)]
pub(crate) use steps::Steps;
use steps::{any_steps_json, any_steps_text, steps_json, steps_text};
pub(crate) use text::Text;
#[cfg(test)]
pub(crate) use text::virtual_servers;
use text::{desired_ipvsadm, desired_text};

/// Prints the desired state of the node, or with `--against kernel` the steps that lead to it.
pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<Ending> {
    if args.against.is_some() && args.output == PlanFormat::Ipvsadm {
        usage_error("-o ipvsadm cannot print steps: omit --against or -o ipvsadm");
    }
    let mode = args.mode();
    if mode != Mode::Ipvs && args.output == PlanFormat::Ipvsadm {
        let mode = mode.name();
        usage_error(&format!(
            "-o ipvsadm cannot be used with mode {mode}, which has no virtual servers"
        ));
    }
    let settings = node::config(&args.node)?;
    let reading = Source::new(&args.node.source, &settings.node_name).read()?;
    DiagnosticLog::default().log(&reading.diagnostics);
    let ending = if reading.has_errors() {
        Ending::InvalidInput
    } else {
        Ending::Done
    };

    match args.against {
        Some(_) => print_steps(args, mode, settings, reading.changes)?,
        None => print_state(args, mode, &settings, reading)?,
    }
    Ok(ending)
}

/// Prints the steps from the state of this node to the desired one.
fn print_steps(
    args: &PlanArgs,
    mode: Mode,
    settings: Config,
    changes: Vec<Change>,
) -> anyhow::Result<()> {
    let config = Arc::new(settings);
    match mode {
        Mode::Iptables => {
            let mut proxier = Proxier::new(config, Iptables::new(IptablesKernel::open()?));
            restores(&proxier.preview(changes)?, None, args.output)
        }
        Mode::Nftables => {
            let mut proxier = Proxier::new(config, Nftables::new(NftablesKernel::open()?));
            any_steps(&proxier.preview(changes)?, args.output)
        }
        Mode::Userspace => {
            // Of this process, which serves nothing: what a start would do.
            let runtime = Runtime::start()?;
            let data_plane = Userspace::new(userspace_proxy(&args.node, &runtime)?);
            let mut proxier = Proxier::new(config, data_plane);
            any_steps(&proxier.preview(changes)?, args.output)
        }
        Mode::Ipvs => {
            let mut proxier = Proxier::new(config, Ipvs::new(IpvsKernel::open()?));
            let plan = proxier.preview(changes)?;
            match args.output {
                PlanFormat::Text => steps_text(&plan),
                PlanFormat::Json => steps_json(&plan),
                // `plan` rejects this combination.
                PlanFormat::Ipvsadm => Ok(()),
            }
        }
    }
}

/// Prints the desired state: in mode ipvs as it is, in the others as the steps on an empty node.
fn print_state(
    args: &PlanArgs,
    mode: Mode,
    settings: &Config,
    reading: Reading,
) -> anyhow::Result<()> {
    let Planned { desired, store, .. } = Planned::of(settings, reading)?;
    let unknown_node = desired.unknown_node(&store);
    for notice in desired.config().notices().chain(unknown_node) {
        tracing::warn!("{}", notice.text());
    }
    for problem in desired.problems() {
        tracing::warn!("{problem}");
    }
    match mode {
        Mode::Iptables => {
            let limits = limits(&desired, mode);
            let plan = iptables::Plan::new(&desired, &iptables::NodeState::default(), Scope::Full);
            let problems = desired.problems().into_iter().chain(limits);
            restores(&plan, Some(problems.collect()), args.output)
        }
        Mode::Nftables => {
            limits(&desired, mode);
            let plan = nftables::Plan::new(&desired, &nftables::NodeState::default(), Scope::Full);
            any_steps(&plan, args.output)
        }
        Mode::Userspace => {
            let mut node = userspace::NodeState::default();
            node.may_route = true;
            let addresses = desired.config().node_ips.iter();
            node.addresses = addresses.map(|ip| (*ip).into()).collect();
            node.given = args.node.listen.clone().into();
            for problem in userspace::problems(&desired, Some(&node), None) {
                tracing::warn!("{problem}");
            }
            let plan = userspace::Plan::new(&desired, &node, Scope::Full);
            any_steps(&plan, args.output)
        }
        Mode::Ipvs => match args.output {
            PlanFormat::Text => desired_text(&desired),
            PlanFormat::Json => desired_json(&desired),
            PlanFormat::Ipvsadm => desired_ipvsadm(&desired),
        },
    }
}

/// Logs what Services request and this mode does not have.
fn limits(desired: &DesiredState, mode: Mode) -> Vec<Problem> {
    let limits = match mode {
        Mode::Nftables => nftables::problems(desired, None),
        _ => proxier::mode::limits(desired, mode.name()),
    };
    for problem in &limits {
        tracing::warn!("{problem}");
    }
    limits
}

/// Prints the steps of a plan.
fn any_steps(plan: &impl PlanSteps, format: PlanFormat) -> anyhow::Result<()> {
    match format {
        PlanFormat::Json => any_steps_json(plan),
        _ => any_steps_text(plan),
    }
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
