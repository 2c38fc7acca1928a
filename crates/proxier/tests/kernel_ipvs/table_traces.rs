//! Compares the evaluation of the rules in the kernel with the table of docs/traffic.md, whose cells
//! other tests check with real traffic.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proxier::mode::trace::{Origin, Outcome, Packet, Trace};
use testbed::traffic::{Fate, TablePacket};
use testbed::{Protocol, Topology};

/// The addresses of the first node, as `ip address` lists them.
pub(crate) fn addresses(topology: &Topology) -> BTreeSet<IpAddr> {
    let text = topology
        .node()
        .host
        .run(["ip", "-oneline", "address"])
        .unwrap();
    let words = text.split_ascii_whitespace();
    let networks = words.filter_map(|word| word.split_once('/'));
    networks
        .filter_map(|(address, _)| address.parse().ok())
        .collect()
}

/// The deviations.
pub(crate) fn deviations(packets: &[TablePacket], trace: impl Fn(&Packet) -> Trace) -> Vec<String> {
    let deviation = |of: &TablePacket| {
        let protocol = match of.protocol {
            Protocol::Udp => ipvs::Protocol::Udp,
            Protocol::Sctp => ipvs::Protocol::Sctp,
            _ => ipvs::Protocol::Tcp,
        };
        let origin = match of.from_node {
            true => Origin::Node,
            false => Origin::Interface("eth0".to_owned()),
        };
        let port = of.to.port().try_into().unwrap();
        let trace = trace(&Packet::new(of.source, of.to.ip(), protocol, port, origin));
        let fate = fate(&trace, of.from_node);
        // The node's own address is also a client's own: whether it is masqueraded makes no difference.
        let wanted = match (&of.fate, of.from_node) {
            (Fate::Reached { endpoints, .. }, true) => Fate::Reached {
                endpoints: endpoints.clone(),
                masqueraded: BTreeSet::new(),
            },
            (fate, _) => fate.clone(),
        };
        (fate != wanted).then(|| format!("{}: {fate:?} instead of {wanted:?}: {trace:#?}", of.cell))
    };
    packets.iter().filter_map(deviation).collect()
}

fn fate(trace: &Trace, from_node: bool) -> Fate {
    match &trace.outcome {
        Outcome::Refused => Fate::Refused,
        Outcome::Dropped => Fate::Dropped,
        Outcome::Served(answers) => {
            let masqueraded = answers.iter().filter(|of| of.masqueraded && !from_node);
            Fate::Reached {
                endpoints: answers.iter().map(|of| of.endpoint).collect(),
                masqueraded: masqueraded.map(|of| of.endpoint).collect(),
            }
        }
        _ => Fate::Owner,
    }
}
