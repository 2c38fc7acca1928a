//! Hours of a cluster's life in seconds: a node in memory, a simulated clock, and the loop of
//! svcproxy between them. Services come, scale, roll and go; watches repeat, reorder and end; the
//! kernel fails; other programs interfere; svcproxy is killed and changes its mode. `world.rs` checks
//! the invariants after every turn of the loop, by code that shares nothing with svcproxy's:
//!
//! - never an endpoint that no slice had;
//! - never a connection cut that should drain;
//! - never a destination without an owner;
//! - nothing is programmed before all lists have arrived;
//! - if nothing fails, every client meets what the objects define as soon as nothing waits;
//! - after everything has settled, that holds whatever happened, with bounded work, and audits find
//!   nothing more.
//!
//! `SVCPROXY_SIMULATION_SEED` and `SVCPROXY_SIMULATION_STEPS` choose another life. A failing life is cut
//! down to the happenings that matter, and printed: as a file in `kept/`, it is run from then on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod cluster;
mod every_call;
mod life;
mod nodes;
#[path = "../incremental/oracle.rs"]
#[allow(dead_code, reason = "the other test traces packets too")]
mod oracle;
#[path = "../incremental/packet.rs"]
mod packet;
mod script;
mod shrink;
mod world;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use script::{Happening, Script};
use shrink::shrunk;
use world::{Counts, World};

/// The longest list of happenings from one seed; then the next seed follows.
const LIFE: usize = 500;
/// The steps of a run without another number.
const STEPS: usize = 12_000;

fn live(happenings: &[Happening]) -> Counts {
    let mut world = World::new();
    happenings
        .iter()
        .for_each(|happening| world.step(happening));
    world.step(&Happening::Settle);
    world.counts
}

/// Lives a life; an error is the message of the panic that ends it.
fn outcome(happenings: &[Happening]) -> Result<Counts, String> {
    let lived = catch_unwind(AssertUnwindSafe(|| live(happenings)));
    lived.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_default()
    })
}

/// One happening per line, as in `kept/`.
fn printed(happenings: &[Happening]) -> String {
    let line = |happening| serde_json::to_string(happening).unwrap() + "\n";
    happenings.iter().map(line).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

/// Another one each day, so that CI does not live the same life for ever.
fn seed_of_the_day() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    time.as_secs() / (24 * 60 * 60)
}

fn first_seed() -> u64 {
    number("SVCPROXY_SIMULATION_SEED").unwrap_or_else(seed_of_the_day)
}

#[test]
fn lives_of_a_cluster() {
    let first = first_seed();
    let steps = number("SVCPROXY_SIMULATION_STEPS").map_or(STEPS, |steps| steps as usize);
    let mut all = Counts::default();
    let mut left = steps;
    for seed in first.. {
        let length = left.min(LIFE);
        let happenings: Vec<_> = Script::new(seed).take(length).collect();
        match outcome(&happenings) {
            Ok(counts) => all = all + counts,
            Err(message) => {
                let short = shrunk(happenings, |happenings| outcome(happenings).is_err());
                let last = outcome(&short).err().unwrap_or_default();
                panic!(
                    "seed {seed}: {message}\nSVCPROXY_SIMULATION_SEED={seed} \
                     SVCPROXY_SIMULATION_STEPS={length} repeats it. Shortest:\n{}{last}",
                    printed(&short)
                );
            }
        }
        left -= length;
        if left == 0 {
            break;
        }
    }
    println!("seeds from {first}, {steps} steps: {all:?}");
}

#[test]
fn kept_lives() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulation/kept");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let happenings: Vec<_> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let failed = outcome(&happenings).err();
        assert_eq!(failed, None, "{}", path.display());
    }
}
