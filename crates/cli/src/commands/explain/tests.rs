//! Situations in which a connection goes nowhere, or not where it should: the explanation names the
//! cause in each.

use std::sync::Arc;

use ipvs::{Protocol, VirtualServer, VirtualServerKey};
use proxier::desired::{Config, DesiredState, PodInterfaces};
use proxier::host::{Concern, Facts, Filter, Role, Route, Trace as HostTrace, Ways, judge};
use proxier::mode::ipvs::plan::{NodeState, Obstacle, VirtualServerState};
use proxier::mode::ipvs::rules::Ruleset;
use proxier::mode::userspace::Socket;
use proxier::source::manifest;
use proxier::store::Store;

use super::plane::Rules;
use super::*;
use crate::args::Mode;

/// The Services of most situations.
const SERVICES: &str = include_str!("services.yaml");

/// A client, for short.
#[derive(Clone, Copy)]
enum From {
    Node,
    Pod,
    Outside,
}

/// What differs from a node on which all is well.
#[derive(Default)]
struct Setup {
    mode: Option<Mode>,
    /// Changes the kernel after the plan was applied.
    change: Option<fn(&mut NodeState, &Config)>,
    /// The kernel has the plan of other manifests, made from these, instead.
    kernel_of: Option<fn(&str) -> String>,
    /// The kernel has another mode, or rules that are missing or of other settings.
    plane: Option<fn(DataPlane, &DesiredState) -> DataPlane>,
    /// Changes the settings.
    settings: Option<fn(&mut Config)>,
    facts: Facts,
    ways: Ways,
    /// There is no plan to compare with, only what the running svcproxy knows.
    without_plan: bool,
}

/// A plan on a node whose programs have no sockets.
fn of_plan(mode: Mode, desired: &DesiredState) -> DataPlane {
    let mut plan = DataPlane::planned(mode, desired, &[], None);
    if let DataPlane::Userspace(of) = &mut plan {
        of.others = Some(Vec::new());
    }
    plan
}

struct Explained {
    result: &'static str,
    reasons: Vec<&'static str>,
    text: String,
}

fn config() -> Config {
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    config.exclude_cidrs = vec!["192.0.2.192/26".parse().unwrap()];
    config
}

fn store(manifests: &str) -> Store {
    let mut store = Store::default();
    let reading = manifest::parse("services.yaml".as_ref(), manifests);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let changes = reading.changes.into_iter();
    changes.for_each(|change| store.apply(change));
    store
}

fn explained(target: &str, from: From, setup: &Setup) -> Explained {
    let mut config = config();
    if let Some(change) = setup.settings {
        change(&mut config);
    }
    let store = store(SERVICES);
    let desired = DesiredState::from_store(Arc::new(config.clone()), &store);
    let mode = setup.mode.unwrap_or(Mode::Ipvs);
    let plan = of_plan(mode, &desired);
    let mut kernel = match setup.kernel_of {
        Some(other) => {
            let store = self::store(&other(SERVICES));
            let desired = DesiredState::from_store(Arc::new(config.clone()), &store);
            of_plan(mode, &desired)
        }
        None => plan.clone(),
    };
    if let Some(change) = setup.plane {
        kernel = change(kernel, &desired);
    }
    if let (Some(change), DataPlane::Ipvs(rules, node)) = (setup.change, &mut kernel) {
        change(node, &config);
        *rules = Rules::of(node, &config);
    }
    let (target, protocol) = match target.split_once('/') {
        Some((at, _)) => (at, Protocol::Udp),
        None => (target, Protocol::Tcp),
    };
    let to: SocketAddr = target.parse().unwrap();
    let own: IpAddr = "192.0.2.1".parse().unwrap();
    let is_own = |address: IpAddr| address == own || address.is_loopback();
    let veth = Origin::Interface("veth0".to_owned());
    let (source, origin) = match from {
        From::Node => (own, Origin::Node),
        From::Pod => ("10.244.1.77".parse().unwrap(), veth),
        From::Outside => (
            "198.18.0.7".parse().unwrap(),
            Origin::Interface("eth0".to_owned()),
        ),
    };
    let role = Role::new(mode.probed(), &config);
    let concerns: Vec<Concern> = judge(&setup.facts, &role);
    let case = Case {
        packet: Packet::new(
            source,
            to.ip(),
            protocol,
            to.port().try_into().unwrap(),
            origin,
        ),
        config: &config,
        plane: &kernel,
        planned: Some(&plan).filter(|_| !setup.without_plan),
        services: description::at(to.ip(), to.port(), &store, &desired),
        concerns: &concerns,
        around: Some(Around {
            facts: &setup.facts,
            ways: &setup.ways,
            role,
        }),
        is_own: &is_own,
        leaves_by: Some("interface eth0".to_owned()),
    };
    let explanation = case.explain(kernel.trace(&case.packet, &is_own));
    let text = Text {
        case: &case,
        explanation: &explanation,
        of: "this node's kernel",
    };
    Explained {
        result: what(&explanation.trace.outcome),
        reasons: explanation.findings.iter().map(|of| of.reason).collect(),
        text: text.to_string(),
    }
}

#[track_caller]
fn check(target: &str, from: From, setup: &Setup, result: &str, reason: &str, words: &str) {
    let found = explained(target, from, setup);
    let text = &found.text;
    assert_eq!(found.result, result, "{target}: {text}");
    assert!(
        found.reasons.contains(&reason),
        "{target}: {reason} in {text}"
    );
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(reason));
    assert!(
        line.is_some_and(|line| line.contains(words)),
        "{target}: {words:?} in {text}"
    );
}

#[test]
fn what_works_has_no_reason() {
    for mode in ALL {
        let setup = Setup {
            mode: Some(mode),
            ..Setup::default()
        };
        for (target, from) in [
            ("10.96.0.80:80", From::Pod),
            ("10.96.0.80:80", From::Node),
            ("192.0.2.1:30080", From::Outside),
        ] {
            let found = explained(target, from, &setup);
            assert_eq!(found.result, "served", "{}", found.text);
            assert_eq!(found.reasons, [""; 0], "{}", found.text);
        }
    }
}

/// Objects and settings, in all modes.
#[test]
fn what_objects_ask_for_explains_what_happens() {
    use self::From::{Node, Outside, Pod};
    let (refused, dropped) = ("refused", "dropped");
    let leaves = "sent on by the node's routes";
    for mode in ALL {
        let setup = &Setup {
            mode: Some(mode),
            ..Setup::default()
        };
        let local = without_socket(mode);
        let table = [
            // No endpoint slice at all.
            (
                "10.96.0.81:80",
                Pod,
                refused,
                "NoEndpoints",
                "no endpoint slice",
            ),
            (
                "10.96.0.81:80",
                Node,
                refused,
                "NoEndpoints",
                "no endpoint slice",
            ),
            // The names of the ports differ.
            (
                "10.96.0.82:443",
                Pod,
                refused,
                "NoEndpoints",
                "named \"https\", only: \"http\"",
            ),
            // Endpoints that are not ready, and some without weight.
            ("10.96.0.83:80", Pod, refused, "NoEndpoints", "2 not ready"),
            (
                "10.96.0.89:80",
                Pod,
                refused,
                "NoEndpoints",
                "1 with weight 0",
            ),
            // Endpoints of the other family only, and none at all in the slice.
            (
                "10.96.0.90:80",
                Pod,
                refused,
                "NoEndpoints",
                "other address family",
            ),
            (
                "10.96.0.91:80",
                Pod,
                refused,
                "NoEndpoints",
                "slices are empty",
            ),
            // All of them end.
            (
                "10.96.0.92:80",
                Pod,
                refused,
                "NoEndpoints",
                "1 terminating",
            ),
            // Some are not used, and the others answer.
            (
                "10.96.0.93:80",
                Pod,
                "served",
                "SomeEndpoints",
                "1 of 3 endpoints",
            ),
            // Policy Local, and no endpoint says on which node it is.
            (
                "10.96.0.94:80",
                Pod,
                dropped,
                "NoLocalEndpoints",
                "without a node name",
            ),
            // Policy Local, inside and outside.
            (
                "10.96.0.84:80",
                Pod,
                dropped,
                "NoLocalEndpoints",
                "1 on other nodes",
            ),
            (
                "203.0.113.84:80",
                Outside,
                dropped,
                "NoLocalEndpoints",
                "1 on other nodes",
            ),
            (
                "192.0.2.1:30084",
                Outside,
                dropped,
                "NoLocalEndpoints",
                "1 on other nodes",
            ),
            // Source ranges.
            (
                "203.0.113.85:80",
                Outside,
                dropped,
                "SourceRanges",
                "198.51.100.0/24",
            ),
            // An address of the Service CIDR that no Service has, and any other address.
            (
                "10.96.0.99:443",
                Pod,
                refused,
                "AddressRefused",
                "10.96.0.99",
            ),
            (
                "10.100.7.7:80",
                Pod,
                refused,
                "NotAService",
                "Service CIDR 10.96.0.0/12",
            ),
            (
                "10.100.7.7:80",
                Node,
                refused,
                "NotAService",
                "Service CIDR 10.96.0.0/12",
            ),
            (
                "8.8.8.8:53/udp",
                Pod,
                leaves,
                "NotAService",
                "leave by interface eth0",
            ),
            // Another port or protocol of a Service's address.
            (
                "10.96.0.80:81",
                Pod,
                refused,
                "NotThisPort",
                "not at 81/tcp, only: 80/tcp",
            ),
            (
                "10.96.0.80:80/udp",
                Pod,
                refused,
                "NotThisPort",
                "not at 80/udp, only: 80/tcp",
            ),
            // An external IP that svcproxy refuses, one that is excluded, and one that another
            // Service has.
            (
                "10.96.0.99:80",
                Outside,
                refused,
                "AddressRefused",
                "Service default/greedy",
            ),
            (
                "192.0.2.200:80",
                Outside,
                leaves,
                "AddressRefused",
                "--exclude-cidrs",
            ),
            // A node port that no Service has, one over loopback, one for another protocol.
            (
                "192.0.2.1:31999",
                Outside,
                local,
                "NotAService",
                "no Service has the node port 31999",
            ),
            (
                "127.0.0.1:30080",
                Node,
                local,
                "NotThisPort",
                "does not serve node ports",
            ),
            (
                "192.0.2.1:30080/udp",
                Outside,
                local,
                "NotThisPort",
                "for tcp, not for udp",
            ),
            // A health check has the port.
            (
                "192.0.2.1:30087",
                Outside,
                local,
                "AddressConflict",
                "30087",
            ),
        ];
        for (target, from, result, reason, words) in table {
            check(target, from, setup, result, reason, words);
        }
        // The older Service is served, and the reason names the other one.
        check(
            "203.0.113.9:80",
            Outside,
            setup,
            "served",
            "AddressConflict",
            "default/greedy",
        );
    }
}

#[test]
fn node_ports_of_a_family_without_a_service() {
    let six = Setup {
        settings: Some(|config| config.node_ips.push("2001:db8::1".parse().unwrap())),
        ..Setup::default()
    };
    let found = explained("[::1]:30080", From::Node, &six);
    assert!(found.reasons.contains(&"WrongFamily"), "{}", found.text);
    let left_out = Setup {
        settings: Some(|config| config.left_out = vec!["fd00:10:96::/112".parse().unwrap()]),
        ..Setup::default()
    };
    let found = explained("[fd00:10:96::1]:80", From::Node, &left_out);
    assert!(found.reasons.contains(&"FamilyLeftOut"), "{}", found.text);
}

#[test]
fn node_ports_only_at_some_addresses() {
    let some = Setup {
        settings: Some(|config| {
            config.node_port_addresses = vec!["198.51.100.0/24".parse().unwrap()];
        }),
        ..Setup::default()
    };
    let local = "delivered to the node's own programs";
    check(
        "192.0.2.1:30080",
        From::Outside,
        &some,
        local,
        "NotThisPort",
        "--nodeport-addresses",
    );
}

fn web() -> VirtualServerKey {
    let address: SocketAddr = "10.96.0.80:80".parse().unwrap();
    VirtualServerKey::new(Protocol::Tcp, address)
}

/// Changes by other programs.
#[test]
fn what_others_did_to_the_kernel_is_named() {
    let web_from_pod = |setup: &Setup, result, reason, words: &str| {
        check("10.96.0.80:80", From::Pod, setup, result, reason, words);
    };
    let with = |change: fn(&mut NodeState, &Config)| Setup {
        change: Some(change),
        ..Setup::default()
    };
    // ipvsadm -D
    let gone = with(|node, _| drop(node.virtual_servers.remove(&web())));
    web_from_pod(
        &gone,
        "delivered to the node's own programs",
        "Drift",
        "should be served",
    );
    // ipvsadm -d of one endpoint
    let fewer = with(|node, _| {
        let state = node.virtual_servers.get_mut(&web()).unwrap();
        state.real_servers.remove(0);
    });
    web_from_pod(
        &fewer,
        "served",
        "Drift",
        "does not send to 10.244.1.1:8080",
    );
    // nft flush ruleset
    let flushed = with(|node, _| {
        node.ruleset = None;
        node.elements.clear();
    });
    web_from_pod(
        &flushed,
        "served",
        "RulesMissing",
        "nftables table is missing",
    );
    // ip route del
    let unrouted = with(|node, _| node.routes.clear());
    web_from_pod(
        &unrouted,
        "sent on by the node's routes",
        "Drift",
        "should be served",
    );
    // Another program's route.
    let obstructed = with(|node, _| {
        let prefix = "10.96.0.0/12".parse().unwrap();
        let by = "blackhole 10.96.0.0/12".to_owned();
        let can_be_passed = false;
        node.obstacles.insert(Obstacle {
            prefix,
            by,
            can_be_passed,
        });
    });
    web_from_pod(
        &obstructed,
        "served",
        "RouteInTheWay",
        "blackhole 10.96.0.0/12",
    );
    // All endpoints drain.
    let drains = with(|node, _| {
        let state = node.virtual_servers.get_mut(&web()).unwrap();
        for server in &mut state.real_servers {
            server.weight = 0;
        }
    });
    web_from_pod(&drains, "refused", "Drift", "should be served");
    let found = explained("10.96.0.80:80", From::Pod, &drains);
    assert!(
        found
            .text
            .contains("no real server for new connections (2 drain)"),
        "{}",
        found.text
    );
    // keepalived's virtual server.
    let foreign = with(|node, _| {
        let other: SocketAddr = "192.0.2.1:8443".parse().unwrap();
        let key = VirtualServerKey::new(Protocol::Tcp, other);
        let state = VirtualServerState {
            server: VirtualServer::new(key),
            real_servers: Vec::new(),
        };
        node.virtual_servers.insert(key, state);
    });
    check(
        "192.0.2.1:8443",
        From::Outside,
        &foreign,
        "refused",
        "ForeignVirtualServer",
        "not svcproxy's",
    );
    // Another mode has taken over.
    let retired = with(|node, config| node.ruleset = Some(Ruleset::retired(config).fingerprint()));
    web_from_pod(&retired, "served", "OtherMode", "another mode serves");
    // Rules of other settings.
    let other = with(|node, config| {
        let mut config = config.clone();
        config.masquerade_all = true;
        node.ruleset = Some(Ruleset::new(&config).fingerprint());
    });
    web_from_pod(&other, "served", "OtherSettings", "those of other settings");
}

/// The same without a plan: what the running svcproxy knows is the measure.
#[test]
fn drift_is_seen_without_a_plan() {
    let with = |change: fn(&mut NodeState, &Config)| Setup {
        change: Some(change),
        without_plan: true,
        ..Setup::default()
    };
    let fewer = with(|node, _| {
        let state = node.virtual_servers.get_mut(&web()).unwrap();
        state.real_servers.remove(0);
    });
    check(
        "10.96.0.80:80",
        From::Pod,
        &fewer,
        "served",
        "Drift",
        "does not send to 10.244.1.1:8080",
    );
    let stray = with(|node, _| {
        let state = node.virtual_servers.get_mut(&web()).unwrap();
        let mut server = state.real_servers[0];
        server.key.port = 9999;
        state.real_servers.push(server);
    });
    check(
        "10.96.0.80:80",
        From::Pod,
        &stray,
        "served",
        "Drift",
        "sends to 10.244.1.1:9999",
    );
    let fine = Setup {
        without_plan: true,
        ..Setup::default()
    };
    let found = explained("10.96.0.80:80", From::Pod, &fine);
    assert_eq!(found.reasons, [""; 0], "{}", found.text);
    for (target, reason) in [
        ("203.0.113.85:80", "SourceRanges"),
        ("203.0.113.84:80", "NoLocalEndpoints"),
    ] {
        let found = explained(target, From::Outside, &fine);
        assert_eq!(found.reasons, [reason], "{}", found.text);
    }
}

const ALL: [Mode; 4] = [Mode::Ipvs, Mode::Iptables, Mode::Nftables, Mode::Userspace];

/// What happens at an address of the node without a socket. Only mode userspace knows the sockets.
const fn without_socket(mode: Mode) -> &'static str {
    match mode {
        Mode::Userspace => "refused",
        _ => "delivered to the node's own programs",
    }
}

/// The kernel has what earlier manifests asked for: a sync failed, or another program put it back.
#[test]
fn drift_is_named_in_every_mode() {
    let web = "10.244.1.1], nodeName: node-a}, {addresses: [10.244.2.1";
    assert!(SERVICES.contains(web));
    for mode in ALL {
        let check = |target, from, kernel_of: fn(&str) -> String, result, words| {
            let setup = Setup {
                mode: Some(mode),
                kernel_of: Some(kernel_of),
                ..Setup::default()
            };
            check(target, from, &setup, result, "Drift", words);
        };
        let cluster_ip = "10.96.0.80:80";
        // An endpoint that the kernel has not, and one that it has beside those of the plan.
        check(
            cluster_ip,
            From::Pod,
            |text| text.replace("10.244.1.1]", "10.244.7.7]"),
            "served",
            "does not send to 10.244.1.1:8080; it sends to 10.244.7.7:8080",
        );
        // Endpoints that came, and the kernel still refuses.
        check(
            cluster_ip,
            From::Pod,
            |text| text.replace("kubernetes.io/service-name: web}", "a: b}"),
            "refused",
            "is refused, and should be served",
        );
        // A Service that the kernel does not have at all: refused, as any address of the CIDR.
        let without = |text: &str| {
            let renamed = text.replace("10.96.0.80", "10.96.3.3");
            renamed.replace("nodePort: 30080", "nodePort: 30999")
        };
        check(
            cluster_ip,
            From::Pod,
            without,
            "refused",
            "should be served",
        );
        check(
            "192.0.2.1:30080",
            From::Outside,
            without,
            without_socket(mode),
            "should be served",
        );
        // Endpoints that went, and the kernel still sends to them.
        check(
            "10.96.0.83:80",
            From::Pod,
            |text| text.replace("{ready: false}", "{ready: true}"),
            "served",
            "is served, and should be refused",
        );
    }
}

#[test]
fn missing_and_other_rules_of_mode_nftables_are_named() {
    let with = |plane: fn(DataPlane, &DesiredState) -> DataPlane| Setup {
        mode: Some(Mode::Nftables),
        plane: Some(plane),
        ..Setup::default()
    };
    // nft flush ruleset
    let flushed = with(|plane, _| match plane {
        DataPlane::Nftables(_, mut node) => {
            node.ruleset = None;
            node.elements = Default::default();
            DataPlane::Nftables(Rules::Missing, node)
        }
        other => other,
    });
    let leaves = "sent on by the node's routes";
    let target = "10.96.0.80:80";
    check(
        target,
        From::Pod,
        &flushed,
        leaves,
        "RulesMissing",
        "table is missing",
    );
    check(
        target,
        From::Pod,
        &flushed,
        leaves,
        "Drift",
        "should be served",
    );
    let other = with(|plane, _| match plane {
        DataPlane::Nftables(Rules::Known(ruleset), node) => {
            DataPlane::Nftables(Rules::Assumed(ruleset), node)
        }
        other => other,
    });
    check(
        target,
        From::Pod,
        &other,
        "served",
        "OtherSettings",
        "those of other settings",
    );
}

#[test]
fn another_mode_than_the_planned_one_is_named() {
    for (planned, is) in [
        (Mode::Nftables, Mode::Iptables),
        (Mode::Iptables, Mode::Ipvs),
    ] {
        let plane: fn(DataPlane, &DesiredState) -> DataPlane = match is {
            Mode::Iptables => |_, desired| of_plan(Mode::Iptables, desired),
            _ => |_, desired| of_plan(Mode::Ipvs, desired),
        };
        let setup = Setup {
            mode: Some(planned),
            plane: Some(plane),
            ..Setup::default()
        };
        let words = format!("the kernel has mode {}", is.name());
        check(
            "10.96.0.80:80",
            From::Pod,
            &setup,
            "served",
            "OtherMode",
            &words,
        );
    }
}

/// Firewalls and other service proxies, in all modes.
#[test]
fn what_others_do_on_the_host_is_named() {
    for mode in ALL {
        what_others_do_is_named(mode);
    }
}

fn what_others_do_is_named(mode: Mode) {
    use netlink::filter::{BaseChain, Hook, TableFamily};
    let facts = |change: fn(&mut Facts)| {
        let mut facts = Facts::default();
        change(&mut facts);
        Setup {
            facts,
            mode: Some(mode),
            ..Setup::default()
        }
    };
    let chain = |name: &str, hook| {
        let chain = BaseChain {
            family: TableFamily::Inet,
            table: "filter".to_owned(),
            name: name.to_owned(),
            hook,
            priority: 0,
            drops: true,
        };
        Filter::new(chain, Default::default())
    };
    // IPVS takes packets in the hook input, and so does a listener; translated ones pass the hook forward.
    let (name, hook) = match mode {
        Mode::Ipvs | Mode::Userspace => ("input", Hook::Input),
        _ => ("forward", Hook::Forward),
    };
    let mut drops = facts(|_| {});
    drops.facts.filters.push(chain(name, hook));
    let words = format!("inet filter {name} (hook {name}, priority 0) drops it: its policy");
    check(
        "10.96.0.80:80",
        From::Pod,
        &drops,
        "served",
        "Firewall",
        &words,
    );
    if hook == Hook::Forward {
        let from_node = explained("10.96.0.80:80", From::Node, &drops);
        assert_eq!(from_node.reasons, [""; 0], "{}", from_node.text);
    }
    let alive = facts(|facts| facts.traces.push(HostTrace::KubeProxyProcess));
    check(
        "10.96.0.80:80",
        From::Pod,
        &alive,
        "served",
        "OtherServiceProxy",
        "kube-proxy runs",
    );
    let full = facts(|facts| facts.nearly_full = Some(65_536));
    check(
        "10.96.0.80:80",
        From::Pod,
        &full,
        "served",
        "ConntrackNearlyFull",
        "65536",
    );
}

/// Routes and sysctls, in all modes.
#[test]
fn what_the_kernel_does_not_deliver_is_named() {
    let with = |mode, change: fn(&mut Ways)| {
        let mut setup = Setup {
            mode: Some(mode),
            ..Setup::default()
        };
        change(&mut setup.ways);
        setup
    };
    let target = "10.96.0.80:80";
    for mode in ALL {
        let unreachable = with(mode, |ways| {
            for endpoint in ["10.244.1.1", "10.244.2.1"] {
                let why = Route::None("a route of kind blackhole".to_owned());
                ways.routes.insert(endpoint.parse().unwrap(), why);
            }
        });
        let words = "no route to endpoint 10.244.1.1: a route of kind blackhole";
        check(target, From::Pod, &unreachable, "served", "NoRoute", words);
        let text = explained(target, From::Node, &unreachable).text;
        assert!(
            text.contains("2 endpoints, but the connection is lost"),
            "{text}"
        );
        let closed = with(mode, |ways| {
            let sysctl = "net.ipv4.ip_forward".to_owned();
            ways.closed.insert(ipvs::Family::V4, sysctl);
        });
        let words = "net.ipv4.ip_forward is 0";
        match mode {
            // It forwards nothing.
            Mode::Userspace => {
                let from_pod = explained(target, From::Pod, &closed);
                assert_eq!(from_pod.reasons, [""; 0], "{}", from_pod.text);
            }
            _ => check(target, From::Pod, &closed, "served", "NotForwarded", words),
        }
        let from_node = explained(target, From::Node, &closed);
        assert_eq!(from_node.reasons, [""; 0], "{}", from_node.text);
        let one = with(mode, |ways| {
            let why = Route::None("a route of kind prohibit".to_owned());
            ways.routes.insert("10.244.1.1".parse().unwrap(), why);
        });
        let text = explained(target, From::Node, &one).text;
        assert!(!text.contains("lost on the way"), "{text}");
        let unrouted = with(mode, |ways| {
            let why = Route::None("no route matches".to_owned());
            ways.routes.insert("10.96.0.80".parse().unwrap(), why);
        });
        let text = explained(target, From::Node, &unrouted).text;
        let is_named = text.contains("no route to virtual IP 10.96.0.80: no route matches");
        let is_routed = matches!(mode, Mode::Iptables | Mode::Nftables);
        assert_eq!(is_named, is_routed, "{text}");
        let from_pod = explained(target, From::Pod, &unrouted);
        assert_eq!(from_pod.reasons, [""; 0], "{}", from_pod.text);
    }
}

/// Listeners that are not there, in mode userspace.
#[test]
fn what_keeps_the_proxy_from_listening_is_named() {
    let with = |plane: fn(DataPlane, &DesiredState) -> DataPlane| Setup {
        mode: Some(Mode::Userspace),
        plane: Some(plane),
        ..Setup::default()
    };
    let (target, node_port) = ("10.96.0.80:80", "192.0.2.1:30080");
    let local = "delivered to the node's own programs";
    // Another program listens on all addresses.
    let taken = |without_plan| Setup {
        without_plan,
        ..with(|plane, _| {
            changed(plane, |of| {
                of.node.listeners.clear();
                of.others = Some([80, 30_080].map(socket).into());
            })
        })
    };
    let of_nginx =
        "svcproxy does not listen at tcp 10.96.0.80:80: PID 7 (nginx) has the port, at 0.0.0.0:80";
    for without_plan in [false, true] {
        let taken = taken(without_plan);
        check(target, From::Pod, &taken, local, "ListenFailed", of_nginx);
        check(
            node_port,
            From::Outside,
            &taken,
            local,
            "ListenFailed",
            "0.0.0.0:30080",
        );
        let has_drift = explained(target, From::Pod, &taken)
            .reasons
            .contains(&"Drift");
        assert_eq!(has_drift, !without_plan);
    }
    // It may not have the port.
    let forbidden = with(|plane, _| changed(plane, |of| of.node.listeners.clear()));
    let words = "no other program has the port";
    check(
        target,
        From::Pod,
        &forbidden,
        "refused",
        "ListenFailed",
        words,
    );
    // No node port is served at this address.
    let found = explained("127.0.0.1:30080", From::Node, &forbidden);
    assert_eq!(found.reasons, ["NotThisPort"], "{}", found.text);
    // It does not run.
    let stopped = with(|plane, _| {
        changed(plane, |of| {
            of.node.listeners.clear();
            of.node.served.clear();
            of.silence = Some("no svcproxy runs here".to_owned());
        })
    });
    let silence = "no svcproxy runs here";
    check(
        target,
        From::Pod,
        &stopped,
        "refused",
        "NotRunning",
        silence,
    );
    // The routes are gone, or another program's precedes them.
    let unrouted = with(|plane, _| changed(plane, |of| of.node.routes.clear()));
    let leaves = "sent on by the node's routes";
    check(
        target,
        From::Pod,
        &unrouted,
        leaves,
        "Drift",
        "should be served",
    );
    let given = with(|plane, _| {
        changed(plane, |of| {
            of.node.routes.clear();
            of.is_unrouted = true;
        })
    });
    check(
        target,
        From::Pod,
        &given,
        leaves,
        "NoRoute",
        "ip route add local 10.96.0.80 dev lo",
    );
    let obstructed = with(|plane, _| {
        changed(plane, |of| {
            of.node.obstacles.insert(Obstacle {
                prefix: "10.96.0.0/12".parse().unwrap(),
                by: "blackhole 10.96.0.0/12".to_owned(),
                can_be_passed: false,
            });
        })
    });
    check(
        target,
        From::Pod,
        &obstructed,
        "served",
        "RouteInTheWay",
        "blackhole 10.96.0.0/12",
    );
}

fn changed(plane: DataPlane, change: fn(&mut plane::Sockets)) -> DataPlane {
    match plane {
        DataPlane::Userspace(mut of) => {
            change(&mut of);
            DataPlane::Userspace(of)
        }
        other => other,
    }
}

/// A socket of another program, on all addresses: as the kernel lists it.
fn socket(port: u16) -> Socket {
    let mut socket = Socket::new(Protocol::Tcp, ([0, 0, 0, 0], port).into());
    socket.holder = "PID 7 (nginx)".to_owned();
    socket
}

/// In mode userspace, svcproxy recognises pods by their addresses only: a socket does not know the interface.
#[test]
fn pods_are_not_told_by_interface_in_mode_userspace() {
    let by_interface = Setup {
        mode: Some(Mode::Userspace),
        settings: Some(|config| {
            config.pod_interfaces = Some(PodInterfaces::Prefixed("veth".parse().unwrap()));
            config.cluster_cidrs.clear();
        }),
        without_plan: true,
        ..Setup::default()
    };
    let found = explained("203.0.113.84:80", From::Pod, &by_interface);
    assert_eq!(found.result, "dropped", "{}", found.text);
    // That the endpoint on another node is not used is no drift.
    assert_eq!(found.reasons, ["NoLocalEndpoints"], "{}", found.text);
}

#[test]
fn texts() {
    let setup = Setup::default();
    let iptables = Setup {
        mode: Some(Mode::Iptables),
        ..Setup::default()
    };
    let nftables = Setup {
        mode: Some(Mode::Nftables),
        ..Setup::default()
    };
    let userspace = Setup {
        mode: Some(Mode::Userspace),
        ..Setup::default()
    };
    let of = |target, from, setup: &Setup| explained(target, from, setup).text;
    let all = [
        of("10.96.0.80:80", From::Outside, &setup),
        of("192.0.2.1:30080", From::Outside, &setup),
        of("203.0.113.85:80", From::Outside, &setup),
        of("10.96.0.82:443", From::Node, &setup),
        of("10.96.0.80:80", From::Outside, &iptables),
        of("10.96.0.81:80", From::Pod, &iptables),
        of("10.96.0.80:80", From::Outside, &nftables),
        of("192.0.2.1:30080", From::Outside, &nftables),
        of("10.96.0.81:80", From::Pod, &nftables),
        of("10.96.0.80:80", From::Outside, &userspace),
        of("192.0.2.1:30080", From::Node, &userspace),
        of("203.0.113.85:80", From::Outside, &userspace),
        of("10.96.0.81:80", From::Pod, &userspace),
    ];
    insta::assert_snapshot!(all.join("\n"));
}
