//! Adds a TCP virtual server with real servers, by masquerade.
//!
//! `cargo run --example add -- 10.96.0.1:80 10.244.0.1:8080 10.244.0.2:8080`
#![allow(clippy::print_stdout)]

use std::env::args;
use std::error::Error;

use ipvs::{Client, RealServer, Scheduler, VirtualServer, VirtualServerKey};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = args().skip(1);
    let address = arguments
        .next()
        .ok_or("the address of a virtual server is missing")?;
    let server = VirtualServer::new(VirtualServerKey::tcp(address.parse()?))
        .with_scheduler(Scheduler::WeightedLeastConnection);

    let mut client = Client::open()?;
    match client.add_virtual_server(&server) {
        Err(error) if error.is_already_exists() => println!("{} already exists", server.key),
        added => added?,
    }
    for address in arguments {
        client.add_real_server(&server.key, &RealServer::new(address.parse()?))?;
    }
    println!(
        "{} has {} real servers",
        server.key,
        client.real_servers(&server.key)?.len()
    );
    Ok(())
}
