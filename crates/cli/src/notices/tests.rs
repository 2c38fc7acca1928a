//! Notices of a proxy that follows an API server.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use proxier::desired::Config;
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs};
use proxier::source::Reading;
use proxier::source::kube::{Access, KubeSource, Timing, event_queue};
use serde_json::{Value, json};
use testbed::{ApiServer, Behaviour, Fault, Resource, Verb, eventually};
use tracing::subscriber::with_default;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::testing::Lines;

const PATIENCE: Duration = Duration::from_secs(120);
const UID: &str = "0b8b6f1c-1c9c-4b5e-9e0a-0c3f6f6f7a11";

struct Node {
    server: ApiServer,
    proxier: Proxier<Ipvs<FakeIpvs>>,
    reporter: Reporter,
    readings: Receiver<Reading>,
    _source: KubeSource,
}

impl Node {
    fn follow(services: impl IntoIterator<Item = Value>) -> Self {
        let server = ApiServer::start(Behaviour::default()).unwrap();
        server.put(Resource::Nodes, json!({"metadata": {"name": "node-a"}}));
        for service in services {
            server.put(Resource::Services, service);
        }
        let mut access = Access::default();
        access.server = Some(server.url());
        let (sender, events) = event_queue();
        let (deliver, readings) = channel();
        let deliver = move |reading| {
            let _ = deliver.send(reading);
        };
        let timing = Timing::default();
        let source = KubeSource::start_with_events(
            &proxier::Runtime::start().unwrap(),
            access,
            timing,
            "node-a",
            proxier::source::Extent::Served,
            events,
            deliver,
        );
        let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        let kernel = FakeNode::default().kernel().unwrap();
        Self {
            server,
            proxier: Proxier::new(Arc::new(config), Ipvs::new(kernel)),
            reporter: Reporter::new(Notices::new("node-a", Some(sender)), Conditions::default()),
            readings,
            _source: source.unwrap(),
        }
    }

    /// Applies readings of the source until `done`.
    fn until(&mut self, done: impl Fn(&Proxier<Ipvs<FakeIpvs>>) -> bool) {
        while !done(&self.proxier) {
            let reading = self.readings.recv_timeout(PATIENCE).unwrap();
            if let Some(report) = self.proxier.handle(reading.changes).unwrap() {
                assert!(report.is_success());
                self.reporter.follow(&self.proxier, &report);
            }
        }
    }

    fn until_problems(&mut self, count: usize) {
        self.until(|proxier| {
            proxier.store().services().next().is_some() && proxier.problems().len() == count
        });
    }

    /// The number of Events for each reason and object, once there are `count`.
    fn events(&self, count: usize) -> BTreeMap<(String, String), usize> {
        let events = eventually(PATIENCE, || {
            let events = self.server.events();
            if events.len() == count {
                Ok(events)
            } else {
                Err(events.len())
            }
        });
        let mut counts = BTreeMap::new();
        for event in events.unwrap() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let key = (text(&event["reason"]), text(&event["regarding"]["name"]));
            *counts.entry(key).or_default() += 1;
        }
        counts
    }
}

fn service(name: &str, address: &str, external: &[&str], annotations: Value) -> Value {
    json!({
        "metadata": {
            "namespace": "default", "name": name, "uid": UID, "annotations": annotations,
        },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "externalIPs": external,
            "ports": [{"port": 80}],
        },
    })
}

fn counts(of: &[(&str, &str, usize)]) -> BTreeMap<(String, String), usize> {
    let counts = of.iter();
    counts
        .map(|(reason, name, count)| ((reason.to_string(), name.to_string()), *count))
        .collect()
}

#[test]
fn each_problem_of_a_service_is_reported_once() {
    let annotations = json!({"svcproxy.io/scheduler": "fastest\n\u{1b}[31m"});
    let mut node = Node::follow([
        service(
            "web",
            "10.96.0.1",
            &["10.96.0.99", "10.96.0.98"],
            annotations.clone(),
        ),
        service("good", "10.96.0.2", &["203.0.113.1"], json!({})),
    ]);
    node.until_problems(3);
    let first = counts(&[("AddressRefused", "web", 2), ("UnknownScheduler", "web", 1)]);
    assert_eq!(node.events(3), first);
    let of_web = node.server.events();
    assert!(of_web.iter().all(|event| event["regarding"]["uid"] == UID));
    let note = |event: &Arc<Value>| event["note"].as_str().unwrap().to_owned();
    assert!(
        of_web
            .iter()
            .all(|event| !note(event).contains(char::is_control))
    );
    // After another change of the Service, unchanged problems are not reported again.
    let changed = service(
        "web",
        "10.96.0.1",
        &["10.96.0.99", "10.96.0.97"],
        annotations,
    );
    node.server.put(Resource::Services, changed);
    let is_changed = |proxier: &Proxier<Ipvs<FakeIpvs>>| {
        proxier
            .problems()
            .iter()
            .any(|problem| problem.message.contains("10.96.0.97"))
    };
    node.until(is_changed);
    let then = counts(&[("AddressRefused", "web", 3), ("UnknownScheduler", "web", 1)]);
    assert_eq!(node.events(4), then);
}

/// kubernetes/kubernetes#71851.
#[test]
fn a_node_that_does_not_exist_is_a_condition() {
    let mut node = Node::follow([service("web", "10.96.0.1", &[], json!({}))]);
    node.until(|proxier| proxier.store().node().is_some());
    assert_eq!(node.proxier.node_conditions(), []);
    node.server.delete(Resource::Nodes, "node-a");
    node.until(|proxier| !proxier.node_conditions().is_empty());
    assert_eq!(node.events(1), counts(&[("NodeUnknown", "node-a", 1)]));
    let listed = |node: &Node| {
        let conditions = node.reporter.conditions.json("node-a");
        conditions.contains("NodeUnknown") && conditions.contains("--hostname-override")
    };
    assert!(listed(&node));
    node.server
        .put(Resource::Nodes, json!({"metadata": {"name": "node-a"}}));
    node.until(|proxier| proxier.node_conditions().is_empty());
    assert!(!listed(&node));
}

#[test]
fn a_problem_that_comes_and_goes_does_not_flood() {
    let refused = service("web", "10.96.0.1", &["10.96.0.99"], json!({}));
    let mut node = Node::follow([refused.clone()]);
    node.until_problems(1);
    for _ in 0..25 {
        let good = service("web", "10.96.0.1", &[], json!({}));
        node.server.put(Resource::Services, good);
        node.until_problems(0);
        node.server.put(Resource::Services, refused.clone());
        node.until_problems(1);
    }
    let reported = [
        ("AddressRefused", "web", 10),
        ("NoticesLeftOut", "node-a", 1),
    ];
    assert_eq!(node.events(11), counts(&reported));
}

#[test]
fn ten_thousand_problems_are_cut_and_counted() {
    let mut node = Node::follow((0..10_000).map(|n| {
        let address = format!("10.97.{}.{}", n / 250, n % 250 + 1);
        service(&format!("s{n}"), &address, &["10.96.0.99"], json!({}))
    }));
    node.until_problems(10_000);
    let events = node.events(31);
    let of_services = events
        .keys()
        .filter(|(reason, _)| reason == "AddressRefused");
    assert_eq!(of_services.count(), 30);
    let left_out = |event: &Arc<Value>| event["reason"] == "NoticesLeftOut";
    let left_out = node.server.events().into_iter().find(left_out).unwrap();
    let note = left_out["note"].as_str().unwrap();
    assert!(
        note.starts_with("9970 more notices were suppressed"),
        "{note}"
    );
}

#[test]
fn services_work_if_the_server_rejects_events() {
    let mut node = Node::follow([service("web", "10.96.0.1", &["10.96.0.99"], json!({}))]);
    let forbidden = Fault::Status {
        code: 403,
        retry_after: None,
    };
    node.server
        .fail(Resource::Events, Verb::Create, vec![forbidden; 100]);
    node.until_problems(1);
    let tried = || match node.server.asks_of(Resource::Events, Verb::Create).len() {
        0 => Err(()),
        _ => Ok(()),
    };
    eventually(PATIENCE, tried).unwrap();
    node.server.put(
        Resource::Services,
        service("new", "10.96.0.2", &[], json!({})),
    );
    node.until(|proxier| proxier.desired().frontends().count() == 2);
    assert_eq!(node.server.events().len(), 0);
}

/// `docs/events.md` has a row for each reason.
#[test]
fn reasons_are_documented() {
    let docs = include_str!("../../../../docs/events.md");
    let rows = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: Vec<_> = rows
        .map(|(reason, rest)| (reason, rest.split('|').nth(1).unwrap_or_default().trim()))
        .collect();
    let reasons = Reason::ALL.map(|reason| {
        let kind = if reason.is_warning() {
            "Warning"
        } else {
            "Normal"
        };
        (reason.as_str(), kind)
    });
    assert_eq!(documented, reasons);
}

/// An address that the DNS server does not serve is a condition until it does, and is reported once.
#[test]
fn an_address_that_the_dns_server_does_not_serve_is_a_condition() {
    let conditions = Conditions::default();
    let error = Arc::new(Mutex::new(Some("Address already in use".to_owned())));
    let now = Arc::clone(&error);
    conditions.follow_dns(move || {
        let error = now.lock().unwrap().clone();
        let mut state = DnsState::default();
        state.addresses = [(([10, 0, 0, 10], 53).into(), error)].into();
        state
    });
    let mut reporter = Reporter::new(Notices::new("node-a", None), conditions.clone());
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.layer());
    with_default(subscriber, || {
        reporter.follow_dns();
        reporter.follow_dns();
        let reported = lines.take();
        assert_eq!(reported.len(), 1, "{reported:?}");
        assert!(reported[0].contains("10.0.0.10:53: Address already in use"));
        let list = conditions.list("node-a");
        assert_eq!(list.len(), 1);
        assert_eq!(
            (&*list[0].reason, &*list[0].about),
            ("DnsNotServed", "Node node-a")
        );
        assert_eq!(conditions.counts(), [("DnsNotServed", 1)].into());

        let error = |to: Option<&str>| *error.lock().unwrap() = to.map(str::to_owned);
        error(None);
        reporter.follow_dns();
        assert_eq!(conditions.list("node-a"), []);
        assert_eq!(conditions.counts(), [].into());
        // It is reported again if it returns.
        error(Some("Address already in use"));
        reporter.follow_dns();
        assert_eq!(lines.take().len(), 1);
    });
}

#[test]
fn notices_of_services_are_recorded_for_describe() {
    let notices = Notices::new("node-a", None);
    let history = History::default();
    notices.record_in(history.clone());
    let web = ObjectName::new("default", "web").unwrap();
    notices.send(&Notice::of_service(
        web,
        Reason::AddressConflict,
        "it is taken".to_owned(),
    ));
    notices.send(&Notice::of_node(
        Reason::AddressConflict,
        "of the node".to_owned(),
    ));
    let recorded = history.latest(None, 9);
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(recorded[0].service, "default/web");
    assert_eq!(recorded[0].what, "AddressConflict: it is taken");
}
