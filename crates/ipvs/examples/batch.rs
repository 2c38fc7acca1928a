//! Makes many changes at once, and says what became of each that failed.
//!
//! `cargo run --example batch`: 1,000 virtual servers in 10.96.0.0/12, all removed again.
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
