//! Single packets; random ones are compared with the API objects in `tests/incremental`, and with the
//! kernel in `tests/kernel_ipvs/traces.rs`.

use std::sync::Arc;

use ipnet::IpNet;
use ipvs::Protocol;

use super::*;
use crate::desired::{Config, DesiredState};
use crate::mode::ipvs::plan::{Plan, Scope};
use crate::mode::trace::Origin;
use crate::model::{ObjectName, PortName, Service, ServicePort};
use crate::store::{Change, Store};

/// A node with a Service without endpoints, whose load-balancer IP has source ranges.
fn node() -> (Ruleset, NodeState, Config) {
    let mut config = Config::new("n", vec![[192, 0, 2, 1].into()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    let mut service = Service::new(ObjectName::new("default", "web").unwrap());
    service.cluster_ips = [[10, 96, 0, 1].into()].into();
    service.load_balancer_ips = [[203, 0, 113, 1].into()].into();
    let range: IpNet = "198.51.100.0/24".parse().unwrap();
    service.load_balancer_source_ranges = [range].into();
    let port = 80.try_into().unwrap();
    service.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port)].into();
    let mut store = Store::default();
    store.apply(Change::ServicesReplaced(vec![service]));
    store.apply(Change::EndpointSlicesReplaced(Vec::new()));
    let desired = DesiredState::from_store(Arc::new(config.clone()), &store);
    let mut node = NodeState::default();
    node.record(&Plan::new(&desired, &node, Scope::Full), &[]);
    (Ruleset::needed(&desired, node.is_filtered), node, config)
}

fn outcome(from: &str, to: &str) -> Trace {
    let (ruleset, node, config) = node();
    let to: SocketAddr = to.parse().unwrap();
    let (source, port) = (from.parse().unwrap(), to.port().try_into().unwrap());
    let origin = match config.node_ips.contains(&source) {
        true => Origin::Node,
        false => Origin::Interface("eth0".to_owned()),
    };
    let packet = Packet::new(source, to.ip(), Protocol::Tcp, port, origin);
    let is_own = |address| config.node_ips.contains(&address);
    trace(Some(&ruleset), &node, &packet, Surroundings::new(&is_own))
}

#[test]
fn source_ranges_come_before_the_refusal() {
    let outside = outcome("198.18.0.7", "203.0.113.1:80");
    assert_eq!(outside.outcome, Outcome::Dropped, "{outside:#?}");
    let inside = outcome("198.51.100.7", "203.0.113.1:80");
    assert_eq!(inside.outcome, Outcome::Refused, "{inside:#?}");
    assert_eq!(inside.owner.as_deref(), Some("default/web"));
    // Before routing: from the input hook, no error would reach the client.
    assert!(
        inside.steps.iter().all(|step| step.hook == "prerouting"),
        "{inside:#?}"
    );
    // The node itself is never locked out.
    let node = outcome("192.0.2.1", "203.0.113.1:80");
    assert_eq!(node.outcome, Outcome::Refused, "{node:#?}");
}

#[test]
fn what_is_no_service_goes_its_way() {
    let unused = outcome("10.244.0.7", "10.96.0.1:81");
    assert_eq!(unused.outcome, Outcome::Refused, "{unused:#?}");
    assert_eq!(unused.owner, None);
    assert_eq!(
        outcome("10.244.0.7", "192.0.2.1:22").outcome,
        Outcome::Delivered
    );
    assert_eq!(
        outcome("10.244.0.7", "203.0.113.1:443").outcome,
        Outcome::Leaves
    );
    assert_eq!(
        outcome("192.0.2.1", "203.0.113.1:443").outcome,
        Outcome::Leaves
    );
}

#[test]
fn without_rules_nothing_is_refused() {
    let (_, node, _) = node();
    let (source, to) = ([10, 244, 0, 7].into(), [10, 96, 0, 1].into());
    let origin = Origin::Interface(String::new());
    let packet = Packet::new(source, to, Protocol::Tcp, 80.try_into().unwrap(), origin);
    let trace = trace(None, &node, &packet, Surroundings::new(&|_| false));
    assert_eq!(trace.outcome, Outcome::Delivered, "{trace:#?}");
}
