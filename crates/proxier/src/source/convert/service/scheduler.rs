//! The scheduler that annotations ask for.

use ipvs::{Flags, Scheduler};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::Findings;

const SCHEDULER: &str = "svcproxy.io/scheduler";
const SCHEDULER_FLAGS: &str = "svcproxy.io/scheduler-flags";

/// The flags that have a name, as ipvsadm(8) calls them.
const FLAGS: [(Scheduler, &str, Flags); 4] = [
    (Scheduler::SourceHash, "sh-fallback", Flags::SH_FALLBACK),
    (Scheduler::SourceHash, "sh-port", Flags::SH_PORT),
    (Scheduler::MaglevHash, "mh-fallback", Flags::MH_FALLBACK),
    (Scheduler::MaglevHash, "mh-port", Flags::MH_PORT),
];

/// The scheduler and its flags. What cannot be used is told, and the default serves.
pub(super) fn scheduler(
    metadata: &ObjectMeta,
    findings: &mut Findings,
) -> (Option<Scheduler>, Option<Flags>) {
    let annotation = |key| metadata.annotations.as_ref()?.get(key);
    let scheduler = annotation(SCHEDULER).and_then(|name| known(name, findings));
    let flags = annotation(SCHEDULER_FLAGS).and_then(|text| flags(text, scheduler, findings));
    (scheduler, flags)
}

fn known(name: &str, findings: &mut Findings) -> Option<Scheduler> {
    // With "none", no connection would ever be sent anywhere.
    let known = || Scheduler::known().filter(|known| *known != Scheduler::NoScheduler);
    let found = known().find(|known| known.as_str() == name.trim());
    if found.is_none() {
        let names: Vec<String> = known().map(|known| known.to_string()).collect();
        findings.note(
            format_args!("metadata.annotations[{SCHEDULER}]"),
            format_args!(
                "not used: {name:?} is not a scheduler ({})",
                names.join(", ")
            ),
        );
    }
    found
}

fn flags(text: &str, scheduler: Option<Scheduler>, findings: &mut Findings) -> Option<Flags> {
    let field = format_args!("metadata.annotations[{SCHEDULER_FLAGS}]");
    let Some(scheduler) = scheduler else {
        findings.note(
            field,
            format_args!("not used: {SCHEDULER} names no scheduler to which the flags belong"),
        );
        return None;
    };
    let mut flags = None;
    for name in text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let flag = |(of, known, _): &&(Scheduler, &str, Flags)| *of == scheduler && *known == name;
        match FLAGS.iter().find(flag) {
            Some((.., flag)) => flags = Some(flags.unwrap_or(Flags::NONE) | *flag),
            None => findings.note(
                field,
                format_args!("not used: {name:?} is not a flag of the scheduler {scheduler}"),
            ),
        }
    }
    flags
}
