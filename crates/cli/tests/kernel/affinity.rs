//! Session affinity: a client keeps its backend.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use testbed::{Family, Host};

use crate::lab::{Lab, client, run_logged};
use crate::ports::CART;

const REQUESTS: usize = 20;

#[test]
#[ignore = "kernel: needs IPVS"]
fn client_keeps_its_backend() {
    let lab = Lab::new("cart", &[CART]);
    lab.use_example("session-affinity.yaml");
    lab.once();
    let clients = [
        lab.probe(),
        lab.client(),
        lab.pod(CART.backends().next().unwrap()),
    ];
    let of_clients: BTreeSet<_> = clients
        .iter()
        .map(|client| only_backend(&lab, client))
        .collect();
    // Round robin gives each new client the next one.
    assert_eq!(of_clients.len(), clients.len(), "{of_clients:?}");
    // The choice persists, also with another scheduler.
    let before = only_backend(&lab, lab.probe());
    let (log, code) = run_logged(lab.once_command().arg("--ipvs-scheduler=lc"));
    assert_eq!(code, 0, "{log:?}");
    assert_eq!(only_backend(&lab, lab.probe()), before);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn client_of_a_removed_backend_gets_another() {
    let lab = Lab::new("cart-gone", &[CART]);
    lab.use_example("session-affinity.yaml");
    lab.once();
    let first = only_backend(&lab, lab.probe());
    let address = first.split(':').next().unwrap();
    lab.edit(
        "session-affinity.yaml",
        &format!("- addresses: [{address}]"),
        &format!("- conditions: {{ready: false}}\n  addresses: [{address}]"),
    );
    lab.once();
    assert_ne!(only_backend(&lab, lab.probe()), first);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn affinity_comes_and_goes_with_the_manifest() {
    let lab = Lab::new("cart-edit", &[CART]);
    lab.use_example("session-affinity.yaml");
    let affinity = "  sessionAffinity: ClientIP
  sessionAffinityConfig:
    clientIP:
      timeoutSeconds: 600
";
    lab.edit("session-affinity.yaml", affinity, "");
    lab.once();
    assert_eq!(backends(&lab, lab.probe()).len(), CART.backends().len());
    lab.use_example("session-affinity.yaml");
    lab.once();
    only_backend(&lab, lab.probe());
}

/// A node port may differ from the endpoints' port, which the kernel's persistence of a firewall
/// mark ignores.
#[test]
#[ignore = "kernel: needs IPVS"]
fn client_keeps_its_backend_at_a_node_port() {
    let lab = Lab::new("cart-node-port", &[CART]);
    lab.use_example("session-affinity.yaml");
    let manifest = "session-affinity.yaml";
    let address = "  clusterIP: 10.96.0.83\n";
    lab.edit(manifest, address, &format!("  type: NodePort\n{address}"));
    let target = "    targetPort: 8080\n";
    lab.edit(manifest, target, &format!("{target}    nodePort: 30083\n"));
    lab.once();
    let node_port = SocketAddr::new(lab.node().address(Family::V4), 30083);
    for from in [lab.client(), lab.probe(), lab.node()] {
        let ask = || client(CART.protocol, node_port).ask(from).unwrap().backend;
        let backends: BTreeSet<_> = (0..REQUESTS).map(|_| ask()).collect();
        assert_eq!(backends.len(), 1, "{} had {backends:?}", from.name());
    }
}

fn only_backend(lab: &Lab, client: &Host) -> String {
    let backends = backends(lab, client);
    assert_eq!(backends.len(), 1, "{} had {backends:?}", client.name());
    backends.into_iter().next().unwrap()
}

fn backends(lab: &Lab, client: &Host) -> BTreeSet<String> {
    (0..REQUESTS)
        .map(|_| lab.ask(client, &CART).unwrap().backend)
        .collect()
}
