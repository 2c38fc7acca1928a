//! Events after the list, in any order and number.

use serde_json::json;
use testbed::{Behaviour, Cut, Resource, Verb};

use crate::cluster::{Cluster, START, current, service, slice};

#[test]
fn events_are_applied() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        cluster
            .server
            .put(Resource::Services, service("d", "10.96.0.4"));
        cluster
            .server
            .put(Resource::EndpointSlices, slice("d-1", "d", &["10.244.0.4"]));
        cluster
            .server
            .put(Resource::EndpointSlices, slice("b-1", "b", &[]));
        cluster.server.delete(Resource::Services, "default/c");
        cluster.becomes(&[
            START[0],
            "10.96.0.2:80 → 10.244.1.2",
            "10.96.0.4:80 → 10.244.0.4",
        ]);
        cluster
            .server
            .delete(Resource::EndpointSlices, "default/d-1");
        cluster.becomes(&[START[0], "10.96.0.2:80 → 10.244.1.2", "10.96.0.4:80 → "]);
    }
}

#[test]
fn a_slice_changes_hands() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        cluster
            .server
            .put(Resource::EndpointSlices, slice("b-2", "c", &["10.244.1.2"]));
        cluster.becomes(&[
            START[0],
            "10.96.0.2:80 → 10.244.0.2",
            "10.96.0.3:80 → 10.244.1.2",
        ]);
    }
}

/// The changes for the tests of order: `a` and `b` change twice, `c` is deleted, created with
/// another address and deleted again, and `d` is created.
fn change(cluster: &Cluster) {
    let server = &cluster.server;
    for address in ["10.96.1.1", "10.96.2.1"] {
        server.put(Resource::Services, service("a", address));
    }
    server.delete(Resource::Services, "default/c");
    server.put(Resource::Services, service("b", "10.96.1.2"));
    server.put(Resource::Services, service("c", "10.96.1.3"));
    server.put(Resource::Services, service("d", "10.96.0.4"));
    server.delete(Resource::Services, "default/c");
    server.put(Resource::Services, service("b", "10.96.2.2"));
}

const CHANGED: [&str; 3] = [
    "10.96.0.4:80 → ",
    "10.96.2.1:80 → 10.244.0.1",
    "10.96.2.2:80 → 10.244.0.2 10.244.1.2",
];

/// Checks that the final state is reached, and that no earlier state returns.
fn check(order: impl FnOnce(&mut Vec<String>)) {
    let mut cluster = Cluster::new(Behaviour::default());
    cluster.server.hold(Resource::Services);
    change(&cluster);
    cluster.server.release(Resource::Services, order);
    cluster.becomes(&CHANGED);
    cluster.stays(&CHANGED);
    cluster.connects();
}

#[test]
fn doubled_events() {
    check(|lines| {
        *lines = lines
            .iter()
            .flat_map(|line| [line.clone(), line.clone()])
            .collect()
    });
    check(|lines| lines.extend(lines.clone()));
}

#[test]
fn events_backwards() {
    check(|lines| lines.reverse());
}

#[test]
fn events_in_any_order() {
    // Every rotation, and every swap of two.
    for by in 1..8 {
        check(|lines| lines.rotate_left(by));
        check(|lines| lines.swap(0, by));
        check(|lines| lines.swap(by, (by + 3) % 8));
    }
}

#[test]
fn an_event_after_its_object_has_gone() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        cluster.server.hold(Resource::Services);
        cluster
            .server
            .put(Resource::Services, service("c", "10.96.1.3"));
        cluster.server.delete(Resource::Services, "default/c");
        cluster
            .server
            .release(Resource::Services, |lines| lines.reverse());
        cluster.becomes(&START[..2]);
        cluster.stays(&START[..2]);
        let watches = cluster.server.asks_of(Resource::Services, Verb::Watch);
        let lists = watches
            .iter()
            .filter(|ask| ask.parameter("sendInitialEvents").is_some());
        assert_eq!(
            lists.count(),
            2,
            "only a list can tell that it has not come back"
        );
    }
}

#[test]
fn a_late_deletion_of_a_recreated_object() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        cluster.server.hold(Resource::Services);
        cluster.server.delete(Resource::Services, "default/c");
        cluster
            .server
            .put(Resource::Services, service("c", "10.96.1.3"));
        cluster
            .server
            .put(Resource::Services, service("d", "10.96.0.4"));
        let order = |lines: &mut Vec<String>| lines.insert(2, lines[0].clone());
        cluster.server.release(Resource::Services, order);
        let back = [START[0], START[1], "10.96.0.4:80 → ", "10.96.1.3:80 → "];
        cluster.becomes(&back);
        cluster.stays(&back);
    }
}

#[test]
fn a_bookmark_moves_the_watch_on() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        // Versions without events for the watch of Services.
        for _ in 0..10 {
            cluster
                .server
                .put(Resource::EndpointSlices, slice("a-1", "a", &["10.244.0.1"]));
        }
        cluster.server.compact();
        cluster.server.bookmark();
        cluster.server.cut(Resource::Services, Cut::Close);
        cluster.asked(Resource::Services, Verb::Watch, 2);
        cluster.server.delete(Resource::Services, "default/c");
        cluster.becomes(&START[..2]);
        let watches = cluster.server.asks_of(Resource::Services, Verb::Watch);
        let lists = watches
            .iter()
            .filter(|ask| ask.parameter("sendInitialEvents").is_some());
        assert_eq!(lists.count(), 1, "the watch went on from the bookmark");
    }
}

#[test]
fn a_refused_object_leaves_its_last_good_version() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        let mut bad = service("a", "10.96.0.9");
        bad["spec"]["ports"][0]["port"] = json!(70_000);
        cluster.server.put(Resource::Services, bad);
        // Not even decodable.
        let mut bad = slice("b-1", "b", &["10.244.9.9"]);
        bad["ports"] = json!("many");
        cluster.server.put(Resource::EndpointSlices, bad);
        let mut never_good = service("x", "10.96.0.10");
        never_good["spec"]["ports"][0]["protocol"] = json!("ICMP");
        cluster.server.put(Resource::Services, never_good);
        cluster.until("reported", |cluster| {
            if cluster.reported.len() == 3 {
                Ok(())
            } else {
                Err(cluster.reported.clone())
            }
        });
        let reported = &cluster.reported;
        for (object, field) in [("a", "spec.ports[0].port"), ("x", "spec.ports[0].protocol")] {
            let start = format!("Service default/{object}: {field}: ");
            assert!(
                reported.iter().any(|reported| reported.starts_with(&start)),
                "{reported:?}"
            );
        }
        cluster.stays(&START);
        // The same in a new list.
        for resource in [Resource::Services, Resource::EndpointSlices] {
            cluster.server.compact();
            cluster.server.cut(resource, Cut::Close);
            cluster.asked(resource, Verb::Watch, 3);
        }
        cluster
            .server
            .put(Resource::Services, service("d", "10.96.0.4"));
        cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → "]);
        // A valid version replaces it, and it can be deleted.
        cluster
            .server
            .put(Resource::Services, service("a", "10.96.0.9"));
        cluster.server.delete(Resource::Services, "default/d");
        cluster
            .server
            .delete(Resource::EndpointSlices, "default/b-1");
        cluster.becomes(&[
            "10.96.0.2:80 → 10.244.1.2",
            START[2],
            "10.96.0.9:80 → 10.244.0.1",
        ]);
    }
}
