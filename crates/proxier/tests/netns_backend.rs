//! The IPVS backend's packet filter and routes in network namespaces of this machine, over an
//! IPVS in memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use std::{io, thread};

use ipvs::{FakeKernel, FakeSocket, Protocol};
use proxier::backend::{
    ApplyReport, Backend, BackendError, Counts, IpvsBackend, ROUTE_PROTOCOL, cleanup,
};
use proxier::desired::FrontendKey;
use proxier::netfilter::Ruleset;
use proxier::plan::{Comment, Element, LocalRoute, Plan, Step};
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

fn ruleset() -> Ruleset {
    let cidrs = ["10.244.0.0/16", "10.128.0.0/11", "fd00:10:244::/56"];
    Ruleset::new(cidrs.map(|cidr| cidr.parse().unwrap()).to_vec())
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

/// Elements of every set, as steps and as nft would be told.
fn elements() -> (Vec<Step>, &'static str) {
    let owner = |name: &str| Comment::Some(name.into());
    let steps = vec![
        add(cidr("10.96.0.0/12")),
        add(cidr("192.0.2.7/32")),
        add(cidr("fd00:10:96::/112")),
        Step::AddElement(
            Element::VirtualServer(key(Protocol::Tcp, "10.96.0.1", 443)),
            owner("default/kubernetes:https"),
        ),
        Step::AddElement(
            Element::VirtualServer(key(Protocol::Sctp, "fd00:10:96::1", 443)),
            owner("default/kubernetes:https"),
        ),
        Step::AddElement(
            Element::NoEndpoints(key(Protocol::Udp, "10.96.0.10", 53)),
            owner("kube-system/dns"),
        ),
        add(Element::NoEndpoints(key(
            Protocol::Udp,
            "fd00:10:96::a",
            53,
        ))),
        add(Element::Hairpin("10.244.1.7".parse().unwrap())),
        add(Element::Hairpin("fd00:10:244::7".parse().unwrap())),
    ];
    let text = r#"
        add element inet svcproxy service-cidrs-v4 { 10.96.0.0/12, 192.0.2.7 }
        add element inet svcproxy service-cidrs-v6 { fd00:10:96::/112 }
        add element inet svcproxy virtual-servers-v4 {
            10.96.0.1 . tcp . 443 comment "default/kubernetes:https" }
        add element inet svcproxy virtual-servers-v6 {
            fd00:10:96::1 . sctp . 443 comment "default/kubernetes:https" }
        add element inet svcproxy no-endpoints-v4 {
            10.96.0.10 . udp . 53 comment "kube-system/dns" }
        add element inet svcproxy no-endpoints-v6 { fd00:10:96::a . udp . 53 }
        add element inet svcproxy hairpin-v4 { 10.244.1.7 . 10.244.1.7 }
        add element inet svcproxy hairpin-v6 { fd00:10:244::7 . fd00:10:244::7 }
    "#;
    (steps, text)
}

fn as_map(steps: &[Step]) -> HashMap<Element, Comment> {
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
    let (steps, text) = elements();
    let (ours, theirs) = (namespace(), namespace());
    ours.enter(|| succeed(&mut backend(), [install()].into_iter().chain(steps)));
    theirs
        .run_with_input(["nft", "-f", "-"], &format!("{}{text}", ruleset()))
        .unwrap();
    assert_eq!(listing(&ours), listing(&theirs));
}

#[test]
#[ignore = "netns: needs root"]
fn what_was_applied_is_observed() {
    namespace().enter(|| {
        let mut backend = backend();
        assert_eq!(backend.observe().unwrap().elements, HashMap::new());
        let (steps, _) = elements();
        let routes = [
            route("10.96.0.0/12", "127.0.0.1"),
            route("192.0.2.7/32", "127.0.0.1"),
            route("fd00:10:96::/112", "::1"),
        ];
        let counts = succeed(&mut backend, [install()]);
        assert_eq!((counts.transactions, counts.elements), (1, 0));
        let counts = succeed(&mut backend, steps.clone());
        assert_eq!((counts.transactions, counts.elements), (1, 9));
        let counts = succeed(&mut backend, routes.map(Step::AddRoute));
        assert_eq!(counts.routes, 3);

        let node = backend.observe().unwrap();
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        assert_eq!(node.elements, as_map(&steps));
        assert_eq!(node.routes, BTreeSet::from(routes));

        let deletes = node
            .elements
            .keys()
            .map(|element| Step::DeleteElement(*element));
        let deletes = deletes.chain(routes.map(Step::DeleteRoute));
        succeed(&mut backend, deletes);
        let node = backend.observe().unwrap();
        assert_eq!((node.elements.len(), node.routes.len()), (0, 0));
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
            assert_eq!(node.elements, as_map(&steps), "{change}");
            succeed(&mut backend, [install()]);
            assert_eq!(listing(&namespace), before, "{change}");
        }
        // Other cluster CIDRs, other rules; the sets stay.
        succeed(&mut backend, [Step::InstallRuleset(Ruleset::new(vec![]))]);
        let node = backend.observe().unwrap();
        assert_eq!(node.ruleset, Some(Ruleset::new(vec![]).fingerprint()));
        assert_eq!(node.elements, as_map(&steps));

        namespace.run(["nft", "flush", "ruleset"]).unwrap();
        let node = backend.observe().unwrap();
        assert_eq!((node.ruleset, node.elements), (None, HashMap::new()));
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
        assert_eq!((node.ruleset, node.elements), (None, HashMap::new()));
        let (steps, _) = elements();
        succeed(&mut backend, [install()].into_iter().chain(steps.clone()));
        let node = backend.observe().unwrap();
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        assert_eq!(node.elements, as_map(&steps));
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
        let mut expected: HashMap<_, Comment> = (3..1003).map(|p| (server(p), None)).collect();
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
        assert_eq!(
            backend.observe().unwrap().elements[&server(1)],
            Some("a/a".into())
        );
        let delete = |port| Step::DeleteElement(server(port));
        let counts = succeed(
            &mut backend,
            [delete(1), with("b/b", 1), delete(2), with("c/c", 2)],
        );
        assert_eq!(counts.transactions, 1);
        let elements = backend.observe().unwrap().elements;
        assert_eq!(elements[&server(1)], Some("b/b".into()));
        assert_eq!(elements[&server(2)], Some("c/c".into()));
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
        assert!(backend.observe().unwrap().elements == as_map(&steps));

        // Addresses alone and one route each, as for VIPs outside of the Service CIDRs.
        let vips = (0..10_000u32).map(|number| {
            let address = IpAddr::from((0xc0a8_0000 + number).to_be_bytes());
            add(Element::ServiceCidr(address.into()))
        });
        succeed(&mut backend, vips.clone());
        assert_eq!(backend.observe().unwrap().elements.len(), 20_000);

        let deletes = backend.observe().unwrap().elements;
        succeed(&mut backend, deletes.into_keys().map(Step::DeleteElement));
        assert_eq!(backend.observe().unwrap().elements, HashMap::new());
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
