//! Notices, posted as Events.

use std::sync::Arc;

use proxier::model::{ObjectName, Uid};
use proxier::notice::{Notice, Reason};
use proxier::source::Extent;
use proxier::source::kube::{EventSender, KubeSource, event_queue};
use serde_json::Value;
use testbed::{ApiServer, Behaviour, Fault, Resource, Verb, eventually, stays};

use crate::cluster::{NODE, PATIENCE, QUIET, access, populated, timing};

const UID: &str = "0b8b6f1c-1c9c-4b5e-9e0a-0c3f6f6f7a11";

fn posting() -> (ApiServer, KubeSource, EventSender) {
    let server = populated(Behaviour::default());
    let (sender, queue) = event_queue();
    let source = KubeSource::start_with_events(
        &proxier::Runtime::start().unwrap(),
        access(&server),
        timing(),
        NODE,
        Extent::Served,
        queue,
        |_| {},
    )
    .unwrap();
    (server, source, sender)
}

fn of_web(message: &str) -> Notice {
    let web = ObjectName::new("shop", "web").unwrap();
    Notice::of_service(web, Reason::AddressRefused, message)
}

fn becomes(server: &ApiServer, expected: &[&str]) -> Vec<Arc<Value>> {
    let notes = || {
        let mut events = server.events();
        events.sort_by_key(|event| event["note"].to_string());
        let notes: Vec<_> = events.iter().map(|e| e["note"].as_str().unwrap()).collect();
        if notes == expected {
            Ok(events)
        } else {
            Err(events)
        }
    };
    let events = eventually(PATIENCE, notes).unwrap();
    stays(QUIET, || notes().map(drop)).unwrap();
    events
}

fn fail(server: &ApiServer, faults: &[Fault]) {
    server.fail(Resource::Events, Verb::Create, faults.iter().cloned());
}

fn status(code: u16) -> Fault {
    Fault::Status {
        code,
        retry_after: None,
    }
}

fn tries(server: &ApiServer) -> usize {
    server.asks_of(Resource::Events, Verb::Create).len()
}

#[test]
fn events_are_found_by_their_object() {
    let (server, _source, sender) = posting();
    sender.post(of_web("a"), Uid::new(UID));
    sender.post(
        Notice::of_node(Reason::IpvsAvailable, "b\n\u{1b}[31m"),
        None,
    );
    sender.post(of_web("c"), None);
    let events = becomes(&server, &["a", "b\\n\\u{1b}[31m", "c"]);
    let [of_service, of_node, without_uid] = events.as_slice() else {
        panic!("{events:?}");
    };
    let regarding = &of_service["regarding"];
    assert_eq!(regarding["kind"], "Service");
    assert_eq!(regarding["name"], "web");
    assert_eq!(regarding["namespace"], "shop");
    assert_eq!(regarding["uid"], UID);
    assert_eq!(of_service["metadata"]["namespace"], "shop");
    assert_eq!(of_service["reason"], "AddressRefused");
    assert_eq!(of_service["type"], "Warning");
    assert_eq!(of_service["reportingController"], "svcproxy");
    assert_eq!(of_service["reportingInstance"], "svcproxy-node-a");
    assert!(without_uid["regarding"]["uid"].is_null());
    // The reference to a Node, as in the kubelet's Events.
    assert_eq!(of_node["regarding"]["kind"], "Node");
    assert_eq!(of_node["regarding"]["uid"], NODE);
    assert!(of_node["regarding"]["namespace"].is_null());
    assert_eq!(of_node["metadata"]["namespace"], "default");
    assert_eq!(of_node["type"], "Normal");
}

#[test]
fn an_event_is_posted_once_though_it_is_tried_several_times() {
    let (server, _source, sender) = posting();
    // The last try succeeded, but its answer is lost.
    fail(
        &server,
        &[status(429), status(503), Fault::Close, Fault::Half],
    );
    sender.post(of_web("a"), None);
    becomes(&server, &["a"]);
    eventually(PATIENCE, || match tries(&server) {
        5 => Ok(()),
        tries => Err(tries),
    })
    .unwrap();
}

#[test]
fn a_rejected_event_is_dropped_and_the_next_is_posted() {
    let (server, _source, sender) = posting();
    fail(&server, &[status(403)]);
    sender.post(of_web("a"), None);
    sender.post(of_web("b"), None);
    becomes(&server, &["b"]);
    assert_eq!(tries(&server), 2);
}

#[test]
fn tries_for_an_overloaded_server_are_limited() {
    let (server, _source, sender) = posting();
    fail(&server, &vec![status(429); 12]);
    sender.post(of_web("a"), None);
    sender.post(of_web("b"), None);
    becomes(&server, &["b"]);
    assert_eq!(tries(&server), 13);
}

#[test]
fn events_are_posted_when_the_server_is_back() {
    let (server, source, sender) = posting();
    let connected = || source.state().connected_since.ok_or(()).map(drop);
    eventually(PATIENCE, connected).unwrap();
    server.go_away();
    sender.post(of_web("a"), None);
    server.come_back();
    becomes(&server, &["a"]);
}
