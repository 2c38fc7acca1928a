//! Requests to the VIPs of the examples reach the endpoints in the manifests.

use std::collections::BTreeSet;

use testbed::{Answer, Host};

use crate::lab::Lab;
use crate::ports::{self, IPV6_MANIFEST, Port};

#[test]
#[ignore = "kernel: needs IPVS"]
fn api_server() {
    carries(&["api-server.yaml"], ports::API_SERVER);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn dns() {
    carries(&["dns.yaml"], ports::DNS);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn pods_reach_ipv6_services_without_an_ipv6_address_in_mode_ipvs() {
    crate::family::pods_reach_both_families("--mode=ipvs");
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn dual_stack() {
    carries(&["dual-stack.yaml"], ports::DUAL_STACK);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn endpoints_by_hand() {
    carries(&["endpoints-by-hand.yaml"], ports::ENDPOINTS_BY_HAND);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn multi_port() {
    carries(&["multi-port.yaml"], ports::MULTI_PORT);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn selector() {
    carries(&["selector.yaml"], ports::SELECTOR);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn web_beside_services_that_need_nothing() {
    carries(
        &["web.yaml", "headless.yaml", "external-name.yaml"],
        &[ports::WEB],
    );
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ipv6_over_every_protocol() {
    let lab = Lab::new("six", ports::IPV6);
    lab.write("echo.yaml", IPV6_MANIFEST);
    carries_all(&lab, ports::IPV6);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn without_cluster_cidr_only_hairpins_are_masqueraded() {
    let lab = Lab::new("plain", &[ports::WEB]);
    lab.use_example("web.yaml");
    let settings = lab.settings();
    let settings = settings
        .iter()
        .filter(|setting| !setting.starts_with("--cluster-cidr"));
    let mut once = lab.svcproxy(&["--mode=ipvs", "--once"]);
    crate::lab::succeed(once.args(settings));
    for from in [lab.probe(), lab.node()] {
        let answer = lab.ask(from, &ports::WEB).unwrap();
        assert_eq!(answer.seen_source.ip(), from.address(ports::WEB.family()));
    }
    answers_itself(&lab, &ports::WEB);
}

fn carries(examples: &[&str], ports: &[Port]) {
    let lab = Lab::new(examples[0].trim_end_matches(".yaml"), ports);
    for example in examples {
        lab.use_example(example);
    }
    carries_all(&lab, ports);
}

/// From a pod, the node, outside, and from backends to themselves.
fn carries_all(lab: &Lab, ports: &[Port]) {
    lab.once();
    for port in ports {
        for from in [lab.probe(), lab.node(), lab.client()] {
            spreads(lab, from, port);
        }
        answers_itself(lab, port);
    }
}

/// With `rr`, any `n` consecutive connections reach each of `n` backends once.
fn spreads(lab: &Lab, from: &Host, port: &Port) {
    let count = port.backends().len();
    let expected: BTreeSet<_> = port.backends().map(|backend| backend.to_string()).collect();
    let answers: Vec<Answer> = (0..2 * count)
        .map(|_| {
            lab.ask(from, port)
                .unwrap_or_else(|error| panic!("{port:?}: {error}"))
        })
        .collect();
    for round in answers.windows(count) {
        let reached: BTreeSet<_> = round.iter().map(|answer| answer.backend.clone()).collect();
        assert_eq!(reached, expected, "{port:?} from {}", from.name());
    }
    let seen: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.seen_source.ip())
        .collect();
    let source = lab.source_seen(from, port);
    assert_eq!(
        seen,
        BTreeSet::from([source]),
        "{port:?} from {}",
        from.name()
    );
}

/// A backend that is its own client gets its turn, and sees the node's address then.
fn answers_itself(lab: &Lab, port: &Port) {
    for backend in port.backends().filter(|backend| lab.is_local(*backend)) {
        let pod = lab.pod(backend);
        let answers: Vec<_> = port
            .backends()
            .map(|_| lab.ask(pod, port).unwrap())
            .collect();
        let (own, others): (Vec<_>, Vec<_>) = answers
            .iter()
            .partition(|answer| answer.backend == backend.to_string());
        assert_eq!(own.len(), 1, "{port:?} from {backend}: {answers:?}");
        assert_eq!(
            own[0].seen_source.ip(),
            lab.node().address(port.family()),
            "{port:?}"
        );
        for other in others {
            assert_eq!(
                other.seen_source.ip(),
                backend.ip(),
                "{port:?} from {backend}"
            );
        }
    }
}
