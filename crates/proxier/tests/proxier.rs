//! All stages together, on an in-memory node.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "proxier/audit.rs"]
mod audit;
mod glance;

use std::num::NonZeroU16;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ipvs::{Connections, RealServer, VirtualServer, VirtualServerKey};
use proxier::Proxier;
use proxier::desired::{Config, FollowNode};
use proxier::mode::Sysctl;
use proxier::mode::ipvs::plan::{Element, Step};
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs, Kernel, cleanup};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, Node, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::notice::{Notice, Reason, Subject};
use proxier::reconcile::Standing;
use proxier::reconcile::SyncKind;
use proxier::reconcile::{Cause, Event, Intervals, Observed, Settings, run};
use proxier::store::Change;

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text).unwrap()
}

fn service(text: &str, vip: &str) -> Service {
    let mut service = Service::new(name(text));
    service.cluster_ips = [vip.parse().unwrap()].into();
    service.ports = [ServicePort::new(
        PortName::UNNAMED,
        Protocol::Tcp,
        NonZeroU16::new(80).unwrap(),
    )]
    .into();
    service
}

fn slice(service: &str, addresses: &[&str]) -> EndpointSlice {
    let mut slice = EndpointSlice::new(name(&format!("{service}-1")), name(service), Family::V4);
    let port = NonZeroU16::new(8080).unwrap();
    slice.ports = [EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, port)].into();
    slice.endpoints = addresses
        .iter()
        .map(|ip| Endpoint::new(ip.parse().unwrap()))
        .collect();
    slice
}

fn two_services() -> [Change; 2] {
    [
        Change::ServicesReplaced(vec![service("a", "10.96.0.1"), service("b", "10.96.0.2")]),
        Change::EndpointSlicesReplaced(vec![
            slice("a", &["10.244.0.1", "10.244.0.2"]),
            slice("b", &["10.244.0.3"]),
        ]),
    ]
}

fn proxier(node: &FakeNode) -> Proxier<Ipvs<FakeIpvs>> {
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()))
}

/// A node's IPVS table in ipvsadm's format.
fn table(node: &FakeNode) -> Vec<String> {
    let mut client = node.ipvs().client().unwrap();
    let mut lines = Vec::new();
    for entry in client.virtual_servers().unwrap() {
        lines.push(ipvs::ipvsadm::virtual_server(&entry.server).to_string());
        for real in client.real_servers(&entry.server.key).unwrap() {
            lines.push(ipvs::ipvsadm::real_server(&entry.server.key, &real.server).to_string());
        }
    }
    lines.sort();
    lines
}

const TWO_SERVICES: [&str; 5] = [
    "-A -t 10.96.0.1:80 -s rr",
    "-A -t 10.96.0.2:80 -s rr",
    "-a -t 10.96.0.1:80 -r 10.244.0.1:8080 -m -w 1",
    "-a -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 1",
    "-a -t 10.96.0.2:80 -r 10.244.0.3:8080 -m -w 1",
];

#[test]
fn nothing_is_programmed_before_every_kind_is_listed() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    let [services, slices] = two_services();
    assert!(proxier.handle([services]).unwrap().is_none());
    assert!(proxier.audit().unwrap().is_none());
    assert!(table(&node).is_empty());
    assert!(proxier.handle([slices]).unwrap().unwrap().is_success());
    assert_eq!(table(&node), TWO_SERVICES);
}

#[test]
fn a_restart_adopts_the_existing_state_and_sends_nothing() {
    let node = FakeNode::default();
    assert!(
        proxier(&node)
            .handle(two_services())
            .unwrap()
            .unwrap()
            .is_success()
    );
    let report = proxier(&node).handle(two_services()).unwrap().unwrap();
    assert!(
        report.kind == SyncKind::Full && report.plan.is_empty(),
        "{:?}",
        report.plan
    );
    assert_eq!(report.applied.counts, Default::default());
}

#[test]
fn a_change_sends_only_its_own_services_changes() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    proxier.handle(two_services()).unwrap();
    let report = proxier
        .handle([Change::EndpointSliceApplied(slice(
            "a",
            &["10.244.0.2", "10.244.0.4"],
        ))])
        .unwrap()
        .unwrap();
    let steps: Vec<_> = report
        .plan
        .steps()
        .iter()
        .filter(|s| matches!(s, Step::Ipvs(_)))
        .collect();
    let a = VirtualServerKey::tcp("10.96.0.1:80".parse().unwrap());
    assert_eq!(steps.len(), 2, "one real server comes, one goes: {steps:?}");
    assert!(steps.iter().all(|step| step.virtual_server() == Some(a)));
    assert_eq!(report.kind, SyncKind::Changes);
}

/// A proxier after one of two endpoints was removed, with open connections.
fn draining(node: &FakeNode) -> Proxier<Ipvs<FakeIpvs>> {
    let mut proxier = proxier(node);
    proxier.handle(two_services()).unwrap();
    set_connections(node, 1);
    let report = proxier
        .handle([Change::EndpointSliceApplied(slice("a", &["10.244.0.2"]))])
        .unwrap()
        .unwrap();
    assert!(report.is_success());
    let weights = weights(node);
    assert_eq!(
        weights,
        [(GONE.to_owned(), 0), ("10.244.0.2:8080".to_owned(), 1)]
    );
    proxier
}

fn set_connections(node: &FakeNode, active: u32) {
    let connections = Connections::new(active, 0, 0);
    node.ipvs()
        .set_connections(&A.parse().unwrap(), &GONE.parse().unwrap(), connections);
}

const A: &str = "tcp 10.96.0.1:80";
const GONE: &str = "10.244.0.1:8080";

fn weights(node: &FakeNode) -> Vec<(String, u32)> {
    let entries = node
        .ipvs()
        .client()
        .unwrap()
        .real_servers(&A.parse().unwrap())
        .unwrap();
    let mut weights: Vec<_> = entries
        .iter()
        .map(|e| (e.server.key.to_string(), e.server.weight))
        .collect();
    weights.sort();
    weights
}

#[test]
fn a_removed_endpoint_drains_until_its_connections_end() {
    let node = FakeNode::default();
    let mut proxier = draining(&node);
    let start = Instant::now();
    assert!(proxier.drain(start).unwrap().is_none());
    assert!(
        proxier.audit().unwrap().unwrap().plan.is_empty(),
        "a drain is no drift"
    );
    assert_eq!(weights(&node).len(), 2);
    set_connections(&node, 0);
    assert!(proxier.drain(start).unwrap().unwrap().is_success());
    assert_eq!(weights(&node), [("10.244.0.2:8080".to_owned(), 1)]);
    assert!(proxier.drain(start).unwrap().is_none());
    assert!(!proxier.is_draining());
}

#[test]
fn a_drain_times_out_also_after_a_restart() {
    let node = FakeNode::default();
    drop(draining(&node));
    let mut proxier = proxier(&node);
    proxier.handle(two_services_after_the_change()).unwrap();
    assert!(proxier.is_draining());
    let start = Instant::now();
    assert!(proxier.drain(start).unwrap().is_none());
    assert!(
        proxier
            .drain(start + Duration::from_secs(29))
            .unwrap()
            .is_none()
    );
    assert!(
        proxier
            .drain(start + Duration::from_secs(30))
            .unwrap()
            .unwrap()
            .is_success()
    );
    assert_eq!(weights(&node), [("10.244.0.2:8080".to_owned(), 1)]);
}

fn two_services_after_the_change() -> [Change; 2] {
    let [services, _] = two_services();
    let slices = vec![slice("a", &["10.244.0.2"]), slice("b", &["10.244.0.3"])];
    [services, Change::EndpointSlicesReplaced(slices)]
}

#[test]
fn an_endpoint_that_comes_back_is_revived() {
    let node = FakeNode::default();
    let mut proxier = draining(&node);
    proxier.handle(two_services()).unwrap();
    assert_eq!(table(&node), TWO_SERVICES);
    assert!(proxier.drain(Instant::now()).unwrap().is_none());
    assert!(!proxier.is_draining());
}

#[test]
fn foreign_state_stays() {
    let node = FakeNode::default();
    let mut client = node.ipvs().client().unwrap();
    let foreign = VirtualServer::new("tcp 198.51.100.1:443".parse().unwrap());
    client.add_virtual_server(&foreign).unwrap();
    client
        .add_real_server(
            &foreign.key,
            &RealServer::new("10.0.0.1:443".parse().unwrap()),
        )
        .unwrap();
    let before = table(&node);

    let mut proxier = proxier(&node);
    proxier.handle(two_services()).unwrap();
    proxier.audit().unwrap();
    proxier.handle([Change::ServicesReplaced(vec![])]).unwrap();
    assert_eq!(table(&node), before);

    proxier.handle(two_services()).unwrap();
    let mut kernel = node.kernel().unwrap();
    assert!(cleanup(&mut kernel).unwrap().applied.failures.is_empty());
    assert_eq!(table(&node), before);
}

#[test]
fn a_service_removed_while_svcproxy_was_down_is_removed_by_the_next_run() {
    let node = FakeNode::default();
    proxier(&node).handle(two_services()).unwrap();
    let [_, slices] = two_services();
    let services = Change::ServicesReplaced(vec![service("b", "10.96.0.2")]);
    proxier(&node).handle([services, slices]).unwrap();
    let expected: Vec<_> = TWO_SERVICES
        .into_iter()
        .filter(|l| l.contains("10.96.0.2:"))
        .collect();
    assert_eq!(table(&node), expected);
}

/// Runs a whole audit without failures; returns the number of steps.
fn audit<K: Kernel>(proxier: &mut Proxier<Ipvs<K>>) -> usize {
    let mut steps = 0;
    loop {
        if let Some(report) = proxier.audit().unwrap() {
            assert!(report.is_success(), "{:?}", report.applied);
            steps += report.plan.steps().len();
        }
        if !proxier.is_auditing() {
            return steps;
        }
    }
}

#[test]
fn whichever_step_fails_the_next_try_repairs_it() {
    let steps = {
        let report = proxier(&FakeNode::default())
            .handle(two_services())
            .unwrap()
            .unwrap();
        report.plan.steps().len()
    };
    assert!(steps > 10);
    for failing in 1..=steps {
        let node = FakeNode::default();
        let mut proxier = proxier(&node);
        node.fail_step(failing, ENOMEM);
        let report = proxier.handle(two_services()).unwrap().unwrap();
        assert!(!report.is_success(), "step {failing} was to fail");
        assert_recorded(&node);
        assert!(audit(&mut proxier) > 0, "step {failing}");
        assert_eq!(table(&node), TWO_SERVICES, "after step {failing} failed");
        assert_eq!(audit(&mut proxier), 0);
    }
}

/// An unrecorded virtual server would count as foreign after a restart.
fn assert_recorded(node: &FakeNode) {
    let state = node.kernel().unwrap().observe().unwrap();
    for key in state.virtual_servers.keys() {
        let recorded = Element::VirtualServer(state.frontend_of(key).unwrap());
        assert!(state.elements.contains(&recorded), "{key} is not recorded");
    }
}

#[test]
fn whichever_step_of_a_removal_fails_what_stays_is_recorded() {
    for failing in 1.. {
        let node = FakeNode::default();
        let mut proxier = proxier(&node);
        proxier.handle(two_services()).unwrap();
        node.fail_step(failing, ENOMEM);
        let report = proxier
            .handle([Change::ServicesReplaced(vec![])])
            .unwrap()
            .unwrap();
        assert_recorded(&node);
        if report.is_success() {
            assert!(
                failing > 4,
                "two virtual servers and their elements were to go"
            );
            return;
        }
        audit(&mut proxier);
        assert!(table(&node).is_empty());
    }
}

#[test]
fn connection_tracking_gets_its_minimum_settings() {
    let node = FakeNode::default();
    node.set_sysctl(Sysctl::CT_TCP_ESTABLISHED, "432000");
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.conntrack.max = Some(262_144);
    config.conntrack.tcp_established = Some(86_400);
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()));
    let report = proxier.handle(two_services()).unwrap().unwrap();
    let steps = report.plan.steps().iter().filter_map(|step| match step {
        Step::SetSysctl(sysctl, value) if sysctl.name().contains("conntrack_") => {
            Some((*sysctl, *value))
        }
        _ => None,
    });
    assert_eq!(
        steps.collect::<Vec<_>>(),
        [(Sysctl::CT_MAX, 262_144), (Sysctl::CT_BUCKETS, 65_536)]
    );
    node.set_sysctl(Sysctl::CT_MAX, "1000000");
    assert!(proxier.audit().unwrap().unwrap().plan.is_empty());
    node.set_sysctl(Sysctl::CT_MAX, "1000");
    assert_eq!(proxier.audit().unwrap().unwrap().plan.steps().len(), 1);
}

#[test]
fn an_audit_repairs_drift() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    proxier.handle(two_services()).unwrap();
    node.ipvs().client().unwrap().flush().unwrap();
    node.flush_ruleset();
    node.flush_routes();
    assert!(proxier.audit().unwrap().unwrap().is_success());
    assert_eq!(table(&node), TWO_SERVICES);
    assert!(proxier.audit().unwrap().unwrap().plan.is_empty());
}

#[test]
fn a_node_that_cannot_be_observed_is_left_alone() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    node.fail_observe(EPERM);
    assert_eq!(
        proxier.handle(two_services()).unwrap_err().errno(),
        Some(EPERM)
    );
    assert!(table(&node).is_empty());
    assert!(proxier.handle([]).unwrap().unwrap().is_success());
    assert_eq!(table(&node), TWO_SERVICES);
}

#[test]
fn the_loop_retries_and_stops() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    node.fail_observe(EPERM);
    node.fail_step(3, ENOMEM);
    let (events, received) = mpsc::channel();
    events.send(Event::Changes(two_services().into())).unwrap();
    let mut intervals = Intervals::default();
    intervals.first_retry = Duration::from_millis(1);
    let mut outcomes = Vec::new();
    let ended = run(&mut proxier, &received, &mut intervals, |_, observed| {
        if let Observed::Round(round) = observed {
            outcomes.push((round.cause, round.is_success()));
            if round.is_success() {
                events.send(Event::Stop).unwrap();
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!(ended, ControlFlow::Continue(()));
    let expected = [
        (Cause::Changes, false),
        (Cause::Retry, false),
        (Cause::Retry, true),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(table(&node), TWO_SERVICES);
}

#[test]
fn the_loop_finishes_drains() {
    let node = FakeNode::default();
    let mut proxier = draining(&node);
    set_connections(&node, 0);
    let (_events, received) = mpsc::channel();
    let mut intervals = Intervals::default();
    intervals.drain = Duration::from_millis(1);
    let mut kinds = Vec::new();
    let ended = run(&mut proxier, &received, &mut intervals, |_, observed| {
        if let Observed::Round(round) = observed {
            kinds.push((round.cause, round.result.unwrap().kind));
        }
        ControlFlow::Break(())
    });
    assert_eq!(ended, ControlFlow::Break(()));
    assert_eq!(kinds, [(Cause::Drain, SyncKind::Drained)]);
    assert_eq!(weights(&node), [("10.244.0.2:8080".to_owned(), 1)]);
}

/// The loop checks what the observer removes as it checks real servers.
#[test]
fn the_loop_checks_what_drains_beside_the_data_plane() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    let (events, received) = mpsc::channel();
    events.send(Event::Changes(two_services().into())).unwrap();
    let mut intervals = Intervals::default();
    intervals.drain = Duration::from_millis(1);
    let mut looks = 0;
    let ended = run(
        &mut proxier,
        &received,
        &mut intervals,
        |proxier, observed| {
            match observed {
                Observed::Round(_) => proxier.set_draining_beside(true),
                Observed::Drain => looks += 1,
                _ => {}
            }
            if looks == 3 {
                proxier.set_draining_beside(false);
                events.send(Event::Stop).unwrap();
            }
            ControlFlow::Continue(())
        },
    );
    assert_eq!((ended, looks), (ControlFlow::Continue(()), 3));
    assert!(!proxier.is_draining());
}

#[test]
fn invalid_settings_of_the_node_keep_the_previous_ones() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    proxier.handle(two_services()).unwrap();
    let before = table(&node);
    let mut settings = proxier.desired().config().clone();
    settings.scheduler = ipvs::Scheduler::LeastConnection;
    settings.node_ips = vec!["10.96.0.9".parse().unwrap()];
    proxier.reconfigure(Arc::new(settings.clone()));
    let report = proxier.handle([]).unwrap().unwrap();
    assert!(report.plan.is_empty() && proxier.node_error().is_some());
    assert_eq!(table(&node), before);
    settings.node_ips = vec!["192.0.2.1".parse().unwrap()];
    proxier.reconfigure(Arc::new(settings));
    // Only the virtual servers change, which get another scheduler.
    let report = proxier.handle([]).unwrap().unwrap();
    assert_eq!((report.plan.steps().len(), proxier.node_error()), (2, None));
    assert!(
        table(&node)
            .iter()
            .filter(|line| line.ends_with("-s lc"))
            .count()
            == 2
    );
}

#[test]
fn the_loop_applies_settings_after_a_failure_too() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    let (events, received) = mpsc::channel();
    let mut settings = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    settings.scheduler = ipvs::Scheduler::LeastConnection;
    node.fail_observe(EPERM);
    let [services, slices] = two_services();
    events.send(Event::Changes(vec![services, slices])).unwrap();
    let mut intervals = Intervals::default();
    intervals.first_retry = Duration::from_secs(3600);
    let mut causes = Vec::new();
    let mut in_loop = intervals;
    let ended = run(&mut proxier, &received, &mut in_loop, |_, observed| {
        let Observed::Round(round) = observed else {
            return ControlFlow::Continue(());
        };
        causes.push((round.cause, round.is_success()));
        let next = match causes.len() {
            1 => Event::Settings(Settings::new(Arc::new(settings.clone()), intervals)),
            _ => Event::Stop,
        };
        events.send(next).unwrap();
        ControlFlow::Continue(())
    });
    assert_eq!(ended, ControlFlow::Continue(()));
    assert_eq!(causes, [(Cause::Changes, false), (Cause::Settings, true)]);
    assert!(
        table(&node)
            .iter()
            .filter(|line| line.ends_with("-s lc"))
            .count()
            == 2
    );
}

#[test]
fn a_foreign_virtual_server_is_reported_each_time() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    let key =
        |vip: &str| VirtualServerKey::new(Protocol::Tcp, format!("{vip}:80").parse().unwrap());
    let place = |vip| {
        let add = ipvs::Change::AddVirtualServer(VirtualServer::new(key(vip)));
        node.ipvs().client().unwrap().change(add).unwrap();
    };
    let reported = |notices: &[Notice]| {
        let about = notices.iter().map(|notice| {
            assert_eq!(notice.reason, Reason::ForeignVirtualServer);
            notice.about.clone()
        });
        about.collect::<Vec<_>>()
    };
    // Created before the start.
    place("10.96.0.1");
    let report = proxier.handle(two_services()).unwrap().unwrap();
    assert!(report.is_success());
    assert_eq!(reported(&report.notices), [Subject::Service(name("a"))]);
    let report = proxier.audit().unwrap().unwrap();
    assert_eq!(reported(&report.notices), []);
    // Created while it runs: the Service's virtual server cannot be created, and the next sync
    // takes over the foreign one.
    for _ in 0..2 {
        place("10.96.0.3");
        let applied = Change::ServiceApplied(service("c", "10.96.0.3"));
        let slice = Change::EndpointSliceApplied(slice("c", &["10.244.0.4"]));
        let report = proxier.handle([applied, slice]).unwrap().unwrap();
        assert!(!report.is_success());
        assert_eq!(reported(&report.notices), [Subject::Service(name("c"))]);
        let report = proxier.audit().unwrap().unwrap();
        assert!(report.is_success());
        assert_eq!(reported(&report.notices), []);
        assert_eq!(audit(&mut proxier), 0);
        // It is deleted with the Service, and created again.
        let report = proxier
            .handle([Change::ServiceDeleted(name("c"))])
            .unwrap()
            .unwrap();
        assert_eq!(reported(&report.notices), []);
        proxier
            .drain(Instant::now() + Duration::from_secs(3600))
            .unwrap();
        assert!(!proxier.has_virtual_server(&key("10.96.0.3")));
    }
    // svcproxy's own virtual server without its record is not reported.
    node.flush_ruleset();
    let report = proxier.audit().unwrap().unwrap();
    assert!(report.is_success());
    assert_eq!(reported(&report.notices), []);
}

#[test]
fn many_foreign_virtual_servers_are_reported_in_one_notice() {
    let node = FakeNode::default();
    let mut proxier = proxier(&node);
    let mut client = node.ipvs().client().unwrap();
    let vips: Vec<_> = (1..=1000)
        .map(|n| format!("10.97.{}.{}", n / 250, n % 250 + 1))
        .collect();
    for vip in &vips {
        let key = VirtualServerKey::new(Protocol::Tcp, format!("{vip}:80").parse().unwrap());
        let add = ipvs::Change::AddVirtualServer(VirtualServer::new(key));
        client.change(add).unwrap();
    }
    let services = vips.iter().enumerate();
    let services = services
        .map(|(n, vip)| service(&format!("s{n}"), vip))
        .collect();
    let changes = [
        Change::ServicesReplaced(services),
        Change::EndpointSlicesReplaced(Vec::new()),
    ];
    let report = proxier.handle(changes).unwrap().unwrap();
    let [notice] = report.notices.as_slice() else {
        panic!("{:?}", report.notices);
    };
    assert_eq!(
        (&notice.about, notice.reason),
        (&Subject::Node, Reason::ForeignVirtualServer)
    );
    assert!(
        notice.message.starts_with("took over 1000 virtual servers"),
        "{}",
        notice.message
    );
    assert!(notice.text().len() < 250);
}

#[test]
fn another_data_plane_continues_with_the_same_store() {
    let (old, new) = (FakeNode::default(), FakeNode::default());
    let mut proxier = proxier(&old);
    proxier.handle(two_services()).unwrap();
    let mut proxier = proxier.with_data_plane(Ipvs::new(new.kernel().unwrap()));
    let report = proxier.handle([]).unwrap().unwrap();
    assert_eq!((report.kind, report.is_success()), (SyncKind::Full, true));
    assert_eq!(table(&new), TWO_SERVICES);
    assert_eq!(table(&old), TWO_SERVICES);
}

/// A dual-stack cluster on a machine with an address of one family.
#[test]
fn a_family_is_served_once_the_node_has_an_address_of_it() {
    let node = FakeNode::default();
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.service_cidrs = ["10.96.0.0/12", "fd00:10:96::/112"]
        .map(|cidr| cidr.parse().unwrap())
        .into();
    config.follow_node = FollowNode::default().with_addresses(true);
    config.has_ipv6 = false;
    config.validate().unwrap();
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()));
    let mut standing = Standing::default();
    let mut both = service("a", "10.96.0.1");
    both.cluster_ips = ["10.96.0.1", "fd00:10:96::1"]
        .map(|ip| ip.parse().unwrap())
        .into();
    let mut six = EndpointSlice::new(name("a-6"), name("a"), Family::V6);
    let port = NonZeroU16::new(8080).unwrap();
    six.ports = [EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, port)].into();
    six.endpoints = [Endpoint::new("fd00:10:244::1".parse().unwrap())].into();
    let changes = [
        Change::NodeReplaced(None),
        Change::ServicesReplaced(vec![both]),
        Change::EndpointSlicesReplaced(vec![slice("a", &["10.244.0.1"]), six]),
    ];
    let report = proxier.handle(changes).unwrap().unwrap();
    assert!(report.is_success());
    let reported = standing.follow(&proxier, &report.concerned);
    let reasons: Vec<_> = reported
        .iter()
        .map(|notice| (&notice.about, notice.reason))
        .collect();
    let left_out = (&Subject::Node, Reason::FamilyLeftOut);
    assert_eq!(reasons, [left_out, (&Subject::Node, Reason::NodeUnknown)]);
    let four = [
        "-A -t 10.96.0.1:80 -s rr",
        "-a -t 10.96.0.1:80 -r 10.244.0.1:8080 -m -w 1",
    ];
    assert_eq!(table(&node), four);

    let mut object = Node::new("node-a");
    object.addresses = ["192.0.2.1", "2001:db8::1"]
        .map(|ip| ip.parse().unwrap())
        .into();
    let report = proxier.handle([Change::NodeReplaced(Some(object))]);
    let report = report.unwrap().unwrap();
    assert!(report.is_success());
    assert_eq!(standing.follow(&proxier, &report.concerned), []);
    assert_eq!(table(&node).len(), 4);
    assert_eq!(proxier.desired().config().service_cidrs.len(), 2);
}

/// Its endpoint is gone from the tables, so no comparison would find the flow again.
#[test]
fn a_flow_that_cannot_be_deleted_in_mode_nftables_is_tried_again() {
    use proxier::mode::nftables::{FakeNftables, Nftables, Step};

    let of_dns = |endpoint: &str| {
        let mut slice = slice("dns", &[endpoint]);
        slice.ports[0].protocol = Protocol::Udp;
        slice
    };
    let start = |node: &FakeNftables| {
        let config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
        let mut proxier = Proxier::new(Arc::new(config), Nftables::new(node.clone()));
        let mut dns = service("dns", "10.96.0.10");
        dns.ports[0].protocol = Protocol::Udp;
        let services = Change::ServicesReplaced(vec![dns]);
        let slices = Change::EndpointSlicesReplaced(vec![of_dns("10.244.0.1")]);
        let report = proxier.handle([services, slices]).unwrap().unwrap();
        assert!(report.is_success());
        proxier
    };
    let is_flow = |step: &Step| matches!(step, Step::DeleteFlows(_));
    let moved = || [Change::EndpointSliceApplied(of_dns("10.244.0.2"))];
    let report = start(&FakeNftables::default()).handle(moved()).unwrap();
    let steps = report.unwrap().plan;
    let first = steps.steps().iter().position(is_flow).unwrap();

    let node = FakeNftables::default();
    let mut proxier = start(&node);
    node.fail_step(first + 1, ENOMEM);
    let report = proxier.handle(moved()).unwrap().unwrap();
    assert_eq!(report.applied.failures.len(), 1);
    let again = proxier.audit().unwrap().unwrap();
    assert!(again.is_success());
    assert!(again.plan.steps().iter().any(is_flow), "{:?}", again.plan);
    let last = proxier.audit().unwrap().unwrap();
    assert_eq!(last.plan.steps(), []);
}
