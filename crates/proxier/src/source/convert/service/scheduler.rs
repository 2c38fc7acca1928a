//! The scheduler of the annotations.

use ipvs::{Flags, Scheduler};

use super::super::super::api::Metadata;
use super::super::super::api::annotation::{SCHEDULER, SCHEDULER_FLAGS};
use super::super::Findings;

/// The named flags, as in ipvsadm(8).
const FLAGS: [(Scheduler, &str, Flags); 4] = [
    (Scheduler::SourceHash, "sh-fallback", Flags::SH_FALLBACK),
    (Scheduler::SourceHash, "sh-port", Flags::SH_PORT),
    (Scheduler::MaglevHash, "mh-fallback", Flags::MH_FALLBACK),
    (Scheduler::MaglevHash, "mh-port", Flags::MH_PORT),
];

/// The scheduler and its flags. Unusable ones are noted, and the default is used.
pub(super) fn scheduler(
    metadata: &Metadata,
    findings: &mut Findings,
) -> (Option<Scheduler>, Option<Flags>) {
    let scheduler = metadata.annotation(SCHEDULER);
    let scheduler = scheduler.and_then(|name| known(name, findings));
    let text = metadata.annotation(SCHEDULER_FLAGS);
    let flags = text.and_then(|text| flags(text, scheduler, findings));
    (scheduler, flags)
}

fn known(name: &str, findings: &mut Findings) -> Option<Scheduler> {
    // With "none", IPVS schedules no connections.
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
