//! Drains a real server: stops new connections, and deletes it when none is active or after a minute.
//!
//! `cargo run --example drain -- 10.96.0.1:80 10.244.0.1:8080`
#![allow(clippy::print_stdout)]

use std::env::args;
use std::error::Error;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipvs::{Client, RealServerKey, VirtualServerKey};

const TIME_LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = args().skip(1);
    let mut argument = || {
        arguments
            .next()
            .ok_or("usage: drain VIRTUAL-SERVER REAL-SERVER")
    };
    let virtual_server = VirtualServerKey::tcp(argument()?.parse()?);
    let real_server: RealServerKey = argument()?.parse()?;

    let mut client = Client::open()?;
    let deadline = Instant::now() + TIME_LIMIT;
    let mut drained = false;
    loop {
        let entries = client.real_servers(&virtual_server)?;
        let entry = entries.iter().find(|entry| entry.server.key == real_server);
        let entry = entry.ok_or("no such real server")?;
        if !drained {
            client.update_real_server(&virtual_server, &entry.server.with_weight(0))?;
            drained = true;
        }
        let active = entry.connections.unwrap_or_default().active;
        println!("{real_server}: {active} active connections");
        if active == 0 || Instant::now() >= deadline {
            break;
        }
        sleep(Duration::from_secs(1));
    }
    client.delete_real_server(&virtual_server, &real_server)?;
    Ok(())
}
