//! Drift in each mode is named with its Service.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use proxier::desired::{Backend, Config, FrontendKey, FrontendKind, Place};
use proxier::host::{Route, Ways};
use proxier::mode::ipvs::plan::{Element, NodeState, Plan, Scope};
use proxier::mode::userspace::Served;
use proxier::mode::{iptables, nftables, userspace};
use proxier::source::manifest;
use proxier::store::Store;

use super::*;
use crate::args::{Cli, Command};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
  externalTrafficPolicy: Local
status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.1.1], nodeName: node-a}, {addresses: [10.244.2.1], nodeName: node-b}]
---
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.11, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{port: 53, protocol: UDP}]
endpoints: [{addresses: [10.244.2.3], nodeName: node-b}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.96.0.12, externalIPs: [10.96.0.13], ports: [{port: 80}]}
";

/// The desired state of node-a, without some of the documents.
fn desired(without: &[&str]) -> DesiredState {
    let documents = SERVICES.split("---\n");
    let kept = documents.filter(|text| !without.iter().any(|part| text.contains(part)));
    let text = kept.collect::<Vec<_>>().join("---\n");
    let reading = manifest::parse(Path::new("services.yaml"), &text);
    let mut store = Store::default();
    let changes = reading.changes.into_iter();
    changes.for_each(|change| store.apply(change));
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    DesiredState::from_store(Arc::new(config), &store)
}

fn ipvs_node(desired: &DesiredState) -> NodeState {
    let mut node = NodeState::default();
    node.record(&Plan::new(desired, &node, Scope::Full), &[]);
    node
}

fn nftables_node(desired: &DesiredState) -> nftables::NodeState {
    let mut node = nftables::NodeState::default();
    let plan = nftables::Plan::new(desired, &node, Scope::Full);
    node.record(&plan, &[]);
    node
}

fn iptables_node(desired: &DesiredState) -> iptables::NodeState {
    let mut node = iptables::NodeState::default();
    let plan = iptables::Plan::new(desired, &node, Scope::Full);
    node.record(&plan, &[]);
    node
}

/// The node whose rules for IPv4 lack the lines with these words.
fn without_rules(node: &iptables::NodeState, words: &[&str]) -> iptables::NodeState {
    let mut text = String::new();
    for table in iptables::Table::ALL {
        text += &format!("*{table}\n");
        let chains: BTreeSet<_> = node.v4.chains().filter(|(of, _)| *of == table).collect();
        for (_, name) in &chains {
            text += &format!(":{name} - [0:0]\n");
        }
        let is_kept = |line: &String| !words.iter().all(|word| line.contains(word));
        let jumps = node.v4.jumps().iter().filter(|jump| jump.table == table);
        let jumps = jumps.map(|jump| format!("-A {} {}\n", jump.hook, jump.rule));
        text.extend(jumps.filter(is_kept));
        for (table, name) in chains {
            let rules = node.v4.chain(table, name).iter();
            let lines = rules.map(|rule| format!("-A {name} {rule}\n"));
            text.extend(lines.filter(is_kept));
        }
        text += "COMMIT\n";
    }
    let rules = iptables::Rules::parse(&text);
    iptables::NodeState::new(node.sysctls.clone(), rules, node.v6.clone())
}

fn userspace_node(desired: &DesiredState) -> userspace::NodeState {
    let mut node = userspace::NodeState::default();
    node.may_route = true;
    node.addresses = vec!["192.0.2.1/24".parse().unwrap()];
    let plan = userspace::Plan::new(desired, &node, Scope::Full);
    node.record(&plan, &[]);
    node
}

/// The Services with differences, and `-` for what Services share.
fn of(differences: &[Difference]) -> Vec<&str> {
    let services = differences.iter();
    let services = services.map(|of| of.service.as_deref().unwrap_or("-"));
    let services: BTreeSet<_> = services.collect();
    services.into_iter().collect()
}

#[test]
fn a_node_as_planned_does_not_differ() {
    let desired = desired(&[]);
    assert_eq!(of_ipvs(&desired, &ipvs_node(&desired)), []);
    assert_eq!(of_iptables(&desired, &iptables_node(&desired)), []);
    assert_eq!(of_nftables(&desired, &nftables_node(&desired)), []);
    assert_eq!(of_userspace(&desired, &userspace_node(&desired)), []);
}

#[test]
fn drift_of_ipvs_is_named() {
    let desired = desired(&[]);
    let planned = ipvs_node(&desired);
    // A real server of a node port, whose virtual server has a mark for a key.
    for key in planned.virtual_servers.keys() {
        let mut node = planned.clone();
        let service = node.frontend_of(key).unwrap();
        let service = desired
            .frontend(&service)
            .unwrap()
            .owner
            .service
            .to_string();
        let state = node.virtual_servers.get_mut(key).unwrap();
        state.real_servers.pop().unwrap();
        let differences = of_ipvs(&desired, &node);
        assert_eq!(of(&differences), [&*service], "{key}: {differences:?}");
        assert!(
            differences[0].step.starts_with("add real server "),
            "{differences:?}"
        );
        let mut node = planned.clone();
        node.virtual_servers.remove(key);
        assert_eq!(of(&of_ipvs(&desired, &node)), [&*service], "{key}");
    }
    // Each element of the sets.
    let elements: Vec<_> = planned.elements.keys().copied().collect();
    for element in elements {
        let mut node = planned.clone();
        node.elements.remove(&element);
        let differences = of_ipvs(&desired, &node);
        let key = element.frontend();
        let service = key.map(|key| desired.frontend(&key).unwrap().owner.service.to_string());
        let service = match &element {
            Element::CapturedAddress(_) => Some("shop/web".to_owned()),
            _ => service,
        };
        let expected = service.as_deref().unwrap_or("-");
        assert_eq!(of(&differences), [expected], "{element}: {differences:?}");
    }
    let mut node = planned;
    node.ruleset = None;
    assert_eq!(of(&of_ipvs(&desired, &node)), ["-"]);
}

#[test]
fn drift_of_iptables_is_named() {
    let desired = desired(&[]);
    let planned = iptables_node(&desired);
    for (words, service) in [
        (&["DNAT", "10.244.1.1:8080"][..], "shop/web"),
        (&["DNAT", "10.244.2.3:53"], "default/dns"),
        (&["default/nobody"], "default/nobody"),
        (&["shop/web:http"], "shop/web"),
        (&["SVCPROXY-POSTROUTING", "MASQUERADE"], "-"),
        (&["PREROUTING", "SVCPROXY-SERVICES"], "-"),
    ] {
        let node = without_rules(&planned, words);
        let differences = of_iptables(&desired, &node);
        assert_eq!(of(&differences), [service], "{words:?}: {differences:?}");
        let step = &differences[0].step;
        assert!(step.starts_with("iptables: add "), "{step}");
    }
}

#[test]
fn drift_of_nftables_is_named() {
    let desired = desired(&[]);
    let planned = nftables_node(&desired);
    let keys: Vec<_> = planned.elements.frontends().copied().collect();
    assert!(keys.len() >= 5);
    for key in keys {
        let service = desired.frontend(&key).unwrap().owner.service.to_string();
        let elements: Vec<_> = planned.elements.of(&key).map(|(of, _)| *of).collect();
        for element in elements {
            let mut node = planned.clone();
            node.elements.remove(&element);
            let differences = of_nftables(&desired, &node);
            assert!(!differences.is_empty(), "{element}");
            assert_eq!(of(&differences), [&*service], "{element}: {differences:?}");
        }
    }
    let mut node = planned;
    node.choosers.clear();
    assert_eq!(of(&of_nftables(&desired, &node)), ["-"]);
}

#[test]
fn drift_of_userspace_is_named() {
    let desired = desired(&[]);
    let planned = userspace_node(&desired);
    let owner = |key: &FrontendKey| desired.frontend(key).unwrap().owner.service.to_string();
    let listeners: Vec<_> = planned.listeners.clone().into_iter().collect();
    assert!(listeners.len() >= 5, "{listeners:?}");
    for (key, addresses) in listeners {
        let mut node = planned.clone();
        node.listeners.remove(&key);
        let differences = of_userspace(&desired, &node);
        let steps: Vec<_> = differences.iter().map(|of| of.step.as_str()).collect();
        let at = addresses.first().unwrap();
        assert_eq!(steps, [format!("listen on {} {at}", key.protocol)]);
        assert_eq!(of(&differences), [&*owner(&key)], "{key}");
        // The proxy serves nothing of it.
        node.served.remove(&key);
        assert_eq!(of(&of_userspace(&desired, &node)), [&*owner(&key)], "{key}");
        // It has other endpoints.
        let mut node = planned.clone();
        let served = &node.served[&key];
        let mut frontend = (*served.frontend).clone();
        let backends = frontend.backends.iter().skip(1).copied();
        let is_other = !frontend.backends.is_empty();
        frontend.backends = backends.collect();
        let other = Served::with_pods(Arc::new(frontend), Arc::clone(&served.pods));
        node.served.insert(key, Arc::new(other));
        let differences = of_userspace(&desired, &node);
        assert_eq!(differences.len(), usize::from(is_other), "{differences:?}");
    }
    let mut node = planned.clone();
    node.routes.retain(|route| route.prefix.prefix_len() < 32);
    assert_eq!(of(&of_userspace(&desired, &node)), ["shop/web"]);
    node.routes.clear();
    assert_eq!(of(&of_userspace(&desired, &node)), ["-", "shop/web"]);
}

/// The proxy does not say where endpoints are and what kind an address is, and does not ask for it.
#[test]
fn what_the_proxy_does_not_ask_for_is_no_difference() {
    let desired = desired(&[]);
    let mut node = userspace_node(&desired);
    for served in node.served.values_mut() {
        let mut frontend = (*served.frontend).clone();
        frontend.kind = FrontendKind::ExternalIp;
        let unplaced = |of: &Backend| Backend {
            place: Place::Unknown,
            ..*of
        };
        frontend.backends = frontend.backends.iter().map(unplaced).collect();
        let external = frontend.external.as_ref();
        frontend.external = external.map(|all| all.iter().map(unplaced).collect());
        *served = Arc::new(Served::with_pods(
            Arc::new(frontend),
            Arc::clone(&served.pods),
        ));
    }
    assert_eq!(of_userspace(&desired, &node), []);
}

#[test]
fn a_virtual_ip_of_listen_needs_a_local_route() {
    let desired = desired(&[]);
    let mut node = userspace_node(&desired);
    node.given = ["203.0.113.0/24".parse().unwrap()].into();
    let given = drift::given(&desired, &node);
    let vip: std::net::IpAddr = "203.0.113.9".parse().unwrap();
    assert_eq!(given, BTreeSet::from([vip]));
    let mut ways = Ways::default();
    ways.routes.insert(vip, Route::By("eth0".to_owned()));
    let differences = unrouted(&desired, &given, &ways);
    assert_eq!(of(&differences), ["shop/web"], "{differences:?}");
    assert!(
        differences[0]
            .step
            .contains("ip route add local 203.0.113.9")
    );
    ways.routes.insert(vip, Route::Local);
    assert_eq!(unrouted(&desired, &given, &ways), []);
}

/// A Service that only the kernel has, for instance because an old svcproxy left it.
#[test]
fn what_the_plan_does_not_have_is_named_by_the_kernel() {
    let (all, fewer) = (desired(&[]), desired(&["web"]));
    let has_web = |differences: &[Difference]| {
        let named: Vec<_> = differences
            .iter()
            .filter(|of| of.service.is_some())
            .collect();
        assert!(!named.is_empty());
        for difference in named {
            assert_eq!(
                difference.service.as_deref(),
                Some("shop/web"),
                "{difference:?}"
            );
        }
    };
    has_web(&of_ipvs(&fewer, &ipvs_node(&all)));
    has_web(&of_iptables(&fewer, &iptables_node(&all)));
    has_web(&of_nftables(&fewer, &nftables_node(&all)));
    has_web(&of_userspace(&fewer, &userspace_node(&all)));
    let chains = of_iptables(&fewer, &iptables_node(&all)).into_iter();
    let chains = chains.filter(|of| of.step.contains("delete chain nat SVCPROXY-S-"));
    let owners: Vec<_> = chains.filter_map(|of| of.service).collect();
    assert!(!owners.is_empty());
    assert!(owners.iter().all(|owner| owner == "shop/web"), "{owners:?}");
}

fn selection(arguments: &[&str]) -> Selection {
    let words = [&["svcproxy", "verify", "--manifests=x"], arguments].concat();
    match Cli::try_parse_from(words).unwrap().command {
        Some(Command::Verify(args)) => args.selection,
        other => panic!("{other:?}"),
    }
}

fn report(arguments: &[&str]) -> Report {
    let desired = desired(&[]);
    let mut node = ipvs_node(&desired);
    let key = "tcp 10.96.0.10:80".parse().unwrap();
    node.virtual_servers.remove(&key);
    node.routes.clear();
    let mut differences = of_ipvs(&desired, &node);
    differences.push(Difference {
        service: Some("old/\u{202e}left".to_owned()),
        step: "delete element x\u{1b}[2J".to_owned(),
    });
    Report::new(&desired, differences, &selection(arguments), Mode::Ipvs)
}

#[test]
fn there_is_one_verdict_per_service() {
    let mut report = report(&[]);
    let dns = report
        .services
        .iter_mut()
        .find(|of| of.service == "default/dns");
    dns.unwrap().connections = Some(vec![
        Connection {
            kind: connect::Kind::Vip,
            address: "10.96.0.11:53".parse().unwrap(),
            connected: true,
            milliseconds: Some(0.25),
            error: None,
        },
        Connection {
            kind: connect::Kind::Endpoint,
            address: "10.244.2.3:53".parse().unwrap(),
            connected: false,
            milliseconds: Some(2000.0),
            error: Some("no answer within 2s".to_owned()),
        },
    ]);
    report.judge();
    assert!(!report.is_right() && !report.agrees());
    let text = Text {
        report: &report,
        every: true,
    };
    let text = text.to_string();
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn a_failed_connection_alone_is_a_difference_for_scripts_only() {
    let desired = desired(&[]);
    let mut report = Report::new(&desired, Vec::new(), &selection(&["dns"]), Mode::Ipvs);
    assert!(report.agrees() && report.is_right());
    report.services[0].connections = Some(vec![Connection {
        kind: connect::Kind::Vip,
        address: "10.96.0.11:53".parse().unwrap(),
        connected: false,
        milliseconds: None,
        error: Some("refused".to_owned()),
    }]);
    report.judge();
    assert!(report.agrees() && !report.is_right());
    assert_eq!(report.services[0].verdict, Outcome::Unreachable);
}

#[test]
fn services_are_selected() {
    let found = |arguments: &[&str]| {
        let services = report(arguments).services.into_iter().map(|of| of.service);
        services.collect::<Vec<_>>()
    };
    assert_eq!(found(&[]).len(), 4);
    assert_eq!(found(&["web"]), ["shop/web"]);
    assert_eq!(found(&["-n=default"]), ["default/dns", "default/nobody"]);
    assert_eq!(found(&["--vip=203.0.113.9:80"]), ["shop/web"]);
    assert_eq!(found(&["--endpoint=10.244.2.3"]), ["default/dns"]);
    // What Services share is always reported.
    assert!(!report(&["dns"]).agrees());
}

#[test]
fn connections_go_to_tcp_ports_with_endpoints() {
    let desired = desired(&[]);
    let of = |service: &str| {
        let frontends = desired.frontends().map(AsRef::as_ref);
        let frontends = frontends.filter(|of| of.owner.service.as_str() == service);
        let (targets, left_out) = targets(frontends, desired.config());
        let targets = targets.into_iter().map(|of| of.address.to_string());
        (targets.collect::<Vec<_>>(), left_out)
    };
    let web = [
        "10.96.0.10:80",
        "192.0.2.1:30080",
        "203.0.113.9:80",
        "10.244.1.1:8080",
        "10.244.2.1:8080",
    ];
    assert_eq!(of("shop/web"), (web.map(str::to_owned).into(), 0));
    assert_eq!(of("default/dns"), (Vec::new(), 1));
    assert_eq!(of("default/nobody"), (Vec::new(), 0));
}

/// A Service of which nothing is served is not silently left out.
#[test]
fn refused_services_are_counted_and_not_right() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: six}\n\
                spec: {clusterIP: 'fd00:10:96::6', ipFamilies: [IPv6], ports: [{port: 80}]}\n";
    let mut store = Store::default();
    let reading = manifest::parse("six.yaml".as_ref(), text);
    let changes = reading.changes.into_iter();
    changes.for_each(|change| store.apply(change));
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.exclude_cidrs = vec!["fd00:10:96::/112".parse().unwrap()];
    let desired = DesiredState::from_store(Arc::new(config), &store);
    let report = Report::new(&desired, Vec::new(), &selection(&[]), Mode::Nftables);
    assert_eq!((report.totals.services, report.totals.refused), (0, 1));
    assert!(!report.is_right());
    let text = Text {
        report: &report,
        every: false,
    };
    let text = text.to_string();
    assert!(
        text.contains("default/six: nothing of it is served\n  note: "),
        "{text}"
    );
    assert!(text.contains("0 differ; 1 more refused\n"), "{text}");
    let other = Report::new(&desired, Vec::new(), &selection(&["web"]), Mode::Nftables);
    assert_eq!(other.totals.refused, 0);
}
