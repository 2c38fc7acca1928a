//! `svcproxy status`.

mod listing;
mod summary;

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use crate::Ending;
use crate::args::{Mode, StatusArgs, StatusFormat};
use crate::commands::json;
use crate::inventory::{self, Inventory, ServiceStatus, Totals, Wanted};
use crate::lock;
use crate::notices::Condition;
use crate::observe::COMMIT;
use crate::running::{Client, Running};
use summary::Summary;

/// What is known about this node.
struct Status {
    /// The mode whose state was read, and the state; or why it could not be read.
    kernel: anyhow::Result<(Mode, Inventory)>,
    /// The process that answers.
    running: Option<Running>,
    /// A process that has the lock of this network namespace.
    holder: Option<lock::Writer>,
    /// The conditions of the process that answers.
    conditions: Option<Vec<Condition>>,
}

/// Prints a summary of this node, or with `--services` everything that its kernel serves.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<Ending> {
    let status = Status::read(args);
    match args.output {
        StatusFormat::Json => return status.print_json(),
        StatusFormat::Text => {}
    }
    let mut out = io::stdout().lock();
    if args.services {
        let (_, inventory) = status.kernel?;
        listing::write(&mut out, &inventory)?;
        return Ok(Ending::Done);
    }
    write!(out, "{}", Summary(&status))?;
    let (_, _) = status.kernel.context("cannot read what the kernel has")?;
    Ok(Ending::Done)
}

impl Status {
    fn read(args: &StatusArgs) -> Self {
        let client = Client::at(&args.from.metrics_bind_address);
        let running = client.as_ref().and_then(Client::status);
        let conditions = client.as_ref().and_then(Client::conditions);
        let mut kernel = inventory::read(args.from.mode, client.as_ref(), &Wanted::ALL);
        if let (Ok((_, inventory)), Some(conditions)) = (&mut kernel, &conditions) {
            inventory.explain(conditions);
        }
        Self {
            kernel,
            running,
            holder: lock::writer(),
            conditions,
        }
    }

    fn print_json(self) -> anyhow::Result<Ending> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document {
            services: Vec<ServiceStatus>,
            totals: Totals,
            /// `None` if no svcproxy answers.
            conditions: Option<Vec<Condition>>,
            /// The mode whose state this is.
            mode: &'static str,
            /// Of this program.
            version: &'static str,
            commit: &'static str,
            /// `None` if no svcproxy answers.
            running: Option<Running>,
        }
        let (mode, Inventory { services, totals }) = self.kernel?;
        json(&Document {
            services,
            totals,
            conditions: self.conditions,
            mode: mode.name(),
            version: env!("CARGO_PKG_VERSION"),
            commit: COMMIT,
            running: self.running,
        })?;
        Ok(Ending::Done)
    }
}
