//! Real clients and endpoints: the table of docs/traffic.md, which is the IPVS backend's too.

use std::path::Path;

use proxier::source::manifest::parse;
use testbed::traffic::{Cluster, NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest, table};
use testbed::{POD_CIDR_V4, POD_CIDR_V6, Protocol, SERVICE_CIDR_V4, SERVICE_CIDR_V6, Topology};

use super::*;

/// All but SCTP, for which not every kernel has sockets.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The node that svcproxy runs on.
fn settings(topology: &Topology) -> Config {
    let node = &topology.node().host;
    let mut config = Config::new("node-a", vec![node.v4.into(), node.v6.into()]);
    let cidrs = |cidrs: [&str; 2]| cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    config.cluster_cidrs = cidrs([POD_CIDR_V4, POD_CIDR_V6]);
    config.service_cidrs = cidrs([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config
}

fn whole_table(flavour: Flavour) {
    let topology = Topology::new("table", &[2, 2]).unwrap();
    let cluster = Cluster::with_protocols(&topology, &PROTOCOLS).unwrap();
    let reading = parse(Path::new("services.yaml"), &manifest());
    assert!(!reading.has_errors(), "{:#?}", reading.diagnostics);
    let state = desired(&reading.changes, &Arc::new(settings(&topology)));
    assert_eq!(state.problems(), []);
    let host = &topology.node().host;
    host.enter(|| {
        let mut backend = backend(flavour);
        let mut node = backend.observe().unwrap();
        let plan = Plan::new(&state, &node, Scope::Full);
        apply(&mut backend, &plan, &mut node);
    });
    // Without becoming the source of the node's own connections.
    host.ip(&[
        format!("address add {NEW_ADDRESS_V4}/16 dev eth0"),
        format!("address add {NEW_ADDRESS_V6}/64 dev eth0 nodad preferred_lft 0"),
    ])
    .unwrap();
    let failures = cluster.failures(&table().unwrap());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_by_nft() {
    whole_table(Flavour::Nft);
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_by_legacy() {
    whole_table(Flavour::Legacy);
}
