//! Every request over netlink fails once: to nftables, to connection tracking, and for routes and
//! rules, in each phase of a life. Whatever fails is reported, or svcproxy did it again at once; and
//! after the fault an audit makes everything right.

use std::sync::Arc;

use ipvs::{Connections, RealServerKey, VirtualServerKey};
use netlink::faults::{self, Fault};
use proxier::Proxier;
use proxier::mode::Sysctl;
use proxier::mode::ipvs::plan::NodeState;
use proxier::mode::ipvs::{Ipvs, cleanup};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Service, ServicePort,
};
use proxier::reconcile::SyncReport;
use proxier::store::Change;
use tempfile::TempDir;

use super::*;

/// EPERM, EINTR, EAGAIN, ENOSPC, ENOMEM, EBUSY, EEXIST, EINVAL, ENOBUFS. Not ENOENT and ESRCH: the kernel
/// says that something is missing only if it is.
const ERRNOS: [i32; 9] = [1, 4, 11, 28, 12, 16, 17, 22, 105];
const ENOBUFS: i32 = 105;
/// More requests than a phase has.
const MOST: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    ColdStart,
    Change,
    Audit,
    Drain,
    Cleanup,
}

impl Phase {
    /// The phases of a life before this one.
    const fn earlier(self) -> &'static [Self] {
        match self {
            Self::ColdStart => &[],
            Self::Change | Self::Audit | Self::Drain => &[Self::ColdStart],
            Self::Cleanup => &[Self::ColdStart, Self::Change],
        }
    }
}

const WEB: [u8; 4] = [10, 96, 0, 20];
const DNS: [u8; 4] = [10, 96, 0, 10];
const OUTSIDE: [u8; 4] = [203, 0, 113, 7];
const PODS: [[u8; 4]; 2] = [[10, 244, 1, 5], [10, 244, 1, 6]];

fn object(name: &str, protocol: Protocol, address: [u8; 4]) -> Service {
    let mut service = Service::new(ObjectName::new("default", name).unwrap());
    service.cluster_ips = [address.into()].into();
    let port = ServicePort::new(PortName::UNNAMED, protocol, 53.try_into().unwrap());
    service.ports = [port].into();
    service
}

fn slice(name: &str, protocol: Protocol, pods: &[[u8; 4]]) -> EndpointSlice {
    let name = ObjectName::new("default", name).unwrap();
    let mut slice = EndpointSlice::new(name.clone(), name, proxier::model::Family::V4);
    let port = EndpointPort::new(PortName::UNNAMED, protocol, 5300.try_into().unwrap());
    slice.ports = [port].into();
    slice.endpoints = pods
        .iter()
        .map(|pod| Endpoint::new((*pod).into()))
        .collect();
    slice
}

/// A Service of TCP, and one of UDP, of which connection tracking has flows.
fn lists() -> Vec<Change> {
    let services = vec![
        object("web", Protocol::Tcp, WEB),
        object("dns", Protocol::Udp, DNS),
    ];
    let slices = vec![
        slice("web", Protocol::Tcp, &PODS),
        slice("dns", Protocol::Udp, &PODS[..1]),
    ];
    vec![
        Change::ServicesReplaced(services),
        Change::EndpointSlicesReplaced(slices),
    ]
}

/// The Service of UDP gets another endpoint, and the other one an external IP.
fn changes() -> Vec<Change> {
    let mut web = object("web", Protocol::Tcp, WEB);
    web.external_ips = [OUTSIDE.into()].into();
    vec![
        Change::EndpointSliceApplied(slice("dns", Protocol::Udp, &PODS[1..])),
        Change::ServiceApplied(web),
    ]
}

type Proxy = Proxier<Ipvs<IpvsKernel<FakeSocket>>>;

/// What a life leaves: the node's state, the words of the rules, and the flows.
type Left = (NodeState, Vec<String>, BTreeSet<u16>);

/// A node in the network namespace of this thread, and svcproxy.
struct Life {
    ipvs: FakeKernel,
    sysctls: TempDir,
    proxier: Proxy,
}

impl Life {
    fn new() -> Self {
        let sysctls = tempfile::tempdir().unwrap();
        for sysctl in Sysctl::ALL {
            let file = sysctls.path().join(sysctl.name().replace('.', "/"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "0").unwrap();
        }
        let ipvs = FakeKernel::new();
        let mut config = config();
        config.service_cidrs = ["10.96.0.0/12", "fd00:10:96::/112"]
            .map(|cidr| cidr.parse().unwrap())
            .to_vec();
        config.node_ips = vec!["192.0.2.1".parse().unwrap()];
        let plane = Ipvs::new(open(&ipvs, &sysctls));
        let proxier = Proxier::new(Arc::new(config), plane);
        Self {
            ipvs,
            sysctls,
            proxier,
        }
    }

    /// What happens before the fault can.
    fn prepare(&mut self, phase: Phase) {
        match phase {
            Phase::ColdStart => {}
            Phase::Change => super::conntrack::begin(4001, "10.96.0.10:53"),
            Phase::Audit => {
                let mut other = open(&self.ipvs, &self.sysctls);
                let there = other.observe().unwrap();
                let routes = there.routes.into_iter().map(Step::DeleteRoute);
                succeed(&mut other, routes);
                other.remove_ruleset().unwrap();
            }
            Phase::Drain => {
                let web = VirtualServerKey::new(Protocol::Tcp, (WEB, 53).into());
                for pod in PODS {
                    let pod = RealServerKey::new(pod.into(), 5300);
                    self.ipvs
                        .set_connections(&web, &pod, Connections::new(1, 0, 0));
                }
                let gone = [Change::EndpointSliceApplied(slice(
                    "web",
                    Protocol::Tcp,
                    &[],
                ))];
                let report = self.proxier.handle(gone).unwrap().unwrap();
                assert!(report.is_success(), "{:?}", report.applied);
                assert!(self.proxier.is_draining());
                for pod in PODS {
                    let pod = RealServerKey::new(pod.into(), 5300);
                    self.ipvs
                        .set_connections(&web, &pod, Connections::new(0, 0, 0));
                }
            }
            Phase::Cleanup => {}
        }
    }

    /// Returns what failed.
    fn act(&mut self, phase: Phase) -> Vec<String> {
        let done = match phase {
            Phase::ColdStart => self.proxier.handle(lists()),
            Phase::Change => self.proxier.handle(changes()),
            Phase::Audit => return self.audit().1,
            Phase::Drain => self.proxier.drain(std::time::Instant::now()),
            Phase::Cleanup => {
                let cleaned = cleanup(&mut open(&self.ipvs, &self.sysctls));
                let failed = |report: &ApplyReport| errors(report);
                return match cleaned {
                    Ok(cleaned) => failed(&cleaned.applied),
                    Err(error) => vec![error.to_string()],
                };
            }
        };
        failures(done)
    }

    /// A whole audit: how many steps it took, and what failed.
    fn audit(&mut self) -> (usize, Vec<String>) {
        let (mut steps, mut failed) = (0, Vec::new());
        loop {
            let done = self.proxier.audit();
            if let Ok(Some(report)) = &done {
                steps += report.plan.steps().len();
            }
            failed.extend(failures(done));
            if !self.proxier.is_auditing() {
                return (steps, failed);
            }
        }
    }

    /// Faults have ended: svcproxy tries again.
    fn recover(&mut self, phase: Phase) {
        if phase == Phase::Cleanup {
            assert_eq!(self.act(phase), [""; 0]);
            return;
        }
        // What drains goes at a later check.
        for _ in 0..2 {
            self.audit();
            _ = self.proxier.drain(std::time::Instant::now()).unwrap();
        }
        assert_eq!(
            self.audit(),
            (0, Vec::new()),
            "an audit finds something to do"
        );
    }

    fn left(&self, listing: &dyn Fn() -> Vec<String>) -> Left {
        let state = open(&self.ipvs, &self.sysctls).observe().unwrap();
        (state, listing(), super::conntrack::flows())
    }
}

/// Sorted: the kernel lists the elements of a set as it hashes them. The order of rules is in the
/// fingerprint of the ruleset.
fn words(listing: &str) -> Vec<String> {
    let words = listing.split([' ', ',', '\n', '\t']);
    let mut words: Vec<_> = words.map(str::to_owned).collect();
    words.sort();
    words
}

fn open(ipvs: &FakeKernel, sysctls: &TempDir) -> IpvsKernel<FakeSocket> {
    let kernel = IpvsKernel::with_client(ipvs.client().unwrap()).unwrap();
    kernel.proc_sys(sysctls.path())
}

fn errors(report: &ApplyReport) -> Vec<String> {
    let failures = report.failures.iter();
    failures.map(|failure| failure.error.to_string()).collect()
}

fn failures(done: Result<Option<SyncReport>, NodeError>) -> Vec<String> {
    match done {
        Ok(report) => report.map_or_else(Vec::new, |report| errors(&report.applied)),
        Err(error) => vec![error.to_string()],
    }
}

/// The nth request of a phase fails. `None` if it has fewer.
fn life(phase: Phase, fault: Option<(usize, Fault)>, expected: Option<&Left>) -> Option<Left> {
    let node = super::conntrack::node(&format!(
        "udp sport 4001 ip daddr 10.96.0.10 dnat ip to {}:5300",
        std::net::Ipv4Addr::from(PODS[0])
    ));
    let listing = || words(&listing(&node));
    node.enter(|| {
        let mut life = Life::new();
        for earlier in phase.earlier() {
            life.prepare(*earlier);
            assert_eq!(life.act(*earlier), [""; 0], "{earlier:?}");
        }
        life.prepare(phase);
        if let Some((nth, fault)) = fault {
            faults::inject(nth, fault);
        }
        let failed = life.act(phase);
        if faults::clear() > 0 {
            return None;
        }
        let Some(expected) = expected else {
            assert_eq!(failed, [""; 0], "{phase:?}, without a fault");
            life.recover(phase);
            return Some(life.left(&listing));
        };
        let at_once = life.left(&listing);
        let case = format!("{phase:?}, {fault:?}");
        assert!(
            !failed.is_empty() || at_once == *expected,
            "{case}: nothing was reported, and not everything is right:\n{at_once:#?}\nexpected:\n{expected:#?}"
        );
        life.recover(phase);
        let left = life.left(&listing);
        assert!(left == *expected, "{case}: {failed:?}\n{left:#?}\nexpected:\n{expected:#?}");
        Some(left)
    })
}

/// What a run tries. Everything takes an hour, so each day has others of the first ones; with
/// `SVCPROXY_EVERY_ERRNO`, it is everything.
struct Selection {
    faults: Vec<Fault>,
    first: usize,
    stride: usize,
}

impl Selection {
    fn of_this_run() -> Self {
        let rejections = ERRNOS.map(Fault::Rejected);
        let others = [
            Fault::Lost(ENOBUFS),
            Fault::Interrupted,
            Fault::Doubled,
            Fault::Cut,
            Fault::Unsent(ENOBUFS),
        ];
        if std::env::var_os("SVCPROXY_EVERY_ERRNO").is_some() {
            return Self {
                faults: rejections.into_iter().chain(others).collect(),
                first: 1,
                stride: 1,
            };
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let day = usize::try_from(now.unwrap().as_secs() / 86_400).unwrap();
        Self {
            faults: vec![rejections[day % 4], others[day % 2]],
            first: 1 + day % 3,
            stride: 3,
        }
    }
}

/// Makes requests of a phase fail.
fn every_request(phase: Phase) {
    let expected = life(phase, None, None).unwrap();
    let selection = Selection::of_this_run();
    let mut lives = 0;
    for fault in selection.faults {
        let mut requests = (selection.first..MOST).step_by(selection.stride);
        let is_over = |nth: &usize| life(phase, Some((*nth, fault)), Some(&expected)).is_none();
        let end = requests.find(is_over).unwrap();
        lives += (end - selection.first) / selection.stride;
    }
    println!("{phase:?}: {lives} failures");
}

#[test]
#[ignore = "netns: needs root"]
fn every_request_of_a_cold_start_fails_once() {
    every_request(Phase::ColdStart);
}

#[test]
#[ignore = "netns: needs root"]
fn every_request_of_a_change_fails_once() {
    every_request(Phase::Change);
}

#[test]
#[ignore = "netns: needs root"]
fn every_request_of_an_audit_fails_once() {
    every_request(Phase::Audit);
}

#[test]
#[ignore = "netns: needs root"]
fn every_request_of_a_drain_fails_once() {
    every_request(Phase::Drain);
}

#[test]
#[ignore = "netns: needs root"]
fn every_request_of_a_cleanup_fails_once() {
    every_request(Phase::Cleanup);
}
