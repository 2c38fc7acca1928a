//! `svcproxy services`.

mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::Ending;
use crate::args::{ServicesArgs, ServicesFormat, usage_error};
use crate::commands::json;
use crate::inventory::{self, Inventory, ServiceStatus, Totals, VipStatus, Wanted};
use crate::logging::Shown;
use crate::running::Client;
use crate::table::Table;
use rows::{header, rows};

/// Between two readings with `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Prints one line per port of a Service that this node's kernel serves.
pub(crate) fn services(args: &ServicesArgs) -> anyhow::Result<Ending> {
    let is_text = matches!(args.output, None | Some(ServicesFormat::Wide));
    if args.watch && !is_text {
        usage_error("--watch prints lines: omit -o, or use -o wide");
    }
    let inventory = read(args)?;
    let services = inventory.services.iter().map(|of| of.service.as_str());
    let missing = args.selection.missing(services);
    for name in &missing {
        tracing::error!("this node serves no Service {}", Shown(name));
    }
    if inventory.services.is_empty() && missing.is_empty() {
        tracing::info!("no Service matches");
    }
    match args.output {
        None => table(args, &inventory, false)?,
        Some(ServicesFormat::Wide) => table(args, &inventory, true)?,
        Some(ServicesFormat::Json) => json(&document(&inventory))?,
        Some(ServicesFormat::Yaml) => yaml(&document(&inventory))?,
        Some(ServicesFormat::Name) => names(&inventory)?,
    }
    Ok(match missing.is_empty() {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

fn read(args: &ServicesArgs) -> anyhow::Result<Inventory> {
    let is_wanted = |service: &str| args.selection.names(service);
    let client = Client::at(&args.from.metrics_bind_address);
    let wanted = Wanted(&is_wanted);
    let (_, mut inventory) = inventory::read(args.from.mode, client.as_ref(), &wanted)?;
    if let Some(conditions) = client.and_then(|client| client.conditions()) {
        inventory.explain(&conditions);
    }
    Ok(match args.selection.is_by_name() {
        true => inventory,
        false => inventory.with(|of| of.vips.iter().any(|vip| has(args, vip))),
    })
}

fn has(args: &ServicesArgs, vip: &VipStatus) -> bool {
    let endpoints = vip.real_servers.iter().map(|server| server.address);
    args.selection.has(&vip.key, endpoints)
}

/// Prints the rows, and with `--watch` those that change.
fn table(args: &ServicesArgs, inventory: &Inventory, wide: bool) -> anyhow::Result<()> {
    let mut table = Table::default();
    let mut out = io::stdout().lock();
    let all = rows(inventory, args.sort);
    if !all.is_empty() || args.watch {
        let cells = all.iter().map(|row| row.cells(wide));
        let lines: Vec<_> = [header(wide)].into_iter().chain(cells).collect();
        table.print(&mut out, &lines)?;
    }
    if !args.watch {
        return Ok(());
    }
    let by_key = |all: Vec<rows::Row>| -> BTreeMap<_, _> {
        all.into_iter()
            .map(|row| (row.key(), row.cells(wide)))
            .collect()
    };
    let mut before = by_key(all);
    loop {
        out.flush()?;
        thread::sleep(PAUSE);
        let now = by_key(rows(&read(args)?, args.sort));
        table.print(&mut out, &changed(&before, &now))?;
        before = now;
    }
}

/// The lines that are new or differ, and those that are gone.
fn changed<K: Ord>(
    before: &BTreeMap<K, Vec<String>>,
    now: &BTreeMap<K, Vec<String>>,
) -> Vec<Vec<String>> {
    let new = now
        .iter()
        .filter(|(key, cells)| before.get(key) != Some(cells));
    let new = new.map(|(_, cells)| cells.clone());
    let gone = before.iter().filter(|(key, _)| !now.contains_key(key));
    let gone = gone.map(|(_, cells)| {
        let mut cells = cells.clone();
        // The state, after namespace, name, port, addresses, endpoints and two numbers.
        if let Some(state) = cells.get_mut(7) {
            "gone".clone_into(state);
        }
        cells
    });
    new.chain(gone).collect()
}

#[derive(Serialize)]
struct Document<'a> {
    services: &'a [ServiceStatus],
    totals: Totals,
}

fn document(inventory: &Inventory) -> Document<'_> {
    Document {
        services: &inventory.services,
        totals: inventory.totals,
    }
}

/// Prints YAML. Hidden characters in its strings are escaped as in text.
fn yaml(document: &Document<'_>) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(document).map_err(io::Error::from)?;
    show_strings(&mut value);
    let text = serde_saphyr::to_string(&value)?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(())
}

fn show_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = Shown(text).to_string(),
        Value::Array(items) => items.iter_mut().for_each(show_strings),
        Value::Object(fields) => fields.values_mut().for_each(show_strings),
        _ => {}
    }
}

fn names(inventory: &Inventory) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for of in &inventory.services {
        writeln!(out, "{}", Shown(&of.service))?;
    }
    Ok(())
}
