//! Tests of a proxier with its schedule, on an in-memory node with faults and a simulated clock.

use std::collections::HashMap;
use std::num::NonZeroU16;

use ipvs::{RealServer, RealServerKey, VirtualServer, VirtualServerKey};

use super::*;
use crate::mode::ipvs::plan::{NodeState, Plan, Step};
use crate::mode::ipvs::{FakeIpvs, FakeNode, Ipvs, Kernel};
use crate::mode::{ApplyReport, Sysctl};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort, Timestamp,
};
use crate::notice::Reason;

const ENOMEM: i32 = 12;

/// A kernel that counts reads.
#[derive(Debug)]
struct Counting {
    kernel: FakeIpvs,
    outlines: usize,
    lists: usize,
}

impl Kernel for Counting {
    fn outline(&mut self) -> Result<NodeState, NodeError> {
        self.outlines += 1;
        self.kernel.outline()
    }

    fn real_servers(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<Option<Vec<RealServer>>, NodeError> {
        self.lists += 1;
        self.kernel.real_servers(virtual_server)
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

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text).unwrap()
}

fn key(n: u8, protocol: Protocol) -> VirtualServerKey {
    VirtualServerKey::new(protocol, ([10, 96, 0, n], 80).into())
}

/// Service `n` with a backend.
fn service(n: u8, protocol: Protocol, backend: [u8; 4]) -> Vec<Change> {
    let name = name(&format!("s{n}"));
    let mut service = Service::new(name.clone());
    service.cluster_ips = [[10, 96, 0, n].into()].into();
    let port = NonZeroU16::new(80).unwrap();
    service.ports = [ServicePort::new(PortName::UNNAMED, protocol, port)].into();
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    slice.ports = [EndpointPort::new(PortName::UNNAMED, protocol, port)].into();
    slice.endpoints = [Endpoint::new(backend.into())].into();
    vec![
        Change::ServiceApplied(service),
        Change::EndpointSliceApplied(slice),
    ]
}

/// The loop, with a simulated clock.
struct Simulated {
    node: FakeNode,
    proxier: Proxier<Ipvs<Counting>>,
    schedule: Schedule<Item>,
    start: Instant,
    now: Instant,
    /// The actions so far: time, action, steps of the plan.
    done: Vec<(Duration, Action<Item>, Vec<Step>)>,
}

impl Simulated {
    /// A node with Services 1 to 9 in effect.
    fn new() -> Self {
        let node = FakeNode::default();
        let kernel = Counting {
            kernel: node.kernel().unwrap(),
            outlines: 0,
            lists: 0,
        };
        let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
        let start = Instant::now();
        let intervals = Intervals {
            audit: Duration::from_secs(3_600),
            ..Intervals::default()
        };
        let mut simulated = Self {
            node,
            proxier: Proxier::new(Arc::new(config), Ipvs::new(kernel)),
            schedule: Schedule::new(start, intervals, 1),
            start,
            now: start,
            done: Vec::new(),
        };
        let lists = [
            Change::ServicesReplaced(Vec::new()),
            Change::EndpointSlicesReplaced(Vec::new()),
        ];
        let services = (1..10).flat_map(|n| service(n, Protocol::Tcp, [10, 244, 0, n]));
        simulated.change(lists.into_iter().chain(services));
        assert_eq!(simulated.reads(), (1, 0));
        simulated
    }

    fn change(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.proxier.enqueue(changes);
        self.schedule.changed(self.now, 1);
        self.act();
    }

    /// Executes the actions that are due.
    fn act(&mut self) {
        while let Some(action) = self.schedule.next(self.now) {
            let result = carry_out(&action, &mut self.proxier, self.now);
            let outcome = outcome(&mut self.proxier, &action, result.is_err());
            self.schedule.finished(self.now, &action, outcome);
            let steps = result.ok().flatten().map(|report| report.plan);
            let steps = steps.iter().flat_map(Plan::steps).cloned().collect();
            self.done.push((self.now - self.start, action, steps));
        }
    }

    /// Lets time pass, and executes what falls due.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.now = self.schedule.deadline(self.now).min(until);
            self.act();
            if self.now == until {
                return;
            }
        }
    }

    /// The number of reads of the node's outline and of lists of real servers.
    fn reads(&mut self) -> (usize, usize) {
        let kernel = self.proxier.data_plane_mut().kernel_mut();
        (kernel.outlines, kernel.lists)
    }

    fn retries(&self) -> Vec<Duration> {
        let retries = self.done.iter();
        let retries = retries.filter(|(_, action, _)| matches!(action, Action::Retry(_)));
        retries.map(|(at, ..)| *at).collect()
    }

    /// Whether this backend is the only one of a Service's virtual server.
    fn serves(&self, n: u8, protocol: Protocol, backend: [u8; 4]) -> bool {
        let entries = self.node.ipvs().client().unwrap();
        let entries = { entries }.real_servers(&key(n, protocol));
        let entries = entries.unwrap_or_default();
        let takes = entries.iter().filter(|entry| entry.server.weight > 0);
        let addresses: Vec<_> = takes.map(|entry| entry.server.key.address).collect();
        addresses == [std::net::IpAddr::from(backend)]
    }
}

const STEP: Duration = Duration::from_millis(100);

#[test]
fn a_service_that_always_fails_costs_the_others_nothing() {
    let mut simulated = Simulated::new();
    simulated
        .node
        .fail_virtual_server(key(99, Protocol::Tcp), Some(ENOMEM));
    let failed = simulated.now - simulated.start;
    simulated.change(service(99, Protocol::Tcp, [10, 244, 1, 1]));
    // Others change ten times a second.
    for n in 0..400_u16 {
        let [high, low] = n.to_be_bytes();
        let backend = [10, 245, high, low];
        simulated.change(service(1, Protocol::Tcp, backend));
        assert!(simulated.serves(1, Protocol::Tcp, backend), "at once");
        simulated.wait(STEP);
    }
    assert_eq!(simulated.reads(), (1, 0), "the node is not read again");
    let retries = simulated.retries();
    assert_eq!(retries.len(), 5, "{retries:?}");
    let mut last = failed;
    for (at, pause) in retries.iter().zip([1, 2, 4, 8, 16]) {
        let (waited, pause) = (*at - last, Duration::from_secs(pause));
        assert!(
            waited > pause * 7 / 10 && waited <= pause + STEP,
            "{waited:?}"
        );
        last = *at;
    }
    // After the fault has ended, the retry repairs it.
    simulated
        .node
        .fail_virtual_server(key(99, Protocol::Tcp), None);
    assert!(!simulated.serves(99, Protocol::Tcp, [10, 244, 1, 1]));
    simulated.wait(Duration::from_secs(30));
    assert!(simulated.serves(99, Protocol::Tcp, [10, 244, 1, 1]));
    assert_eq!(simulated.reads(), (1, 0));
    simulated.wait(Duration::from_secs(600));
    assert_eq!(
        simulated.retries().len(),
        6,
        "there is nothing left to retry"
    );
}

#[test]
fn a_service_that_fails_stays_a_problem_until_it_is_right() {
    let mut simulated = Simulated::new();
    let reported = |simulated: &Simulated| {
        let problems = simulated.proxier.problems().into_iter();
        let problems = problems.map(|problem| (problem.service, problem.reason));
        let node = simulated.proxier.node_conditions().into_iter();
        let node = node.filter(|notice| notice.reason == Reason::SyncFailed);
        (problems.collect::<Vec<_>>(), node.count())
    };
    let failing = (vec![(name("s1"), Reason::SyncFailed)], 0);
    let broken = key(1, Protocol::Tcp);
    simulated.node.fail_virtual_server(broken, Some(ENOMEM));
    simulated.change(service(1, Protocol::Tcp, [10, 244, 1, 1]));
    assert_eq!(reported(&simulated), failing);
    let [problem] = &simulated.proxier.problems_of(&name("s1"))[..] else {
        panic!("{:?}", simulated.proxier.problems());
    };
    assert!(problem.message.contains("10.96.0.1:80"), "{problem:?}");
    // Another Service succeeds, and retries fail: the report is the same.
    let before = simulated.proxier.problems();
    for n in 0..50 {
        simulated.change(service(2, Protocol::Tcp, [10, 244, 2, n]));
        assert!(simulated.serves(2, Protocol::Tcp, [10, 244, 2, n]));
        assert_eq!(simulated.proxier.problems(), before);
        assert_eq!(simulated.proxier.problems_of(&name("s2")), []);
        simulated.wait(STEP);
    }
    assert!(simulated.retries().len() > 1);
    // Nobody has the address any more: that it stays is a condition of the node.
    simulated.change([Change::ServiceDeleted(name("s1"))]);
    assert_eq!(reported(&simulated), (vec![], 1));
    // The Service comes back, and the fault ends.
    simulated.change(service(1, Protocol::Tcp, [10, 244, 1, 1]));
    assert_eq!(reported(&simulated), failing);
    simulated.node.fail_virtual_server(broken, None);
    simulated.change(service(2, Protocol::Tcp, [10, 244, 2, 99]));
    assert_eq!(reported(&simulated), failing);
    assert!(simulated.proxier.is_settled(), "it is one Service's alone");
    simulated.wait(Duration::from_secs(30));
    assert!(simulated.serves(1, Protocol::Tcp, [10, 244, 1, 1]));
    assert_eq!(reported(&simulated), (vec![], 0));
}

#[test]
fn what_all_services_share_is_right_again_after_a_full_comparison_only() {
    let mut simulated = Simulated::new();
    let failing = |simulated: &Simulated| {
        let conditions = simulated.proxier.node_conditions().into_iter();
        let texts = conditions.filter(|notice| notice.reason == Reason::SyncFailed);
        texts.map(|notice| notice.message).collect::<Vec<_>>()
    };
    simulated.node.set_sysctl(Sysctl::VS_CONNTRACK, "0");
    simulated.node.fail_step(1, ENOMEM);
    simulated.schedule.drifted(simulated.now);
    simulated.act();
    assert!(!simulated.proxier.is_settled());
    let texts = failing(&simulated);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains(Sysctl::VS_CONNTRACK.name()), "{texts:?}");
    simulated.change(service(2, Protocol::Tcp, [10, 244, 2, 2]));
    assert!(simulated.serves(2, Protocol::Tcp, [10, 244, 2, 2]));
    assert!(
        !simulated.proxier.is_settled(),
        "a Service succeeded, not the sysctl"
    );
    assert_eq!(failing(&simulated), texts);
    simulated.wait(Duration::from_secs(2));
    assert!(simulated.proxier.is_settled());
    assert_eq!(failing(&simulated), [""; 0]);
}

#[test]
fn a_conflict_with_another_program_starts_an_audit_that_reads_it_first() {
    let mut simulated = Simulated::new();
    let foreign = VirtualServer::new(key(99, Protocol::Tcp));
    let mut client = simulated.node.ipvs().client().unwrap();
    client.add_virtual_server(&foreign).unwrap();
    simulated.change(service(99, Protocol::Tcp, [10, 244, 1, 1]));
    assert_eq!(simulated.reads(), (1, 0));
    simulated.wait(Duration::from_secs(1));
    assert!(simulated.serves(99, Protocol::Tcp, [10, 244, 1, 1]));
    // One outline, and ten lists of real servers.
    assert_eq!(simulated.reads(), (2, 10));
    // The same for a real server that another program has deleted: its virtual server is read
    // first.
    let gone = RealServerKey::new([10, 244, 0, 2].into(), 80);
    client
        .delete_real_server(&key(2, Protocol::Tcp), &gone)
        .unwrap();
    simulated.change(service(2, Protocol::Tcp, [10, 245, 0, 2]));
    simulated.wait(Duration::from_secs(1));
    assert!(simulated.serves(2, Protocol::Tcp, [10, 245, 0, 2]));
    assert_eq!(simulated.reads().0, 3);
}

#[test]
fn flows_that_could_not_be_deleted_are_deleted_later() {
    let mut simulated = Simulated::new();
    simulated.change(service(50, Protocol::Udp, [10, 244, 0, 50]));
    let is_flows = |step: &Step| matches!(step, Step::DeleteFlows(_));
    let changed = service(50, Protocol::Udp, [10, 245, 0, 50]);
    let plan = {
        // The steps of the same change on a node without faults.
        let mut other = Simulated::new();
        other.change(service(50, Protocol::Udp, [10, 244, 0, 50]));
        other.change(changed.clone());
        other.done.pop().unwrap().2
    };
    let place = plan.iter().position(is_flows).unwrap();
    simulated.node.fail_step(place + 1, ENOMEM);
    simulated.change(changed);
    assert!(simulated.serves(50, Protocol::Udp, [10, 245, 0, 50]));
    simulated.wait(Duration::from_secs(1));
    let (_, action, steps) = simulated.done.pop().unwrap();
    assert!(matches!(action, Action::Retry(_)));
    assert_eq!(steps, plan[place..=place]);
    // They are deleted once only.
    simulated.wait(Duration::from_secs(60));
    assert!(simulated.retries().is_empty());
    assert_eq!(simulated.reads(), (1, 0));
}

/// Otherwise SCTP associations would continue to a removed backend.
#[test]
fn flows_of_a_backend_are_cut_at_the_drain_timeout() {
    let mut simulated = Simulated::new();
    simulated.change(service(60, Protocol::Sctp, [10, 244, 0, 60]));
    let gone = RealServerKey::new([10, 244, 0, 60].into(), 80);
    let connections = ipvs::Connections::new(1, 0, 0);
    let server = key(60, Protocol::Sctp);
    let kernel = simulated.node.ipvs().clone();
    kernel.set_connections(&server, &gone, connections);
    simulated.change(service(60, Protocol::Sctp, [10, 245, 0, 60]));
    simulated.wait(Duration::from_secs(29));
    simulated.done.clear();
    assert!(simulated.proxier.is_draining());
    simulated.wait(Duration::from_secs(3));
    assert!(!simulated.proxier.is_draining());
    let looks = simulated.done.iter().map(|(.., steps)| steps);
    let steps: Vec<_> = looks.flatten().map(ToString::to_string).collect();
    let [removed, flows] = &steps[..] else {
        panic!("{steps:?}");
    };
    assert!(removed.contains("10.244.0.60"), "{removed}");
    let expected = "delete flows sctp 10.96.0.60:80 answered by 10.244.0.60";
    assert_eq!(flows, expected);
}

#[test]
fn after_a_lost_answer_of_the_kernel_the_node_is_read_first() {
    let mut simulated = Simulated::new();
    simulated.node.ipvs().lose_reply(1);
    simulated.change(service(1, Protocol::Tcp, [10, 245, 0, 1]));
    simulated.change(service(2, Protocol::Tcp, [10, 245, 0, 2]));
    assert_eq!(simulated.reads(), (1, 0));
    assert!(!simulated.serves(2, Protocol::Tcp, [10, 245, 0, 2]));
    simulated.wait(Duration::from_secs(1));
    assert!(simulated.serves(1, Protocol::Tcp, [10, 245, 0, 1]));
    assert!(simulated.serves(2, Protocol::Tcp, [10, 245, 0, 2]));
    assert_eq!(simulated.reads(), (2, 9));
}

#[test]
fn a_failure_of_no_single_object_is_retried_by_an_audit_and_delays_nothing() {
    let mut simulated = Simulated::new();
    simulated.node.set_sysctl(Sysctl::IPV4_FORWARD, "0");
    simulated.node.fail_step(1, ENOMEM);
    simulated.schedule.drifted(simulated.now);
    simulated.act();
    assert!(simulated.proxier.is_known());
    simulated.change(service(2, Protocol::Tcp, [10, 245, 0, 2]));
    assert!(simulated.serves(2, Protocol::Tcp, [10, 245, 0, 2]));
    let forwards = |simulated: &Simulated| {
        let state = simulated.node.kernel().unwrap().outline().unwrap();
        state.sysctls[&Sysctl::IPV4_FORWARD] == "1"
    };
    assert!(!forwards(&simulated));
    simulated.wait(Duration::from_secs(1));
    assert!(forwards(&simulated));
    assert_eq!(unfinished(&mut simulated), 0);
}

/// A change that has arrived and is not applied yet is not the work of another program.
#[test]
fn an_audit_repairs_drift_and_leaves_changes_to_their_sync() {
    let mut simulated = Simulated::new();
    let mut changed = service(1, Protocol::Tcp, [10, 245, 0, 1]);
    for change in &mut changed {
        if let Change::EndpointSliceApplied(slice) = change {
            slice.last_change = Timestamp::after_epoch(Duration::from_secs(1));
        }
    }
    simulated.proxier.enqueue(changed);
    simulated.node.set_sysctl(Sysctl::IPV4_FORWARD, "0");
    let mut audit = Vec::new();
    let mut triggers = 0;
    loop {
        if let Some(report) = simulated.proxier.audit().unwrap() {
            triggers += report.triggers.len();
            audit.extend(report.plan.steps().iter().map(ToString::to_string));
        }
        if !simulated.proxier.is_auditing() {
            break;
        }
    }
    assert_eq!(audit, ["set sysctl net.ipv4.ip_forward = 1"]);
    assert_eq!(triggers, 0);
    assert!(!simulated.serves(1, Protocol::Tcp, [10, 245, 0, 1]));
    let report = simulated.proxier.handle([]).unwrap().unwrap();
    assert!(simulated.serves(1, Protocol::Tcp, [10, 245, 0, 1]));
    assert_eq!(report.triggers.len(), 1);
}

/// The number of steps that an audit plans.
fn unfinished(simulated: &mut Simulated) -> usize {
    simulated.done.clear();
    simulated.now += Duration::from_secs(3_600);
    simulated.act();
    simulated.done.iter().map(|(_, _, steps)| steps.len()).sum()
}

/// The number of times that this thread has waited.
fn waits() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

#[test]
fn a_burst_wakes_the_loop_for_its_syncs_only() {
    const CHANGES: u16 = 1_000;
    let kernel = FakeNode::default().kernel().unwrap();
    let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(kernel));
    let lists = [
        Change::ServicesReplaced(Vec::new()),
        Change::EndpointSlicesReplaced(Vec::new()),
    ];
    proxier.handle(lists).unwrap();
    let (sender, events) = std::sync::mpsc::channel();
    let source = std::thread::spawn(move || {
        for n in 0..CHANGES {
            let [high, low] = n.to_be_bytes();
            let changes = service(1, Protocol::Tcp, [10, 245, high, low]);
            sender.send(Event::Changes(changes)).unwrap();
            std::thread::sleep(Duration::from_micros(500));
        }
        sender.send(Event::Stop).unwrap();
    });
    let (before, mut syncs) = (waits(), 0);
    let _ = run(&mut proxier, &events, &mut Intervals::default(), |_, _| {
        syncs += 1;
        ControlFlow::Continue(())
    });
    let waits = waits() - before;
    source.join().unwrap();
    assert!((10..100).contains(&syncs), "{syncs}");
    // Without a pause, it waits for the first changes one by one.
    assert!(waits <= syncs + 30, "{waits} waits, {syncs} syncs");
}
