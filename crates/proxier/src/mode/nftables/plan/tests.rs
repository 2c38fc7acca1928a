use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use ipvs::{Family, Protocol};

use super::super::problems;
use super::*;
use crate::desired::Place;
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Service, ServicePort,
};
use crate::store::{Change, Store};

fn backend(last: u8, weight: u16) -> Backend {
    Backend {
        address: IpAddr::from([10, 0, 0, last]),
        port: 80.try_into().unwrap(),
        place: Place::Elsewhere,
        weight: weight.try_into().unwrap(),
    }
}

fn numbers(before: &[u8], now: &[(u8, u16)]) -> Vec<u8> {
    let before = before.iter().zip(0..);
    let before = before.map(|(last, number)| (number, Target::from(&backend(*last, 1))));
    let backends: Vec<_> = now
        .iter()
        .map(|(last, weight)| backend(*last, *weight))
        .collect();
    let numbered = number(&backends, &before.collect());
    let last = |to: &Target| match to.address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    };
    numbered.iter().map(last).collect()
}

#[test]
fn endpoints_keep_their_numbers() {
    assert_eq!(numbers(&[], &[(1, 1), (2, 1), (3, 1)]), [1, 2, 3]);
    // The last one takes the place of one that goes.
    assert_eq!(numbers(&[1, 2, 3], &[(2, 1), (3, 1)]), [3, 2]);
    assert_eq!(numbers(&[3, 2], &[(2, 1), (3, 1), (9, 1)]), [3, 2, 9]);
    // One goes, another one comes.
    assert_eq!(numbers(&[3, 2, 9], &[(1, 1), (3, 1), (9, 1)]), [3, 1, 9]);
}

#[test]
fn weights_are_numbers_of_shares() {
    assert_eq!(numbers(&[], &[(1, 2), (2, 1)]), [1, 1, 2]);
    // Only their ratio counts.
    assert_eq!(numbers(&[], &[(1, 30), (2, 10)]), [1, 1, 1, 2]);
    assert_eq!(numbers(&[1, 1, 1, 2], &[(1, 1), (2, 1)]), [1, 2]);
    // Each gets a share, and there is a limit.
    let many = numbers(&[], &[(1, 65_535), (2, 65_534), (3, 1)]);
    assert!(u64::try_from(many.len()).unwrap() <= MOST_NUMBERS + 3);
    let share = |of| many.iter().filter(|last| **last == of).count();
    assert_eq!(share(3), 1);
    assert!(
        share(1).abs_diff(share(2)) <= 1,
        "{} {}",
        share(1),
        share(2)
    );
}

/// Clients with session affinity know their endpoint by its lasting number.
#[test]
fn lasting_numbers_do_not_depend_on_other_endpoints() {
    let target = |last| Target::from(&backend(last, 1));
    let all: BTreeSet<_> = (1..=200).map(target).collect();
    let numbers = lasting(&all, &BTreeMap::new());
    let distinct: BTreeSet<_> = numbers.values().collect();
    assert_eq!(distinct.len(), 200);
    assert!(
        distinct
            .iter()
            .all(|number| (LASTING..2 * LASTING).contains(*number))
    );
    let one = lasting(&[target(7)].into(), &BTreeMap::new());
    assert_eq!(one[&target(7)], numbers[&target(7)]);
    // A number that another endpoint has is not given twice, and one that an endpoint has stays.
    let taken = [(target(1), numbers[&target(7)])].into();
    let two = lasting(&[target(1), target(7)].into(), &taken);
    assert_eq!(two[&target(1)], numbers[&target(7)]);
    assert_eq!(two[&target(7)], numbers[&target(7)] + 1);
}

/// A Service with a node port, and endpoints at these addresses after 10.200.0.0.
fn many(endpoints: impl Iterator<Item = u32>, affinity: SessionAffinity) -> DesiredState {
    let name = ObjectName::new("default", "many").unwrap();
    let mut service = Service::new(name.clone());
    let number = |number| NonZeroU16::new(number).unwrap();
    let mut port = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, number(80));
    port.node_port = Some(number(30_080));
    service.ports = [port].into();
    service.cluster_ips = [IpAddr::from([10, 96, 0, 1])].into();
    service.session_affinity = affinity;
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    let port = EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, number(80));
    slice.ports = [port].into();
    let first = Ipv4Addr::new(10, 200, 0, 0).to_bits();
    let addresses = endpoints.map(|index| Ipv4Addr::from_bits(first + index));
    slice.endpoints = addresses.map(|to| Endpoint::new(to.into())).collect();
    let mut store = Store::default();
    store.apply(Change::ServiceApplied(service));
    store.apply(Change::EndpointSliceApplied(slice));
    let config = Config::new("node", vec![[192, 0, 2, 1].into()]);
    DesiredState::from_store(Arc::new(config), &store)
}

/// The kernel rejects an element whose key another one has (EEXIST).
#[test]
fn an_element_goes_before_another_one_takes_its_place() {
    let seconds = |seconds| SessionAffinity::ClientIp(NonZeroU32::new(seconds).unwrap());
    for (before, after) in [
        (SessionAffinity::None, SessionAffinity::None),
        (seconds(60), seconds(60)),
        (seconds(60), seconds(90)),
        (SessionAffinity::None, seconds(60)),
    ] {
        let mut node = NodeState::default();
        let first = Plan::new(&many(1..40, before), &node, Scope::Full);
        node.record(&first, &[]);
        let mut there: BTreeSet<_> = elements(&node);
        let plan = Plan::new(&many(20..70, after), &node, Scope::Full);
        let mut replaced = 0;
        for step in plan.steps() {
            match step {
                Step::AddElement(element, _) => {
                    let in_the_way = there.iter().find(|old| old.excludes(element));
                    assert_eq!(in_the_way, None, "{step}");
                    there.insert(*element);
                    replaced += 1;
                }
                Step::DeleteElement(element) => assert!(there.remove(element), "{step}"),
                _ => {}
            }
        }
        assert!(replaced > 50);
        node.record(&plan, &[]);
        assert_eq!(there, elements(&node));
    }
}

/// Other rules, or another version's, never take away the chains that choose.
#[test]
fn choosers_stay_while_rules_are_replaced() {
    let (before, after) = (
        many(1..4, SessionAffinity::None),
        many(1..3, SessionAffinity::None),
    );
    let mut node = NodeState::default();
    node.record(&Plan::new(&before, &node, Scope::Full), &[]);
    let choosers = mem::take(&mut node.choosers);
    assert_eq!(choosers.len(), 2, "one for the node port: {choosers:?}");
    node.outdated.clone_from(&choosers);
    node.ruleset = None;

    let text = |plan: &Plan| {
        plan.steps()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let same = Plan::new(&before, &node, Scope::Full);
    assert_eq!(
        text(&same),
        [
            "install packet-filter rules",
            "replace the rules of chain choose-3 (ipv4)",
            "replace the rules of chain choose-port-3 (ipv4)",
        ]
    );
    let kept = same.steps().iter().find_map(|step| match step {
        Step::InstallRuleset(_, kept) => Some(kept),
        _ => None,
    });
    assert_eq!(kept, Some(&choosers));
    let mut replaced = node.clone();
    replaced.record(&same, &[]);
    assert_eq!(
        (replaced.choosers, replaced.outdated),
        (choosers, BTreeSet::new())
    );

    // Those that nothing needs go after the elements that select them.
    let fewer = Plan::new(&after, &node, Scope::Full);
    let steps = text(&fewer);
    assert_eq!(
        steps[..3],
        [
            "install packet-filter rules",
            "add chain choose-2 (ipv4)",
            "add chain choose-port-2 (ipv4)",
        ]
    );
    assert_eq!(
        steps[steps.len() - 2..],
        [
            "delete chain choose-3 (ipv4)",
            "delete chain choose-port-3 (ipv4)"
        ]
    );
    node.record(&fewer, &[]);
    assert!(node.outdated.is_empty());
    assert!(Plan::new(&after, &node, Scope::Full).is_empty());
}

/// All elements of a node.
fn elements(node: &NodeState) -> BTreeSet<Element> {
    let keys = node.elements.frontends();
    let of_keys = keys.flat_map(|key| node.elements.of(key).map(|(element, _)| *element));
    of_keys.chain(node.elements.others().copied()).collect()
}

#[test]
fn endpoints_that_are_left_out_are_reported_once() {
    let service = |count| many(0..count, SessionAffinity::None);
    assert_eq!(problems(&service(32_767), None), []);
    let problems = problems(&service(32_768), None);
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 1, "{text:?}");
    assert!(text[0].contains("32767 of 32768 are used"), "{text:?}");
}
