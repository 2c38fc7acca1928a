//! The documents: what they show, and that nothing from outside is markup.

use std::sync::Arc;
use std::time::Instant;

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeNode, Ipvs};
use proxier::source::manifest;
use proxier::store::Change;

use super::drawing::Drawing;
use super::list::ROWS;
use super::*;
use crate::description::{Address, EndpointOf, Port, WithoutEndpoints};
use crate::history::Recorded;
use crate::inventory::{ClientGroup, Inventory, VipState, VipStatus};
use crate::load::Loads;
use crate::notices::Condition;
use crate::running::SourceState;
use crate::testing::{vip, without_endpoints};

const HOSTILE: &str = "\"><script>alert(1)</script>&'\u{202e}\u{1b}[2J";

/// That a text from outside is shown, and neither as markup nor with hidden characters.
#[track_caller]
fn is_harmless(html: &str, times: usize) {
    assert!(!html.contains("<script>"), "{html}");
    assert!(!html.contains(['\u{202e}', '\u{1b}']), "{html}");
    let shown = html
        .matches("&lt;script&gt;alert(1)&lt;/script&gt;&amp;")
        .count();
    assert!(shown >= times, "{shown} of {times}: {html}");
}

fn running(text: &str) -> Running {
    let at = |text: &str| text.parse().unwrap();
    Running {
        version: "0.1.0".to_owned(),
        commit: text.to_owned(),
        pid: 4242,
        started_at: at("2026-01-01T00:00:00Z"),
        time: at("2026-01-03T05:06:07Z"),
        mode: "ipvs".to_owned(),
        mode_wanted: "ipvs".to_owned(),
        fallback_reason: Some(text.to_owned()),
        healthy: true,
        source: SourceState {
            name: text.to_owned(),
            connected: Some(false),
            last_heard: Some(at("2026-01-03T05:06:04Z")),
            failing: [(text.to_owned(), text.to_owned())].into(),
        },
        last_sync: Some(at("2026-01-03T05:06:04Z")),
        pending_changes: 0,
        dns: [].into(),
    }
}

fn common(text: &str) -> Common {
    Common {
        node: text.into(),
        running: running(text),
        conditions: vec![Condition {
            reason: text.to_owned(),
            about: format!("Service {text}"),
            message: text.to_owned(),
            port: None,
        }],
    }
}

fn changes(text: &str) -> Vec<Recorded> {
    vec![Recorded::now(text, text.to_owned(), text, 2)]
}

fn inventory(service: &str, vips: Vec<VipStatus>) -> (Inventory, Loads) {
    let inventory = Inventory::new([(service.to_owned(), vips)].into());
    let loads = Loads::new(&inventory, None);
    (inventory, loads)
}

fn reading(service: &str, vips: Vec<VipStatus>) -> Reading {
    let (inventory, loads) = inventory(service, vips);
    Reading::new(service, Instant::now(), inventory, loads, true)
}

/// A Service under policy Local, one of whose endpoints drains.
fn vips(text: &str) -> Vec<VipStatus> {
    let inside = VipStatus {
        clients: ClientGroup::Inside,
        ..vip(
            "tcp 203.0.113.9:80",
            text,
            &[("10.244.1.1:8080", 1, 3), ("10.244.2.1:8080", 0, 4)],
        )
    };
    let outside = VipStatus {
        clients: ClientGroup::Outside,
        ..without_endpoints("tcp 203.0.113.9:80", text, VipState::Dropped)
    };
    vec![
        inside,
        outside,
        vip("tcp 30080", text, &[("10.244.1.1:8080", 1, 5)]),
    ]
}

fn description(text: &str) -> Description {
    let own = || text.to_owned();
    let endpoint = |address: &str, unused: Option<String>| EndpointOf {
        address: address.parse().unwrap(),
        port: Some(8080),
        slice: own(),
        node: Some(own()),
        zone: Some(own()),
        ready: unused.is_none(),
        serving: true,
        terminating: false,
        weight: 1,
        unused,
        unused_here: Some(own()),
    };
    Description {
        service: own(),
        node: own(),
        zone: Some(own()),
        internal_traffic_policy: own(),
        external_traffic_policy: "Local".to_owned(),
        session_affinity_seconds: Some(10),
        scheduler: Some(own()),
        health_check_node_port: Some(30_001),
        addresses: vec![Address {
            kind: own(),
            address: None,
            family: own(),
            protocol: own(),
            port: 80,
            port_name: own(),
            source_ranges: Some(vec!["198.51.100.0/24".to_owned()]),
            held_by: Some(own()),
        }],
        ports: vec![Port {
            name: own(),
            protocol: own(),
            port: 80,
            node_port: Some(30_080),
            endpoints: vec![
                endpoint("10.244.1.1", None),
                endpoint("10.244.2.1", Some(own())),
            ],
            without_endpoints: vec![WithoutEndpoints {
                family: own(),
                anywhere: Some(own()),
                on_this_node: None,
            }],
        }],
        problems: Vec::new(),
    }
}

fn list_of(text: &str) -> List {
    serde_json::from_value(serde_json::json!({
        "all": 1, "found": 200, "draining": 3,
        "rows": [{
            "service": text, "ports": [text], "addresses": [text], "endpoints": 2,
            "problems": [text],
        }],
        "drains": [{"vip": text, "service": text, "endpoint": text, "seconds": 90}],
    }))
    .unwrap()
}

#[test]
fn nothing_from_outside_is_markup() {
    let common = common(HOSTILE);
    let reading = reading(HOSTILE, vips(HOSTILE));
    let query = Query {
        text: HOSTILE.to_owned(),
        with_problems: true,
        from: 50,
    };
    let overview = Overview {
        common: &common,
        query: &query,
        list: &list_of(HOSTILE),
        reading: Ok(&reading),
        changes: changes(HOSTILE),
    };
    let html = layout::document(&common, HOSTILE, &overview.markup()).into_string();
    is_harmless(&html, 15);
    let service = OneService {
        common: &common,
        name: HOSTILE,
        description: Some(&description(HOSTILE)),
        reading: Ok(&reading),
        changes: changes(HOSTILE),
        conditions: common.conditions.clone(),
    };
    is_harmless(&service.markup().into_string(), 20);
    let failed = OneService {
        reading: Err(HOSTILE.to_owned()),
        ..service
    };
    is_harmless(&failed.markup().into_string(), 15);
    is_harmless(&layout::message(&common, "x", HOSTILE).into_string(), 2);
}

#[test]
fn what_is_wrong_is_seen_in_the_summary() {
    let mut common = common("node-a");
    let head = |common: &Common| layout::message(common, "x", "y").into_string();
    assert!(head(&common).contains("API server not connected"));
    common.running.source.connected = Some(true);
    assert!(head(&common).contains(">healthy<"));
    common.running.mode_wanted = "nftables".to_owned();
    assert!(head(&common).contains("fallback mode"));
    common.running.healthy = false;
    assert!(head(&common).contains("unhealthy: changes are not applied in time"));
}

#[test]
fn a_drawing_shows_who_is_refused_and_what_drains() {
    let (inventory, loads) = inventory("shop/web", vips("http"));
    let vips: Vec<_> = inventory.services[0].vips.iter().collect();
    let node_of = |_| Some("node-a".to_owned());
    let drawing = Drawing {
        vips: &vips,
        loads: &loads.endpoints,
        node: "node-a",
        node_of: &node_of,
    };
    let svg = drawing.markup().into_string();
    for part in [
        // Outside clients to the VIP that drops them, and no line from it to an endpoint.
        "edge refused",
        "http: dropped: no endpoints here",
        "edge draining",
        "this node, draining",
        "this node, 4.0/s",
    ] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    // Inside: two VIPs. Outside: one served, one dropped. Then three lines to endpoints.
    assert_eq!(svg.matches("class=\"edge ").count(), 4 + 3, "{svg}");
    assert!(!svg.contains("Not drawn"));
}

#[test]
fn a_drawing_of_a_large_service_says_what_it_leaves_out() {
    let servers: Vec<_> = (0..100).map(|n| format!("10.244.1.{n}:80")).collect();
    let servers: Vec<_> = servers.iter().map(|at| (at.as_str(), 1, 0)).collect();
    let vips: Vec<_> = (0..30)
        .map(|n| vip(&format!("tcp 10.96.0.{n}:80"), "", &servers))
        .collect();
    let vips: Vec<_> = vips.iter().collect();
    let drawing = Drawing {
        vips: &vips,
        loads: &[],
        node: "node-a",
        node_of: &|_| None,
    };
    let svg = drawing.markup().into_string();
    assert!(
        svg.contains("Not drawn: 20 virtual IPs, 86 endpoints."),
        "{svg}"
    );
    assert!(svg.len() < 60_000, "{}", svg.len());
}

/// Services `s000` to `s119` of which every tenth has no endpoints.
fn proxier() -> Proxier<Ipvs<proxier::mode::ipvs::FakeIpvs>> {
    let mut text = String::new();
    for n in 0..120 {
        let slice = if n % 10 == 0 { "none" } else { "slice" };
        text += &format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: s{n:03}}}
spec: {{clusterIP: 10.96.1.{n}, ports: [{{port: {}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {slice}-{n}, labels: {{kubernetes.io/service-name: {}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.244.1.{n}]}}]
---",
            1000 + n,
            if n % 10 == 0 {
                "other".to_owned()
            } else {
                format!("s{n:03}")
            },
        );
    }
    let reading = manifest::parse("s.yaml".as_ref(), text.trim_end_matches("---"));
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    let data_plane = Ipvs::new(FakeNode::default().kernel().unwrap());
    let mut proxier = Proxier::new(Arc::new(config), data_plane);
    proxier.handle(reading.changes).unwrap();
    proxier
}

#[test]
fn the_list_is_searched_and_comes_in_parts() {
    let proxier = proxier();
    let ask = |query: &str| -> List {
        assert!(is_list(query));
        serde_json::from_str(&list(query, &proxier).unwrap()).unwrap()
    };
    let names = |query: &str| {
        let rows = ask(query).rows.into_iter();
        rows.map(|row| row.service).collect::<Vec<_>>()
    };
    let first = ask("?");
    assert_eq!((first.all, first.found, first.rows.len()), (120, 120, ROWS));
    assert_eq!(first.rows[0].service, "default/s000");
    assert_eq!(
        first.rows[0].problems,
        ["no endpoints: the Service has no endpoint slice"]
    );
    let second = &first.rows[1];
    assert_eq!((second.endpoints, second.problems.len()), (1, 0));
    assert_eq!(
        (&*second.ports[0], &*second.addresses[0]),
        ("1001/TCP", "10.96.1.1")
    );
    assert_eq!(names("?from=100").len(), 20);
    assert_eq!(names("?from=100")[0], "default/s100");
    assert_eq!(names("?from=99999999999999999999"), names("?"));
    assert_eq!(names("?from=120"), [""; 0]);
    assert_eq!(ask("?problems=1").found, 12);
    assert_eq!(names("?q=S11&problems=1"), ["default/s110"]);
    // By address and by port, percent-encoded or not.
    assert_eq!(names("?q=10.96.1.119"), ["default/s119"]);
    assert_eq!(names("?q=%31%30%38%37"), ["default/s087"]);
    assert_eq!(names("?q=%FF%00"), [""; 0]);
    assert_eq!(names("?q=default%2Fs001"), ["default/s001"]);
}

/// In mode ipvs: a real server that gets no new connections, until it has none.
#[test]
fn what_drains_is_listed_with_its_service() {
    let mut proxier = proxier();
    let drains = |proxier: &Proxier<_>| {
        let list: List = serde_json::from_str(&list("?", proxier).unwrap()).unwrap();
        (list.draining, list.drains)
    };
    assert_eq!(drains(&proxier), (0, Vec::new()));
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: slice-1, labels: {kubernetes.io/service-name: s001}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.9.9]}]";
    let changes = manifest::parse("s.yaml".as_ref(), slice)
        .changes
        .into_iter();
    let slices = changes.filter_map(|change| match change {
        Change::EndpointSlicesReplaced(slices) => Some(slices),
        _ => None,
    });
    let slices = slices.flatten().map(Change::EndpointSliceApplied);
    proxier.handle(slices).unwrap();
    let (count, listed) = drains(&proxier);
    assert_eq!((count, listed.len()), (1, 1));
    let drain = &listed[0];
    assert_eq!(drain.vip, "tcp 10.96.1.1:1001");
    assert_eq!(drain.service.as_deref(), Some("default/s001"));
    assert_eq!(drain.endpoint, "10.244.1.1:8080");
}

#[test]
fn a_query_is_read_back_as_it_was_written() {
    let query = Query {
        text: "a&b=c #é".to_owned(),
        with_problems: true,
        from: 0,
    };
    let next = Query::parse(&query.at(50));
    assert_eq!(next, Query { from: 50, ..query });
    assert_eq!(Query::default().at(0), "");
    assert!(
        Query::parse(&format!("q={}", "x".repeat(10_000)))
            .text
            .len()
            < 300
    );
}
