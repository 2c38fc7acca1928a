//! Tests the invariants of the scheduler with a simulated clock and node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::pace::Pace;
use super::retries::back_off;
use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Debug, Clone)]
enum Event {
    Change(u8),
    Drift,
    Settings,
    /// Steps for the object begin or cease to fail.
    Fault(u8, bool),
    /// The node becomes unreadable or readable; it must be read next.
    Unreadable(bool),
    /// Real servers begin to drain or have drained.
    Draining(bool),
}

/// A node of versioned objects, and the loop around the scheduler.
struct World {
    schedule: Schedule<u8>,
    start: Instant,
    now: Instant,
    desired: BTreeMap<u8, u32>,
    applied: BTreeMap<u8, u32>,
    /// What changed since the last sync.
    dirty: BTreeSet<u8>,
    faults: BTreeSet<u8>,
    is_unreadable: bool,
    is_known: bool,
    is_draining: bool,
    /// The number of slices of an audit, and those left of the current one.
    slices: u32,
    slices_left: u32,
    cost: Duration,
    /// The actions so far, and when each began.
    done: Vec<(Duration, Action<u8>)>,
    /// When audits ended.
    audits: Vec<Duration>,
    full_reads: u32,
}

impl World {
    fn new(intervals: Intervals) -> Self {
        let start = Instant::now();
        Self {
            schedule: Schedule::new(start, intervals, 7),
            start,
            now: start,
            desired: BTreeMap::new(),
            applied: BTreeMap::new(),
            dirty: BTreeSet::new(),
            faults: BTreeSet::new(),
            is_unreadable: false,
            is_known: true,
            is_draining: false,
            slices: 1,
            slices_left: 0,
            cost: ms(3),
            done: Vec::new(),
            audits: Vec::new(),
            full_reads: 0,
        }
    }

    fn take(&mut self, event: &Event) {
        match *event {
            Event::Change(object) => {
                *self.desired.entry(object).or_default() += 1;
                self.dirty.insert(object);
                self.schedule.changed(self.now, 1);
            }
            Event::Drift => self.schedule.drifted(self.now),
            Event::Settings => {
                let intervals = self.schedule.intervals;
                self.schedule.configured(self.now, intervals);
            }
            Event::Fault(object, true) => _ = self.faults.insert(object),
            Event::Fault(object, false) => _ = self.faults.remove(&object),
            Event::Unreadable(is_unreadable) => {
                self.is_unreadable = is_unreadable;
                self.is_known &= !is_unreadable;
            }
            Event::Draining(is_draining) => {
                self.is_draining = is_draining;
                if is_draining {
                    self.schedule.drains(self.now);
                }
            }
        }
    }

    /// Processes sorted events, and then continues until a moment.
    fn run(&mut self, events: impl IntoIterator<Item = (Duration, Event)>, until: Duration) {
        let mut events = events.into_iter().peekable();
        // The number of actions that each kind of work has waited for since it was due.
        let mut waited = [0; 4];
        loop {
            while let Some((_, event)) = events.next_if(|(at, _)| self.start + *at <= self.now) {
                self.take(&event);
            }
            if self.now >= self.start + until {
                return;
            }
            let turns = Turn::Audit.behind();
            let due = turns.map(|turn| self.schedule.due(turn, self.now));
            let due = due.map(|due| due.is_some_and(|due| due <= self.now));
            let Some(action) = self.schedule.next(self.now) else {
                assert_eq!(due, [false; 4], "something is due, and nothing is done");
                let next = self.schedule.deadline(self.now);
                assert!(next > self.now, "it would spin");
                let event = events.peek().map(|(at, _)| self.start + *at);
                let next = event.map_or(next, |event| event.min(next));
                self.now = next.min(self.start + until);
                continue;
            };
            for ((turn, is_due), waited) in turns.into_iter().zip(due).zip(&mut waited) {
                if turn == self.schedule.last {
                    assert!(is_due, "{turn:?} was not due");
                    *waited = 0;
                } else if is_due {
                    *waited += 1;
                    assert!(*waited <= 3, "{turn:?} starves");
                } else {
                    // Another action did its work: an audit retries what failed.
                    *waited = 0;
                }
            }
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action<u8>) {
        let began = self.now.duration_since(self.start);
        self.now += self.cost;
        let mut tried = Tried::Objects(BTreeSet::new());
        let mut failed = BTreeSet::new();
        match &action {
            _ if !self.is_known && action != Action::Drain => {
                self.full_reads += 1;
                if self.is_unreadable {
                    failed.insert(Failed::Node);
                } else {
                    self.is_known = true;
                    self.dirty.clear();
                    (tried, failed) = self.apply_all();
                }
            }
            Action::Sync => {
                let dirty = std::mem::take(&mut self.dirty);
                (tried, failed) = self.apply(dirty);
            }
            Action::Retry(items) if items.iter().all(|item| matches!(item, Failed::Object(_))) => {
                let objects = items.iter().filter_map(|item| match item {
                    Failed::Object(object) => Some(*object),
                    _ => None,
                });
                (tried, failed) = self.apply(objects.collect());
            }
            Action::Retry(_) => (tried, failed) = self.apply_all(),
            Action::Drain => {}
            Action::Audit if self.slices_left > 0 => self.slices_left -= 1,
            Action::Audit => {
                self.slices_left = self.slices - 1;
                (tried, failed) = self.apply_all();
            }
        }
        if action == Action::Audit && self.slices_left == 0 {
            self.audits.push(self.now.duration_since(self.start));
        }
        let outcome = ActionResult {
            tried,
            failed,
            is_auditing: self.slices_left > 0,
            is_draining: self.is_draining,
        };
        self.schedule.finished(self.now, &action, outcome);
        self.done.push((began, action));
    }

    fn apply_all(&mut self) -> (Tried<u8>, BTreeSet<Failed<u8>>) {
        let all = self.desired.keys().copied().collect();
        (Tried::All, self.apply(all).1)
    }

    fn apply(&mut self, objects: BTreeSet<u8>) -> (Tried<u8>, BTreeSet<Failed<u8>>) {
        let mut failed = BTreeSet::new();
        for object in &objects {
            if self.faults.contains(object) {
                failed.insert(Failed::Object(*object));
            } else if let Some(version) = self.desired.get(object) {
                self.applied.insert(*object, *version);
            }
        }
        (Tried::Objects(objects), failed)
    }

    fn began(&self, of: impl Fn(&Action<u8>) -> bool) -> Vec<Duration> {
        let done = self.done.iter().filter(|(_, action)| of(action));
        done.map(|(at, _)| *at).collect()
    }
}

fn is_retry(action: &Action<u8>) -> bool {
    matches!(action, Action::Retry(_))
}

/// A change of an object every millisecond.
fn storm(of: u8, from: u64, until: u64) -> impl Iterator<Item = (Duration, Event)> {
    (from..until).map(move |at| (ms(at), Event::Change(of)))
}

/// Asserts that retries follow the back-off, except for the jitter and one action of each kind.
fn assert_backs_off(times: &[Duration], failed: Duration, intervals: Intervals) {
    let mut last = failed;
    for (at, failures) in times.iter().zip(1..) {
        let pause = back_off(failures, intervals);
        let waited = *at - last;
        assert!(
            waited >= pause * 3 / 4,
            "{failures}: {waited:?} of {pause:?}"
        );
        assert!(
            waited <= pause + ms(20),
            "{failures}: {waited:?} of {pause:?}"
        );
        last = *at;
    }
}

#[test]
fn a_storm_of_changes_starves_neither_audits_nor_drains() {
    let intervals = Intervals {
        audit: ms(300),
        drain: ms(100),
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    world.slices = 5;
    let drains = [(ms(0), Event::Draining(true))];
    world.run(drains.into_iter().chain(storm(1, 0, 3100)), ms(3100));
    assert_eq!(world.audits.len(), 10, "{:?}", world.audits);
    let looks = world.began(|action| *action == Action::Drain).len();
    assert!((27..=31).contains(&looks), "{looks}");
    let syncs = world.began(|action| *action == Action::Sync);
    assert!(syncs.windows(2).all(|two| two[1] - two[0] < ms(125)));
}

#[test]
fn an_object_that_always_fails_costs_only_its_retries() {
    let mut world = World::new(Intervals::default());
    let first = [(ms(0), Event::Fault(9, true)), (ms(0), Event::Change(9))];
    world.run(first.into_iter().chain(storm(1, 1, 40_000)), ms(40_000));
    assert_eq!(world.full_reads, 0);
    let retries = world.began(is_retry);
    // After 1, 2, 4, 8 and 16 seconds, each minus the jitter.
    assert!((5..=6).contains(&retries.len()), "{retries:?}");
    assert_backs_off(&retries, ms(0), Intervals::default());
    // Audits retry it too, and the changes of other objects were never late: one a millisecond.
    assert!(world.applied[&1] + 110 >= world.desired[&1]);
    world.take(&Event::Fault(9, false));
    world.run([], ms(80_000));
    assert_eq!(world.applied, world.desired);
}

#[test]
fn changes_of_a_failed_object_neither_advance_nor_delay_its_retry() {
    let mut world = World::new(Intervals::default());
    let fault = [(ms(0), Event::Fault(9, true))];
    world.run(fault.into_iter().chain(storm(9, 0, 8_000)), ms(8_000));
    let retries = world.began(is_retry);
    assert!((2..=4).contains(&retries.len()), "{retries:?}");
    assert_backs_off(&retries, ms(0), Intervals::default());
    // A change that ends the failure takes effect with the next sync, and nothing is left to retry.
    world.run(
        [
            (ms(8_000), Event::Fault(9, false)),
            (ms(8_000), Event::Change(9)),
        ],
        ms(8_110),
    );
    assert_eq!(world.applied, world.desired);
    assert_eq!(world.schedule.retries.next(), None);
}

#[test]
fn an_unreadable_node_is_read_only_at_its_retries() {
    let mut world = World::new(Intervals {
        audit: ms(2_500),
        ..Intervals::default()
    });
    let unreadable = [(ms(0), Event::Unreadable(true))];
    world.run(
        unreadable.into_iter().chain(storm(1, 0, 20_000)),
        ms(20_000),
    );
    let retries = world.began(is_retry);
    assert_backs_off(&retries, ms(0), Intervals::default());
    assert_eq!(world.full_reads as usize, retries.len() + 1);
    assert!((4..=5).contains(&retries.len()), "{retries:?}");
    // An operator may repair it with new settings.
    let mend = [Event::Unreadable(false), Event::Settings];
    world.run(mend.map(|event| (ms(20_000), event)), ms(20_004));
    assert_eq!(world.applied, world.desired);
}

#[test]
fn pauses_double_up_to_the_limit() {
    let pauses = (1..=7).map(|failures| back_off(failures, Intervals::default()).as_secs());
    assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(back_off(u32::MAX, Intervals::default()).as_secs(), 30);
}

#[test]
fn nodes_that_fail_together_do_not_retry_together() {
    let first = |seed| {
        let now = Instant::now();
        let mut schedule = Schedule::<u8>::new(now, Intervals::default(), seed);
        schedule.changed(now, 1);
        let action = schedule.next(now).unwrap();
        let outcome = ActionResult {
            tried: Tried::Objects(BTreeSet::from([1])),
            failed: BTreeSet::from([Failed::Object(1)]),
            is_auditing: false,
            is_draining: false,
        };
        schedule.finished(now, &action, outcome);
        schedule.deadline(now).duration_since(now)
    };
    let times: BTreeSet<_> = (0..100).map(first).collect();
    assert!(times.len() > 20, "{times:?}");
    assert!(
        times
            .iter()
            .all(|time| *time >= ms(749) && *time <= ms(1000))
    );
}

#[test]
fn the_first_change_goes_at_once_and_a_storm_goes_out_at_the_rate() {
    let intervals = Intervals {
        min_sync: ms(100),
        burst: 3,
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    world.run(storm(1, 500, 3_500), ms(4_000));
    let syncs = world.began(|action| *action == Action::Sync);
    // Three in a row, then one every 100 ms.
    assert_eq!(syncs[..3], [ms(500), ms(503), ms(506)]);
    assert!(
        syncs.windows(4).all(|four| four[3] - four[0] >= ms(98)),
        "{syncs:?}"
    );
    assert!((30..=34).contains(&syncs.len()), "{}", syncs.len());
    assert_eq!(world.applied, world.desired);
    // The quiet time allows another burst.
    world.run(storm(1, 4_000, 4_007), ms(4_010));
    let more = world.began(|action| *action == Action::Sync).len() - syncs.len();
    assert_eq!(more, 3);
}

/// The syncs of `count` changes, one each `every` microseconds, and how long the changes waited at
/// most.
fn syncs_of(count: u64, every: u64) -> (usize, Duration) {
    let mut world = World::new(Intervals {
        audit: Duration::from_secs(3_600),
        ..Intervals::default()
    });
    let at = |n| Duration::from_micros(every * n);
    let changes = (0..count).map(|n| (at(n), Event::Change(1)));
    world.run(changes, at(count) + ms(500));
    assert_eq!(world.applied, world.desired);
    let syncs = world.began(|action| *action == Action::Sync);
    let mut begun = syncs.iter().peekable();
    let waits = (0..count).map(|n| {
        while begun.next_if(|sync| **sync < at(n)).is_some() {}
        **begun.peek().unwrap() - at(n)
    });
    (syncs.len(), waits.max().unwrap())
}

#[test]
fn changes_that_come_one_by_one_never_wait() {
    for every in [30, 50, 1_000] {
        assert_eq!(syncs_of(100, every * 1_000), (100, ms(0)), "{every} ms");
    }
}

#[test]
fn a_burst_costs_syncs_by_its_length_not_by_its_changes() {
    for (count, every, most) in [
        // One second at different rates.
        (100, 10_000, 24),
        (1_000, 1_000, 24),
        (10_000, 100, 24),
        // An API server that takes 15 ms for each change.
        (1_000, 15_000, 170),
        // All at once.
        (10_000, 0, 1),
    ] {
        let (syncs, waited) = syncs_of(count, every);
        assert!(syncs <= most, "{count} each {every} us: {syncs} syncs");
        // It may have arrived while a sync of 3 ms ran.
        let most = Pace::LONGEST + ms(3);
        assert!(waited <= most, "{count} each {every} us: {waited:?}");
    }
}

#[test]
fn a_short_burst_goes_out_without_a_pause_and_so_does_a_change_after_a_long_one() {
    // A Service, its slices, and what its Pods change.
    let (syncs, waited) = syncs_of(u64::from(Pace::CREDIT), 4_000);
    assert_eq!((syncs, waited), (10, ms(0)));
    let mut world = World::new(Intervals::default());
    let burst = storm(1, 0, 1_000);
    let lone = [(ms(1_200), Event::Change(1))];
    world.run(burst.chain(lone), ms(2_000));
    let syncs = world.began(|action| *action == Action::Sync);
    assert_eq!(syncs.last(), Some(&ms(1_200)));
}

#[test]
fn without_a_burst_the_rate_still_applies() {
    let mut world = World::new(Intervals {
        min_sync: ms(100),
        burst: 0,
        ..Intervals::default()
    });
    world.run(storm(1, 0, 1_000), ms(1_000));
    let syncs = world.began(|action| *action == Action::Sync).len();
    assert!((9..=11).contains(&syncs), "{syncs}");
}

#[test]
fn drift_advances_an_audit_once_per_interval() {
    let mut world = World::new(Intervals::default());
    let drifts = (100..3_000).map(|at| (ms(at), Event::Drift));
    world.run(drifts, ms(3_000));
    let audits = world.began(|action| *action == Action::Audit);
    assert_eq!(audits, [ms(100), ms(1_100), ms(2_100)]);
    // The rest of the storm causes one more audit, and then nothing.
    world.run([], ms(30_000));
    assert_eq!(world.audits.len(), 4);
}

#[test]
fn audits_that_begin_late_keep_their_rate() {
    let intervals = Intervals {
        audit: ms(100),
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    world.run(storm(1, 0, 6_100), ms(6_050));
    assert_eq!(world.audits.len(), 60);
}

#[test]
fn settings_delay_changes_by_at_most_one_interval() {
    let intervals = Intervals {
        min_sync: ms(100),
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    let settings = (0..50).map(|at| (ms(5 * at), Event::Settings));
    world.run(settings.chain([(ms(250), Event::Change(1))]), ms(360));
    assert_eq!(world.applied, world.desired);
}

#[test]
fn audits_take_at_most_half_of_the_time() {
    let intervals = Intervals {
        audit: ms(10),
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    world.slices = 10;
    world.run([], ms(3_000));
    let slices = world.began(|action| *action == Action::Audit).len();
    assert!((400..=520).contains(&slices), "{slices}");
}

#[test]
fn drift_after_a_quiet_time_advances_one_audit() {
    let mut world = World::new(Intervals::default());
    let drifts = [100, 5_000, 5_500].map(|at| (ms(at), Event::Drift));
    world.run(drifts, ms(10_000));
    let audits = world.began(|action| *action == Action::Audit);
    assert_eq!(audits, [ms(100), ms(5_000), ms(6_000)]);
}

#[test]
fn events_that_repeat_do_not_postpone_what_is_due() {
    let intervals = Intervals {
        audit: ms(300),
        drain: ms(100),
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    let events = (0..200)
        .flat_map(|at| [Event::Settings, Event::Draining(true)].map(|event| (ms(at * 10), event)));
    world.run(events, ms(2_000));
    assert_eq!(world.audits.len(), 6);
    let looks = world.began(|action| *action == Action::Drain).len();
    assert!((18..=20).contains(&looks), "{looks}");
}

/// A result of an action that tried nothing.
fn outcome(failed: impl IntoIterator<Item = Failed<u8>>) -> ActionResult<u8> {
    ActionResult {
        tried: Tried::Objects(BTreeSet::new()),
        failed: failed.into_iter().collect(),
        is_auditing: false,
        is_draining: false,
    }
}

/// A schedule at a time after its first sync, which took 10 seconds.
fn synced(outcome: ActionResult<u8>) -> (Schedule<u8>, Instant) {
    let now = Instant::now();
    let mut schedule = Schedule::new(now, Intervals::default(), 7);
    schedule.drains(now);
    schedule.changed(now, 1);
    let action = schedule.next(now).unwrap();
    assert_eq!(action, Action::Sync);
    let now = now + ms(10_000);
    schedule.finished(now, &action, outcome);
    (schedule, now)
}

#[test]
fn a_pause_begins_when_the_action_ends() {
    let (schedule, now) = synced(outcome([Failed::Object(1)]));
    let pause = schedule.deadline(now).duration_since(now);
    assert!(pause >= ms(749) && pause <= ms(1_000), "{pause:?}");
}

#[test]
fn an_unreadable_node_is_read_before_anything_else_is_retried() {
    let (mut schedule, now) = synced(outcome([Failed::Node, Failed::Object(1)]));
    let action = schedule.next(now + ms(1_000));
    assert_eq!(action, Some(Action::Retry([Failed::Node].into())));
}

#[test]
fn many_failures_are_retried_in_slices() {
    let (mut schedule, mut now) = synced(outcome((0..100).map(Failed::Object)));
    // Not all at one time: a fifth of them by then.
    let early = schedule.retries.due(now + ms(800)).len();
    assert!((5..=50).contains(&early), "{early}");
    now += ms(1_000);
    let mut retried = BTreeSet::new();
    for _ in 0..2 {
        let action = schedule.next(now).unwrap();
        let Action::Retry(items) = &action else {
            panic!("{action:?}");
        };
        assert!(items.len() <= 64, "{}", items.len());
        retried.extend(items.clone());
        let failed = outcome(items.clone());
        schedule.finished(now, &action, failed);
    }
    assert_eq!(retried.len(), 100);
}

#[test]
fn an_audit_that_another_action_begins_goes_on() {
    let is_auditing = ActionResult {
        is_auditing: true,
        ..outcome([])
    };
    let (mut schedule, now) = synced(is_auditing);
    assert_eq!(schedule.next(now), Some(Action::Audit));
}

#[test]
fn nothing_is_checked_once_nothing_drains() {
    let (schedule, now) = synced(outcome([]));
    assert_eq!(schedule.deadline(now), schedule.audit);
}

#[test]
fn changes_do_not_delay_settings() {
    let (mut schedule, now) = synced(outcome([Failed::Node]));
    schedule.configured(now, Intervals::default());
    schedule.changed(now, 1);
    assert_eq!(schedule.next(now), Some(Action::Sync));
}

#[test]
fn a_shorter_audit_interval_counts_during_an_audit_too() {
    let is_auditing = ActionResult {
        is_auditing: true,
        ..outcome([])
    };
    let (mut schedule, now) = synced(is_auditing);
    let shorter = Intervals {
        audit: ms(5_000),
        ..Intervals::default()
    };
    schedule.configured(now, shorter);
    assert_eq!(schedule.audit, now + ms(5_000));
}

#[test]
fn work_between_the_slices_does_not_delay_the_next_audit() {
    let intervals = Intervals {
        audit: ms(100),
        ..Intervals::default()
    };
    let mut world = World::new(intervals);
    // 30 ms of slices, and as much for the changes between them.
    world.slices = 10;
    world.run(storm(1, 0, 3_000), ms(3_000));
    let slices = world.began(|action| *action == Action::Audit);
    let begins: Vec<_> = slices.iter().step_by(10).collect();
    let late = |(begin, due): (&&Duration, u32)| **begin > intervals.audit * due + ms(6);
    assert!(!begins.iter().zip(1..).any(late), "{begins:?}");

    // As long as it took, not as long as it lasted.
    let intervals = Intervals {
        audit: ms(10),
        ..intervals
    };
    let mut world = World::new(intervals);
    world.slices = 10;
    world.run(storm(1, 0, 3_000), ms(3_000));
    let slices = world.began(|action| *action == Action::Audit);
    let pauses = world.audits.iter().zip(slices.iter().skip(10).step_by(10));
    for (end, begin) in pauses {
        let pause = *begin - *end;
        assert!(pause >= ms(30) && pause <= ms(36), "{pause:?}");
    }
}

#[test]
fn a_shorter_audit_interval_advances_the_next_audit() {
    let mut world = World::new(Intervals::default());
    let sooner = Intervals {
        audit: ms(200),
        ..Intervals::default()
    };
    world.schedule.configured(world.now, sooner);
    world.run([], ms(300));
    assert_eq!(world.audits, [ms(203)]);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..8_u8).prop_map(Event::Change),
        1 => Just(Event::Drift),
        1 => Just(Event::Settings),
        2 => (0..8_u8, any::<bool>()).prop_map(|(object, fails)| Event::Fault(object, fails)),
        1 => any::<bool>().prop_map(Event::Unreadable),
        1 => any::<bool>().prop_map(Event::Draining),
    ]
}

fn events() -> impl Strategy<Value = Vec<(Duration, Event)>> {
    let events = prop::collection::vec((0..5_000_u64, event()), 0..300);
    events.prop_map(|mut events| {
        events.sort_by_key(|(at, _)| *at);
        events
            .into_iter()
            .map(|(at, event)| (ms(at), event))
            .collect()
    })
}

fn intervals() -> impl Strategy<Value = Intervals> {
    (
        50..5_000_u64,
        10..2_000_u64,
        1..40_u64,
        10..2_000_u64,
        0..200_u64,
        0..5_u32,
    )
        .prop_map(
            |(audit, first_retry, factor, drain, min_sync, burst)| Intervals {
                audit: ms(audit),
                first_retry: ms(first_retry),
                last_retry: ms(first_retry * factor),
                drain: ms(drain),
                min_sync: ms(min_sync),
                burst,
                ..Intervals::default()
            },
        )
}

/// Ends all faults and drains.
fn heal() -> impl Iterator<Item = Event> {
    let faults = (0..8).map(|object| Event::Fault(object, false));
    faults.chain([Event::Unreadable(false), Event::Draining(false)])
}

proptest! {
    /// [`World::run`] checks that nothing due waits for more than one action of each other kind, that
    /// nothing is done before it is due, and that it never spins.
    #[test]
    fn nothing_starves(
        events in events(),
        intervals in intervals(),
        slices in 1..20_u32,
        cost in 1..30_u64,
    ) {
        let mut world = World::new(intervals);
        world.slices = slices;
        world.cost = ms(cost);
        world.run(events, ms(6_000));
        let audits = world.began(|action| *action == Action::Audit);
        prop_assert!(!audits.is_empty() || world.full_reads > 0);
    }

    /// After faults have ended, everything is in effect within the longest back-off, whatever the
    /// order of events was, and the only deadline left is the audit's.
    #[test]
    fn the_final_state_does_not_depend_on_the_order_of_events(
        (events, shuffled) in events().prop_flat_map(|events| {
            let shuffled = Just(events.clone()).prop_shuffle();
            (Just(events), shuffled)
        }),
        intervals in intervals(),
    ) {
        let in_place = events.iter().zip(shuffled);
        let shuffled: Vec<_> = in_place.map(|((at, _), (_, event))| (*at, event)).collect();
        let ends = [events, shuffled].map(|events| {
            let mut world = World::new(intervals);
            world.run(events, ms(5_000));
            heal().for_each(|event| world.take(&event));
            // One retry, one drain check that is still due, and the delay of the rate limit.
            let longest = intervals.last_retry + intervals.drain + intervals.min_sync;
            let until = world.now.duration_since(world.start) + longest;
            world.run([], until + ms(1_000));
            let schedule = &world.schedule;
            assert_eq!(schedule.retries.next(), None);
            assert_eq!((schedule.sync, schedule.drain), (None, None));
            if schedule.auditing.is_none() {
                assert_eq!(schedule.deadline(world.now), schedule.audit);
            }
            assert_eq!(world.applied, world.desired);
            world.applied
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    /// A failure is retried within its back-off plus one action of each kind, and not before three
    /// quarters of it, whatever else happens.
    #[test]
    fn each_failed_object_is_tried_again_within_its_back_off(
        failing in prop::collection::btree_map(0..200_u8, 0..500_u64, 1..100),
        mut intervals in intervals(),
    ) {
        // Audits would retry all of them too.
        intervals.audit = Duration::from_secs(3_600);
        intervals.min_sync = Duration::ZERO;
        let mut world = World::new(intervals);
        let mut events: Vec<_> = failing.iter().flat_map(|(object, at)| {
            [(ms(0), Event::Fault(*object, true)), (ms(*at), Event::Change(*object))]
        }).collect();
        events.extend(storm(255, 0, 5_000));
        events.sort_by_key(|(at, _)| *at);
        world.run(events, ms(5_000));
        let slices = failing.len().div_ceil(Retries::<u8>::SLICE);
        // A slice of retries waits for a sync, and for the slices before it.
        let late = ms(3) * 3 * u32::try_from(slices + 1).unwrap();
        for (object, at) in failing {
            let tries = |action: &Action<u8>| match action {
                Action::Retry(items) => items.contains(&Failed::Object(object)),
                _ => false,
            };
            let syncs = world.began(|action| *action == Action::Sync);
            let mut last = syncs.into_iter().find(|sync| *sync >= ms(at)).unwrap();
            for (retry, failures) in world.began(tries).into_iter().zip(1..) {
                let pause = back_off(failures, intervals);
                prop_assert!(retry - last >= pause * 3 / 4);
                prop_assert!(retry - last <= pause + late + ms(6), "{:?}", retry - last);
                last = retry;
            }
            let next = back_off(1, intervals).max(intervals.last_retry);
            prop_assert!(last + next + late + ms(6) >= ms(5_000), "{} was forgotten", object);
        }
    }
}
