//! The changes when manifests are read again.
#![allow(clippy::unwrap_used, clippy::panic)]

mod pods;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proxier::source::manifest::{Manifests, Reading};
use proxier::store::{Change, Store};

/// A directory of manifests, and the store that follows it.
struct Node {
    directory: tempfile::TempDir,
    manifests: Manifests,
    store: Store,
}

impl Node {
    /// A directory with these files, read once.
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut node = Self {
            manifests: Manifests::new([directory.path()]),
            directory,
            store: Store::default(),
        };
        for (name, text) in files {
            node.write(name, text);
        }
        node.read();
        assert!(node.store.is_ready());
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&mut self) -> Reading {
        let reading = self.manifests.read();
        for change in reading.changes.clone() {
            self.store.apply(change);
        }
        reading
    }

    /// Reads, and returns the only diagnostic without its directory.
    fn read_error(&mut self) -> String {
        let reading = self.read();
        let [error] = reading.diagnostics.as_slice() else {
            panic!("not one diagnostic: {:?}", reading.diagnostics);
        };
        assert!(reading.has_errors());
        let directory = self.directory.path().to_str().unwrap();
        error.to_string().replace(&format!("{directory}/"), "")
    }

    /// The Services with their addresses and number of endpoints, sorted.
    fn services(&self) -> Vec<String> {
        let mut services: Vec<_> = self
            .store
            .services()
            .map(|view| {
                let endpoints: usize = view.slices().map(|slice| slice.endpoints.len()).sum();
                let name = view.service.name.name();
                format!("{name} {:?} {endpoints}", view.service.cluster_ips)
            })
            .collect();
        services.sort();
        services
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

fn slice(name: &str, service: &str, endpoint: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [{endpoint}]}}]\n"
    )
}

fn documents(documents: &[String]) -> String {
    documents.join("---\n")
}

#[test]
fn nothing_new_is_no_change() {
    let mut node = Node::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        (
            "b.json",
            "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": []}",
        ),
        ("c.yml", &slice("a-1", "a", "10.244.1.1")),
        (".hidden.yaml", "not: read"),
        ("d.yaml~", "not: read"),
    ]);
    assert_eq!(node.services(), ["a [10.96.0.1] 1"]);
    let reading = node.read();
    assert_eq!((reading.changes, reading.diagnostics), (vec![], vec![]));
    // The same objects in another form.
    fs::rename(node.path("a.yaml"), node.path("z.yaml")).unwrap();
    assert_eq!(node.read().changes, []);
}

#[test]
fn only_what_differs_changes() {
    let mut node = Node::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        ("b.yaml", &service("b", "10.96.0.2")),
        ("c.yaml", &slice("c", "a", "10.244.1.1")),
    ]);
    node.write("a.yaml", &service("a", "10.96.0.9"));
    fs::remove_file(node.path("b.yaml")).unwrap();
    fs::remove_file(node.path("c.yaml")).unwrap();
    node.write("d.yaml", &slice("d", "a", "10.244.1.2"));
    let changes = node.read().changes;
    assert!(
        matches!(
            changes.as_slice(),
            [
                Change::ServiceDeleted(b),
                Change::ServiceApplied(a),
                Change::EndpointSliceDeleted(c),
                Change::EndpointSliceApplied(d),
            ] if b.name() == "b" && a.name.name() == "a" && c.name() == "c" && d.name.name() == "d"
        ),
        "{changes:?}"
    );
    assert_eq!(node.services(), ["a [10.96.0.9] 1"]);
}

#[test]
fn a_refused_object_keeps_its_last_good_version() {
    let mut node = Node::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    node.write("a.yaml", &service("a", "127.0.0.1"));
    let error = node.read_error();
    assert!(error.starts_with("a.yaml: document 1 (line 4): Service default/a: spec.clusterIP: "));
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
    // At each reading.
    node.read_error();
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
    // Rejected in another file.
    fs::rename(node.path("a.yaml"), node.path("b.yaml")).unwrap();
    node.read_error();
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
    node.write("b.yaml", &service("a", "10.96.0.3"));
    assert_eq!(node.read().diagnostics, []);
    assert_eq!(node.services(), ["a [10.96.0.3] 0"]);
}

#[test]
fn a_broken_document_removes_nothing() {
    let both = documents(&[service("a", "10.96.0.1"), service("b", "10.96.0.2")]);
    let mut node = Node::new(&[("ab.yaml", &both), ("c.yaml", &service("c", "10.96.0.3"))]);
    // One document is broken, another one changed, and a third one deleted.
    node.write(
        "ab.yaml",
        &documents(&["kind: [\n".into(), service("b", "10.96.0.9")]),
    );
    fs::remove_file(node.path("c.yaml")).unwrap();
    let error = node.read_error();
    assert!(error.starts_with("ab.yaml: document 1 (line "), "{error}");
    assert_eq!(node.services(), ["a [10.96.0.1] 0", "b [10.96.0.9] 0"]);
    // An object with an invalid name may be any object.
    node.write("ab.yaml", &service("A", "10.96.0.1"));
    node.read_error();
    assert_eq!(node.services(), ["a [10.96.0.1] 0", "b [10.96.0.9] 0"]);
    // An object that another file defines now is not kept from this one.
    node.write("c.yaml", &service("a", "10.96.0.4"));
    node.read_error();
    assert_eq!(node.services(), ["a [10.96.0.4] 0", "b [10.96.0.9] 0"]);
    node.write("ab.yaml", "");
    assert_eq!(node.read().diagnostics, []);
    assert_eq!(node.services(), ["a [10.96.0.4] 0"]);
}

#[test]
fn unreadable_files_remove_nothing() {
    let mut node = Node::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        ("b.yaml", &service("b", "10.96.0.2")),
    ]);
    fs::write(node.path("a.yaml"), b"\xff\xfe").unwrap();
    let error = node.read_error();
    assert!(error.starts_with("a.yaml: cannot be read: "), "{error}");
    fs::remove_file(node.path("a.yaml")).unwrap();
    fs::create_dir(node.path("x")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", node.path("a.yaml")).unwrap();
    assert_eq!(node.read_error(), "a.yaml: cannot be read: not a file");
    assert_eq!(node.services(), ["a [10.96.0.1] 0", "b [10.96.0.2] 0"]);
    // The whole directory is missing.
    let away = node.directory.path().with_extension("away");
    fs::rename(node.directory.path(), &away).unwrap();
    assert!(node.read().has_errors());
    assert_eq!(node.services(), ["a [10.96.0.1] 0", "b [10.96.0.2] 0"]);
    fs::rename(&away, node.directory.path()).unwrap();
    fs::remove_file(node.path("a.yaml")).unwrap();
    assert_eq!(node.read().diagnostics, []);
    assert_eq!(
        node.services(),
        ["b [10.96.0.2] 0"],
        "not there is not unreadable"
    );
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let mut node = Node::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    node.manifests = Manifests::new([node.path("a.yaml"), node.path("none.yaml")]);
    let [error, not_listed] = &node.read().diagnostics[..] else {
        panic!("not two diagnostics");
    };
    let missing = format!("{}: cannot be read: ", node.path("none.yaml").display());
    assert!(error.to_string().starts_with(&missing), "{error}");
    assert!(not_listed.message.ends_with("none.yaml"), "{not_listed}");
    fs::remove_file(node.path("a.yaml")).unwrap();
    assert_eq!(node.read().diagnostics.len(), 3);
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
}

/// Services of an earlier run may be in effect on the node: nothing may be replaced or removed
/// before all of them are known.
#[test]
fn files_unreadable_at_start_count_as_not_listed() {
    type Break = fn(&Path);
    let breaks: [(&str, Break); 5] = [
        ("no such directory", |directory| {
            fs::remove_dir_all(directory).unwrap()
        }),
        ("no YAML", |directory| {
            fs::write(directory.join("b.yaml"), "a: [b").unwrap()
        }),
        ("no object", |directory| {
            fs::write(directory.join("b.yaml"), "kind: 7\n").unwrap()
        }),
        ("no text", |directory| {
            fs::write(directory.join("b.yaml"), b"\xff\xfe").unwrap()
        }),
        ("a dangling link", |directory| {
            std::os::unix::fs::symlink("nowhere", directory.join("b.yaml")).unwrap();
        }),
    ];
    for (what, break_it) in breaks {
        let mut node = Node::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
        let directory = node.directory.path().to_owned();
        break_it(&directory);
        node.manifests = Manifests::new([&directory]);
        node.store = Store::default();
        let reading = node.read();
        assert!(reading.has_errors(), "{what}");
        assert!(!node.store.is_ready(), "{what}: listed");
        let last = reading.diagnostics.last().unwrap().to_string();
        assert!(
            last.starts_with("nothing on this node is changed until"),
            "{what}: {last}"
        );
        // No changes.
        assert!(!node.read().changes.iter().any(is_list), "{what}");

        let _ = fs::remove_file(directory.join("b.yaml"));
        fs::create_dir_all(&directory).unwrap();
        node.write("a.yaml", &service("a", "10.96.0.1"));
        let reading = node.read();
        assert_eq!(reading.diagnostics, [], "{what}");
        assert!(node.store.is_ready(), "{what}");
        assert_eq!(node.services(), ["a [10.96.0.1] 0"], "{what}");
        // From now on, a broken file removes nothing.
        node.write("b.yaml", "a: [b");
        assert!(node.read().has_errors() && node.store.is_ready(), "{what}");
        assert_eq!(node.services(), ["a [10.96.0.1] 0"], "{what}");
    }
}

fn is_list(change: &Change) -> bool {
    matches!(
        change,
        Change::ServicesReplaced(_) | Change::EndpointSlicesReplaced(_)
    )
}

/// A rejected object counts as listed, because its name is known.
#[test]
fn a_rejected_object_at_start_delays_nothing() {
    let refused = service("b", "10.96.0.2").replace("clusterIP", "type: X, clusterIP");
    let node = Node::new(&[("a.yaml", &service("a", "10.96.0.1")), ("b.yaml", &refused)]);
    assert!(node.store.is_ready());
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
}

/// calico#8151: the API server's own Service has Endpoints with the label `skip-mirror`.
#[test]
fn endpoints_with_skip_mirror_are_used_without_slices() {
    let endpoints = "apiVersion: v1\nkind: Endpoints\n\
                     metadata: {name: a, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}\n\
                     subsets: [{addresses: [{ip: 10.244.1.1}, {ip: 10.244.1.2}], ports: [{port: 80}]}]\n";
    let mut node = Node::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        ("b.yaml", endpoints),
    ]);
    assert_eq!(node.services(), ["a [10.96.0.1] 2"]);
    node.write("c.yaml", &slice("a-1", "a", "10.244.1.3"));
    let reading = node.read();
    let notes: Vec<_> = reading.diagnostics.iter().map(|d| &*d.message).collect();
    assert_eq!(notes, ["not used: this Service has endpoint slices"]);
    assert_eq!(node.services(), ["a [10.96.0.1] 1"]);
    fs::remove_file(node.path("c.yaml")).unwrap();
    assert_eq!(node.read().diagnostics, []);
    assert_eq!(node.services(), ["a [10.96.0.1] 2"]);
}

#[test]
fn a_huge_file_is_rejected() {
    let mut node = Node::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    let file = fs::File::create(node.path("a.yaml")).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = node.read_error();
    assert_eq!(error, "a.yaml: cannot be read: more than 64 MiB: split it");
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
}

#[test]
fn the_first_definition_counts() {
    let mut node = Node::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        ("b.yaml", &service("a", "10.96.0.2")),
    ]);
    let error = node.read_error();
    assert!(error.ends_with(" a.yaml: document 1 (line 1)"), "{error}");
    assert!(error.starts_with("b.yaml: document 1 (line 1): Service default/a: already defined"));
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
}

#[test]
fn an_address_stays_with_its_service() {
    let mut node = Node::new(&[
        ("m.yaml", &service("m", "10.96.0.1")),
        ("z.yaml", &service("z", "10.96.0.2")),
    ]);
    // Defined in an earlier file, but too late.
    node.write("a.yaml", &service("a", "10.96.0.1"));
    let error = node.read_error();
    assert_eq!(
        error,
        "a.yaml: document 1 (line 1): Service default/a: spec.ports[0].port: \
         80 of 10.96.0.1 belongs to Service default/m"
    );
    assert_eq!(node.services(), ["m [10.96.0.1] 0", "z [10.96.0.2] 0"]);
    // An edit that claims another Service's address leaves the Service unchanged.
    fs::remove_file(node.path("a.yaml")).unwrap();
    node.write("z.yaml", &service("z", "10.96.0.1"));
    node.read_error();
    assert_eq!(node.services(), ["m [10.96.0.1] 0", "z [10.96.0.2] 0"]);
    // A free address can be claimed; two Services may swap addresses.
    node.write("m.yaml", &service("m", "10.96.0.2"));
    assert_eq!(node.read().diagnostics, []);
    assert_eq!(node.services(), ["m [10.96.0.2] 0", "z [10.96.0.1] 0"]);
}

#[test]
fn slices_of_the_control_plane_take_the_place_of_endpoints() {
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: a}\n\
                     subsets: [{addresses: [{ip: 10.244.1.1}, {ip: 10.244.1.2}], ports: [{port: 80}]}]\n";
    let mut node = Node::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        ("b.yaml", endpoints),
    ]);
    assert_eq!(node.services(), ["a [10.96.0.1] 2"]);
    let label = "endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io";
    let managed =
        slice("a-1", "a", "10.244.1.3").replace("labels: {", &format!("labels: {{{label}, "));
    node.write("c.yaml", &managed);
    let reading = node.read();
    assert!(!reading.has_errors() && reading.diagnostics.len() == 1);
    assert_eq!(node.services(), ["a [10.96.0.1] 1"]);
    fs::remove_file(node.path("c.yaml")).unwrap();
    node.read();
    assert_eq!(node.services(), ["a [10.96.0.1] 2"]);
}

#[test]
fn a_file_without_permission_removes_nothing() {
    let mut node = Node::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    let none = fs::Permissions::from_mode(0o0);
    fs::set_permissions(node.path("a.yaml"), none).unwrap();
    // Root can read it anyway.
    node.read();
    assert_eq!(node.services(), ["a [10.96.0.1] 0"]);
}

#[test]
fn a_moved_document_is_reported_at_its_new_place() {
    let list = "apiVersion: v1\nkind: ServiceList\nitems:\n\
                - metadata: {name: x}\n  spec: {clusterIP: None}\n\
                - metadata: {name: a}\n  spec: {clusterIP: None}\n";
    let mut node = Node::new(&[("a.yaml", list)]);
    let moved = documents(&[service("new", "10.96.0.7"), list.into()]);
    node.write("a.yaml", &moved);
    node.write("b.yaml", &service("a", "10.96.0.8"));
    assert_eq!(
        node.read_error(),
        "b.yaml: document 1 (line 1): Service default/a: \
         already defined at a.yaml: document 2, items[1] (line 6)"
    );
    assert_eq!(node.services(), ["a [] 0", "new [10.96.0.7] 0", "x [] 0"]);
}
