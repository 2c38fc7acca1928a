//! `kill -9` at points of every phase, with traffic. After a restart the node is as if svcproxy had
//! never been killed; no connection to a living endpoint is cut; nothing foreign has changed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::node::{Mode, Node, PROGRAM};
use crate::options::{Random, number, seed};
use crate::phase::{Outcome, Phase};
use crate::state::State;
use crate::trace::Kill;

/// The number of points.
const POINTS: &str = "SVCPROXY_CHAOS_POINTS";
/// Only this point, to see it again.
const POINT: &str = "SVCPROXY_CHAOS_POINT";

/// In IPVS, a connection through the other mode can get the source port of one that IPVS still
/// remembers.
const SOME: usize = 3;

/// What was seen of a phase.
#[derive(Default)]
struct Row {
    points: usize,
    at_calls: usize,
    after_time: usize,
    over: usize,
    tried: usize,
    failed: usize,
    wrong: usize,
}

struct Run {
    node: Node,
    seed: u64,
    phases: Vec<Phase>,
    /// The node after a start.
    plain: State,
    /// What runs that are never killed leave.
    references: BTreeMap<usize, Outcome>,
    rows: BTreeMap<usize, Row>,
}

impl Run {
    fn new(mode: Mode, seed: u64) -> Self {
        let node = Node::new(mode);
        Self {
            plain: node.fresh(PROGRAM, Phase::ColdStart),
            phases: Phase::of(mode),
            node,
            seed,
            references: BTreeMap::new(),
            rows: BTreeMap::new(),
        }
    }

    /// Runs a phase without a kill. It leaves what a start on an empty node makes.
    fn never_killed(&self, phase: Phase) -> Outcome {
        let fresh = match phase.changes() {
            true => self.node.fresh(PROGRAM, phase),
            false => self.plain.clone(),
        };
        let outcome = self.node.run(phase, Kill::AtTheEnd, &fresh);
        let difference = outcome.state.difference(&fresh);
        assert_eq!(difference, "", "{phase}, never killed");
        self.node.foreign_is_whole().unwrap();
        self.node.start_afresh();
        outcome
    }

    /// Kills svcproxy at one point; says what is wrong after it.
    fn point(&mut self, number: usize) -> Result<(), String> {
        let mut random = Random::new(self.seed, number);
        let count = u64::try_from(self.phases.len()).unwrap();
        // Each phase in turn, so that a short run with another seed has other phases.
        let place = usize::try_from(self.seed % count).unwrap() + number;
        let place = place % self.phases.len();
        let phase = self.phases[place];
        if !self.references.contains_key(&place) {
            let outcome = self.never_killed(phase);
            self.references.insert(place, outcome);
        }
        let reference = &self.references[&place];
        let kill = match random.below(3) {
            0 => {
                let took = u64::try_from(reference.traced.took.as_micros()).unwrap();
                Kill::After(Duration::from_micros(random.below(took)))
            }
            _ => Kill::AtCall(1 + random.below(reference.traced.calls)),
        };
        let row = self.rows.entry(place).or_default();
        row.points += 1;
        match kill {
            Kill::After(_) => row.after_time += 1,
            _ => row.at_calls += 1,
        }
        let run = || {
            let outcome = self.node.run(phase, kill, &reference.state);
            let foreign = self.node.foreign_is_whole();
            (outcome, foreign)
        };
        let result = catch_unwind(AssertUnwindSafe(run));
        let mut wrong = Vec::new();
        match result {
            Ok((outcome, foreign)) => {
                row.over += usize::from(outcome.traced.was_over);
                row.tried += outcome.seen.tried;
                row.failed += outcome.seen.failed.len();
                wrong.extend(foreign.err());
                if outcome.state != reference.state {
                    let difference = outcome.state.difference(&reference.state);
                    wrong.push(format!("the node differs:\n{difference}"));
                }
                if outcome.sysctls != reference.sysctls {
                    wrong.push(format!(
                        "sysctls are {:?} and not {:?}",
                        outcome.sysctls, reference.sysctls
                    ));
                }
                let lost = &outcome.seen.lost;
                if !lost.is_empty() {
                    wrong.push(format!("connections were cut: {lost:#?}"));
                }
                let allowed = match phase {
                    Phase::Switch(_) | Phase::TakeOver => SOME,
                    _ => 0,
                };
                let failed = &outcome.seen.failed;
                if failed.len() > allowed {
                    wrong.push(format!("new connections failed: {failed:#?}"));
                }
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                wrong.push(text.unwrap_or_else(|| "panicked".to_owned()));
            }
        }
        self.node.start_afresh();
        let left = self.node.state();
        if left != self.node.pristine {
            let difference = left.difference(&self.node.pristine);
            wrong.push(format!("cleanup left:\n{difference}"));
        }
        let verdict = if wrong.is_empty() { "right" } else { "WRONG" };
        println!("point {number}: {phase}, killed {kill}: {verdict}");
        if wrong.is_empty() {
            return Ok(());
        }
        row.wrong += 1;
        Err(format!(
            "seed {} point {number}: {}, {phase}, killed {kill}:\n{}",
            self.seed,
            self.node.mode,
            wrong.join("\n")
        ))
    }

    fn print(&self) {
        println!(
            "| phase | points | at a system call | after a time | phase was over | calls in phase | new connections | failed | wrong |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        for (place, row) in &self.rows {
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                self.phases[*place],
                row.points,
                row.at_calls,
                row.after_time,
                row.over,
                self.references[place].traced.calls,
                row.tried,
                row.failed,
                row.wrong
            );
        }
    }
}

fn kill(mode: Mode) {
    let seed = seed();
    println!("mode {mode}, seed {seed}");
    let mut run = Run::new(mode, seed);
    // The machine with IPVS is emulated: one phase of the seed's choice.
    let few = match mode {
        Mode::Ipvs => 1,
        _ => run.phases.len(),
    };
    let points = number(POINTS).unwrap_or(few);
    let numbers = match number::<usize>(POINT) {
        Some(one) => one..one + 1,
        None => 0..points,
    };
    let mut wrong = Vec::new();
    for point in numbers {
        if let Err(error) = run.point(point) {
            println!("{error}");
            wrong.push(error);
        }
    }
    run.print();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_ipvs() {
    kill(Mode::Ipvs);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_iptables() {
    kill(Mode::Iptables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_nftables() {
    kill(Mode::Nftables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_userspace() {
    kill(Mode::Userspace);
}
