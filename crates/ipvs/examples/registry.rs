//! A proxy that serves what a registry lists: here a JSON file, read again when it changes.
//!
//! ```json
//! [{
//!     "server": { "key": "tcp 10.96.0.1:80", "scheduler": "wrr" },
//!     "real_servers": [{ "key": "10.244.0.1:8080", "weight": 2 }, { "key": "10.244.0.2:8080" }]
//! }]
//! ```
//!
//! `cargo run --example registry --features serde -- services.json`
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env::args_os;
use std::error::Error;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::{fs, io};

use ipvs::{Client, Plan, Wanted};

const INTERVAL: Duration = Duration::from_secs(1);

/// Marks the virtual servers of this proxy, also after it restarts. Those of others stay as they
/// are.
const TAG: u16 = 0x5e67;

pub(crate) fn read(path: &Path) -> Result<Vec<Wanted>, Box<dyn Error>> {
    let mut wanted: Vec<Wanted> = serde_json::from_slice(&fs::read(path)?)?;
    for wanted in &mut wanted {
        wanted.server = wanted.server.with_tag(TAG);
    }
    Ok(wanted)
}

pub(crate) fn serve(client: &mut Client, wanted: &[Wanted]) -> ipvs::Result<Plan> {
    let (plan, outcomes) = client.reconcile(wanted, |entry| entry.server.tag == TAG)?;
    outcomes.into_result()?;
    Ok(plan)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = args_os().nth(1).ok_or("usage: registry FILE")?;
    let path = Path::new(&path);
    let mut client = Client::open()?;
    let mut wanted = read(path)?;
    let mut modified = fs::metadata(path)?.modified()?;
    loop {
        // Also when the file is unchanged: the table may have been changed by others.
        match serve(&mut client, &wanted) {
            Ok(plan) => {
                plan.changes()
                    .iter()
                    .for_each(|change| println!("{change}"));
                plan.conflicts()
                    .iter()
                    .for_each(|key| eprintln!("{key} exists and belongs to another program"));
            }
            Err(error) => eprintln!("{error}"),
        }
        sleep(INTERVAL);
        let now = fs::metadata(path).and_then(|metadata| metadata.modified());
        if changed(&mut modified, now) {
            match read(path) {
                Ok(new) => wanted = new,
                Err(error) => eprintln!("{}: {error}; the last good one stays", path.display()),
            }
        }
    }
}

/// A file that is missing for a moment, while it is replaced, has not changed.
fn changed<T: PartialEq>(last: &mut T, now: io::Result<T>) -> bool {
    match now {
        Ok(now) if now != *last => {
            *last = now;
            true
        }
        _ => false,
    }
}
