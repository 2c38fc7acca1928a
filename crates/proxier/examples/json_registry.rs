//! A proxy for a registry of your own: IPVS serves the services that a JSON file lists.
//!
//! ```json
//! [{"name": "web", "address": "10.96.0.80", "port": 80,
//!   "endpoints": [{"address": "10.244.1.7", "port": 8080, "weight": 3}]}]
//! ```
//!
//! `cargo run --example json_registry -- 192.0.2.1 services.json`, as root, with an address of this
//! node.
#![allow(clippy::print_stderr)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::{env, error::Error, fs, net::IpAddr, num::NonZeroU16, thread, time::Duration};

use proxier::mode::ipvs::{Ipvs, IpvsKernel};
use proxier::model::{Endpoint, EndpointSlice, InvalidName, ObjectName};
use proxier::model::{PortName, Protocol, Service, ServicePort};
use proxier::reconcile::{Event, Intervals, Observed, run};
use proxier::{Proxier, desired::Config, store::Change};

#[derive(serde::Deserialize)]
struct Entry {
    name: String,
    address: IpAddr,
    port: NonZeroU16,
    endpoints: Vec<Target>,
}

#[derive(serde::Deserialize)]
struct Target {
    address: IpAddr,
    port: NonZeroU16,
    weight: Option<u16>,
}

/// A service with its endpoints, each of which has a port number of its own.
fn convert(entry: &Entry) -> Result<(Service, Vec<EndpointSlice>), InvalidName> {
    let port = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, entry.port);
    let mut service = Service::new(ObjectName::label("registry", &entry.name)?);
    service.cluster_ips = [entry.address].into();
    service.ports = [port.clone()].into();
    let endpoints = entry.endpoints.iter().map(|target| {
        let endpoint = Endpoint::new(target.address).with_weight(target.weight.unwrap_or(1));
        (target.port, endpoint)
    });
    let slices = EndpointSlice::of_port(&service, &port, endpoints)?;
    Ok((service, slices))
}

/// The complete lists: a service that is no longer in the file is removed.
pub(crate) fn changes(json: &str) -> serde_json::Result<[Change; 2]> {
    let entries: Vec<Entry> = serde_json::from_str(json)?;
    let warn = |error: &InvalidName| eprintln!("left out: {error}");
    let services = entries.iter().map(convert);
    let valid = services.filter_map(|service| service.inspect_err(warn).ok());
    Ok(Change::replace_all(valid))
}

/// Sends the services if the file has changed.
fn follow(file: &str, last: &mut String, events: &Sender<Event>) -> Result<(), Box<dyn Error>> {
    let json = fs::read_to_string(file)?;
    if json != *last {
        events.send(Event::Changes(changes(&json)?.into()))?;
        *last = json;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [node, file] = <[String; 2]>::try_from(arguments).map_err(|_| "usage: registry IP FILE")?;
    let config = Config::new("registry", vec![node.parse()?]);
    config.validate()?;
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(IpvsKernel::open()?));
    let (sender, events) = channel();
    thread::spawn(move || {
        let mut last = String::new();
        loop {
            // A file that cannot be read changes nothing.
            let followed = follow(&file, &mut last, &sender);
            followed.unwrap_or_else(|error| eprintln!("{file}: {error}"));
            thread::sleep(Duration::from_secs(1));
        }
    });
    let print = |proxier: &mut Proxier<_>, observed: Observed<'_, _>| {
        if let Observed::Round(round) = observed {
            round.errors().for_each(|error| eprintln!("{error}"));
            let problems = proxier.problems();
            problems.iter().for_each(|problem| eprintln!("{problem}"));
        }
        ControlFlow::Continue(())
    };
    let _ended = run(&mut proxier, &events, &mut Intervals::default(), print);
    Ok(())
}
