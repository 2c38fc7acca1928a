//! Giant objects cost in proportion to their size, and cost only themselves. Steps and allocations are
//! counted, not times.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use proxier::desired::{Config, DesiredState, Touched};
use proxier::mode::ipvs::plan::{NodeState, Plan, Scope};
use proxier::mode::{iptables, nftables};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::store::{Change, Store};

/// The most bytes at one time for each endpoint, port or Service: the desired state and the plan.
const BYTES_EACH: u64 = 4_096;

fn port(number: u32) -> NonZeroU16 {
    NonZeroU16::new(number as u16).unwrap()
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0af4_0000 + number).into()
}

/// A Service with so many ports, and slices of a hundred endpoints each.
fn service(name: &str, vip: u32, ports: u32, endpoints: u32) -> Vec<Change> {
    let object = ObjectName::new("default", name).unwrap();
    let mut service = Service::new(object.clone());
    service.cluster_ips = [Ipv4Addr::from_bits(0x0a60_0000 + vip).into()].into();
    let named = |n: u32| PortName::new(&format!("p{n}")).unwrap();
    let of_service = |n| ServicePort::new(named(n), Protocol::Tcp, port(n));
    service.ports = (1..=ports).map(of_service).collect();
    let targets: Box<[_]> = (1..=ports)
        .map(|n| EndpointPort::new(named(n), Protocol::Tcp, port(n)))
        .collect();
    let mut changes = vec![Change::ServiceApplied(service)];
    for first in (0..endpoints).step_by(100) {
        let slice_name = ObjectName::new("default", &format!("{name}-{first}")).unwrap();
        let mut slice = EndpointSlice::new(slice_name, object.clone(), Family::V4);
        slice.ports.clone_from(&targets);
        let numbers = first..endpoints.min(first + 100);
        slice.endpoints = numbers.map(|n| Endpoint::new(address(n))).collect();
        changes.push(Change::EndpointSliceApplied(slice));
    }
    changes
}

fn config() -> Arc<Config> {
    let mut config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    Arc::new(config)
}

fn filled(changes: Vec<Change>) -> Store {
    let mut store = Store::default();
    changes.into_iter().for_each(|change| store.apply(change));
    store.take_touched();
    store
}

/// What a first sync costs in a mode: the steps, and the allocations.
fn first_sync(store: &Store, steps: impl Fn(&DesiredState) -> usize) -> (usize, AllocationInfo) {
    let mut count = 0;
    let cost = measure(|| {
        let state = DesiredState::from_store(config(), store);
        count = steps(&state);
    });
    (count, cost)
}

fn ipvs(state: &DesiredState) -> usize {
    Plan::new(state, &NodeState::default(), Scope::Full)
        .steps()
        .len()
}

fn nftables(state: &DesiredState) -> usize {
    let node = nftables::NodeState::default();
    nftables::Plan::new(state, &node, Scope::Full).steps().len()
}

/// Lines of text instead of steps.
fn iptables(state: &DesiredState) -> usize {
    let plan = iptables::Plan::new(state, &iptables::NodeState::default(), Scope::Full);
    let lines = plan.steps().iter().map(|step| match step {
        iptables::Step::Restore(transaction) => transaction.to_string().lines().count(),
        _ => 1,
    });
    lines.sum()
}

/// Ten times as much of something costs at most eleven times the steps and the allocated bytes, and
/// bounded memory for each.
fn in_proportion(
    small: u32,
    of: impl Fn(u32) -> Vec<Change>,
    modes: &[fn(&DesiredState) -> usize],
) {
    let [few, many] = [small, 10 * small].map(|count| filled(of(count)));
    for mode in modes {
        let (steps_few, few) = first_sync(&few, mode);
        let (steps_many, many) = first_sync(&many, mode);
        assert!(
            steps_many <= 11 * steps_few,
            "{steps_many} and {steps_few} steps"
        );
        assert!(steps_many >= small as usize, "{steps_many} steps");
        assert!(
            many.bytes_total <= 13 * few.bytes_total,
            "{many:?}, {few:?}"
        );
        assert!(
            many.count_total <= 13 * few.count_total,
            "{many:?}, {few:?}"
        );
        let most = u64::from(10 * small) * BYTES_EACH;
        assert!(many.bytes_max <= most, "{} bytes at once", many.bytes_max);
        println!("{steps_many} steps, {} bytes at most", many.bytes_max);
    }
}

#[test]
fn a_service_of_100_000_endpoints() {
    let of = |count| service("giant", 1, 1, count);
    in_proportion(10_000, of, &[ipvs, iptables]);
}

/// Mode nftables uses at most 32,767 endpoints of a destination.
#[test]
fn a_service_of_30_000_endpoints_in_mode_nftables() {
    in_proportion(3_000, |count| service("giant", 1, 1, count), &[nftables]);
}

#[test]
fn a_service_of_50_000_ports() {
    let of = |count| service("giant", 1, count, 1);
    in_proportion(5_000, of, &[ipvs, nftables]);
}

#[test]
fn a_burst_of_10_000_services() {
    let of = |count| {
        let services = (0..count).map(|n| service(&format!("web-{n}"), n + 1, 1, 3));
        services.flatten().collect()
    };
    in_proportion(1_000, of, &[ipvs, nftables, iptables]);
}

/// The steps and the allocations for a change of a small Service, beside others.
fn small_change(others: Vec<Change>) -> [(usize, u64); 3] {
    let mut changes = service("small", 70_000, 1, 2);
    changes.extend(others);
    let mut store = filled(changes);
    let mut state = DesiredState::from_store(config(), &store);
    let mut node = NodeState::default();
    node.record(&Plan::new(&state, &node.clone(), Scope::Full), &[]);
    let mut tables = nftables::NodeState::default();
    let plan = nftables::Plan::new(&state, &tables, Scope::Full);
    tables.record(&plan, &[]);
    let mut rules = iptables::NodeState::default();
    let plan = iptables::Plan::new(&state, &rules, Scope::Full);
    rules.record(&plan, &[]);

    for change in service("small", 70_000, 1, 3) {
        store.apply(change);
    }
    let mut touched = Touched::default();
    let update = measure(|| {
        for name in store.take_touched() {
            state.update(&name, store.get(&name), &mut touched);
        }
    });
    let scope = Scope::Touched(&touched);
    let mut steps = [0; 3];
    let costs = [
        measure(|| steps[0] = Plan::new(&state, &node, scope).steps().len()),
        measure(|| steps[1] = nftables::Plan::new(&state, &tables, scope).steps().len()),
        measure(|| steps[2] = iptables::Plan::new(&state, &rules, scope).steps().len()),
    ];
    [0, 1, 2].map(|mode| (steps[mode], costs[mode].bytes_total + update.bytes_total))
}

#[test]
fn a_giant_costs_only_itself() {
    let alone = small_change(Vec::new());
    let mut giants = service("endpoints", 1, 1, 50_000);
    giants.extend(service("ports", 2, 10_000, 1));
    let beside = small_change(giants);
    for ((steps, bytes), (steps_alone, bytes_alone)) in beside.into_iter().zip(alone) {
        assert!(steps > 0 && steps_alone > 0);
        assert!(steps <= steps_alone + 2, "{steps} and {steps_alone} steps");
        // Trees of chains are deeper beside others.
        assert!(
            bytes <= 4 * bytes_alone + 8_192,
            "{bytes} and {bytes_alone} bytes"
        );
    }
}
