//! Dumps everything that IPVS has in this network namespace, and restores it: virtual servers, real
//! servers, timeouts and sync daemons.
//!
//! `cargo run --example dump --features serde > backup.json`, and
//! `cargo run --example dump --features serde -- restore < backup.json`.
//! `dump rules` writes rules of ipvsadm instead, which lack tags; `restore` reads both.
#![allow(clippy::print_stdout)]

use std::env::args;
use std::error::Error;
use std::io::{Read, stdin};

use ipvs::{Change, Client, ipvsadm};

/// The changes that make an empty namespace like this one.
pub(crate) fn dump(client: &mut Client) -> ipvs::Result<Vec<Change>> {
    let mut changes = vec![Change::SetTimeouts(client.timeouts()?.timeouts)];
    for entry in client.table()? {
        let virtual_server = entry.virtual_server.server.key;
        changes.push(Change::AddVirtualServer(entry.virtual_server.server));
        // The kernel lists the last one added first.
        let real_servers = entry.real_servers.iter().rev();
        changes.extend(real_servers.map(|entry| Change::AddRealServer {
            virtual_server,
            real_server: entry.server,
        }));
    }
    let daemons = client.sync_daemons()?.into_iter();
    changes.extend(daemons.map(|entry| Change::StartSyncDaemon(entry.daemon)));
    Ok(changes)
}

/// Replaces everything by what `text` has: JSON, or rules of ipvsadm.
pub(crate) fn restore(client: &mut Client, text: &str) -> Result<(), Box<dyn Error>> {
    let changes = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)?
    } else {
        ipvsadm::parse(text)?
    };
    for entry in client.sync_daemons()? {
        client.stop_sync_daemon(entry.daemon.role)?;
    }
    client.flush()?;
    client.apply(&changes).into_result()?;
    Ok(())
}

pub(crate) fn rules(changes: &[Change]) -> String {
    let rules = changes.iter().map(ipvsadm::rule);
    rules.map(|rule| format!("{rule:#}\n")).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut client = Client::open()?;
    match args().nth(1).as_deref() {
        None => println!("{}", serde_json::to_string_pretty(&dump(&mut client)?)?),
        Some("rules") => print!("{}", rules(&dump(&mut client)?)),
        Some("restore") => {
            let mut text = String::new();
            stdin().read_to_string(&mut text)?;
            restore(&mut client, &text)?;
        }
        Some(_) => return Err("usage: dump [rules | restore]".into()),
    }
    Ok(())
}
