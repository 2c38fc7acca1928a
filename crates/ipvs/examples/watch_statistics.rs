//! Prints the connections, packets and bytes of each virtual server when they change, once a second.
//!
//! `cargo run --example watch_statistics`
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

use ipvs::Client;

fn main() -> ipvs::Result<()> {
    let mut client = Client::open()?;
    let mut seen = HashMap::new();
    loop {
        for entry in client.virtual_servers()? {
            let key = entry.server.key;
            let Some(now) = entry.stats else { continue };
            if seen.insert(key, now).is_some_and(|before| before != now) {
                println!(
                    "{key}: {} connections, {} packets and {} bytes in, {} bytes out, now {} \
                     connections/s",
                    now.connections,
                    now.incoming_packets,
                    now.incoming_bytes,
                    now.outgoing_bytes,
                    now.rates.connections,
                );
            }
        }
        sleep(Duration::from_secs(1));
    }
}
