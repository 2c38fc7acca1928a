//! Rows of what reads objects: the lists of an API server, and manifests.

use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use proxier::source::kube::Encoding;
use proxier::source::kube::offline::Offline;
use proxier::source::manifest::{self, Manifests};
use proxier::store::Change;

use crate::measure::{Cost, measure};
use crate::objects;
use crate::row::{FLAT, GROWTH, Goal, LINEAR, Needs, Row, Sample, Size};
use crate::{Result, some};

/// A file that was written a moment ago is read again, because its time stamp may not show another change.
/// Where the clock counts instructions, it jumps while nothing runs.
const SETTLED: Duration = Duration::from_secs(5);
/// Services in a file of manifests.
const IN_A_FILE: u32 = 1_000;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "decode-json",
        about: "decode and convert a list of slices in JSON",
        sizes_of: "slices × 3",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: decode_json,
    },
    Row {
        name: "decode-protobuf",
        about: "the same list in Protocol Buffers, beside JSON",
        sizes_of: "slices × 3",
        sizes: GROWTH,
        goal: Goal::Ratio(1.0),
        needs: Needs::Nothing,
        run: decode_protobuf,
    },
    Row {
        name: "manifests",
        about: "read JSON manifests, beside the lists of an API server in JSON",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: Goal::Ratio(2.0),
        needs: Needs::Nothing,
        run: manifests,
    },
    Row {
        name: "manifest-edit",
        about: "read an edited file of one Service beside others",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: FLAT,
        needs: Needs::Nothing,
        run: manifest_edit,
    },
];

fn slices(size: Size, encoding: Encoding) -> Result<Cost> {
    let body = objects::slices(size, encoding);
    let mut offline = Offline::new(encoding);
    let (reading, cost) = measure(|| offline.endpoint_slices(&body));
    decoded(&reading?, size)?;
    Ok(cost)
}

/// Fails unless all slices were decoded.
fn decoded(reading: &manifest::Reading, size: Size) -> Result<()> {
    match reading.changes.as_slice() {
        [Change::EndpointSlicesReplaced(slices)]
            if slices.len() == usize::try_from(size.count)? =>
        {
            Ok(())
        }
        _ => Err("the list was not decoded".into()),
    }
}

fn decode_json(size: Size) -> Result<Sample> {
    Ok(slices(size, Encoding::Json)?.into())
}

fn decode_protobuf(size: Size) -> Result<Sample> {
    let json = slices(size, Encoding::Json)?;
    Ok(Sample::beside(slices(size, Encoding::Protobuf)?, json.work))
}

fn manifests(size: Size) -> Result<Sample> {
    let api = {
        let (services, slices) = (
            objects::services(size, Encoding::Json),
            objects::slices(size, Encoding::Json),
        );
        let mut offline = Offline::new(Encoding::Json);
        let (read, api) = measure(|| -> Result<_> {
            let services = offline.services(&services)?;
            Ok((services, offline.endpoint_slices(&slices)?))
        });
        decoded(&read?.1, size)?;
        api
    };
    let directory = tempfile::tempdir()?;
    write_all(directory.path(), size)?;
    let mut manifests = Manifests::new([directory.path()]);
    let (reading, cost) = measure(|| manifests.read());
    fine(&reading)?;
    Ok(Sample::beside(cost, api.work))
}

/// Fails if something was not read, or nothing.
fn fine(reading: &manifest::Reading) -> Result<()> {
    if let Some(diagnostic) = reading.diagnostics.first() {
        return Err(diagnostic.to_string().into());
    }
    some(reading.changes.len())
}

fn write_all(directory: &Path, size: Size) -> Result<()> {
    for first in (0..size.count).step_by(usize::try_from(IN_A_FILE)?) {
        let numbers = first..size.count.min(first + IN_A_FILE);
        let text = objects::list(numbers, size).to_string();
        fs::write(directory.join(format!("{first:05}.json")), text)?;
    }
    Ok(())
}

fn manifest_edit(size: Size) -> Result<Sample> {
    const EDITS: u32 = 20;
    let directory = tempfile::tempdir()?;
    write_all(directory.path(), size)?;
    let edited = directory.path().join("edited.json");
    let text = |version| {
        let slice = objects::slice(size.count, size.endpoints, version);
        format!("{}\n{slice}\n", objects::service(size.count))
    };
    fs::write(&edited, text(0))?;
    thread::sleep(SETTLED);
    let mut manifests = Manifests::new([directory.path()]);
    fine(&manifests.read())?;
    let mut total = Cost::default();
    for edit in 1..=EDITS {
        fs::write(&edited, text(edit))?;
        let (reading, cost) = measure(|| manifests.read());
        fine(&reading)?;
        total.work += cost.work;
        total.allocations += cost.allocations;
        total.peak = total.peak.max(cost.peak);
    }
    Ok(total.each(EDITS.into()).into())
}
