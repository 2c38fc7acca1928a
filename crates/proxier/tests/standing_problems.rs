//! Counts the work of a change: it costs work for its own Service, however many Services have
//! conditions.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroU16;
use std::sync::Arc;

use proxier::Proxier;
use proxier::desired::{Config, Marks};
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::notice::Reason;
use proxier::reconcile::Concerned;
use proxier::reconcile::Standing;
use proxier::store::Change;

fn name(number: usize) -> ObjectName {
    ObjectName::new("default", &format!("s{number}")).unwrap()
}

/// Service `number`, with an external IP that is not served.
fn refused(number: usize, external: &str) -> Service {
    let mut service = Service::new(name(number));
    let (high, low) = (number / 250, number % 250 + 1);
    service.cluster_ips = [format!("10.97.{high}.{low}").parse().unwrap()].into();
    service.external_ips = [external.parse().unwrap()].into();
    let port = NonZeroU16::new(80).unwrap();
    service.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port)].into();
    service
}

struct Node {
    proxier: Proxier<Ipvs<FakeIpvs>>,
    standing: Standing,
}

impl Node {
    fn new(services: usize) -> Self {
        let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        let kernel = FakeNode::default().kernel().unwrap();
        let mut node = Self {
            proxier: Proxier::new(Arc::new(config), Ipvs::new(kernel)),
            standing: Standing::default(),
        };
        let services = (0..services).map(|n| refused(n, "10.96.0.99"));
        let all = [
            Change::ServicesReplaced(services.collect()),
            Change::EndpointSlicesReplaced(vec![]),
        ];
        let report = node.proxier.handle(all).unwrap().unwrap();
        assert_eq!(report.concerned, Concerned::All);
        let new = node.standing.follow(&node.proxier, &report.concerned);
        assert_eq!(new.len(), node.proxier.problems().len());
        node
    }

    /// Service 7 requests another address. Returns the number of allocations from the change to the
    /// new notices; each checked problem costs some for its texts.
    fn change(&mut self, external: &str) -> u64 {
        let service = refused(7, external);
        let mut result = None;
        let info = allocation_counter::measure(|| {
            let report = self.proxier.handle([Change::ServiceApplied(service)]);
            let report = report.unwrap().unwrap();
            let new = self.standing.follow(&self.proxier, &report.concerned);
            result = Some((report, new));
        });
        let (report, new) = result.unwrap();
        assert_eq!(report.concerned, Concerned::Services([name(7)].into()));
        let reasons: Vec<_> = new.iter().map(|notice| notice.reason).collect();
        assert_eq!(reasons, [Reason::AddressRefused]);
        assert!(new.iter().all(|notice| notice.message.contains(external)));
        info.count_total
    }
}

#[test]
fn conditions_of_other_services_are_not_checked() {
    let [few, many] = [50, 5_000].map(|services| {
        let mut node = Node::new(services);
        let changes = ["10.96.0.98", "10.96.0.97", "10.96.0.96"];
        changes.map(|external| node.change(external))
    });
    println!("allocations a change: {few:?} of 50 Services, {many:?} of 5,000");
    // A growing table is one allocation; a problem is three.
    for (few, many) in few.into_iter().zip(many) {
        assert!(many <= few + 16, "{many} of 5,000 Services, {few} of 50");
    }
}

/// All Services request one address and port, and one of them gets it.
#[test]
fn claims_of_one_address_cost_a_change_of_another_service_nothing() {
    let [few, many] = [1_000, 10_000].map(|services| {
        let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        let kernel = FakeNode::default().kernel().unwrap();
        let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(kernel));
        let mut standing = Standing::default();
        let claiming = (0..services).map(|n| refused(n, "203.0.113.9"));
        let lists = [
            Change::ServicesReplaced(claiming.collect()),
            Change::EndpointSlicesReplaced(vec![]),
        ];
        let begun = allocation_counter::measure(|| {
            let report = proxier.handle(lists).unwrap().unwrap();
            let new = standing.follow(&proxier, &report.concerned);
            assert_eq!(new.len(), services - 1);
        });
        let other = allocation_counter::measure(|| {
            let service = refused(services, "203.0.113.10");
            let report = proxier.handle([Change::ServiceApplied(service)]);
            let report = report.unwrap().unwrap();
            assert_eq!(standing.follow(&proxier, &report.concerned).len(), 0);
        });
        // The next claimant gets the address, and all others are told of it.
        let passed_on = allocation_counter::measure(|| {
            let report = proxier
                .handle([Change::ServiceDeleted(name(0))])
                .unwrap()
                .unwrap();
            let new = standing.follow(&proxier, &report.concerned);
            assert_eq!(new.len(), services - 2);
        });
        [begun, other, passed_on].map(|info| info.count_total)
    });
    println!("allocations with 1,000 claims {few:?}, with 10,000 {many:?}");
    let linear = |few: u64, many: u64| many <= few * 11;
    assert!(
        linear(few[0], many[0]) && linear(few[2], many[2]),
        "{few:?} {many:?}"
    );
    assert!(many[1] <= few[1] + 16, "{few:?} {many:?}");
}

/// If a data plane has no free mark, that is a problem of the latest Service.
#[test]
fn a_service_without_a_free_mark_is_reported() {
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    // One bit for this node, the others for 255 virtual servers.
    config.marks = Marks::new(14, 0xff_8000).unwrap();
    let node = FakeNode::default();
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()));
    let mut standing = Standing::default();
    let port = |number| NonZeroU16::new(number).unwrap();
    let applied = |number: usize| {
        let mut service = Service::new(name(number));
        let address = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        service.cluster_ips = [address.parse().unwrap()].into();
        let mut web = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80));
        web.node_port = Some(port(30_000 + u16::try_from(number).unwrap()));
        service.ports = [web].into();
        let slice = ObjectName::new("default", &format!("s{number}-1")).unwrap();
        let mut slice = EndpointSlice::new(slice, name(number), Family::V4);
        slice.ports = [EndpointPort::new(
            PortName::UNNAMED,
            Protocol::Tcp,
            port(8080),
        )]
        .into();
        slice.endpoints = [Endpoint::new("10.244.0.1".parse().unwrap())].into();
        [
            Change::ServiceApplied(service),
            Change::EndpointSliceApplied(slice),
        ]
    };
    let empty = [
        Change::ServicesReplaced(vec![]),
        Change::EndpointSlicesReplaced(vec![]),
    ];
    proxier.handle(empty).unwrap();
    let report = proxier.handle((1..=255).flat_map(applied)).unwrap();
    let all = report.unwrap().concerned;
    assert_eq!(all, Concerned::Services((1..=255).map(name).collect()));
    assert_eq!(standing.follow(&proxier, &all), []);
    let report = proxier.handle(applied(256)).unwrap().unwrap();
    assert_eq!(report.concerned, Concerned::Services([name(256)].into()));
    let new = standing.follow(&proxier, &report.concerned);
    let reasons: Vec<_> = new.iter().map(|notice| notice.reason).collect();
    assert_eq!(reasons, [Reason::NoMarkLeft]);
    assert_eq!(proxier.problems_of(&name(256)), proxier.problems());
    assert_eq!(proxier.problems_of(&name(1)), []);
}
