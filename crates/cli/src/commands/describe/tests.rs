//! The text of known Services.

use std::sync::Arc;

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeIpvs, Ipvs};
use proxier::source::manifest;

use super::text::Text;
use super::*;
use crate::args::DataPlaneArgs;
use crate::description;
use crate::inventory::{ClientGroup, VipState};
use crate::testing::{vip, without_endpoints};

/// A Service with one endpoint in each state, a conflict, and a port that no slice has.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: old, creationTimestamp: 2020-01-01T00:00:00Z}
spec: {clusterIP: 10.96.0.9, externalIPs: [203.0.113.9], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, creationTimestamp: 2021-01-01T00:00:00Z}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.80
  externalIPs: [203.0.113.9]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  loadBalancerSourceRanges: [198.51.100.0/24]
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80, nodePort: 30080}, {name: admin, port: 81}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.1], nodeName: node-a, zone: a}
- {addresses: [10.244.2.1], nodeName: node-b, zone: b}
- {addresses: [10.244.2.2], nodeName: node-b, conditions: {ready: false}}
- {addresses: [10.244.2.3], nodeName: node-b, conditions: {ready: false, serving: true, terminating: true}}
";

fn web() -> Description {
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.zone = Some("a".into());
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(FakeIpvs::default()));
    let reading = manifest::parse("web.yaml".as_ref(), WEB);
    proxier.handle(reading.changes).unwrap().unwrap();
    assert_eq!(description::page("default/nobody", &proxier), None);
    assert_eq!(description::page("web", &proxier), None);
    let page = description::page("default/web", &proxier).unwrap();
    serde_json::from_str(&page).unwrap()
}

fn vips() -> Vec<VipStatus> {
    let all = [
        ("10.244.1.1:8080", 1, 3),
        ("10.244.2.1:8080", 1, 4),
        ("10.244.9.9:8080", 0, 2),
    ];
    let mut outside = vip("tcp 203.0.113.80:80", "http", &[("10.244.1.1:8080", 1, 3)]);
    outside.clients = ClientGroup::Outside;
    let mut admin = without_endpoints("tcp 10.96.0.80:81", "admin", VipState::Refused);
    admin.reason = Some("its endpoint slices have no port\u{1b}".to_owned());
    vec![vip("tcp 10.96.0.80:80", "http", &all), outside, admin]
}

fn known() -> Known {
    Known {
        service: "default/web".to_owned(),
        mode: "ipvs",
        description: Some(web()),
        vips: vips(),
        conditions: Some(Vec::new()),
        changes: None,
    }
}

#[test]
fn each_endpoint_says_why_it_is_used_or_not() {
    let text = Text(&known()).to_string();
    assert!(!text.contains('\u{1b}'), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn an_endpoint_that_the_kernel_lacks_is_named() {
    let mut known = known();
    known.vips.truncate(1);
    known.vips[0].real_servers.remove(1);
    let text = Text(&known).to_string();
    let line = text.lines().find(|line| line.contains("10.244.2.1:8080"));
    let line = line.unwrap();
    assert!(
        line.contains("the kernel has no such real server"),
        "{text}"
    );
}

#[test]
fn the_last_changes_are_shown_with_their_causes() {
    let at = |time: &str, what: &str, failed_steps| Recorded {
        time: time.parse().unwrap(),
        service: "default/web".to_owned(),
        what: what.to_owned(),
        cause: "EndpointSlice default/web-1 changed".to_owned(),
        failed_steps,
    };
    let mut known = known();
    let end = |known: &Known| {
        let text = Text(known).to_string();
        let (_, changes) = text.split_once("\nChanges").unwrap();
        changes.to_owned()
    };
    known.changes = Some(vec![
        at(
            "2026-01-02T03:04:05.6Z",
            "endpoint 10.244.1.1\u{1b} added",
            2,
        ),
        at("2026-01-02T03:04:04Z", "NoMarkLeft: no mark", 0),
    ]);
    let (first, second) = (
        "endpoint 10.244.1.1\\u{1b} added; 2 steps of the sync failed",
        "NoMarkLeft: no mark",
    );
    let cause = "EndpointSlice default/web-1 changed";
    let width = first.len();
    let lines = format!(
        "\n  2026-01-02T03:04:05Z   {first}   {cause}\n  2026-01-02T03:04:04Z   {second:<width$}   {cause}\n"
    );
    assert_eq!(end(&known), lines);
    known.changes = Some(Vec::new());
    assert!(end(&known).contains("none among the last"));
}

/// The proxy of mode userspace has no part in the kernel.
#[test]
fn mode_userspace_is_not_called_the_kernel() {
    let mut known = known();
    known.mode = "userspace";
    let text = Text(&known).to_string();
    assert!(text.contains("\nProxy\n"), "{text}");
    assert!(!text.to_lowercase().contains("kernel"), "{text}");
    known.vips.clear();
    let text = Text(&known).to_string();
    assert!(text.contains("Proxy       serves none of it\n"), "{text}");
    assert!(text.contains("; svcproxy does not use it yet"), "{text}");
}

#[test]
fn without_a_process_it_is_what_the_kernel_has() {
    let known = Known {
        description: None,
        conditions: None,
        ..known()
    };
    insta::assert_snapshot!(Text(&known));
}

#[test]
fn names_have_a_namespace() {
    let parse = |name: &str, namespace: Option<&str>| {
        let args = DescribeArgs {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            from: DataPlaneArgs {
                mode: None,
                metrics_bind_address: crate::args::BindAddress(None),
            },
            output: StatusFormat::Text,
        };
        super::name(&args)
            .map(|name| name.to_string())
            .map_err(|error| error.to_string())
    };
    assert_eq!(parse("web", None).unwrap(), "default/web");
    assert_eq!(parse("web", Some("shop")).unwrap(), "shop/web");
    assert_eq!(parse("shop/web", Some("shop")).unwrap(), "shop/web");
    assert!(
        parse("shop/web", Some("other"))
            .unwrap_err()
            .contains("contradicts")
    );
    let error = parse("a\u{1b}b", None).unwrap_err();
    assert_eq!(error, "a\\u{1b}b is no name of a Service");
}
