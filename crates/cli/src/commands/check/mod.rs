//! `svcproxy check`.

mod print;

use proxier::mode::{iptables, ipvs};

use crate::args::{CheckArgs, CheckFormat};
use crate::{Ending, node};
use print::{Verdict, check_json, check_text};

/// Prints whether the chosen mode can run on this node, and what is missing.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<Ending> {
    let config = node::config(&args.node)?;
    let proc_sys = &args.mode.proc_sys;
    let ipvs = ipvs::probe(&config, proc_sys);
    let found = ipvs.and(iptables::probe(&config, proc_sys));
    let verdict = Verdict::new(args.mode(), args.mode.fallback, found);
    match args.output {
        CheckFormat::Text => check_text(&verdict)?,
        CheckFormat::Json => check_json(&verdict)?,
    }
    Ok(if verdict.can_run() {
        Ending::Done
    } else {
        Ending::Failed
    })
}
