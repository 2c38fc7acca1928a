//! Random sequences of API changes: the state kept up to date one Service at a time equals the
//! one made from scratch, and each plan leads exactly there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashSet};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use proptest::prelude::*;
use proxier::desired::{Config, DesiredState, Frontend, FrontendKey, Touched};
use proxier::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, ObjectName, PortName,
    Protocol, Service, ServicePort, SessionAffinity,
};
use proxier::plan::{Element, NodeState, Plan, Scope, virtual_server};
use proxier::store::{Change, Store};

/// Few names, addresses and ports, so that Services collide, share endpoints and change hands.
const SERVICES: u8 = 5;

fn service_name(n: u8) -> ObjectName {
    let namespace = if n.is_multiple_of(2) {
        "default"
    } else {
        "kube-system"
    };
    ObjectName::new(namespace, &format!("service-{n}")).unwrap()
}

fn slice_name(n: u8) -> ObjectName {
    ObjectName::new("default", &format!("slice-{n}")).unwrap()
}

fn port_name(n: u8) -> PortName {
    PortName::new(if n == 0 { "" } else { "metrics" }).unwrap()
}

fn port(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ]
}

prop_compose! {
    fn service()(
        name in 0..SERVICES,
        v4 in proptest::option::of(prop_oneof![Just("10.96.0.1"), Just("10.96.0.2"), Just("172.20.0.1"), Just("192.0.2.1")]),
        v6 in proptest::option::of(Just("fd00:10:96::1")),
        ports in proptest::collection::btree_map((0..2_u8, 80..82_u16), protocol(), 0..3),
        affinity in proptest::option::of(1..3_u32),
        created in proptest::option::of(0..3_i64),
    ) -> Service {
        let mut service = Service::new(service_name(name));
        service.cluster_ips = v4.into_iter().chain(v6).map(|ip| ip.parse().unwrap()).collect();
        service.ports = ports
            .into_iter()
            .map(|((name, number), protocol)| ServicePort::new(port_name(name), protocol, port(number)))
            .collect();
        if let Some(seconds) = affinity.and_then(NonZeroU32::new) {
            service.session_affinity = SessionAffinity::ClientIp(seconds);
        }
        service.created = created;
        service
    }
}

prop_compose! {
    fn endpoint()(
        host in 1..5_u8,
        ready in proptest::option::of(any::<bool>()),
        node in proptest::option::of(prop_oneof![Just("here"), Just("there")]),
        v6: bool,
    ) -> (Endpoint, bool) {
        let address = if v6 { format!("fd00:10:244::{host}") } else { format!("10.244.0.{host}") };
        let mut endpoint = Endpoint::new(address.parse().unwrap());
        endpoint.conditions = EndpointConditions::new(ready, None, None);
        endpoint.node = node.map(Into::into);
        (endpoint, v6)
    }
}

prop_compose! {
    fn slice()(
        name in 0..6_u8,
        service in 0..SERVICES,
        v6: bool,
        ports in proptest::collection::vec((0..2_u8, protocol(), 8080..8082_u16), 0..3),
        endpoints in proptest::collection::vec(endpoint(), 0..4),
    ) -> EndpointSlice {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut slice = EndpointSlice::new(slice_name(name), service_name(service), family);
        slice.ports = ports
            .into_iter()
            .map(|(name, protocol, number)| EndpointPort::new(port_name(name), protocol, port(number)))
            .collect();
        slice.endpoints =
            endpoints.into_iter().filter(|(_, is_v6)| *is_v6 == v6).map(|(e, _)| e).collect();
        slice
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => service().prop_map(Change::ServiceApplied),
        1 => (0..SERVICES).prop_map(|n| Change::ServiceDeleted(service_name(n))),
        1 => proptest::collection::vec(service(), 0..4).prop_map(Change::ServicesReplaced),
        6 => slice().prop_map(Change::EndpointSliceApplied),
        1 => (0..6_u8).prop_map(|n| Change::EndpointSliceDeleted(slice_name(n))),
        1 => proptest::collection::vec(slice(), 0..4).prop_map(Change::EndpointSlicesReplaced),
    ]
}

fn config() -> Arc<Config> {
    let node_ips = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let mut config = Config::new("here", node_ips);
    config
        .service_cidrs
        .push("fd00:10:96::/112".parse().unwrap());
    config.cluster_cidrs.push("10.244.0.0/16".parse().unwrap());
    config.drain_timeout = std::time::Duration::ZERO;
    config.validate().unwrap();
    Arc::new(config)
}

fn frontends(state: &DesiredState) -> BTreeMap<FrontendKey, Arc<Frontend>> {
    state
        .frontends()
        .map(|frontend| (frontend.key, Arc::clone(frontend)))
        .collect()
}

/// What must hold of any node, said without the code under test.
fn check_invariants(node: &NodeState, state: &DesiredState) {
    let config = state.config();
    for frontend in state.frontends() {
        let recorded = node
            .elements
            .contains_key(&Element::VirtualServer(frontend.key));
        let refused = node
            .elements
            .contains_key(&Element::NoEndpoints(frontend.key));
        let served = node.virtual_servers.get(&frontend.key.into());
        assert_eq!(
            recorded,
            served.is_some(),
            "a virtual server is recorded exactly while it is there"
        );
        assert_eq!(
            refused,
            frontend.backends.is_empty(),
            "refused exactly while nobody answers"
        );
        assert_ne!(recorded, refused);
        assert_eq!(served.cloned(), virtual_server(frontend));
        assert!(
            !config.node_ips.contains(&frontend.key.address),
            "never the node's own address"
        );
        let routed = node
            .routes
            .iter()
            .any(|route| route.prefix.contains(&frontend.key.address));
        assert!(routed, "{} is local", frontend.key.address);
        for backend in frontend.backends.iter().filter(|backend| backend.local) {
            assert!(
                node.elements
                    .contains_key(&Element::Hairpin(backend.address))
            );
        }
    }
    assert_eq!(
        node.virtual_servers.len(),
        state.frontends().filter(|f| !f.backends.is_empty()).count()
    );
}

/// The steps that fail, or are not taken because an earlier one for the same virtual server did.
fn failed_steps(plan: &Plan, failures: &[bool]) -> Vec<usize> {
    let mut broken = HashSet::new();
    let mut failed = Vec::new();
    for (index, step) in plan.into_iter().enumerate() {
        let key = step.virtual_server();
        if failures[index % failures.len()] || key.is_some_and(|key| broken.contains(&key)) {
            failed.push(index);
            broken.extend(key);
        }
    }
    failed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn one_at_a_time_equals_from_scratch(
        changes in proptest::collection::vec(change(), 1..40),
        failures in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let config = config();
        let mut store = Store::default();
        let mut state = DesiredState::new(Arc::clone(&config));
        let mut node = NodeState::default();
        node.record(&Plan::new(&state, &node, Scope::Full), &[]);
        // Follows the same changes on a kernel that refuses some steps, and is mended at the end.
        let mut lame = node.clone();
        for change in changes {
            store.apply(change);
            let mut touched = Touched::default();
            for name in store.take_touched() {
                state.update(&name, store.get(&name), &mut touched);
            }
            let plan = Plan::new(&state, &node, Scope::Touched(&touched));
            node.record(&plan, &[]);
            let again = Plan::new(&state, &node, Scope::Full);
            prop_assert!(again.is_empty(), "left undone: {again:?}");
            check_invariants(&node, &state);

            let plan = Plan::new(&state, &lame, Scope::Touched(&touched));
            lame.record(&plan, &failed_steps(&plan, &failures));
        }
        let scratch = DesiredState::from_store(Arc::clone(&config), &store);
        prop_assert_eq!(frontends(&state), frontends(&scratch));
        prop_assert_eq!(state.problems(), scratch.problems());
        prop_assert!(Plan::new(&scratch, &node, Scope::Full).is_empty());

        lame.record(&Plan::new(&scratch, &lame, Scope::Full), &[]);
        prop_assert_eq!(&lame.virtual_servers, &node.virtual_servers);
        prop_assert_eq!(&lame.elements, &node.elements);
        prop_assert_eq!(&lame.routes, &node.routes);

        node.record(&Plan::removal(&node), &[]);
        prop_assert!(node.virtual_servers.is_empty() && node.routes.is_empty());
    }
}
