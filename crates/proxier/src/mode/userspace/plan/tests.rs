//! Plans onto a node that is a value.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::desired::{Config, Touched};
use crate::mode::userspace::admission::{Filter, Own, Verdict, verdict};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Service, ServicePort,
};
use crate::store::{Change, Store};

fn port(number: u16) -> std::num::NonZeroU16 {
    number.try_into().unwrap()
}

fn node() -> NodeState {
    NodeState {
        may_route: true,
        addresses: ["127.0.0.1/8", "172.18.0.2/16"]
            .map(|own| own.parse().unwrap())
            .to_vec(),
        ..NodeState::default()
    }
}

fn config() -> Arc<Config> {
    let mut config = Config::new("node-a", vec![[172, 18, 0, 2].into()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    Arc::new(config)
}

/// A Service with these external IPs, a node port, and endpoints.
fn service(n: u8, external_ips: &[IpAddr], protocol: Protocol, endpoints: u8) -> [Change; 2] {
    let name = ObjectName::new("default", &format!("web-{n}")).unwrap();
    let mut service = Service::new(name.clone());
    service.cluster_ips = [[10, 96, 0, n].into()].into();
    service.external_ips = external_ips.into();
    let mut web = ServicePort::new(PortName::UNNAMED, protocol, port(80));
    web.node_port = Some(port(30_000 + u16::from(n)));
    service.ports = [web].into();
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    slice.ports = [EndpointPort::new(PortName::UNNAMED, protocol, port(8080))].into();
    let all = (1..=endpoints).map(|e| Endpoint::new([10, 244, n, e].into()));
    slice.endpoints = all.collect();
    [
        Change::ServiceApplied(service),
        Change::EndpointSliceApplied(slice),
    ]
}

fn desired(changes: impl IntoIterator<Item = Change>) -> DesiredState {
    let mut store = Store::default();
    changes.into_iter().for_each(|change| store.apply(change));
    DesiredState::from_store(config(), &store)
}

fn steps(desired: &DesiredState, node: &NodeState) -> Vec<String> {
    let plan = Plan::new(desired, node, Scope::Full);
    plan.steps().iter().map(ToString::to_string).collect()
}

#[test]
fn listeners_come_before_the_route_that_leads_to_them() {
    let state = desired(service(1, &[], Protocol::Tcp, 2));
    assert_eq!(
        steps(&state, &node()),
        [
            "serve tcp node port 30001 (ipv4) (default/web-1): 2 endpoints",
            "serve tcp 10.96.0.1:80 (default/web-1): 2 endpoints",
            "listen on tcp 172.18.0.2:30001",
            "listen on tcp 10.96.0.1:80",
            "add route local 10.96.0.0/12 dev lo src 172.18.0.2",
        ]
    );
}

#[test]
fn an_external_ip_is_served_where_no_other_machine_can_be_expected_to_have_it() {
    let cases = [
        ([172, 18, 0, 2], true, false),
        ([172, 18, 0, 9], false, false),
        ([10, 244, 3, 3], false, false),
        ([203, 0, 113, 7], true, true),
    ];
    for (address, is_served, has_route) in cases {
        let address = IpAddr::from(address);
        let state = desired(service(1, &[address], Protocol::Tcp, 1));
        let steps = steps(&state, &node());
        let has = |step: &str| steps.iter().any(|one| one.starts_with(step));
        assert_eq!(has(&format!("listen on tcp {address}:80")), is_served);
        let route = format!("add route local {address}/32 ");
        assert_eq!(has(&route), has_route, "{steps:#?}");
        let problems = super::super::reach::problems(&state, Some(&node()), None);
        assert_eq!(problems.is_empty(), is_served, "{problems:?}");
    }
}

#[test]
fn without_permission_node_ports_and_given_addresses_are_served() {
    let state = desired(service(1, &[], Protocol::Tcp, 1));
    let mut node = node();
    node.may_route = false;
    let listens = |node: &NodeState| {
        let steps = steps(&state, node);
        assert!(
            !steps.iter().any(|step| step.contains("route")),
            "{steps:?}"
        );
        steps
            .into_iter()
            .filter(|step| step.starts_with("listen"))
            .collect::<Vec<_>>()
    };
    assert_eq!(listens(&node), ["listen on tcp 172.18.0.2:30001"]);
    node.given = ["10.96.0.0/24".parse().unwrap()].into();
    assert_eq!(
        listens(&node),
        [
            "listen on tcp 172.18.0.2:30001",
            "listen on tcp 10.96.0.1:80"
        ]
    );
}

#[test]
fn datagrams_without_endpoint_are_refused_by_the_kernel_and_sctp_is_a_problem() {
    let state = desired(service(1, &[], Protocol::Udp, 0));
    assert!(
        !steps(&state, &node())
            .iter()
            .any(|step| step.starts_with("listen"))
    );
    let state = desired(service(1, &[], Protocol::Sctp, 1));
    assert_eq!(steps(&state, &node()).len(), 1);
    let name = ObjectName::new("default", "web-1").unwrap();
    let problems = super::super::reach::problems(&state, Some(&node()), Some(&name));
    let messages: Vec<_> = problems.iter().map(|problem| &*problem.message).collect();
    assert_eq!(messages, ["mode userspace does not serve SCTP"]);
}

fn change() -> impl Strategy<Value = Vec<Change>> {
    let external = prop_oneof![
        Just(vec![]),
        Just(vec![IpAddr::from([203, 0, 113, 7])]),
        Just(vec![IpAddr::from([172, 18, 0, 2])]),
        Just(vec![IpAddr::from([172, 18, 0, 9])]),
    ];
    let protocol = prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ];
    (1..5u8, external, protocol, 0..3u8, any::<bool>()).prop_map(
        |(n, external, protocol, endpoints, goes)| {
            let name = ObjectName::new("default", &format!("web-{n}")).unwrap();
            match goes {
                true => vec![Change::ServiceDeleted(name)],
                false => service(n, &external, protocol, endpoints).to_vec(),
            }
        },
    )
}

proptest! {
    /// A sequence of changes leads to the same sockets and routes as a fresh start.
    #[test]
    fn changes_lead_to_where_a_fresh_start_does(
        changes in proptest::collection::vec(change(), 1..12),
    ) {
        let (mut store, mut known) = (Store::default(), node());
        let mut state = DesiredState::new(config());
        known.record(&Plan::new(&state, &known, Scope::Full), &[]);
        for some in changes {
            some.into_iter().for_each(|change| store.apply(change));
            let mut touched = Touched::default();
            for name in store.take_touched() {
                state.update(&name, store.get(&name), &mut touched);
            }
            known.record(&Plan::new(&state, &known, Scope::Touched(&touched)), &[]);
        }
        let mut fresh = node();
        fresh.record(&Plan::new(&state, &fresh, Scope::Full), &[]);
        prop_assert_eq!(&known.routes, &fresh.routes);
        prop_assert_eq!(&known.served, &fresh.served);
        // An address that a node port may take once another Service has left it: the next audit's.
        known.record(&Plan::new(&state, &known, Scope::Full), &[]);
        prop_assert_eq!(&known.listeners, &fresh.listeners);
        prop_assert!(Plan::new(&state, &known, Scope::Full).is_empty());
    }

    /// The kernel's filter drops exactly whom the proxy would drop.
    #[test]
    fn the_filter_is_the_verdict(
        inside in 0..2usize,
        external in proptest::option::of(0..2usize),
        refuses in any::<bool>(),
        ranges in proptest::option::of(proptest::collection::vec((0..4u8, 8..=32u8), 0..4)),
        pods in proptest::collection::vec((0..4u8, 8..=24u8), 0..3),
        clients in proptest::collection::vec((0..4u8, 0..4u8), 1..20),
    ) {
        let network = |(net, length): (u8, u8)| {
            IpNet::new([10, net, net, 1].into(), length).unwrap().trunc()
        };
        let key = FrontendKey {
            protocol: Protocol::Tcp,
            address: [10, 96, 0, 1].into(),
            port: port(80),
        };
        let backend = crate::desired::Backend {
            address: [10, 244, 0, 1].into(),
            port: port(80),
            place: crate::desired::Place::Unknown,
            weight: port(1),
        };
        let backends = |count: usize| vec![backend; count].into();
        let frontend = Frontend {
            key,
            owner: crate::desired::ServicePortName {
                service: ObjectName::new("default", "web").unwrap(),
                port: PortName::UNNAMED,
            },
            kind: crate::desired::FrontendKind::LoadBalancer,
            scheduler: ipvs::Scheduler::RoundRobin,
            scheduler_flags: ipvs::Flags::default(),
            session_affinity: crate::model::SessionAffinity::None,
            forwarding: crate::model::Forwarding::Masquerade,
            proxy_protocol: None,
            backends: backends(inside),
            without_backends: match refuses {
                true => WithoutBackends::Refuse,
                false => WithoutBackends::Drop,
            },
            external: external.map(backends),
            source_ranges: ranges.map(|all| all.into_iter().map(network).collect()),
        };
        let served = Served {
            pods: match frontend.external {
                Some(_) => pods.into_iter().map(network).collect(),
                None => Arc::default(),
            },
            frontend: Arc::new(frontend),
        };
        let mut own = Own::default();
        own.0.insert([10, 1, 1, 1].into());
        let filter = Filter::of(&served, &own);
        for (net, host) in clients {
            let client = IpAddr::from([10, net, net, host]);
            let is_dropped = verdict(&served, &own, client) == Verdict::Drop;
            let passes = filter.as_ref().is_none_or(|filter| filter.passes(client));
            prop_assert_eq!(passes, !is_dropped, "{}", client);
        }
    }
}
