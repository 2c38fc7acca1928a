//! Tests: a Service whose rules are permanently rejected costs other Services nothing, and is
//! reported once.

use std::sync::Arc;

use super::restore_all;
use super::tests::{Kernel, backends};
use crate::Proxier;
use crate::desired::Config;
use crate::mode::iptables::{Iptables, NodeState, Plan, Rules, Step, Tables};
use crate::mode::{ApplyReport, NodeError, Sysctl};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use crate::notice::Reason;
use crate::reconcile::Standing;
use crate::reconcile::{SyncKind, SyncReport};
use crate::store::Change;

/// iptables mode on an in-memory kernel.
#[derive(Default)]
struct Plane {
    kernel: Kernel,
    /// The executed part of the last plan, if it was not everything.
    done: Option<Plan>,
}

impl Tables for Plane {
    fn observe(&mut self) -> Result<NodeState, NodeError> {
        let rules = self.kernel.rules.clone();
        let sysctls = [(Sysctl::IPV4_FORWARD, "1".to_owned())].into();
        Ok(NodeState::new(sysctls, rules, Rules::default()))
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Option<Plan>) {
        let mut report = ApplyReport::default();
        self.done = restore_all(plan, &mut report, &mut |some| self.kernel.restore(some));
        (report, self.done.clone())
    }
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text).unwrap()
}

/// A Service at 10.96.0.`n` with two ports and this backend.
fn web(n: u8, protocol: Protocol, backend: &str) -> [Change; 2] {
    let text = format!("web-{n}");
    let mut service = Service::new(name(&text));
    service.cluster_ips = [[10, 96, 0, n].into()].into();
    let backend: std::net::SocketAddr = backend.parse().unwrap();
    let ports = [("http", 80), ("other", 81)];
    let of = |(port, number): (&str, u16)| {
        ServicePort::new(
            PortName::new(port).unwrap(),
            protocol,
            number.try_into().unwrap(),
        )
    };
    service.ports = ports.map(of).into();
    let mut slice = EndpointSlice::new(name(&text), name(&text), Family::V4);
    let target = |(port, _)| {
        let number = backend.port().try_into().unwrap();
        EndpointPort::new(PortName::new(port).unwrap(), protocol, number)
    };
    slice.ports = ports.map(target).into();
    slice.endpoints = [Endpoint::new(backend.ip())].into();
    [
        Change::ServiceApplied(service),
        Change::EndpointSliceApplied(slice),
    ]
}

struct Cluster {
    proxier: Proxier<Iptables<Plane>>,
    standing: Standing,
}

impl Cluster {
    /// Services 1 to 40 with backends 10.244.0.`n`.
    fn new(protocol: Protocol, names_the_end: bool, refused: &[&'static str]) -> (Self, Outcome) {
        let kernel = Kernel {
            names_the_end,
            refused: refused.to_vec(),
            ..Kernel::default()
        };
        let plane = Plane { kernel, done: None };
        let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
        let mut cluster = Self {
            proxier: Proxier::new(Arc::new(config), Iptables::new(plane)),
            standing: Standing::default(),
        };
        let listed = [
            Change::ServicesReplaced(vec![]),
            Change::EndpointSlicesReplaced(vec![]),
        ];
        let services = (1..41).flat_map(|n| web(n, protocol, &format!("10.244.0.{n}:8080")));
        let first = cluster.handle(listed.into_iter().chain(services));
        (cluster, first)
    }

    fn handle(&mut self, changes: impl IntoIterator<Item = Change>) -> Outcome {
        let calls = self.kernel().calls;
        let report = self.proxier.handle(changes).unwrap().unwrap();
        self.outcome(report, calls)
    }

    fn audit(&mut self) -> Outcome {
        let calls = self.kernel().calls;
        let report = self.proxier.audit().unwrap().unwrap();
        self.outcome(report, calls)
    }

    fn outcome(&mut self, report: SyncReport<Plan>, calls: usize) -> Outcome {
        let new = self.standing.follow(&self.proxier, &report.concerned);
        let reported = report.notices.iter().chain(&new);
        let reported = reported.map(|notice| (notice.reason, format!("{:?}", notice.about)));
        Outcome {
            reported: reported.collect(),
            calls: self.kernel().calls - calls,
            report,
        }
    }

    fn kernel(&mut self) -> &mut Kernel {
        &mut self.proxier.data_plane_mut().tables_mut().kernel
    }

    /// Whether rules send packets to this backend.
    fn serves(&mut self, backend: &str) -> bool {
        backends(&self.kernel().rules).contains(backend)
    }
}

/// The result of a sync.
struct Outcome {
    report: SyncReport<Plan>,
    reported: Vec<(Reason, String)>,
    /// The number of runs of the program.
    calls: usize,
}

impl Outcome {
    fn is(&self, kind: SyncKind, success: bool, complete: bool) {
        assert_eq!(self.report.kind, kind);
        assert_eq!(self.report.is_success(), success);
        assert_eq!(self.report.is_complete(), complete);
    }

    fn reported(&self, expected: &[(Reason, &str)]) {
        let reported = self.reported.iter();
        let reported: Vec<_> = reported
            .map(|(reason, about)| (*reason, about.as_str()))
            .collect();
        assert_eq!(reported, expected);
    }
}

const WEB_7: &str = "Service(default/web-7)";

#[test]
fn changes_of_other_services_cost_no_more_and_the_rejection_is_reported_once() {
    for names_the_end in [false, true] {
        let (mut cluster, first) = Cluster::new(Protocol::Tcp, names_the_end, &["10.244.0.7:"]);
        first.is(SyncKind::Full, true, false);
        first.reported(&[(Reason::RulesRefused, WEB_7)]);
        assert!(!cluster.serves("10.244.0.7:8080") && cluster.serves("10.244.0.8:8080"));
        for round in 0..3 {
            let port = 9000 + round;
            let change = cluster.handle(web(8, Protocol::Tcp, &format!("10.244.0.8:{port}")));
            change.is(SyncKind::Changes, true, true);
            change.reported(&[]);
            assert_eq!(change.calls, 1, "nobody else is tried");
            assert!(cluster.serves(&format!("10.244.0.8:{port}")));
            // The audit tries again. This step does not count as drift.
            let audit = cluster.audit();
            audit.is(SyncKind::Full, true, false);
            audit.reported(&[]);
            let refused: Vec<_> = audit
                .report
                .applied
                .refused
                .iter()
                .map(|r| r.owner.to_string())
                .collect();
            assert_eq!(
                refused,
                ["default/web-7:http", "default/web-7:other"],
                "{names_the_end} {round} {}",
                audit.report.plan.steps()[0]
            );
            assert_eq!(
                audit.report.applied.in_vain,
                audit.report.plan.steps().len()
            );
        }
        assert_eq!(cluster.proxier.problems().len(), 1);
        assert_eq!(
            cluster.proxier.problems_of(&name("web-7")),
            cluster.proxier.problems()
        );

        // The Service changes, and is still rejected.
        let change = cluster.handle(web(7, Protocol::Tcp, "10.244.0.7:9090"));
        change.is(SyncKind::Changes, true, false);
        change.reported(&[]);
        // The Service changes, and is accepted.
        let change = cluster.handle(web(7, Protocol::Tcp, "10.244.1.7:8080"));
        change.is(SyncKind::Changes, true, true);
        change.reported(&[(Reason::RulesAccepted, WEB_7)]);
        assert!(cluster.serves("10.244.1.7:8080"));
        assert_eq!(cluster.proxier.problems(), []);
        let audit = cluster.audit();
        audit.is(SyncKind::Full, true, true);
        audit.reported(&[]);
        assert_eq!(audit.calls, 0);
    }
}

#[test]
fn an_audit_finds_that_the_rules_are_accepted_now() {
    let (mut cluster, _) = Cluster::new(Protocol::Tcp, false, &["10.244.0.7:"]);
    cluster.kernel().refused.clear();
    let change = cluster.handle(web(8, Protocol::Tcp, "10.244.0.8:9090"));
    change.is(SyncKind::Changes, true, true);
    assert!(!cluster.serves("10.244.0.7:8080"));
    let audit = cluster.audit();
    audit.is(SyncKind::Full, true, true);
    audit.reported(&[(Reason::RulesAccepted, WEB_7)]);
    assert_eq!(audit.report.applied.in_vain, 0);
    assert!(cluster.serves("10.244.0.7:8080"));
}

#[test]
fn a_rejection_counts_only_after_a_fresh_reading_of_the_node() {
    let (mut cluster, first) = Cluster::new(Protocol::Tcp, false, &[]);
    first.is(SyncKind::Full, true, true);
    // As if another program had deleted a chain that the rule jumps to.
    cluster.kernel().refused = vec!["10.244.0.7:9090"];
    let change = cluster.handle(web(7, Protocol::Tcp, "10.244.0.7:9090"));
    change.is(SyncKind::Changes, false, false);
    change.reported(&[]);
    cluster.kernel().refused.clear();
    let retry = cluster.audit();
    retry.is(SyncKind::Full, true, true);
    retry.reported(&[]);
    assert!(cluster.serves("10.244.0.7:9090"));
    // If the rejection is permanent, the Service keeps its previous rules.
    cluster.kernel().refused = vec!["10.244.0.7:9191"];
    let change = cluster.handle(web(7, Protocol::Tcp, "10.244.0.7:9191"));
    change.is(SyncKind::Changes, false, false);
    let retry = cluster.audit();
    retry.is(SyncKind::Full, true, false);
    retry.reported(&[(Reason::RulesRefused, WEB_7)]);
    assert!(cluster.serves("10.244.0.7:9090"));
    // A deleted Service is not reported, and its rules are removed.
    let gone = cluster.handle([Change::ServiceDeleted(name("web-7"))]);
    gone.is(SyncKind::Changes, true, true);
    gone.reported(&[]);
    assert!(!cluster.serves("10.244.0.7:9090"));
    assert_eq!(cluster.proxier.problems(), []);
}

#[test]
fn a_failure_of_no_single_service_keeps_the_rejections() {
    let (mut cluster, _) = Cluster::new(Protocol::Tcp, false, &["10.244.0.7:"]);
    // All rules are gone, and nothing is accepted.
    cluster.kernel().rules = Rules::default();
    cluster.kernel().refused.push("*");
    let audit = cluster.audit();
    audit.is(SyncKind::Full, false, false);
    audit.reported(&[(Reason::SyncFailed, "Node")]);
    assert_eq!(cluster.proxier.problems().len(), 1);
    cluster.kernel().refused.pop();
    let retry = cluster.audit();
    retry.is(SyncKind::Full, true, false);
    retry.reported(&[]);
}

/// The flows of a rejected Service continue unchanged.
#[test]
fn flows_are_not_cut_at_each_retry() {
    let (mut cluster, _) = Cluster::new(Protocol::Udp, false, &["10.244.0.7:"]);
    let flows = |plan: &Plan| {
        let steps = plan.steps().iter();
        steps
            .filter(|step| matches!(step, Step::DeleteFlows(_)))
            .count()
    };
    let audit = cluster.audit();
    assert_eq!(flows(&audit.report.plan), 2);
    let done = cluster
        .proxier
        .data_plane_mut()
        .tables_mut()
        .done
        .take()
        .unwrap();
    assert_eq!(done.steps(), []);
    assert_eq!(
        audit.report.applied.in_vain,
        audit.report.plan.steps().len()
    );
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_count_each_rejection_but_no_failure_and_no_drift() {
    use std::time::{Duration, Instant};

    use crate::observe::metrics::{Monitor, Options};
    use crate::reconcile::{Cause, Observed, Round};

    let (mut cluster, first) = Cluster::new(Protocol::Tcp, false, &["10.244.0.7:"]);
    let monitor = Monitor::new(Options::new(vec![Family::V4]));
    let see = |cause, report: &SyncReport<Plan>, proxier: &mut Proxier<Iptables<Plane>>| {
        let round = Round {
            cause,
            result: Ok(report),
            started: Instant::now(),
            took: Duration::ZERO,
        };
        monitor.observed(proxier, &Observed::Round(round));
        monitor.observed(proxier, &Observed::Inspect);
        assert!(monitor.is_healthy());
    };
    see(Cause::Changes, &first.report, &mut cluster.proxier);
    let audit = cluster.audit();
    see(Cause::Audit, &audit.report, &mut cluster.proxier);
    let text = monitor.scrape();
    for line in [
        "svcproxy_sync_failures_total 0\n",
        "svcproxy_drift_steps_total{kind=\"rules\"} 0\n",
        "svcproxy_problems 1\n",
        // Two ports, twice.
        "svcproxy_kernel_errors_total{part=\"packet_filter\",errno=\"none\"} 4\n",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
}
