//! Notes on kube-proxy's settings that have no effect in svcproxy.

use serde_json::Value;

use super::{Fields, Note};
use crate::args::NodeArgs;
use crate::kube_proxy::{FIELDS, OBSOLETE_FIELDS, all_flags};

/// The note of a field that `KubeProxyConfiguration` does not have.
pub(super) fn unknown(path: &str) -> Note {
    match OBSOLETE_FIELDS.iter().find(|(name, _)| *name == path) {
        Some((_, why)) => Note::info(format!("{path} is obsolete and has no effect: {why}")),
        None => Note::warning(format!(
            "{path} is not a field of KubeProxyConfiguration and has no effect"
        )),
    }
}

/// Notes on the given flags that have no effect.
pub(super) fn flags(args: &NodeArgs) -> Vec<Note> {
    let given = args.kube_proxy.given();
    let inert = |name: &str| all_flags().find(|flag| flag.name == name);
    let without = given
        .iter()
        .filter_map(|name| Some(format!("--{name} has no effect: {}", inert(name)?.why)));
    let mut notes: Vec<_> = without.map(Note::info).collect();
    if args.kube_proxy.config.is_some() {
        let covered = given.iter().filter(|name| inert(name).is_none());
        notes.extend(
            covered.map(|name| Note::warning(format!("--{name} is ignored: --config covers it"))),
        );
    }
    notes
}

/// Notes on the fields that are set and have no effect.
pub(super) fn fields(fields: &Fields) -> Vec<Note> {
    let mut notes = Vec::new();
    for (path, why) in FIELDS {
        match fields.get(path) {
            Some(Value::Object(entries)) => notes.extend(
                entries
                    .keys()
                    .map(|key| Note::info(format!("{path}.{key} has no effect: {why}"))),
            ),
            Some(_) => notes.push(Note::info(format!("{path} has no effect: {why}"))),
            None => {}
        }
    }
    notes
}
