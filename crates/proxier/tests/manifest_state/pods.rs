//! Pods and Nodes, and the slices that are derived from them.

use std::fs;

use proxier::source::manifest::Manifests;
use proxier::store::Change;

use super::{Node, documents, service, slice};

fn pod(name: &str, app: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: node-a, containers: [{{ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
         status: {{podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

/// A Service that selects the Pods with its name.
fn selecting(name: &str, ip: &str) -> String {
    let spec = format!("spec: {{selector: {{app: {name}}}, ");
    service(name, ip).replace("spec: {", &spec)
}

fn node(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

/// The slices that changes apply (`+`) and delete (`-`).
fn slices(changes: &[Change]) -> Vec<String> {
    let slices = changes.iter().filter_map(|change| match change {
        Change::EndpointSliceApplied(slice) => Some(format!("+{}", slice.name.name())),
        Change::EndpointSliceDeleted(name) => Some(format!("-{}", name.name())),
        _ => None,
    });
    slices.collect()
}

#[test]
fn slices_follow_the_pods_that_come_change_and_go() {
    let mut node = Node::new(&[
        ("a.yaml", &selecting("a", "10.96.0.1")),
        ("b.yaml", &selecting("b", "10.96.0.2")),
        ("b-0.yaml", &pod("b-0", "b", "10.244.1.1")),
    ]);
    assert_eq!(node.services(), ["a [10.96.0.1] 0", "b [10.96.0.2] 1"]);
    node.write("a-0.yaml", &pod("a-0", "a", "10.244.1.2"));
    assert_eq!(slices(&node.read().changes), ["+a-derived-0-ipv4"]);
    node.write("a-1.yaml", &pod("a-1", "a", "10.244.1.3"));
    assert_eq!(slices(&node.read().changes), ["+a-derived-0-ipv4"]);
    assert_eq!(node.services(), ["a [10.96.0.1] 2", "b [10.96.0.2] 1"]);
    // The Pod moves to the other Service.
    node.write("a-1.yaml", &pod("a-1", "b", "10.244.1.3"));
    assert_eq!(
        slices(&node.read().changes),
        ["+a-derived-0-ipv4", "+b-derived-0-ipv4"]
    );
    assert_eq!(node.services(), ["a [10.96.0.1] 1", "b [10.96.0.2] 2"]);
    // Changes that do not affect an endpoint are ignored.
    let other = pod("a-0", "a", "10.244.1.2").replace("app: a", "app: a, other: x");
    node.write("a-0.yaml", &other);
    assert_eq!(node.read().changes, []);
    fs::remove_file(node.path("a-0.yaml")).unwrap();
    assert_eq!(slices(&node.read().changes), ["-a-derived-0-ipv4"]);
    // The Service selects other Pods.
    node.write(
        "a.yaml",
        &selecting("a", "10.96.0.1").replace("app: a", "app: b"),
    );
    assert_eq!(slices(&node.read().changes), ["+a-derived-0-ipv4"]);
    fs::remove_file(node.path("b.yaml")).unwrap();
    assert_eq!(slices(&node.read().changes), ["-b-derived-0-ipv4"]);
    assert_eq!(node.services(), ["a [10.96.0.1] 2"]);
}

#[test]
fn a_refused_pod_keeps_its_last_good_version() {
    let mut node = Node::new(&[
        ("a.yaml", &selecting("a", "10.96.0.1")),
        ("a-0.yaml", &pod("a-0", "a", "10.244.1.1")),
    ]);
    node.write("a-0.yaml", &pod("a-0", "a", "127.0.0.1"));
    assert_eq!(
        node.read_error(),
        "a-0.yaml: document 1 (line 5): Pod default/a-0: status.podIP: \
         127.0.0.1 is a loopback address (127.0.0.0/8, ::1)"
    );
    assert_eq!(node.services(), ["a [10.96.0.1] 1"]);
}

#[test]
fn slices_in_the_manifests_take_precedence_over_pods() {
    let mut node = Node::new(&[
        ("a.yaml", &selecting("a", "10.96.0.1")),
        ("a-0.yaml", &pod("a-0", "a", "10.244.1.1")),
    ]);
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: a}\n\
                     subsets: [{addresses: [{ip: 10.244.1.1}, {ip: 10.244.1.2}], ports: [{port: 80}]}]\n";
    for (text, expected) in [
        (
            slice("a-1", "a", "10.244.1.9"),
            ["-a-derived-0-ipv4", "+a-1"],
        ),
        (endpoints.to_owned(), ["-a-1", "+a-mirrored-0-ipv4"]),
    ] {
        node.write("slices.yaml", &text);
        let reading = node.read();
        assert_eq!(slices(&reading.changes), expected);
        let [note] = reading.diagnostics.as_slice() else {
            panic!("{:?}", reading.diagnostics);
        };
        assert_eq!(note.object.as_deref(), Some("Service default/a"));
        assert!(!note.is_error() && note.message.contains("Pods are not used"));
    }
    fs::remove_file(node.path("slices.yaml")).unwrap();
    let reading = node.read();
    assert_eq!(reading.diagnostics, []);
    assert_eq!(
        slices(&reading.changes),
        ["-a-mirrored-0-ipv4", "+a-derived-0-ipv4"]
    );
}

#[test]
fn the_node_of_the_name_is_this_node() {
    let zone = "topology.kubernetes.io/zone";
    let mut this = Node::new(&[(
        "n.yaml",
        &documents(&[
            node("node-a", &format!("{zone}: east")),
            node("node-b", &format!("{zone}: west")),
        ]),
    )]);
    assert_eq!(this.store.node(), None, "nobody asked for it");
    this.manifests = Manifests::new([this.directory.path()]).for_node("node-a");
    this.read();
    let zone_of = |this: &Node| this.store.node().map(|node| node.zone.clone().unwrap());
    assert_eq!(zone_of(&this).as_deref(), Some("east"));
    assert_eq!(this.read().changes, []);
    // A change of the Node changes its endpoints.
    this.write(
        "a.yaml",
        &documents(&[selecting("a", "10.96.0.1"), pod("a-0", "a", "10.244.1.1")]),
    );
    this.read();
    this.write("n.yaml", &node("node-a", &format!("{zone}: north")));
    let reading = this.read();
    assert!(
        matches!(&reading.changes[..], [
        Change::NodeReplaced(Some(node)),
        Change::EndpointSliceApplied(slice),
    ] if node.zone.as_deref() == Some("north")
        && slice.endpoints[0].zone.as_deref() == Some("north")),
        "{reading:?}"
    );
    // A Node with an error keeps its last version.
    let error = format!("{}spec: {{podCIDRs: x}}\n", node("node-a", ""));
    this.write("n.yaml", &error);
    let error = this.read_error();
    assert!(
        error.starts_with("n.yaml: document 1 (line 4): Node node-a: spec.podCIDRs: "),
        "{error}"
    );
    assert_eq!(zone_of(&this).as_deref(), Some("north"));
    fs::remove_file(this.path("n.yaml")).unwrap();
    assert_eq!(
        this.read().changes.first(),
        Some(&Change::NodeReplaced(None))
    );
    assert_eq!(zone_of(&this), None);
}
