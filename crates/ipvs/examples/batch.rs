//! Makes many changes in one batch, and prints those that failed.
//!
//! `cargo run --example batch`: adds 1,000 virtual servers and deletes them again.
#![allow(clippy::print_stdout)]

use ipvs::{Change, Client, VirtualServer, VirtualServerKey};

fn main() -> ipvs::Result<()> {
    let mut client = Client::open()?;
    let key = |port| VirtualServerKey::tcp(([10, 96, 255, 254], port).into());
    let adds = (1..=1000).map(|port| Change::AddVirtualServer(VirtualServer::new(key(port))));
    let outcomes = client.apply(adds);
    for (place, error) in outcomes.failures() {
        println!("change {place}: {error}");
    }
    let added = (1..=1000)
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_ok());
    let deletes = added.map(|(port, _)| Change::DeleteVirtualServer(key(port)));
    client.apply(deletes).into_result()?;
    println!("{:?}", client.counters());
    Ok(())
}
