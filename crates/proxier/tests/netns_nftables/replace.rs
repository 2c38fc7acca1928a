//! Rules are replaced while clients ask: other settings, or another version's rules.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proxier::reconcile::SyncReport;
use testbed::{Client, Host, Protocol as Transport, Topology, eventually};

use super::lab::{backends, settings};
use super::*;

/// The number of Services, each with another number of endpoints: the chains that choose among them
/// do not fit into one transaction.
const SERVICES: u8 = 60;

/// Service `n` has `n + 1` numbers for the endpoints on two pods; some have session affinity.
fn services(pods: [&Host; 2]) -> Vec<Change> {
    let service = |n: u8| {
        let name = ObjectName::new("default", &format!("dns-{n}")).unwrap();
        let mut service = Service::new(name.clone());
        service.cluster_ips = [[10, 96, 1, n].into()].into();
        if n.is_multiple_of(3) {
            service.session_affinity = SessionAffinity::ClientIp(60.try_into().unwrap());
        }
        let mut of = ServicePort::new(PortName::UNNAMED, Protocol::Udp, port(53));
        of.node_port = (n == 1).then(|| port(30_053));
        service.ports = [of].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        slice.ports = [EndpointPort::new(
            PortName::UNNAMED,
            Protocol::Udp,
            port(5353),
        )]
        .into();
        let [mut many, mut one] = pods.map(|pod| Endpoint::new(pod.v4.into()));
        (many.weight, one.weight) = (n.into(), 1);
        slice.endpoints = [many, one].into();
        [
            Change::ServiceApplied(service),
            Change::EndpointSliceApplied(slice),
        ]
    };
    (1..=SERVICES).flat_map(service).collect()
}

/// One datagram of a new flow. A lost one is not sent again, so each gap is an error.
fn ask(from: &Host, to: impl Into<std::net::SocketAddr>) {
    let to = to.into();
    let answer = Client::new(Transport::Udp, to).ask(from);
    answer.unwrap_or_else(|error| panic!("{to} from {}: {error}", from.name()));
}

fn ask_all(topology: &Topology) {
    let node = topology.node();
    for n in 1..=SERVICES {
        ask(&node.pods[2], ([10, 96, 1, n], 53));
    }
    ask(&node.host, ([10, 96, 1, 1], 53));
    ask(&topology.client, (node.host.v4, 30_053));
}

/// The settings, and others that need other rules.
fn variants(topology: &Topology) -> [Arc<Config>; 3] {
    let plain = settings(topology);
    let (mut masquerading, mut other_pods) = (plain.clone(), plain.clone());
    masquerading.masquerade_all = true;
    other_pods.cluster_cidrs = vec!["10.128.0.0/9".parse().unwrap()];
    [masquerading, other_pods, plain].map(Arc::new)
}

/// Adds a rule without effect to all chains, so that no tag is complete: the rules of another version
/// look like this.
fn as_of_another_version(host: &Host, node: &NodeState) {
    let choosers = node.choosers.iter().map(ToString::to_string);
    let chains = choosers.filter_map(|name| Some(name.strip_suffix(" (ipv4)")?.to_owned()));
    let chains = chains.chain(["inside".to_owned(), "output".to_owned()]);
    let rules: String = chains
        .map(|chain| format!("add rule ip svcproxy {chain} counter\n"))
        .collect();
    host.run_with_input(["nft", "-f", "-"], &rules).unwrap();
}

/// Whatever is in one transaction, each one leaves every Service with an answer.
#[test]
#[ignore = "netns: needs root"]
fn every_service_is_served_after_each_step() {
    let topology = Topology::new("steps", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Udp);
    let changes = services(pods);
    let host = &node.host;
    let [masquerading, other_pods, plain] = variants(&topology);
    let mut kernel = host.enter(|| NftablesKernel::open().unwrap());
    let mut follow = |settings: &Arc<Config>, one_by_one: bool| {
        let state = desired(&changes, settings);
        let (mut node, plan) = host.enter(|| {
            let node = kernel.observe().unwrap();
            let plan = Plan::new(&state, &node, Scope::Full);
            (node, plan)
        });
        let parts: Vec<Plan> = match one_by_one {
            false => vec![plan],
            true => plan
                .steps()
                .iter()
                .map(|step| [step.clone()].into_iter().collect())
                .collect(),
        };
        let count = parts.len();
        for part in parts {
            host.enter(|| apply(&mut kernel, &part, &mut node));
            ask_all(&topology);
        }
        assert_eq!(host.enter(|| kernel.observe().unwrap()), node);
        assert!(Plan::new(&state, &node, Scope::Full).is_empty());
        (node, count)
    };
    let (observed, _) = follow(&plain, false);
    assert!(observed.choosers.len() >= usize::from(SERVICES));
    for settings in [masquerading, other_pods, Arc::clone(&plain)] {
        assert_eq!(follow(&settings, true).1, 1, "only the rules differ");
    }
    as_of_another_version(host, &observed);
    ask_all(&topology);
    let (after, steps) = follow(&plain, true);
    assert_eq!(steps, 1 + observed.choosers.len());
    assert_eq!(after, observed);
}

#[test]
#[ignore = "netns: needs root"]
fn no_datagram_is_lost_while_rules_are_replaced() {
    let topology = Topology::new("replace", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Udp);
    let host = &node.host;
    let kernel = host.enter(|| NftablesKernel::open().unwrap());
    let mut proxier = Proxier::new(variants(&topology)[2].clone(), Nftables::new(kernel));
    let listed = [
        Change::ServicesReplaced(vec![]),
        Change::EndpointSlicesReplaced(vec![]),
    ];
    let first = host.enter(|| proxier.handle(listed.into_iter().chain(services(pods))));
    assert!(first.unwrap().unwrap().is_success());

    let (asked, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let vips = |from: &Host| {
        let mut vips = (1..=SERVICES).cycle();
        while !stopped.load(Ordering::Relaxed) {
            ask(from, ([10, 96, 1, vips.next().unwrap()], 53));
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let goes_on = || {
        let before = asked.load(Ordering::Relaxed);
        let more = || {
            let now = asked.load(Ordering::Relaxed);
            (now > before + 20).then_some(()).ok_or(now)
        };
        eventually(Duration::from_secs(30), more).unwrap();
    };
    let is_rules_only = |report: &SyncReport<Plan>| {
        let mut steps = report.plan.steps().iter();
        let is_of_rules =
            |step: &Step| matches!(step, Step::InstallRuleset(..) | Step::ReplaceChooser(_));
        assert!(report.is_success(), "{report:#?}");
        !report.plan.is_empty() && steps.all(is_of_rules)
    };
    thread::scope(|scope| {
        let _stop = Stop(&stopped);
        for from in [&node.pods[2], host] {
            let vips = &vips;
            scope.spawn(move || vips(from));
        }
        for _ in 0..4 {
            for settings in variants(&topology) {
                goes_on();
                proxier.reconfigure(settings);
                let report = host.enter(|| proxier.handle([])).unwrap().unwrap();
                assert!(is_rules_only(&report));
            }
            let observed = host.enter(|| NftablesKernel::open().unwrap().observe().unwrap());
            as_of_another_version(host, &observed);
            goes_on();
            let report = host.enter(|| proxier.audit()).unwrap().unwrap();
            assert!(is_rules_only(&report));
        }
        goes_on();
    });
}

/// Ends the load also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
