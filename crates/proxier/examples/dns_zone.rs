//! Serves the names of many Services, for benchmarks: `dns_zone ADDRESS COUNT`.
//!
//! It prints a line for each name and address, and then waits for the end of standard input.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::Ipv4Addr;

use proxier::Runtime;
use proxier::discovery::dns::{Config, Dns};
use proxier::model::{ObjectName, PortName, Protocol, Service, ServicePort};
use proxier::store::Change;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, count] = &arguments[..] else {
        return Err("usage: dns_zone ADDRESS COUNT".into());
    };
    let runtime = Runtime::start()?;
    let dns = Dns::start(&runtime, Config::new([address.parse()?]))?;
    let mut out = std::io::stdout().lock();
    let mut services = Vec::new();
    for number in 0..count.parse()? {
        let namespace = format!("team-{}", number % 100);
        let mut service = Service::new(ObjectName::new(&namespace, &format!("web-{number}"))?);
        let address = Ipv4Addr::from_bits(0x0a60_0001 + number);
        service.cluster_ips = [address.into()].into();
        let port = ServicePort::new(PortName::new("http")?, Protocol::Tcp, 80.try_into()?);
        service.ports = [port].into();
        services.push(service);
        writeln!(out, "web-{number}.{namespace}.svc.cluster.local. {address}")?;
    }
    dns.apply(&[
        Change::ServicesReplaced(services),
        Change::EndpointSlicesReplaced(vec![]),
    ]);
    writeln!(out)?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
