use std::net::SocketAddr;

use super::*;

/// The index of the step that deletes an entry. Flows are given as destination and answering
/// backend; the node has the address 192.0.2.1.
fn step_for(flows: &[(&str, Option<&str>)], to: &str, answered_from: &str) -> Option<usize> {
    let mut unwanted = Unwanted::default();
    for (place, (to, answered_by)) in flows.iter().enumerate() {
        let to: SocketAddr = to.parse().unwrap();
        let key = FrontendKey {
            protocol: Protocol::Udp,
            address: to.ip(),
            port: to.port().try_into().unwrap(),
        };
        let answered_by = answered_by.map(|address| address.parse().unwrap());
        let flows = Flows::to(key);
        let flows = answered_by.map_or(flows, |backend| flows.answered_by(backend));
        unwanted.0.insert(flows, place);
    }
    let entry = Entry::example(to.parse().unwrap(), answered_from.parse().unwrap());
    let node = HashSet::from(["192.0.2.1".parse().unwrap()]);
    unwanted.step_for(&entry, &node)
}

#[test]
fn flows_to_a_virtual_ip_go_by_backend_or_all() {
    let vip = "10.96.0.10:53";
    let one = [(vip, Some("10.244.1.5"))];
    assert_eq!(step_for(&one, vip, "10.244.1.5:5353"), Some(0));
    assert_eq!(step_for(&one, vip, "10.244.1.6:5353"), None);
    assert_eq!(step_for(&one, "10.96.0.10:54", "10.244.1.5:5353"), None);
    assert_eq!(step_for(&one, "10.96.0.11:53", "10.244.1.5:5353"), None);
    // A direct connection to the pod's own address.
    assert_eq!(step_for(&one, "10.244.1.5:53", "10.244.1.5:53"), None);

    let all = [("10.96.0.11:53", None), (vip, None)];
    assert_eq!(step_for(&all, vip, "10.244.1.6:5353"), Some(1));
    // A flow from before the virtual server existed.
    assert_eq!(step_for(&all, vip, vip), Some(1));
}

#[test]
fn flows_to_a_node_port_are_those_of_a_backend_at_any_address() {
    let flows = [("0.0.0.0:30053", Some("10.244.1.5"))];
    let step_for = |to, from| step_for(&flows, to, from);
    assert_eq!(step_for("192.0.2.1:30053", "10.244.1.5:53"), Some(0));
    // An address that the node had before.
    assert_eq!(step_for("192.0.2.9:30053", "10.244.1.5:53"), Some(0));
    assert_eq!(step_for("192.0.2.1:30054", "10.244.1.5:53"), None);
    assert_eq!(step_for("192.0.2.1:30053", "10.244.1.6:53"), None);
    // The pod has the same port, too.
    assert_eq!(step_for("10.244.1.5:30053", "10.244.1.5:30053"), None);
    assert_eq!(step_for("[2001:db8::1]:30053", "[2001:db8::5]:53"), None);
}

#[test]
fn a_backend_in_the_nodes_network_is_recognised_by_its_port() {
    let flows = [("0.0.0.0:30053", Some("192.0.2.1"))];
    let to = "192.0.2.1:30053";
    assert_eq!(step_for(&flows, to, "192.0.2.1:53"), Some(0));
    assert_eq!(step_for(&flows, to, to), None);
}

#[test]
fn all_flows_to_a_node_port_are_those_to_the_nodes_addresses() {
    let flows = [("0.0.0.0:30053", None)];
    let step_for = |to, from| step_for(&flows, to, from);
    assert_eq!(step_for("192.0.2.1:30053", "10.244.1.6:53"), Some(0));
    assert_eq!(step_for("192.0.2.1:30053", "192.0.2.1:30053"), Some(0));
    // Forwarded to another node.
    assert_eq!(step_for("192.0.2.2:30053", "192.0.2.2:30053"), None);
}

#[test]
fn a_list_has_a_port_if_it_is_the_only_one() {
    let key = |port| FrontendKey {
        protocol: Protocol::Udp,
        address: [10, 96, 0, 10].into(),
        port: NonZeroU16::new(port).unwrap(),
    };
    let dns = Flows::to(key(53));
    let one = [(dns, 0), (dns.answered_by([10, 244, 1, 5].into()), 1)];
    let mut unwanted = Unwanted(HashMap::from(one));
    assert_eq!(unwanted.only_port(), Some(53));
    unwanted.0.insert(Flows::to(key(54)), 2);
    assert_eq!(unwanted.only_port(), None);
}
