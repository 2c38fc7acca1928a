//! Audits in slices.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use ipvs::{RealServerKey, VirtualServerKey};
use proxier::mode::ipvs::plan::{NodeState, Obstacle, Plan};
use proxier::mode::{ApplyReport, NodeError};

use proxier::mode::ipvs::Glance;

use super::*;

/// Enough for several slices; the last one is not full.
const SERVICES: usize = 3 * Ipvs::<FakeIpvs>::AUDIT_SLICE + 5;
const SLICES: usize = 4;

/// A kernel that counts reads of real servers.
struct Counting {
    kernel: FakeIpvs,
    read: Rc<Cell<usize>>,
    /// Whether it has a cheap look at all real servers.
    can_glance: bool,
}

impl Kernel for Counting {
    fn outline(&mut self) -> Result<NodeState, NodeError> {
        self.kernel.outline()
    }

    fn real_servers(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<Option<Vec<RealServer>>, NodeError> {
        self.read.set(self.read.get() + 1);
        self.kernel.real_servers(virtual_server)
    }

    fn glance(&mut self, known: &NodeState, begins: bool) -> Option<Glance> {
        let glance = self.kernel.glance(known, begins);
        glance.filter(|_| self.can_glance)
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        self.kernel.apply(plan)
    }

    fn connections(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, NodeError> {
        self.kernel.connections(virtual_server)
    }

    fn remove_ruleset(&mut self) -> Result<(), NodeError> {
        self.kernel.remove_ruleset()
    }
}

fn vip(n: usize) -> String {
    format!("10.96.{}.{}", n / 250, n % 250 + 1)
}

fn key(n: usize) -> VirtualServerKey {
    VirtualServerKey::tcp(format!("{}:80", vip(n)).parse().unwrap())
}

fn endpoints(n: usize, addresses: &[&str]) -> Change {
    Change::EndpointSliceApplied(slice(&format!("s{n}"), addresses))
}

const BOTH: [&str; 2] = ["10.244.0.1", "10.244.0.2"];

/// A proxier with many Services of two endpoints each, and the number of lists that it has read.
fn many(node: &FakeNode) -> (Proxier<Ipvs<Counting>>, Rc<Cell<usize>>) {
    many_that_glance(node, false)
}

fn many_that_glance(
    node: &FakeNode,
    can_glance: bool,
) -> (Proxier<Ipvs<Counting>>, Rc<Cell<usize>>) {
    let read = Rc::<Cell<usize>>::default();
    let kernel = Counting {
        kernel: node.kernel().unwrap(),
        read: Rc::clone(&read),
        can_glance,
    };
    let config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(kernel));
    let services = (0..SERVICES).map(|n| service(&format!("s{n}"), &vip(n)));
    let slices = (0..SERVICES).map(|n| slice(&format!("s{n}"), &BOTH));
    let lists = [
        Change::ServicesReplaced(services.collect()),
        Change::EndpointSlicesReplaced(slices.collect()),
    ];
    assert!(proxier.handle(lists).unwrap().unwrap().is_success());
    read.set(0);
    (proxier, read)
}

/// Deletes a real server, as another program would, from the virtual servers of all Services from
/// `from` on.
fn drift(node: &FakeNode, from: usize) {
    let mut client = node.ipvs().client().unwrap();
    for n in from..SERVICES {
        let gone = "10.244.0.1:8080".parse().unwrap();
        client.delete_real_server(&key(n), &gone).unwrap();
    }
}

/// Finishes an audit; returns the number of steps.
fn finish<K: Kernel>(proxier: &mut Proxier<Ipvs<K>>) -> usize {
    let mut steps = 0;
    while proxier.is_auditing() {
        let report = proxier.audit().unwrap();
        steps += report.map_or(0, |report| {
            assert!(report.is_success());
            report.plan.steps().len()
        });
    }
    steps
}

#[test]
fn each_slice_reads_and_repairs_a_limited_number_of_virtual_servers() {
    let node = FakeNode::default();
    let (mut proxier, read) = many(&node);
    let right = table(&node);
    drift(&node, 0);
    let mut kinds = Vec::new();
    for slice in 1..=SLICES {
        let report = proxier.audit().unwrap().unwrap();
        let so_far = SERVICES.min(slice * Ipvs::<Counting>::AUDIT_SLICE);
        assert_eq!(read.get(), so_far);
        assert_eq!(table(&node).len(), 2 * SERVICES + so_far);
        kinds.push(report.kind);
    }
    assert_eq!(kinds.pop(), Some(SyncKind::Full));
    assert!(kinds.iter().all(|kind| *kind == SyncKind::Slice));
    assert!(!proxier.is_auditing());
    assert_eq!(table(&node), right);
    // Only the last slice has a report.
    for slice in 1..=SLICES {
        let report = proxier.audit().unwrap();
        assert_eq!(report.is_some(), slice == SLICES);
        assert!(report.is_none_or(|report| report.plan.is_empty()));
    }
}

/// With a cheap look at all real servers, an audit reads those that look wrong, and a part of the
/// others.
#[test]
fn what_looks_right_is_read_in_turns() {
    let node = FakeNode::default();
    let (mut proxier, read) = many_that_glance(&node, true);
    let right = table(&node);
    for _ in 0..SLICES {
        assert_eq!(super::audit(&mut proxier), 0);
    }
    assert_eq!(read.get(), SERVICES, "each once in {SLICES} audits");

    // What looks wrong is repaired by the next audit.
    let mut client = node.ipvs().client().unwrap();
    let gone = "10.244.0.1:8080".parse().unwrap();
    for n in [0, SERVICES / 2, SERVICES - 1] {
        client.delete_real_server(&key(n), &gone).unwrap();
    }
    read.set(0);
    assert_eq!(super::audit(&mut proxier), 3);
    assert_eq!(table(&node), right);
    let slice = Ipvs::<Counting>::AUDIT_SLICE;
    assert!(read.get() <= 3 + 3 * slice / 2, "{}", read.get());

    // The look does not show thresholds: they are repaired when it is its turn.
    let limited = RealServer::new(gone).with_thresholds(1, 2);
    client.update_real_server(&key(7), &limited).unwrap();
    let audits: usize = (0..SLICES).map(|_| super::audit(&mut proxier)).sum();
    assert_eq!(audits, 1);
    assert_eq!(table(&node), right);
}

#[test]
fn a_look_finds_what_another_program_changed() {
    let node = FakeNode::default();
    let mut client = node.ipvs().client().unwrap();
    super::glance::finds_changes(&mut node.kernel().unwrap(), &mut client);
}

#[test]
fn a_change_between_slices_is_handled_at_once_and_is_no_drift() {
    let node = FakeNode::default();
    let (mut proxier, read) = many(&node);
    for n in 0..SERVICES {
        let connections = Connections::new(1, 0, 0);
        let gone = GONE.parse().unwrap();
        node.ipvs().set_connections(&key(n), &gone, connections);
    }
    assert!(proxier.audit().unwrap().is_none());
    // Changes of Services that are read already or not: an endpoint added, one removed, a Service
    // deleted, a new one.
    for n in (0..SERVICES).step_by(4) {
        let before = read.get();
        let more = [BOTH[0], BOTH[1], "10.244.0.3"];
        let changes = [
            endpoints(n, &more),
            endpoints(n + 1, &BOTH[1..]),
            Change::ServiceDeleted(name(&format!("s{}", n + 2))),
            Change::ServiceApplied(service(&format!("new{n}"), &vip(10_000 + n))),
            Change::EndpointSliceApplied(slice(&format!("new{n}"), &BOTH)),
        ];
        let report = proxier.handle(changes).unwrap().unwrap();
        assert_eq!(
            (report.kind, report.is_success()),
            (SyncKind::Changes, true)
        );
        assert_eq!(read.get(), before, "a change reads nothing");
    }
    let changed = table(&node);
    assert!(proxier.is_auditing() && proxier.is_draining());
    assert_eq!(finish(&mut proxier), 0);
    assert_eq!(table(&node), changed);
}

#[test]
fn drift_between_slices_is_repaired() {
    let node = FakeNode::default();
    let (mut proxier, _) = many(&node);
    let right = table(&node);
    assert!(proxier.audit().unwrap().is_none());
    // Deletes all virtual servers; the rest of the audit finds those of its slices.
    node.ipvs().client().unwrap().flush().unwrap();
    assert!(finish(&mut proxier) > 0);
    let unread = SERVICES - Ipvs::<Counting>::AUDIT_SLICE;
    assert_eq!(table(&node).len(), 3 * unread);
    // The next audit finds the others.
    proxier.audit().unwrap();
    finish(&mut proxier);
    assert_eq!(table(&node), right);
}

#[test]
fn the_real_servers_of_an_unknown_virtual_server_are_read_at_once() {
    let node = FakeNode::default();
    let (mut proxier, _) = many(&node);
    proxier.handle([endpoints(0, &[])]).unwrap();
    let later = Instant::now() + Duration::from_secs(3600);
    proxier.drain(later).unwrap();
    let right = table(&node);
    assert!(!proxier.has_virtual_server(&key(0)));
    // Its connections drain, as after the removal of a last endpoint.
    let mut client = node.ipvs().client().unwrap();
    let foreign = VirtualServer::new(key(0));
    client.add_virtual_server(&foreign).unwrap();
    let real_server = RealServer::new(GONE.parse().unwrap());
    client.add_real_server(&key(0), &real_server).unwrap();
    let report = proxier.audit().unwrap().unwrap();
    assert!(report.is_success() && proxier.is_draining());
    let entries = client.real_servers(&key(0)).unwrap();
    assert_eq!(entries.iter().map(|e| e.server.weight).sum::<u32>(), 0);
    assert_eq!(entries.len(), 1);
    assert_eq!(finish(&mut proxier), 0);
    proxier.drain(later).unwrap();
    assert_eq!(table(&node), right);
}

#[test]
fn an_unreadable_slice_ends_the_audit_and_the_next_one_starts_over() {
    let node = FakeNode::default();
    let (mut proxier, read) = many(&node);
    let right = table(&node);
    assert!(proxier.audit().unwrap().is_none());
    drift(&node, 0);
    node.ipvs().fail_request(7, ENOMEM);
    let error = proxier.audit().unwrap_err();
    assert_eq!(error.errno(), Some(ENOMEM));
    assert!(!proxier.is_auditing());
    read.set(0);
    assert!(super::audit(&mut proxier) > 0);
    assert_eq!(read.get(), SERVICES);
    assert_eq!(table(&node), right);
}

#[test]
fn a_failed_step_of_a_slice_is_retried_by_the_next_audit() {
    let node = FakeNode::default();
    let (mut proxier, _) = many(&node);
    let right = table(&node);
    drift(&node, 0);
    node.fail_step(3, ENOMEM);
    let report = proxier.audit().unwrap().unwrap();
    assert!(!report.is_success() && proxier.is_auditing());
    finish(&mut proxier);
    assert_eq!(table(&node).len(), right.len() - 1);
    assert_eq!(super::audit(&mut proxier), 1);
    assert_eq!(table(&node), right);
}

#[test]
fn the_loop_handles_changes_between_slices() {
    let node = FakeNode::default();
    let (mut proxier, _) = many(&node);
    let right = table(&node);
    // Except for the Service that changes, whose change would fail.
    drift(&node, 1);
    let (events, received) = mpsc::channel();
    let mut intervals = Intervals::default();
    intervals.audit = Duration::from_millis(1);
    let mut rounds = Vec::new();
    let ended = run(&mut proxier, &received, &mut intervals, |_, observed| {
        let Observed::Round(round) = observed else {
            return ControlFlow::Continue(());
        };
        let kind = round.result.unwrap().kind;
        rounds.push((round.cause, kind));
        match (round.cause, kind) {
            (Cause::Audit, SyncKind::Full) => return ControlFlow::Break(()),
            (Cause::Audit, _) => {
                let addresses = if rounds.len() % 4 == 1 {
                    &BOTH[1..]
                } else {
                    &BOTH
                };
                let change = Event::Changes(vec![endpoints(0, addresses)]);
                events.send(change).unwrap();
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    assert_eq!(ended, ControlFlow::Break(()));
    let slice = [
        (Cause::Audit, SyncKind::Slice),
        (Cause::Changes, SyncKind::Changes),
    ];
    let mut expected = slice.repeat(SLICES - 1);
    expected.push((Cause::Audit, SyncKind::Full));
    assert_eq!(rounds, expected);
    proxier.handle([endpoints(0, &BOTH)]).unwrap();
    assert_eq!(table(&node), right);
}

#[test]
fn a_route_of_others_is_passed_or_reported_until_it_is_gone() {
    let node = FakeNode::default();
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()));
    let lists = [
        Change::ServicesReplaced(vec![]),
        Change::EndpointSlicesReplaced(vec![]),
    ];
    assert!(proxier.handle(lists).unwrap().unwrap().is_success());
    let mut audit = || {
        let report = proxier.audit().unwrap().unwrap();
        assert!(report.is_success(), "{:?}", report.applied.failures);
        let steps: Vec<_> = report
            .plan
            .steps()
            .iter()
            .map(ToString::to_string)
            .collect();
        let reported = report.notices.into_iter().map(|notice| notice.message);
        let lasting = proxier.node_conditions().into_iter();
        (
            steps,
            reported.collect::<Vec<_>>(),
            lasting.map(|notice| notice.message).collect::<Vec<_>>(),
        )
    };
    assert_eq!(audit(), (vec![], vec![], vec![]));
    let obstacle = |by: &str, can_be_passed| Obstacle {
        prefix: "10.96.0.0/12".parse().unwrap(),
        by: by.to_owned(),
        can_be_passed,
    };
    node.obstruct(obstacle("blackhole 10.96.0.0/12 proto boot metric 0", true));
    let (steps, reported, lasting) = audit();
    assert_eq!(steps, ["add route local 10.96.0.0/12 dev lo src 192.0.2.1"]);
    assert!(
        reported[0].contains("blackhole 10.96.0.0/12 proto boot metric 0"),
        "{reported:?}"
    );
    assert_eq!((reported.len(), lasting.len()), (1, 0));
    assert_eq!(audit(), (vec![], vec![], vec![]));

    node.obstruct(obstacle("prohibit 10.97.0.0/16 proto 4 metric 5", false));
    for _ in 0..2 {
        let (steps, reported, lasting) = audit();
        assert_eq!((steps.len(), reported.len()), (0, 0));
        assert!(
            lasting[0].contains("prohibit 10.97.0.0/16 proto 4 metric 5"),
            "{lasting:?}"
        );
    }
    node.flush_routes();
    let (steps, _, lasting) = audit();
    assert_eq!((steps.len(), lasting.len()), (1, 0));
}
