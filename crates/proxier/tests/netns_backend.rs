//! The IPVS backend's packet filter and routes in network namespaces of this machine, over an
//! IPVS in memory.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

#[path = "netns_backend/conntrack.rs"]
mod conntrack;
#[path = "netns_backend/paths.rs"]
mod paths;

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use std::{io, thread};

use ipvs::{FakeKernel, FakeSocket, Family, Protocol};
use proxier::backend::{
    ApplyReport, Backend, BackendError, Counts, IpvsBackend, ROUTE_PROTOCOL, cleanup,
};
use proxier::desired::{Config, FrontendKey, PodInterfaces};
use proxier::netfilter::Ruleset;
use proxier::plan::{
    Audience, Comment, Element, Elements, LocalRoute, Plan, PolicyRoute, Purpose, Step,
};
use testbed::Namespace;

fn namespace() -> Namespace {
    Namespace::new("backend").unwrap()
}

fn backend() -> IpvsBackend<FakeSocket> {
    IpvsBackend::with_client(FakeKernel::new().client().unwrap()).unwrap()
}

fn apply(backend: &mut impl Backend, steps: impl IntoIterator<Item = Step>) -> ApplyReport {
    backend.apply(&steps.into_iter().collect::<Plan>())
}

/// Applies steps none of which may fail, and tells how much was sent.
fn succeed(backend: &mut impl Backend, steps: impl IntoIterator<Item = Step>) -> Counts {
    let report = apply(backend, steps);
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    report.counts
}

fn config() -> Config {
    let mut config = Config::new("node", vec![]);
    let cidrs = ["10.244.0.0/16", "10.128.0.0/11", "fd00:10:244::/56"];
    config.cluster_cidrs = cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    config
}

fn ruleset() -> Ruleset {
    Ruleset::new(&config())
}

fn install() -> Step {
    Step::InstallRuleset(ruleset())
}

fn key(protocol: Protocol, address: &str, port: u16) -> FrontendKey {
    FrontendKey {
        protocol,
        address: address.parse().unwrap(),
        port: port.try_into().unwrap(),
    }
}

fn node_port(protocol: Protocol, family: Family, port: u16) -> FrontendKey {
    FrontendKey::node_port(protocol, family, port.try_into().unwrap())
}

fn mark(key: FrontendKey, purpose: Purpose, mark: u32) -> Element {
    let mark = mark.try_into().unwrap();
    Element::Mark { key, purpose, mark }
}

fn range(key: FrontendKey, network: &str) -> Element {
    Element::SourceRange(key, network.parse().unwrap())
}

fn cidr(text: &str) -> Element {
    Element::ServiceCidr(text.parse().unwrap())
}

fn add(element: Element) -> Step {
    Step::AddElement(element, None)
}

fn route(prefix: &str, source: &str) -> LocalRoute {
    LocalRoute {
        prefix: prefix.parse().unwrap(),
        source: source.parse().unwrap(),
    }
}

fn policy(family: Family) -> PolicyRoute {
    let mark = 0x2000;
    PolicyRoute { family, mark }
}

/// Elements of every set, as steps and as nft would be told.
fn elements() -> (Vec<Step>, String) {
    let v4 = elements_of(
        Family::V4,
        ["10.96.0.1", "203.0.113.7", "10.244.1.7"],
        ["10.96.0.0/12", "192.0.2.7/32", "0.0.0.0/0"],
        ["192.0.2.0/24", "198.51.100.7/32"],
    );
    let v6 = elements_of(
        Family::V6,
        ["fd00:10:96::1", "2001:db8:1::7", "fd00:10:244::7"],
        ["fd00:10:96::/112", "2001:db8::7/128", "::/0"],
        ["2001:db8:2::/47", "2001:db8:5::7/128"],
    );
    ([v4.0, v6.0].concat(), v4.1 + &v6.1)
}

fn elements_of(
    family: Family,
    [vip, external, pod]: [&str; 3],
    [service_cidr, stray, everywhere]: [&str; 3],
    [many, one]: [&str; 2],
) -> (Vec<Step>, String) {
    use Protocol::{Sctp, Tcp, Udp};
    let (web, dns) = (key(Tcp, vip, 443), key(Udp, vip, 53));
    let (lb, sctp) = (key(Tcp, external, 80), key(Sctp, external, 5000));
    let (http, game) = (node_port(Tcp, family, 30080), node_port(Udp, family, 30053));
    let named = |element, name: &str| Step::AddElement(element, Some(name.into()));
    let steps = vec![
        add(cidr(service_cidr)),
        add(cidr(stray)),
        add(Element::NodePortAddresses(everywhere.parse().unwrap())),
        named(Element::VirtualServer(web), "default/kubernetes:https"),
        named(Element::NoEndpoints(dns), "kube-system/dns"),
        named(Element::NoEndpoints(game), "default/game"),
        add(Element::Hairpin(pod.parse().unwrap())),
        add(Element::Restricted(lb)),
        named(range(lb, many), "default/web:http"),
        // nft, whose order the kernel keeps, writes them sorted.
        add(range(sctp, everywhere)),
        add(range(lb, one)),
        add(Element::Dropped(web, Audience::All)),
        add(Element::Dropped(lb, Audience::External)),
        add(Element::Dropped(game, Audience::External)),
        named(mark(lb, Purpose::Capture, 0x6000), "default/web:http"),
        add(mark(sctp, Purpose::Capture, 0x2000)),
        named(
            mark(http, Purpose::NodePort, 0x0001_6000),
            "default/web:http",
        ),
        add(mark(sctp, Purpose::External, 0xfffe_2000)),
        add(mark(http, Purpose::External, 0x0002_2000)),
        add(Element::CapturedAddress(external.parse().unwrap())),
    ];
    let v = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let add = |set: &str, elements: &str| {
        format!("add element inet svcproxy {set}-{v} {{ {elements} }}\n")
    };
    let text = [
        add("service-cidrs", &format!("{service_cidr}, {stray}")),
        add("node-port-addresses", everywhere),
        add(
            "virtual-servers",
            &format!("{vip} . tcp . 443 comment \"default/kubernetes:https\""),
        ),
        add(
            "no-endpoints",
            &format!("{vip} . udp . 53 comment \"kube-system/dns\""),
        ),
        add(
            "no-endpoints-node-ports",
            "udp . 30053 comment \"default/game\"",
        ),
        add("hairpin", &format!("{pod} . {pod}")),
        add("restricted", &format!("{external} . tcp . 80")),
        add(
            "source-ranges",
            &format!("{external} . tcp . 80 . {many} comment \"default/web:http\""),
        ),
        add("source-ranges", &format!("{external} . tcp . 80 . {one}")),
        add(
            "source-ranges",
            &format!("{external} . sctp . 5000 . {everywhere}"),
        ),
        add("dropped", &format!("{vip} . tcp . 443")),
        add("dropped-external", &format!("{external} . tcp . 80")),
        add("dropped-external-node-ports", "udp . 30053"),
        add(
            "captured",
            &format!("{external} . tcp . 80 comment \"default/web:http\" : 0x6000"),
        ),
        add("captured", &format!("{external} . sctp . 5000 : 0x2000")),
        add(
            "node-ports",
            "tcp . 30080 comment \"default/web:http\" : 0x16000",
        ),
        add(
            "external",
            &format!("{external} . sctp . 5000 : 0xfffe2000"),
        ),
        add("external-node-ports", "tcp . 30080 : 0x22000"),
        add("captured-addresses", external),
    ];
    (steps, text.concat())
}

fn as_elements(steps: &[Step]) -> Elements {
    let element = |step: &Step| match step {
        Step::AddElement(element, comment) => Some((*element, comment.clone())),
        _ => None,
    };
    steps.iter().filter_map(element).collect()
}

fn listing(namespace: &Namespace) -> String {
    namespace.run(["nft", "-s", "list", "ruleset"]).unwrap()
}

#[test]
#[ignore = "netns: needs root"]
fn what_is_installed_is_what_the_text_says() {
    let interface = |of: fn(_) -> PodInterfaces| {
        let mut config = config();
        config.pod_interfaces = Some(of("veth-a.b".parse().unwrap()));
        config
    };
    let mut masquerade_all = config();
    masquerade_all.masquerade_all = true;
    let configs = [
        config(),
        interface(PodInterfaces::Named),
        interface(PodInterfaces::Prefixed),
        masquerade_all,
    ];
    for config in configs {
        let (steps, elements) = elements();
        let text = Ruleset::new(&config).to_string();
        let install = Step::InstallRuleset(Ruleset::new(&config));
        let (ours, theirs) = (namespace(), namespace());
        ours.enter(|| succeed(&mut backend(), [install].into_iter().chain(steps)));
        theirs
            .run_with_input(["nft", "-f", "-"], &format!("{text}{elements}"))
            .unwrap();
        let listed = listing(&ours);
        assert_eq!(listed, listing(&theirs));
        // Line by line what we say it is, but for the words that nft has for priorities and for
        // the most usual answer.
        for line in text.lines().filter(|line| !line.contains("priority")) {
            let line = line.replace("reject with icmpx port-unreachable", "reject");
            assert!(listed.lines().any(|listed| listed == line), "{line}");
        }
    }
}

#[test]
#[ignore = "netns: needs root"]
fn what_was_applied_is_observed() {
    namespace().enter(|| {
        let mut backend = backend();
        assert!(backend.observe().unwrap().elements.is_empty());
        let (steps, _) = elements();
        let routes = [
            route("10.96.0.0/12", "127.0.0.1"),
            route("192.0.2.7/32", "127.0.0.1"),
            route("fd00:10:96::/112", "::1"),
        ];
        let counts = succeed(&mut backend, [install()]);
        assert_eq!((counts.transactions, counts.elements), (1, 0));
        let counts = succeed(&mut backend, steps.clone());
        assert_eq!((counts.transactions, counts.elements), (1, 40));
        let policies = [policy(Family::V4), policy(Family::V6)];
        let counts = succeed(&mut backend, routes.map(Step::AddRoute));
        assert_eq!(counts.routes, 3);
        let counts = succeed(&mut backend, policies.map(Step::AddPolicyRoute));
        assert_eq!(counts.routes, 2);

        let node = backend.observe().unwrap();
        assert_eq!(node.policy_routes, BTreeSet::from(policies));
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        assert_eq!(node.elements, as_elements(&steps));
        assert_eq!(node.routes, BTreeSet::from(routes));

        let deletes = node
            .elements
            .keys()
            .map(|element| Step::DeleteElement(*element));
        let deletes = deletes
            .chain(routes.map(Step::DeleteRoute))
            .chain(policies.map(Step::DeletePolicyRoute));
        succeed(&mut backend, deletes);
        let node = backend.observe().unwrap();
        assert_eq!((node.elements.len(), node.routes.len()), (0, 0));
        assert_eq!(node.policy_routes.len(), 0);
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn a_ruleset_that_others_changed_is_noticed_and_replaced() {
    let namespace = namespace();
    namespace.enter(|| {
        let mut backend = backend();
        let (steps, _) = elements();
        succeed(&mut backend, [install()].into_iter().chain(steps.clone()));
        let before = listing(&namespace);
        for change in [
            "flush chain inet svcproxy refused",
            "add rule inet svcproxy filter-input counter",
            "insert rule inet svcproxy filter-input accept",
            "add chain inet svcproxy filter-input { policy drop; }",
            "add chain inet svcproxy other; add rule inet svcproxy other accept",
        ] {
            namespace.run(["nft", change]).unwrap();
            let node = backend.observe().unwrap();
            assert_eq!(node.ruleset, None, "{change}");
            assert_eq!(node.elements, as_elements(&steps), "{change}");
            succeed(&mut backend, [install()]);
            assert_eq!(listing(&namespace), before, "{change}");
        }
        // Other cluster CIDRs, other rules; the sets stay.
        let other = Ruleset::new(&Config::new("node", vec![]));
        succeed(&mut backend, [Step::InstallRuleset(other.clone())]);
        let node = backend.observe().unwrap();
        assert_eq!(node.ruleset, Some(other.fingerprint()));
        assert_eq!(node.elements, as_elements(&steps));

        namespace.run(["nft", "flush", "ruleset"]).unwrap();
        let node = backend.observe().unwrap();
        assert_eq!((node.ruleset, node.elements), (None, Elements::default()));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn sets_of_another_version_are_replaced() {
    let namespace = namespace();
    let old = "table inet svcproxy {
        set hairpin-v4 { type ipv4_addr; elements = { 10.0.0.1 } }
        set cluster-ips { type ipv4_addr; elements = { 10.0.0.1 } }
        chain svc { ip daddr @cluster-ips accept; ip saddr @hairpin-v4 accept; }
        chain input { type filter hook input priority 0; jump svc; }
    }";
    namespace.run_with_input(["nft", "-f", "-"], old).unwrap();
    namespace.enter(|| {
        let mut backend = backend();
        let node = backend.observe().unwrap();
        assert_eq!((node.ruleset, node.elements), (None, Elements::default()));
        let (steps, _) = elements();
        succeed(&mut backend, [install()].into_iter().chain(steps.clone()));
        let node = backend.observe().unwrap();
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        assert_eq!(node.elements, as_elements(&steps));
    });
    assert!(!listing(&namespace).contains("cluster-ips"));
}

#[test]
#[ignore = "netns: needs root"]
fn what_is_not_ours_stays() {
    let namespace = namespace();
    let foreign = "table inet filter { chain input { type filter hook input priority 0; }; }
        table ip svcproxy { set virtual-servers-v4 { type ipv4_addr; }; }";
    namespace
        .run_with_input(["nft", "-f", "-"], foreign)
        .unwrap();
    namespace
        .ip(&[
            "addr add 192.0.2.1/32 dev lo",
            "route add local 192.0.2.8/32 dev lo proto 42",
            "route add local fd00::8/128 dev lo table local proto 42",
        ])
        .unwrap();
    let everything = || {
        let routes = |family| namespace.run(["ip", family, "route", "show", "table", "all"]);
        (
            listing(&namespace),
            routes("-4").unwrap(),
            routes("-6").unwrap(),
        )
    };
    let before = everything();
    namespace.enter(|| {
        let mut backend = backend();
        let (steps, _) = elements();
        let routes = [
            route("10.96.0.0/12", "192.0.2.1"),
            route("fd00:10:96::/112", "::1"),
        ];
        let steps = [install()]
            .into_iter()
            .chain(steps)
            .chain(routes.map(Step::AddRoute));
        succeed(&mut backend, steps);
        assert_ne!(everything(), before);
        assert_eq!(backend.observe().unwrap().routes, BTreeSet::from(routes));

        let done = cleanup(&mut backend).unwrap();
        assert!(
            done.applied.failures.is_empty(),
            "{:?}",
            done.applied.failures
        );
        assert_eq!(everything(), before);
        // Nor does it matter that there is nothing.
        assert!(cleanup(&mut backend).unwrap().plan.is_empty());
        assert_eq!(everything(), before);
    });
}

#[test]
#[ignore = "netns: needs root"]
fn routes_of_others_are_not_replaced() {
    let namespace = namespace();
    let lines = [
        "addr add 192.0.2.1/32 dev lo",
        "addr add 192.0.2.2/32 dev lo",
    ];
    namespace.ip(&lines).unwrap();
    namespace
        .ip(&[
            "addr add fd00::1/128 dev lo nodad",
            "addr add fd00::2/128 dev lo nodad",
        ])
        .unwrap();
    namespace.enter(|| {
        let mut backend = backend();
        let of_others = apply(
            &mut backend,
            [Step::AddRoute(route("192.0.2.1/32", "192.0.2.2"))],
        );
        assert_eq!(errnos(&of_others), [(0, Some(17))]);

        // Our own: another source takes the place of the former.
        for (prefix, old, new) in [
            ("10.96.0.0/12", "192.0.2.1", "192.0.2.2"),
            ("fd00:10:96::/112", "fd00::1", "fd00::2"),
        ] {
            let (old, new) = (route(prefix, old), route(prefix, new));
            succeed(&mut backend, [Step::AddRoute(old)]);
            let twice = apply(&mut backend, [Step::AddRoute(old)]);
            assert_eq!(errnos(&twice), [(0, Some(17))]);
            succeed(&mut backend, [Step::AddRoute(new)]);
            assert_eq!(backend.observe().unwrap().routes, BTreeSet::from([new]));
            let gone = apply(&mut backend, [Step::DeleteRoute(old)]);
            assert_eq!(errnos(&gone), [(0, Some(3))]);
            assert_eq!(backend.observe().unwrap().routes, BTreeSet::from([new]));
            succeed(&mut backend, [Step::DeleteRoute(new)]);
        }
        // The node does not have this address.
        let report = apply(
            &mut backend,
            [Step::AddRoute(route("10.96.0.0/12", "198.51.100.1"))],
        );
        assert_eq!(errnos(&report), [(0, Some(22))]);
        let mixed = apply(&mut backend, [Step::AddRoute(route("10.96.0.0/12", "::1"))]);
        assert!(matches!(
            mixed.failures[0].error,
            BackendError::Route { .. }
        ));
    });
    let listed = namespace
        .run([
            "ip",
            "route",
            "show",
            "table",
            "all",
            "proto",
            &ROUTE_PROTOCOL.to_string(),
        ])
        .unwrap();
    assert_eq!(listed, "");
}

fn errnos(report: &ApplyReport) -> Vec<(usize, Option<i32>)> {
    let failures = report.failures.iter();
    failures
        .map(|failure| (failure.step, failure.error.errno()))
        .collect()
}

#[test]
#[ignore = "netns: needs root"]
fn policy_routes_are_whole_or_not_there() {
    let namespace = namespace();
    let foreign = [
        "rule add fwmark 0x2000/0x2000 lookup 73 priority 73 protocol 42",
        "rule add fwmark 0x8000 lookup 73 priority 73",
        "route add local 203.0.113.0/24 dev lo table 73",
    ];
    namespace.ip(&foreign).unwrap();
    let listed = |family: &str, what: &[&str]| {
        let arguments = ["ip", family].into_iter().chain(what.iter().copied());
        namespace.run(arguments.collect::<Vec<_>>()).unwrap()
    };
    let everything = || {
        ["-4", "-6"].map(|family| {
            let route = listed(family, &["route", "show", "table", "all"]);
            (listed(family, &["rule"]), route)
        })
    };
    let before = everything();
    namespace.enter(|| {
        let mut backend = backend();
        let observed = |backend: &mut IpvsBackend<_>| backend.observe().unwrap().policy_routes;
        let (v4, v6) = (policy(Family::V4), policy(Family::V6));
        let other = PolicyRoute { mark: 0x10, ..v6 };
        let add = Step::AddPolicyRoute;
        let delete = Step::DeletePolicyRoute;
        assert_eq!(observed(&mut backend), BTreeSet::new());
        succeed(&mut backend, [add(v4)]);
        for policy in [v4, v6] {
            let (ip, prefix) = match policy.family {
                Family::V4 => ("-4", "default"),
                Family::V6 => ("-6", "::/0"),
            };
            if policy == v6 {
                succeed(&mut backend, [add(v6)]);
            }
            let whole = everything();
            assert_eq!(errnos(&apply(&mut backend, [add(policy)])), [(0, Some(17))]);
            for half in [
                format!("rule del fwmark 0x2000/0x2000 priority 73 protocol {ROUTE_PROTOCOL}"),
                format!("route del local {prefix} dev lo table 73"),
            ] {
                let half: Vec<_> = half.split(' ').collect();
                listed(ip, &half);
                assert!(!observed(&mut backend).contains(&policy), "{half:?}");
                succeed(&mut backend, [add(policy)]);
                assert_eq!(everything(), whole, "{half:?}");
            }
        }
        assert_eq!(observed(&mut backend), BTreeSet::from([v4, v6]));
        // The route stays for the other mark.
        succeed(&mut backend, [add(other), delete(v6)]);
        assert_eq!(observed(&mut backend), BTreeSet::from([v4, other]));
        let gone = apply(&mut backend, [delete(v6)]);
        assert_eq!(errnos(&gone), [(0, Some(2))]);
        succeed(&mut backend, [delete(v4), delete(other)]);
        assert_eq!(everything(), before);

        // What a kill left.
        succeed(&mut backend, [add(v4), add(v6)]);
        listed("-4", &["rule", "del", "priority", "73", "protocol", "73"]);
        listed(
            "-6",
            &["route", "del", "local", "::/0", "dev", "lo", "table", "73"],
        );
        let _ = cleanup(&mut backend).unwrap();
        assert_eq!(everything(), before);
    });
}

#[test]
#[ignore = "netns: needs root"]
fn marks_and_ranges_are_changed_in_one_transaction() {
    const EEXIST: Option<i32> = Some(17);
    namespace().enter(|| {
        let mut backend = backend();
        let at = |port| key(Protocol::Tcp, "203.0.113.7", port);
        let captured = |port, bits| mark(at(port), Purpose::Capture, bits);
        succeed(
            &mut backend,
            [
                install(),
                add(captured(80, 0x2000)),
                add(range(at(80), "192.0.2.0/24")),
            ],
        );
        // Neither can be there beside what is.
        let clashes = [
            captured(80, 0x6000),
            range(at(80), "192.0.2.7/32"),
            range(at(80), "192.0.2.0/25"),
        ];
        let report = apply(&mut backend, clashes.map(add));
        assert_eq!(errnos(&report), [(0, EEXIST), (1, EEXIST), (2, EEXIST)]);

        // Many, so that a transaction could end anywhere; only between addresses it does.
        let ports = 1000..1200u16;
        let before = |port| {
            let ranges = (0..8u8).map(move |n| range(at(port), &format!("10.{n}.0.0/16")));
            [captured(port, 0x2000)].into_iter().chain(ranges)
        };
        let after = |port| [captured(port, 0x6000), range(at(port), "10.0.0.0/13")];
        succeed(&mut backend, ports.clone().flat_map(before).map(add));
        let changes = ports.clone().flat_map(|port| {
            let [mark, range] = after(port);
            let mut before = before(port);
            let old = before.next().unwrap();
            [Step::DeleteElement(old), add(mark)]
                .into_iter()
                .chain(before.map(Step::DeleteElement))
                .chain([add(range)])
        });
        let counts = succeed(&mut backend, changes);
        assert!(counts.transactions > 1, "{counts:?}");
        let elements = backend.observe().unwrap().elements;
        assert!(
            ports
                .clone()
                .flat_map(after)
                .all(|new| elements.contains(&new))
        );
        assert!(!ports.flat_map(before).any(|old| elements.contains(&old)));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn a_step_that_fails_does_not_take_the_others_down() {
    const ENOENT: i32 = 2;
    namespace().enter(|| {
        let mut backend = backend();
        let missing = Element::Hairpin("10.0.0.9".parse().unwrap());
        let server = |port| Element::VirtualServer(key(Protocol::Tcp, "10.96.0.1", port));

        // Without a table nothing can be added.
        let report = apply(&mut backend, [add(server(1)), add(server(2))]);
        assert_eq!(errnos(&report), [(0, Some(ENOENT)), (1, Some(ENOENT))]);

        let too_long = Comment::Some("x".repeat(300).into());
        let with_nul = Comment::Some("web\0".into());
        let mut steps = vec![
            install(),
            Step::DeleteElement(missing),
            Step::AddElement(server(1), too_long),
            Step::AddElement(server(2), with_nul),
            add(cidr("10.96.0.0/12")),
            add(cidr("10.97.0.0/16")),
        ];
        steps.extend((3..1003).map(|port| add(server(port))));
        steps.push(Step::DeleteElement(server(2000)));
        let report = apply(&mut backend, steps);
        let failed: Vec<_> = report.failures.iter().map(|f| f.step).collect();
        assert_eq!(failed, [1, 2, 3, 5, 1006], "{:#?}", report.failures);
        assert_eq!(report.failures[0].error.errno(), Some(ENOENT));

        let node = backend.observe().unwrap();
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        let mut expected: Elements = (3..1003).map(|p| (server(p), None)).collect();
        expected.insert(cidr("10.96.0.0/12"), None);
        assert_eq!(node.elements, expected);
    });
}

#[test]
#[ignore = "netns: needs root"]
fn a_comment_is_changed_in_one_transaction() {
    namespace().enter(|| {
        let mut backend = backend();
        let server = |port| Element::VirtualServer(key(Protocol::Tcp, "10.96.0.1", port));
        let with = |text: &str, port| Step::AddElement(server(port), Some(text.into()));
        succeed(&mut backend, [install(), with("a/a", 1), with("a/a", 2)]);
        // One that is there is kept as it is.
        succeed(&mut backend, [with("b/b", 1)]);
        let comment = |backend: &mut IpvsBackend<_>, port| {
            let elements = backend.observe().unwrap().elements;
            elements.get(&server(port)).cloned().unwrap()
        };
        assert_eq!(comment(&mut backend, 1), Some("a/a".into()));
        let delete = |port| Step::DeleteElement(server(port));
        let counts = succeed(
            &mut backend,
            [delete(1), with("b/b", 1), delete(2), with("c/c", 2)],
        );
        assert_eq!(counts.transactions, 1);
        assert_eq!(comment(&mut backend, 1), Some("b/b".into()));
        assert_eq!(comment(&mut backend, 2), Some("c/c".into()));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn ten_thousand_services() {
    namespace().enter(|| {
        let mut backend = backend();
        succeed(&mut backend, [install()]);
        let longest = format!("{0}/{0}:{0}", "x".repeat(63));
        let steps: Vec<_> = (0..10_000u32)
            .map(|number| {
                let base = if number % 2 == 0 {
                    "10.96.0.0"
                } else {
                    "fd00:10:96::"
                };
                let address = match base.parse().unwrap() {
                    IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + number).into()),
                    IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(number)).into()),
                };
                let key = FrontendKey {
                    address,
                    ..key(Protocol::Tcp, base, 80)
                };
                let comment = if number % 100 < 2 {
                    longest.clone()
                } else {
                    format!("ns/s{number}")
                };
                Step::AddElement(Element::VirtualServer(key), Some(comment.into()))
            })
            .collect();
        let counts = succeed(&mut backend, steps.clone());
        assert_eq!(counts.elements, 10_000);
        assert!(counts.transactions < 100, "{:?}", counts);
        // Too many to be printed if they differ.
        assert!(backend.observe().unwrap().elements == as_elements(&steps));

        // Addresses alone and one route each, as for VIPs outside of the Service CIDRs.
        let vips = (0..10_000u32).map(|number| {
            let address = IpAddr::from((0xc0a8_0000 + number).to_be_bytes());
            add(Element::ServiceCidr(address.into()))
        });
        succeed(&mut backend, vips.clone());
        assert_eq!(backend.observe().unwrap().elements.len(), 20_000);

        let deletes = backend.observe().unwrap().elements;
        succeed(
            &mut backend,
            deletes.keys().copied().map(Step::DeleteElement),
        );
        assert!(backend.observe().unwrap().elements.is_empty());
    });
}

/// What a connection to an address meets.
fn connect(address: &str) -> Result<(), io::ErrorKind> {
    let stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(3));
    stream.map(drop).map_err(|error| error.kind())
}

#[test]
#[ignore = "netns: needs root"]
fn listeners_of_the_node_do_not_answer_on_vips() {
    const REFUSED: Result<(), io::ErrorKind> = Err(io::ErrorKind::ConnectionRefused);
    let namespace = namespace();
    namespace
        .ip(&[
            "addr add 192.0.2.1/32 dev lo",
            "addr add fd00::1/128 dev lo nodad",
        ])
        .unwrap();
    namespace.enter(|| {
        let listener = TcpListener::bind("[::]:8080").unwrap();
        let udp = UdpSocket::bind("[::]:8080").unwrap();
        let mut backend = backend();
        let routes = [
            route("10.96.0.0/12", "192.0.2.1"),
            route("fd00:10:96::/112", "fd00::1"),
        ];
        succeed(&mut backend, routes.map(Step::AddRoute));
        // The trouble there would be.
        assert_eq!(connect("10.96.0.1:8080"), Ok(()));
        assert_eq!(connect("[fd00:10:96::1]:8080"), Ok(()));

        let (v4, v6) = ("10.96.0.2", "fd00:10:96::2");
        let servers = [v4, v6].map(|vip| Element::VirtualServer(key(Protocol::Tcp, vip, 8080)));
        let steps = [
            install(),
            add(cidr("10.96.0.0/12")),
            add(cidr("fd00:10:96::/112")),
        ];
        succeed(&mut backend, steps.into_iter().chain(servers.map(add)));
        // No virtual server: refused, at once; its own addresses: as before.
        assert_eq!(connect("10.96.0.1:8080"), REFUSED);
        assert_eq!(connect("[fd00:10:96::1]:8080"), REFUSED);
        assert_eq!(connect("192.0.2.1:8080"), Ok(()));
        assert_eq!(connect("[fd00::1]:8080"), Ok(()));
        // A virtual server is left to IPVS; without IPVS that is to the listener.
        assert_eq!(connect("10.96.0.2:8080"), Ok(()));
        assert_eq!(connect("[fd00:10:96::2]:8080"), Ok(()));
        for (from, to) in [
            ("0.0.0.0:0", "10.96.0.1:8080"),
            ("[::]:0", "[fd00:10:96::1]:8080"),
        ] {
            let client = UdpSocket::bind(from).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(3)))
                .unwrap();
            client.connect(to).unwrap();
            // Netfilter drops it on its way out, which send tells too.
            let _ = client.send(b"x");
            let error = client.recv(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}");
        }
        udp.set_nonblocking(true).unwrap();
        assert_eq!(
            udp.recv(&mut [0]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        for vip in ["10.96.0.1", "fd00:10:96::1"] {
            testbed::ping(&namespace, vip.parse().unwrap()).unwrap();
        }

        let established = TcpStream::connect("10.96.0.2:8080").unwrap();
        // No endpoints: what is new is refused, what is there goes on until IPVS has no more
        // of it.
        let refuse = [v4, v6].map(|vip| add(Element::NoEndpoints(key(Protocol::Tcp, vip, 8080))));
        succeed(&mut backend, refuse);
        assert_eq!(connect("10.96.0.2:8080"), REFUSED);
        assert_eq!(connect("[fd00:10:96::2]:8080"), REFUSED);
        io::Write::write_all(&mut &established, b"still there").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(established.take_error().unwrap().is_none());
        succeed(&mut backend, servers.map(Step::DeleteElement));
        io::Write::write_all(&mut &established, b"no more").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(io::Read::read(&mut &established, &mut [0]).is_err());
        drop(listener);
    });
}
