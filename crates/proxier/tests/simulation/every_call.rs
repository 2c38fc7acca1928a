//! Every call fails once: at each call of each phase of a life, each errno that the kernel can give,
//! lost answers, interrupted listings, and programs that fail or are killed.
//!
//! Whatever fails, it is reported, or svcproxy did it again at once; the other Services do not wait;
//! and after the fault everything becomes right, which [`Happening::Settle`] checks.

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeNode, Ipvs, cleanup};

use crate::cluster::Cluster;
use crate::script::{Drift, ERRNOS, Fault, Happening, Kind, Mode, is_answer};
use crate::world::World;

/// What happens before the fault, and what happens while it waits for its call.
struct Phase {
    name: &'static str,
    before: Vec<Happening>,
    during: Vec<Happening>,
}

const ALL: u8 = 200;
/// Words of steps that concern all destinations, or those of a family.
const SHARED: [&str; 4] = ["rules", "route", "sysctl", "chain"];

fn told() -> [Happening; 3] {
    [Kind::Node, Kind::Service, Kind::Slice].map(|kind| Happening::Deliver(kind, ALL))
}

/// Five Services, of which one has no pods, in a mode.
fn cluster(mode: Mode) -> Vec<Happening> {
    let mut all = vec![Happening::Switch(mode)];
    for n in 0..5 {
        all.push(Happening::Service(n, 10 + u64::from(n)));
        all.push(Happening::Scale(
            n,
            [0b11, 0b1110, 0, 0b1000_1111, 0b101][usize::from(n)],
        ));
    }
    all.extend(told());
    all
}

fn phases(mode: Mode) -> Vec<Phase> {
    let other = match mode {
        Mode::Ipvs => Mode::Nftables,
        _ => Mode::Ipvs,
    };
    let with = |more: &[Happening]| [&cluster(mode)[..], &[Happening::Settle], more].concat();
    let phase = |name, before, during: &[Happening]| Phase {
        name,
        before,
        during: during.to_vec(),
    };
    let change = [
        Happening::Scale(0, 0b1101),
        Happening::Service(1, 77),
        Happening::Gone(3),
        Happening::Roll(4),
    ];
    let mut phases = vec![
        phase("cold start", cluster(other), &[Happening::Switch(mode)]),
        phase("change", with(&change), &told()),
        phase("audit", with(&[]), &[Happening::Wait(61_000)]),
        phase(
            "audit that finds drift",
            with(&[Happening::Drift(Drift::Rules, false)]),
            &[Happening::Wait(61_000)],
        ),
        phase("restart", with(&[]), &[Happening::Restart]),
    ];
    if mode == Mode::Ipvs {
        let drains: Vec<_> = (0..12).map(|nth| Happening::Connect(nth, 1)).collect();
        let leaves = [
            &drains[..],
            &[Happening::Scale(0, 0), Happening::Roll(1)],
            &told(),
        ]
        .concat();
        let ends: Vec<_> = (0..12).map(|nth| Happening::Connect(nth, 0)).collect();
        let end = [&ends[..], &[Happening::Wait(3_000)]].concat();
        phases.push(phase("drain", with(&leaves), &end));
        let drift = Happening::Drift(Drift::RealServer(2), false);
        let routes = Happening::Drift(Drift::Routes, false);
        let wait = Happening::Wait(61_000);
        phases.push(phase(
            "audit of real servers",
            with(&[drift, routes]),
            &[wait],
        ));
    }
    phases
}

fn faults(mode: Mode) -> Vec<fn(u8, i32) -> Fault> {
    match mode {
        Mode::Ipvs => vec![Fault::Step, Fault::Request, |_, errno| {
            Fault::Unreadable(errno)
        }],
        Mode::Nftables => vec![Fault::Step, |_, errno| Fault::Unreadable(errno)],
        Mode::Iptables => vec![],
    }
}

fn faults_without_errno(mode: Mode) -> Vec<fn(u8) -> Fault> {
    match mode {
        Mode::Ipvs => vec![Fault::LostReply],
        Mode::Nftables => vec![Fault::LostReply],
        Mode::Iptables => vec![|nth| Fault::Step(nth, 0), Fault::Killed, |_| {
            Fault::Unreadable(0)
        }],
    }
}

/// Tries a fault at each call, until there are no more calls. Returns how many there were.
fn at_every_call(mode: Mode, phase: &Phase, fault: impl Fn(u8) -> Fault) -> u8 {
    for nth in 1..=u8::MAX {
        let mut world = World::new();
        phase
            .before
            .iter()
            .for_each(|happening| world.step(happening));
        let hit = world.fails_during(fault(nth), &phase.during);
        let case = format!("{mode:?}, {}, {:?}", phase.name, fault(nth));
        let Some(hit) = hit else {
            return nth - 1;
        };
        assert!(
            !hit.errors.is_empty() || hit.wrong.is_empty(),
            "{case}: nothing was reported, and not everything is right: {hit:#?}"
        );
        // What fails for all, such as the rules, is not a failure of one destination.
        let is_shared = |step: &String| SHARED.iter().any(|word| step.contains(word));
        let is_of_one = !hit.failed.is_empty() && !hit.failed.iter().any(is_shared);
        if is_of_one && mode != Mode::Iptables {
            assert!(hit.unrelated.is_empty(), "{case}: others wait: {hit:#?}");
        }
        world.step(&Happening::Settle);
        // It has no number.
        if matches!(fault(nth), Fault::Unreadable(_)) {
            return nth;
        }
    }
    u8::MAX
}

/// The errnos to try at each call. All of them take minutes, so each day has others; with
/// `SVCPROXY_EVERY_ERRNO`, all.
fn errnos_of_the_day() -> Vec<i32> {
    if std::env::var_os("SVCPROXY_EVERY_ERRNO").is_some() {
        return ERRNOS.into();
    }
    let day = super::first_seed();
    let start = usize::try_from(day % 11).unwrap();
    let all = ERRNOS.iter().cycle();
    all.skip(start).take(1).copied().collect()
}

fn every_call_of(mode: Mode) {
    let errnos = errnos_of_the_day();
    for phase in phases(mode) {
        let mut counts = Vec::new();
        for fault in faults(mode) {
            let is_possible = |errno: &&i32| match fault(1, **errno) {
                Fault::Request(_, errno) => !is_answer(errno),
                _ => true,
            };
            for errno in errnos.iter().filter(is_possible) {
                counts.push(at_every_call(mode, &phase, |nth| fault(nth, *errno)));
            }
        }
        for fault in faults_without_errno(mode) {
            counts.push(at_every_call(mode, &phase, fault));
        }
        let calls = counts.iter().copied().max().unwrap_or(0);
        let runs: u32 = counts.iter().copied().map(u32::from).sum();
        assert!(calls > 0, "{mode:?}, {}: no call was made", phase.name);
        println!(
            "{mode:?}, {}: {calls} calls, {runs} failures, errnos {errnos:?}",
            phase.name
        );
    }
}

#[test]
fn every_call_of_mode_ipvs_fails_once() {
    every_call_of(Mode::Ipvs);
}

#[test]
fn every_call_of_mode_nftables_fails_once() {
    every_call_of(Mode::Nftables);
}

#[test]
fn every_call_of_mode_iptables_fails_once() {
    every_call_of(Mode::Iptables);
}

/// The clean-up of mode ipvs: what fails is reported, and a second clean-up removes the rest.
#[test]
fn every_call_of_a_cleanup_fails_once() {
    let mut calls = 0;
    for errno in ERRNOS {
        for nth in 1.. {
            let node = FakeNode::default();
            let config = Config::new("here", vec![[192, 0, 2, 1].into()]);
            let plane = Ipvs::new(node.kernel().unwrap());
            let mut proxier = Proxier::new(config.into(), plane);
            let mut objects = Cluster::default();
            for happening in cluster(Mode::Ipvs) {
                objects.take(&happening);
            }
            let lists = [Kind::Node, Kind::Service, Kind::Slice].map(|kind| objects.list(kind));
            assert!(proxier.handle(lists).unwrap().unwrap().is_success());

            let mut kernel = node.kernel().unwrap();
            node.ipvs().fail_request(nth, errno);
            let cleaned = cleanup(&mut kernel);
            if node.pending_faults() > 0 {
                calls = calls.max(nth - 1);
                break;
            }
            let is_empty = |node: &FakeNode| {
                let state = node.snapshot();
                let rest = (
                    state.virtual_servers.len(),
                    state.elements.len(),
                    state.routes.len(),
                );
                rest == (0, 0, 0)
            };
            let is_reported = match cleaned {
                Ok(cleaned) => !cleaned.applied.failures.is_empty(),
                Err(_) => true,
            };
            let case = format!("errno {errno} at request {nth}");
            assert!(is_reported || is_empty(&node), "{case}: not reported");
            cleanup(&mut kernel).unwrap();
            assert!(is_empty(&node), "{case}: something is left");
        }
    }
    assert!(calls > 5, "{calls}");
}
