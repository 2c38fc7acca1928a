//! nftables and routes of mode ipvs in network namespaces of this machine, with an in-memory
//! IPVS.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

#[path = "netns_ipvs/conntrack.rs"]
mod conntrack;
#[path = "netns_ipvs/elements.rs"]
mod elements;
#[path = "netns_ipvs/every_call.rs"]
mod every_call;
#[path = "netns_ipvs/filters.rs"]
mod filters;
#[path = "netns_ipvs/paths.rs"]
mod paths;
#[path = "netns_ipvs/routes.rs"]
mod routes;
#[path = "netns_ipvs/transactions.rs"]
mod transactions;
#[path = "netns_ipvs/watch.rs"]
mod watch;

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use ipvs::{FakeKernel, FakeSocket, Family, Protocol};
use proxier::desired::{Config, FrontendKey, PodInterfaces};
use proxier::mode::ipvs::plan::{
    Audience, Comment, Element, Elements, LocalRoute, Obstacle, Plan, PolicyRoute, Purpose, Step,
};
use proxier::mode::ipvs::rules::{Parts, Ruleset};
use proxier::mode::ipvs::{IpvsKernel, Kernel, ROUTE_PROTOCOL, cleanup, watch};
use proxier::mode::{ApplyReport, Counts, NodeError};
use testbed::Namespace;

use elements::elements;

fn namespace() -> Namespace {
    Namespace::new("kernel").unwrap()
}

fn kernel() -> IpvsKernel<FakeSocket> {
    IpvsKernel::with_client(FakeKernel::new().client().unwrap()).unwrap()
}

fn apply(kernel: &mut impl Kernel, steps: impl IntoIterator<Item = Step>) -> ApplyReport {
    kernel.apply(&steps.into_iter().collect::<Plan>())
}

/// Applies steps, none of which may fail; returns the counts.
fn succeed(kernel: &mut impl Kernel, steps: impl IntoIterator<Item = Step>) -> Counts {
    let report = apply(kernel, steps);
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

/// The rules of a node whose Services need no part.
fn without_parts() -> Ruleset {
    let mut parts = Parts::ALL;
    (parts.capture, parts.marks, parts.refusal) = (false, false, false);
    (parts.ranges, parts.admission) = (false, false);
    ruleset().with_parts(parts)
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
        source: Some(source.parse().unwrap()),
    }
}

fn policy(family: Family) -> PolicyRoute {
    let mark = 0x2000;
    PolicyRoute { family, mark }
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
fn installed_rules_equal_their_text() {
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
    let rulesets = configs.iter().map(Ruleset::new).chain([without_parts()]);
    for ruleset in rulesets {
        let (steps, elements) = elements();
        let text = ruleset.to_string();
        let install = Step::InstallRuleset(ruleset);
        let (own, theirs) = (namespace(), namespace());
        own.enter(|| succeed(&mut kernel(), [install].into_iter().chain(steps)));
        theirs
            .run_with_input(["nft", "-f", "-"], &format!("{text}{elements}"))
            .unwrap();
        let listed = listing(&own);
        assert_eq!(listed, listing(&theirs));
        // A host that saves its rules while svcproxy runs can load them at its start.
        let loaded = namespace();
        loaded.run_with_input(["nft", "-f", "-"], &listed).unwrap();
        assert_eq!(listing(&loaded), listed);
        // nft lists the same lines, except for its names of priorities and of the default
        // rejection, and for flipped protocols, which it lists by name.
        let differs = |line: &&str| line.contains("priority") || line.contains("@source-networks");
        for line in text.lines().filter(|line| !differs(line)) {
            let line = line.replace("reject with icmpx port-unreachable", "reject");
            assert!(listed.lines().any(|listed| listed == line), "{line}");
        }
    }
}

#[test]
#[ignore = "netns: needs root"]
fn applied_steps_are_observed() {
    namespace().enter(|| {
        let mut kernel = kernel();
        assert!(kernel.observe().unwrap().elements.is_empty());
        let (steps, _) = elements();
        let routes = [
            route("10.96.0.0/12", "127.0.0.1"),
            route("192.0.2.7/32", "127.0.0.1"),
            route("fd00:10:96::/112", "::1"),
        ];
        let counts = succeed(&mut kernel, [install()]);
        assert_eq!((counts.transactions, counts.elements), (1, 0));
        let counts = succeed(&mut kernel, steps.clone());
        assert_eq!((counts.transactions, counts.elements), (1, 40));
        let policies = [policy(Family::V4), policy(Family::V6)];
        let counts = succeed(&mut kernel, routes.map(Step::AddRoute));
        assert_eq!(counts.routes, 3);
        let counts = succeed(&mut kernel, policies.map(Step::AddPolicyRoute));
        assert_eq!(counts.routes, 2);

        let node = kernel.observe().unwrap();
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
        succeed(&mut kernel, deletes);
        let node = kernel.observe().unwrap();
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
        let mut kernel = kernel();
        let (steps, _) = elements();
        succeed(&mut kernel, [install()].into_iter().chain(steps.clone()));
        let before = listing(&namespace);
        for change in [
            "flush chain inet svcproxy refused",
            "add rule inet svcproxy filter-input counter",
            "insert rule inet svcproxy filter-input accept",
            "add chain inet svcproxy filter-input { policy drop; }",
            "add chain inet svcproxy other; add rule inet svcproxy other accept",
            // Detaches every chain from its hook without changing it.
            "add table inet svcproxy { flags dormant; }",
            "add chain inet svcproxy other",
            "add chain inet svcproxy other { type filter hook input priority 0; }",
            "add set inet svcproxy other { type ipv4_addr; }",
            "add map inet svcproxy other { type ipv4_addr : verdict; elements = { 10.0.0.1 : jump refused }; }",
            "add counter inet svcproxy other",
            "flush chain inet svcproxy capture; delete chain inet svcproxy capture",
        ] {
            namespace.run(["nft", change]).unwrap();
            let node = kernel.observe().unwrap();
            assert_eq!(node.ruleset, None, "{change}");
            assert_eq!(node.elements, as_elements(&steps), "{change}");
            succeed(&mut kernel, [install()]);
            assert_eq!(listing(&namespace), before, "{change}");
        }
        // Chains that no Service needs go, and come back.
        for (ruleset, count) in [(without_parts(), 6), (ruleset(), 10)] {
            succeed(&mut kernel, [Step::InstallRuleset(ruleset.clone())]);
            let node = kernel.observe().unwrap();
            assert_eq!(node.ruleset, Some(ruleset.fingerprint()));
            assert_eq!(node.elements, as_elements(&steps));
            assert_eq!(listing(&namespace).matches(" hook ").count(), count);
        }
        assert_eq!(listing(&namespace), before);
        // Other cluster CIDRs, other rules; the sets stay.
        let other = Ruleset::new(&Config::new("node", vec![]));
        succeed(&mut kernel, [Step::InstallRuleset(other.clone())]);
        let node = kernel.observe().unwrap();
        assert_eq!(node.ruleset, Some(other.fingerprint()));
        assert_eq!(node.elements, as_elements(&steps));

        namespace.run(["nft", "flush", "ruleset"]).unwrap();
        let node = kernel.observe().unwrap();
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
        set source-ranges-v4 {
            type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval;
            elements = { 203.0.113.7 . tcp . 80 . 192.0.2.0/24 }
        }
        chain svc { ip daddr @cluster-ips accept; ip saddr @hairpin-v4 accept; }
        chain input { type filter hook input priority 0; jump svc; }
    }";
    namespace.run_with_input(["nft", "-f", "-"], old).unwrap();
    namespace.enter(|| {
        let mut kernel = kernel();
        let node = kernel.observe().unwrap();
        assert_eq!((node.ruleset, node.elements), (None, Elements::default()));
        let (steps, _) = elements();
        succeed(&mut kernel, [install()].into_iter().chain(steps.clone()));
        let node = kernel.observe().unwrap();
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        assert_eq!(node.elements, as_elements(&steps));
    });
    let listed = listing(&namespace);
    assert!(
        !listed.contains("cluster-ips") && !listed.contains("source-ranges"),
        "{listed}"
    );
}

#[test]
#[ignore = "netns: needs root"]
fn foreign_state_stays() {
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
        let mut kernel = kernel();
        let (steps, _) = elements();
        let routes = [
            route("10.96.0.0/12", "192.0.2.1"),
            route("fd00:10:96::/112", "::1"),
        ];
        let steps = [install()]
            .into_iter()
            .chain(steps)
            .chain(routes.map(Step::AddRoute));
        succeed(&mut kernel, steps);
        assert_ne!(everything(), before);
        assert_eq!(kernel.observe().unwrap().routes, BTreeSet::from(routes));

        let done = cleanup(&mut kernel).unwrap();
        assert!(
            done.applied.failures.is_empty(),
            "{:?}",
            done.applied.failures
        );
        assert_eq!(everything(), before);
        // A second cleanup succeeds, too.
        assert!(cleanup(&mut kernel).unwrap().plan.is_empty());
        assert_eq!(everything(), before);
    });
}

fn errnos(report: &ApplyReport) -> Vec<(usize, Option<i32>)> {
    let failures = report.failures.iter();
    failures
        .map(|failure| (failure.step, failure.error.errno()))
        .collect()
}

/// The result of a connection to an address.
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
        let mut kernel = kernel();
        let routes = [
            route("10.96.0.0/12", "192.0.2.1"),
            route("fd00:10:96::/112", "fd00::1"),
        ];
        succeed(&mut kernel, routes.map(Step::AddRoute));
        // The problem without the rules.
        assert_eq!(connect("10.96.0.1:8080"), Ok(()));
        assert_eq!(connect("[fd00:10:96::1]:8080"), Ok(()));

        let (v4, v6) = ("10.96.0.2", "fd00:10:96::2");
        let servers = [v4, v6].map(|vip| Element::VirtualServer(key(Protocol::Tcp, vip, 8080)));
        let steps = [
            install(),
            add(cidr("10.96.0.0/12")),
            add(cidr("fd00:10:96::/112")),
        ];
        succeed(&mut kernel, steps.into_iter().chain(servers.map(add)));
        // Without a virtual server, connections are refused at once; the node's own addresses are
        // not affected.
        assert_eq!(connect("10.96.0.1:8080"), REFUSED);
        assert_eq!(connect("[fd00:10:96::1]:8080"), REFUSED);
        assert_eq!(connect("192.0.2.1:8080"), Ok(()));
        assert_eq!(connect("[fd00::1]:8080"), Ok(()));
        // Packets for a virtual server are left to IPVS; without IPVS they reach the listener.
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
            // Netfilter drops it in the output hook, so send fails.
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

        let mut established = TcpStream::connect("10.96.0.2:8080").unwrap();
        established
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // Without endpoints, new connections are refused, and existing ones continue as long as
        // IPVS has them.
        let refuse = [v4, v6].map(|vip| add(Element::NoEndpoints(key(Protocol::Tcp, vip, 8080))));
        succeed(&mut kernel, refuse);
        assert_eq!(connect("10.96.0.2:8080"), REFUSED);
        assert_eq!(connect("[fd00:10:96::2]:8080"), REFUSED);
        established.write_all(b"still there").unwrap();
        // Earlier connections are in the queue, too, and have ended.
        let mut accepted = listener.incoming().map(Result::unwrap);
        let _accepted = accepted
            .find(|mut stream| stream.read_exact(&mut [0; 11]).is_ok())
            .unwrap();
        succeed(&mut kernel, servers.map(Step::DeleteElement));
        established.write_all(b"no more").unwrap();
        let error = established.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        drop(listener);
    });
}
