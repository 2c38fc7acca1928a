//! `svcproxy status`.

mod conditions;
mod iptables;
mod ipvs;
mod print;

use proxier::mode::iptables::IptablesBackend;

use crate::Ending;
use crate::args::{Mode, StatusArgs, StatusFormat};
use print::{Clients, RealServerStatus, Status, VipState, VipStatus, status_json, status_text};

/// Prints the state of this node's kernel, and the conditions of the svcproxy that runs here.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<Ending> {
    let mut status = match args.mode {
        Some(Mode::Ipvs) => ipvs::status()?,
        Some(Mode::Iptables) => iptables::status(&IptablesBackend::open()?)?,
        None => match IptablesBackend::in_use()? {
            Some(backend) => iptables::status(&backend)?,
            None => ipvs::status()?,
        },
    };
    status.conditions = conditions::ask(&args.metrics_bind_address);
    match args.output {
        StatusFormat::Text => status_text(&status)?,
        StatusFormat::Json => status_json(&status)?,
    }
    Ok(Ending::Done)
}
