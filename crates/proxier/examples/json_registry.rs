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
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{env, error::Error, fs, net::IpAddr, num::NonZeroU16, thread};

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::DataPlane;
use proxier::mode::ipvs::{Ipvs, IpvsBackend};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, InvalidName, ObjectName, PortName, Protocol,
    Service, ServicePort,
};
use proxier::reconcile::{Event, Intervals, Observed, run};
use proxier::store::Change;

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
    #[serde(default = "one")]
    weight: u16,
}

fn one() -> u16 {
    1
}

/// A service, and its endpoints in slices. All endpoints of a slice have its port, and here each
/// endpoint has a port of its own.
fn convert(entry: &Entry) -> Result<(Service, Vec<EndpointSlice>), InvalidName> {
    let name = ObjectName::label("registry", &entry.name)?;
    let mut service = Service::new(name.clone());
    service.cluster_ips = [entry.address].into();
    service.ports = [ServicePort::new(
        PortName::UNNAMED,
        Protocol::Tcp,
        entry.port,
    )]
    .into();
    let slice = |(index, target): (usize, &Target)| {
        let slice = ObjectName::new("registry", &format!("{}-{index}", entry.name))?;
        let mut slice = EndpointSlice::new(slice, name.clone(), Family::of(&entry.address));
        slice.ports = [EndpointPort::new(
            PortName::UNNAMED,
            Protocol::Tcp,
            target.port,
        )]
        .into();
        let mut endpoint = Endpoint::new(target.address);
        endpoint.weight = target.weight;
        slice.endpoints = [endpoint].into();
        Ok(slice)
    };
    let slices = entry.endpoints.iter().enumerate().map(slice);
    let slices = slices.collect::<Result<_, _>>()?;
    Ok((service, slices))
}

/// The complete lists: a service that is no longer in the file is removed.
pub(crate) fn changes(json: &str) -> serde_json::Result<[Change; 2]> {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for entry in serde_json::from_str::<Vec<Entry>>(json)? {
        match convert(&entry) {
            Ok((service, its)) => {
                services.push(service);
                slices.extend(its);
            }
            Err(error) => eprintln!("left out: {error}"),
        }
    }
    let services = Change::ServicesReplaced(services);
    Ok([services, Change::EndpointSlicesReplaced(slices)])
}

/// Sends the services whenever the file has changed. An unreadable file changes nothing.
fn follow(file: &str, events: &mpsc::Sender<Event>) -> Result<(), mpsc::SendError<Event>> {
    let mut last = String::new();
    loop {
        let json = fs::read_to_string(file).unwrap_or_else(|error| {
            eprintln!("{file}: {error}");
            last.clone()
        });
        if json != last {
            match changes(&json) {
                Ok(changes) => events.send(Event::Changes(changes.into()))?,
                Err(error) => eprintln!("{file}: {error}"),
            }
            last = json;
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Prints what failed, and what stands in the file and cannot be served.
fn report<D: DataPlane>(
    proxier: &mut Proxier<D>,
    observed: Observed<'_, D::Plan>,
) -> ControlFlow<()> {
    if let Observed::Round(round) = observed {
        match round.result {
            Ok(report) => {
                let failures = report.applied.failures.iter();
                failures.for_each(|failure| eprintln!("{}", failure.error));
            }
            Err(error) => eprintln!("{error}"),
        }
        let problems = proxier.problems().into_iter();
        problems.for_each(|problem| eprintln!("{problem}"));
    }
    ControlFlow::Continue(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [node, file] = <[String; 2]>::try_from(arguments).map_err(|_| "usage: registry IP FILE")?;
    let mut config = Config::new("registry", vec![node.parse()?]);
    // Each virtual IP gets a route of its own.
    config.service_cidrs.clear();
    config.validate()?;
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(IpvsBackend::open()?));
    let (sender, events) = mpsc::channel();
    thread::spawn(move || follow(&file, &sender));
    let _ended = run(&mut proxier, &events, &mut Intervals::default(), report);
    Ok(())
}
