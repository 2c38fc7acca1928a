//! A server that sends too much, or too slowly, costs bounded memory and time.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Cut, Fault, Resource, Verb};

use crate::cluster::{
    Cluster, START, access, all, current, impatient, populated, service, slice, timing,
};

const MIB: usize = 1 << 20;
/// Locked by tests that need or measure much memory.
static MEMORY: Mutex<()> = Mutex::new(());

fn big_service(name: &str, address: &str) -> Value {
    let mut service = service(name, address);
    // Before the name, in the order of the fake server's JSON.
    service["metadata"]["annotations"] = json!({"big": "x".repeat(9 * MIB)});
    service
}

#[test]
fn an_object_that_is_too_long_costs_only_itself() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    for behaviour in all() {
        let server = populated(behaviour);
        server.put(Resource::Services, big_service("d", "10.96.0.4"));
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, timing());
        cluster.becomes(&START);
        let reported = "Service default/d: the object is longer than 8 MiB and is ignored; \
                    its last good version stays in effect";
        assert_eq!(cluster.reported, [reported]);

        // The same with events.
        let server = &cluster.server;
        server.put(Resource::Services, service("d", "10.96.0.4"));
        let four = [START[0], START[1], START[2], "10.96.0.4:80 → "];
        cluster.becomes(&four);
        let server = &cluster.server;
        server.put(Resource::Services, big_service("d", "10.96.0.5"));
        server.put(Resource::EndpointSlices, slice("a-1", "a", &["10.244.0.9"]));
        let changed = ["10.96.0.1:80 → 10.244.0.9", four[1], four[2], four[3]];
        cluster.becomes(&changed);
        cluster.until("reported twice", |cluster| match &cluster.reported[..] {
            [_, second] if second == reported => Ok(()),
            others => Err(others.to_vec()),
        });
        assert_eq!(cluster.serves(), changed);

        // The same with the next list.
        cluster.server.compact();
        cluster.server.cut(Resource::Services, Cut::Close);
        cluster.until("reported again", |cluster| match cluster.reported.len() {
            3 => Ok(()),
            others => Err(others),
        });
        assert_eq!(cluster.serves(), changed);
        cluster.server.delete(Resource::Services, "default/d");
        cluster.becomes(&changed[..3]);
        cluster.connects();
    }
}

/// Peak memory of this process, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<usize>().unwrap() << 10
}

#[test]
fn an_answer_without_a_line_end_takes_no_memory() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    for behaviour in all() {
        let server = populated(behaviour);
        let endless = Fault::Endless(512 * MIB);
        server.fail(Resource::Services, Verb::Watch, [endless.clone()]);
        server.fail(Resource::Services, Verb::List, [endless]);
        let before = peak();
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, timing());
        cluster.becomes(&START);
        let grown = peak() - before;
        assert!(grown < 128 * MIB, "grown by {} MiB", grown / MIB);
    }
}

#[test]
fn a_dripping_list_is_abandoned() {
    for behaviour in all() {
        let server = populated(behaviour);
        server.fail(Resource::Services, Verb::Watch, [Fault::Drip]);
        server.fail(Resource::Services, Verb::List, [Fault::Drip, Fault::Drip]);
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, impatient());
        cluster.until("failure", |cluster| {
            let failures = cluster.source.state().failures;
            let failure = failures.get("Service").cloned().unwrap_or_default();
            if failure.contains("sent only") {
                Ok(())
            } else {
                Err(failures)
            }
        });
        cluster.becomes(&START);
        cluster.connects();
    }
}

#[test]
fn a_watch_without_bookmarks_is_requested_again() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut timing = timing();
        timing.silence = Duration::from_millis(300);
        let mut cluster = Cluster::follow(server, access, timing);
        cluster.becomes(&START);
        cluster.server.cut(Resource::EndpointSlices, Cut::Silence);
        cluster
            .server
            .put(Resource::EndpointSlices, slice("a-1", "a", &["10.244.0.9"]));
        cluster.becomes(&["10.96.0.1:80 → 10.244.0.9", START[1], START[2]]);
        let failures = cluster.source.state().failures;
        assert!(failures.is_empty(), "{failures:?}");
        // From its last version, without a new list.
        let asks = cluster
            .server
            .asks_of(Resource::EndpointSlices, Verb::Watch);
        let lists = asks
            .iter()
            .filter(|ask| ask.parameter("sendInitialEvents").is_some());
        assert_eq!(lists.count(), 1);
    }
}
