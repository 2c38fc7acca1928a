//! Starts a sync daemon, which sends connections to a standby director or receives them.
//!
//! `cargo run --example sync_daemon -- master eth0 7`
#![allow(clippy::print_stdout)]

use std::env::args;
use std::error::Error;

use ipvs::{Client, SyncDaemon, SyncRole};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = args().skip(1);
    let mut argument = || {
        arguments
            .next()
            .ok_or("usage: sync_daemon master|backup INTERFACE ID")
    };
    let role = match argument()?.as_str() {
        "master" => SyncRole::Master,
        "backup" => SyncRole::Backup,
        other => return Err(format!("{other} is neither master nor backup").into()),
    };
    let daemon = SyncDaemon::new(role, argument()?.parse()?, argument()?.parse()?);

    let mut client = Client::open()?;
    match client.start_sync_daemon(&daemon) {
        Err(error) if error.is_already_exists() => println!("a {role} is already running"),
        started => started?,
    }
    for entry in client.sync_daemons()? {
        println!("{:?}", entry.daemon);
    }
    Ok(())
}
