//! `svcproxy describe`.

#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};

use anyhow::{Context, bail};
use proxier::model::ObjectName;
use serde::Serialize;

use crate::Ending;
use crate::args::{DescribeArgs, StatusFormat};
use crate::commands::json;
use crate::description::Description;
use crate::history::Recorded;
use crate::inventory::{self, Inventory, VipStatus, Wanted};
use crate::logging::Shown;
use crate::notices::Condition;
use crate::running::Client;
use text::Text;

/// Everything about one Service.
#[derive(Debug, Serialize)]
pub(super) struct Known {
    service: String,
    /// The mode whose state was read.
    mode: &'static str,
    /// `None` if no svcproxy answers, or if it does not know the Service.
    description: Option<Description>,
    /// What the kernel serves.
    vips: Vec<VipStatus>,
    /// `None` if no svcproxy answers.
    conditions: Option<Vec<Condition>>,
    /// The last changes of the Service and notices about it, the latest first. `None` if no svcproxy
    /// answers, or if it keeps none.
    changes: Option<Vec<Recorded>>,
}

/// Changes that are shown, at most.
const CHANGES: usize = 10;

/// Prints a Service: its addresses, policies and endpoints, and why each endpoint is used or not.
pub(crate) fn describe(args: &DescribeArgs) -> anyhow::Result<Ending> {
    let name = name(args)?;
    let service = name.to_string();
    let client = Client::at(&args.from.metrics_bind_address);
    let conditions = client.as_ref().and_then(Client::conditions);
    let description = client.as_ref().and_then(|client| client.service(&service));
    let wanted = Wanted(&|of| of == service);
    let (mode, mut inventory) = inventory::read(args.from.mode, client.as_ref(), &wanted)?;
    inventory.explain(conditions.as_deref().unwrap_or_default());
    let Inventory { services, .. } = inventory;
    let vips: Vec<_> = services.into_iter().flat_map(|of| of.vips).collect();
    if description.is_none() && vips.is_empty() {
        let others = elsewhere(args, name.name())?;
        let also = match others.as_slice() {
            [] => String::new(),
            others => format!("; did you mean {}?", others.join(", ")),
        };
        bail!("this node serves no Service {service}, and no running svcproxy knows it{also}");
    }
    let about = format!("Service {service}");
    let conditions = conditions.map(|all| {
        let own = all.into_iter().filter(|condition| condition.about == about);
        own.collect()
    });
    let changes = client.as_ref().and_then(Client::changes).map(|all| {
        let own = all.into_iter().filter(|change| change.service == service);
        own.take(CHANGES).collect()
    });
    let known = Known {
        service,
        mode: mode.name(),
        description,
        vips,
        conditions,
        changes,
    };
    match args.output {
        StatusFormat::Json => json(&known)?,
        StatusFormat::Text => write!(io::stdout().lock(), "{}", Text(&known))?,
    }
    Ok(Ending::Done)
}

/// The Service of the command line: `NAME` in `--namespace`, or `NAMESPACE/NAME`.
fn name(args: &DescribeArgs) -> anyhow::Result<ObjectName> {
    let (namespace, name) = match args.name.split_once('/') {
        Some((namespace, name)) => {
            let given = args.namespace.as_deref();
            if given.is_some_and(|given| given != namespace) {
                bail!("--namespace contradicts {}", Shown(&args.name));
            }
            (namespace, name)
        }
        None => (
            args.namespace.as_deref().unwrap_or("default"),
            args.name.as_str(),
        ),
    };
    ObjectName::new(namespace, name)
        .with_context(|| format!("{} is no name of a Service", Shown(&args.name)))
}

/// The Services of this name in other namespaces.
fn elsewhere(args: &DescribeArgs, name: &str) -> anyhow::Result<Vec<String>> {
    let is_called = |of: &str| of.split_once('/').is_some_and(|(_, own)| own == name);
    let client = Client::at(&args.from.metrics_bind_address);
    let (_, inventory) = inventory::read(args.from.mode, client.as_ref(), &Wanted(&is_called))?;
    let others = inventory.services.into_iter();
    Ok(others.map(|of| of.service).collect())
}
