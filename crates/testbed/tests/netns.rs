//! Tests of the test bed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use testbed::{
    AskError, Backend, Client, Family, Host, Namespace, Protocol, Topology, ask, eventually, ping,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn at(host: &Host, family: Family, port: u16) -> SocketAddr {
    (host.address(family), port).into()
}

#[test]
#[ignore = "netns: needs root"]
fn namespace_is_its_own_and_goes_away() {
    let namespace = Namespace::new("tb-own").unwrap();
    let path = format!("/run/netns/{}", namespace.name());
    assert!(Path::new(&path).exists());
    namespace
        .ip(&["link add some type bridge", "link set some up"])
        .unwrap();
    assert!(
        namespace
            .run(["ip", "-brief", "link"])
            .unwrap()
            .contains("some")
    );
    let devices = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(namespace.enter(devices).contains("some:"));
    assert!(!devices().contains("some:"));
    drop(namespace);
    assert!(!Path::new(&path).exists());
}

#[test]
#[ignore = "netns: needs root"]
fn command_errors_tell_what_failed() {
    let namespace = Namespace::new("tb-errors").unwrap();
    let error = namespace
        .run(["ip", "link", "show", "nothing"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("ip link show nothing"), "{error}");
    assert!(error.contains("does not exist"), "{error}");
    assert!(namespace.sysctl("net/ipv4/ip_forward", "x").is_err());
}

#[test]
#[ignore = "netns: needs root"]
fn everyone_reaches_the_pods_but_the_client() {
    let topology = Topology::new("tb-reach", &[2, 1]).unwrap();
    let [first, second] = &topology.nodes[..] else {
        panic!("two nodes")
    };
    for family in FAMILIES {
        for pod in [&first.pods[0], &first.pods[1], &second.pods[0]] {
            let address = at(pod, family, 8080);
            let _backends = [Protocol::Http, Protocol::Udp]
                .map(|protocol| Backend::start(pod, protocol, address, pod.name()).unwrap());
            for from in [&first.host, &second.host, &first.pods[0], &second.pods[0]] {
                for protocol in [Protocol::Http, Protocol::Udp] {
                    let answer = ask(from, protocol, address).unwrap();
                    assert_eq!(answer.backend, pod.name());
                    assert_eq!(answer.seen_source.ip(), from.address(family));
                }
            }
            let outside = Client::new(Protocol::Tcp, address).timeout(Duration::from_millis(300));
            assert!(outside.ask(&topology.client).is_err());
        }
    }
}

#[test]
#[ignore = "netns: needs root"]
fn client_is_on_the_segment_of_the_nodes() {
    let topology = Topology::new("tb-outside", &[0]).unwrap();
    for family in FAMILIES {
        let address = at(&topology.node().host, family, 30080);
        let _backend =
            Backend::start(&topology.node().host, Protocol::Tcp, address, "node").unwrap();
        let answer = ask(&topology.client, Protocol::Tcp, address).unwrap();
        assert_eq!(answer.seen_source.ip(), topology.client.address(family));
        ping(&topology.client, address.ip()).unwrap();
    }
}

#[test]
#[ignore = "netns: needs root"]
fn pods_are_found_by_their_addresses() {
    let topology = Topology::with_pods("tb-pods", &[vec![], vec![60, 105]]).unwrap();
    for (ip, pod) in [("10.244.2.105", 1), ("fd00:10:244:2::60", 0)] {
        let ip = ip.parse().unwrap();
        assert_eq!(
            topology.pod(ip).unwrap().name(),
            topology.nodes[1].pods[pod].name()
        );
        ping(&topology.node().host, ip).unwrap();
    }
    assert!(topology.pod("10.244.1.60".parse().unwrap()).is_none());
}

#[test]
#[ignore = "netns: needs root"]
fn connection_stays_with_its_backend_until_that_stops() {
    let topology = Topology::new("tb-long", &[1]).unwrap();
    let pod = &topology.node().pods[0];
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let backend = Backend::start(pod, protocol, at(pod, Family::V6, 7), "echo").unwrap();
        let client = Client::new(protocol, at(pod, Family::V6, 7));
        let mut connection = client.connect(&topology.node().host).unwrap();
        for _ in 0..3 {
            let answer = connection.ask().unwrap();
            assert_eq!(answer.seen_source, connection.source().unwrap());
        }
        assert_eq!(backend.answers(), 3);
        drop(backend);
        assert!(connection.ask().is_err());
    }
}

#[test]
#[ignore = "netns: needs root"]
fn source_address_can_be_chosen() {
    let namespace = Namespace::new("tb-source").unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let _backend = Backend::start(&namespace, Protocol::Tcp, address, "lo").unwrap();
    let from = SocketAddr::from(([127, 0, 0, 9], 4321));
    let answer = Client::new(Protocol::Tcp, address)
        .from(from)
        .ask(&namespace)
        .unwrap();
    assert_eq!(answer.seen_source, from);
}

#[test]
#[ignore = "netns: needs root"]
fn failures_are_told_apart() {
    let topology = Topology::new("tb-failures", &[1]).unwrap();
    let node = &topology.node().host;
    let pod = &topology.node().pods[0];
    for family in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let client = Client::new(protocol, at(pod, family, 9)).timeout(Duration::from_secs(1));
            assert_eq!(client.ask(node), Err(AskError::Refused));
        }
        pod.run(["nft", "add table inet silent"]).unwrap();
        pod.run([
            "nft",
            "add chain inet silent input { type filter hook input priority 0; }",
        ])
        .unwrap();
        pod.run(["nft", "add rule inet silent input th dport 9 drop"])
            .unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let client =
                Client::new(protocol, at(pod, family, 9)).timeout(Duration::from_millis(300));
            assert_eq!(client.ask(node), Err(AskError::TimedOut));
        }
        pod.run(["nft", "delete table inet silent"]).unwrap();
        node.ip(&[
            format!("route replace unreachable {}", pod.v4),
            format!("route add unreachable {} metric 1", pod.v6),
        ])
        .unwrap();
        let refused = ask(&topology.node().host, Protocol::Tcp, at(pod, family, 9));
        assert!(
            matches!(refused, Err(AskError::Unreachable(_))),
            "{refused:?}"
        );
        node.ip(&[
            format!("route replace {} dev pod1", pod.v4),
            format!("route del unreachable {} metric 1", pod.v6),
        ])
        .unwrap();
    }
}

#[test]
#[ignore = "netns: needs root"]
fn ping_answers_or_times_out() {
    let topology = Topology::new("tb-ping", &[1]).unwrap();
    let pod = &topology.node().pods[0];
    for family in FAMILIES {
        ping(pod, topology.node().host.address(family)).unwrap();
        assert!(ping(&topology.client, pod.address(family)).is_err());
    }
}

#[test]
#[ignore = "netns: needs root"]
fn eventually_sees_a_backend_come_up() {
    let namespace = Namespace::new("tb-wait").unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    std::thread::scope(|scope| {
        let (failed, first_failure) = std::sync::mpsc::channel();
        let namespace = &namespace;
        let late = scope.spawn(move || {
            first_failure.recv().unwrap();
            Backend::start(namespace, Protocol::Tcp, address, "late").unwrap()
        });
        let answer = eventually(Duration::from_secs(5), || {
            ask(namespace, Protocol::Tcp, address).inspect_err(|_| {
                let _ = failed.send(());
            })
        })
        .unwrap();
        assert_eq!(answer.backend, "late");
        drop(late.join());
    });
}
