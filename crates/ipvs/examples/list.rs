//! Lists the table like `ipvsadm -Sn`, with the connections of each real server.
//!
//! `cargo run --example list`
#![allow(clippy::print_stdout)]

use ipvs::{Client, ipvsadm};

fn main() -> ipvs::Result<()> {
    let mut client = Client::open()?;
    let info = client.info()?;
    println!(
        "# IPVS {}, {} connection buckets",
        info.version, info.connection_table_size
    );
    let mut servers = client.virtual_servers()?;
    servers.sort_by_key(|entry| entry.server.key);
    for entry in servers {
        let key = entry.server.key;
        println!("{}", ipvsadm::virtual_server(&entry.server));
        for real in client.real_servers(&key)? {
            let connections = real.connections.unwrap_or_default();
            println!(
                "{}  # {} active, {} inactive",
                ipvsadm::real_server(&key, &real.server),
                connections.active,
                connections.inactive,
            );
        }
    }
    Ok(())
}
