//! What svcproxy's rules are said to do with a packet, on the state that the kernel has.

use std::path::Path;
use std::sync::Arc;

use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::Scope;
use proxier::mode::ipvs::trace;
use proxier::mode::trace::Surroundings;
use proxier::source::manifest::parse;
use proxier::store::Store;
use testbed::traffic::{Cluster, NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest, table};

use super::table_traces::{addresses, deviations};
use super::*;

/// Real traffic in every cell of the table, and then the evaluation of the same rules.
#[test]
#[ignore = "kernel: needs IPVS"]
fn the_evaluation_of_the_rules_agrees_with_the_kernel() {
    let topology = Topology::new("traces", &[2, 2]).unwrap();
    let cluster = Cluster::with_protocols(&topology, &[Protocol::Tcp]).unwrap();
    let mut store = Store::default();
    let reading = parse(Path::new("services.yaml"), &manifest());
    let changes = reading.changes.into_iter();
    changes.for_each(|change| store.apply(change));
    let host = &topology.node().host;
    let mut config = config(host);
    config.node_name = "node-a".into();
    let desired = DesiredState::from_store(Arc::new(config), &store);
    host.enter(|| {
        let mut kernel = IpvsKernel::open().unwrap();
        let plan = Plan::new(&desired, &kernel.observe().unwrap(), Scope::Full);
        let report = kernel.apply(&plan);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
    });
    host.ip(&[
        format!("address add {NEW_ADDRESS_V4}/16 dev eth0"),
        format!("address add {NEW_ADDRESS_V6}/64 dev eth0 nodad preferred_lft 0"),
    ])
    .unwrap();
    let table = table().unwrap();
    let failures = cluster.failures(&table);
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    let node = host.enter(|| IpvsKernel::open().unwrap().observe().unwrap());
    let installed = Ruleset::with_fingerprint(desired.config(), node.ruleset.unwrap());
    let own = addresses(&topology);
    let is_own = |address| own.contains(&address);
    let packets = cluster.packets(&table);
    assert!(packets.len() > 100, "{}", packets.len());
    let deviations = deviations(&packets, |packet| {
        trace(
            installed.as_ref(),
            &node,
            packet,
            Surroundings::new(&is_own),
        )
    });
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
}
