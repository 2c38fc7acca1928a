//! The objects and their history.
#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON object does not hold is null"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Cut, Resource};

#[derive(Debug, Default)]
pub(super) struct Objects {
    version: u64,
    kinds: BTreeMap<Resource, Kind>,
}

#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) objects: BTreeMap<String, Arc<Value>>,
    pub(super) log: Vec<Event>,
    /// Versions up to this one are forgotten.
    pub(super) compacted: u64,
    /// Watches see the log up to here.
    pub(super) held: Option<usize>,
    /// Replaced parts of the log, as watches see them.
    pub(super) releases: Vec<Release>,
    /// Number of cuts of watches, and the last one.
    pub(super) cuts: (u64, Option<Cut>),
}

/// A change of one object.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

#[derive(Debug)]
pub(super) struct Release {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) lines: Vec<String>,
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn kind(&mut self, resource: Resource) -> &mut Kind {
        self.kinds.entry(resource).or_default()
    }

    pub(super) fn put(&mut self, resource: Resource, mut object: Value) {
        self.version += 1;
        let version = self.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let (name, object) = (name(&object), Arc::new(object));
        let kind = self.kind(resource);
        let before = kind.objects.insert(name, Arc::clone(&object));
        kind.log.push(Event {
            version,
            before,
            after: Some(object),
        });
    }

    pub(super) fn delete(&mut self, resource: Resource, name: &str) {
        let Some(before) = self.kind(resource).objects.remove(name) else {
            return;
        };
        self.version += 1;
        let version = self.version;
        self.kind(resource).log.push(Event {
            version,
            before: Some(before),
            after: None,
        });
    }

    pub(super) fn compact(&mut self) {
        // Makes it older than any known version.
        self.version += 1;
        for resource in Resource::ALL {
            let version = self.version;
            self.kind(resource).compacted = version;
        }
    }

    pub(super) fn hold(&mut self, resource: Resource) {
        let kind = self.kind(resource);
        kind.held = Some(kind.log.len());
    }

    pub(super) fn release(&mut self, resource: Resource, order: impl FnOnce(&mut Vec<String>)) {
        let kind = self.kind(resource);
        let Some(from) = kind.held.take() else { return };
        let events = kind.log.get(from..).unwrap_or_default();
        let mut lines = events
            .iter()
            .filter_map(|event| event.line(|_| true))
            .collect();
        order(&mut lines);
        let to = kind.log.len();
        kind.releases.push(Release { from, to, lines });
    }

    pub(super) fn cut(&mut self, resource: Resource, cut: Cut) {
        let cuts = &mut self.kind(resource).cuts;
        *cuts = (cuts.0 + 1, Some(cut));
    }
}

impl Event {
    /// The line of a watch with this selection; none if the event is not selected.
    pub(super) fn line(&self, selects: impl Fn(&Value) -> bool) -> Option<String> {
        let before = self.before.as_deref().filter(|object| selects(object));
        let after = self.after.as_deref().filter(|object| selects(object));
        match (before, after) {
            (None, Some(after)) => Some(line("ADDED", after)),
            (Some(_), Some(after)) => Some(line("MODIFIED", after)),
            (Some(before), None) => {
                let mut gone = before.clone();
                gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
                Some(line("DELETED", &gone))
            }
            (None, None) => None,
        }
    }
}

pub(super) fn line(event: &str, object: &Value) -> String {
    // In the field order of a real server.
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n")
}

pub(super) fn name(object: &Value) -> String {
    let field = |name| object["metadata"][name].as_str();
    let name = field("name").unwrap_or_default();
    match field("namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// The selectors of a query, as far as a service proxy uses them.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    /// Labels that must be absent.
    pub(super) without: Vec<String>,
    /// A field, whether it must or must not equal the value, and the value.
    pub(super) fields: Vec<(String, bool, String)>,
}

impl Selector {
    /// None if the syntax is not supported.
    pub(super) fn new(labels: &str, fields: &str) -> Option<Self> {
        let parts = |text: &'_ str| {
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect::<Vec<_>>()
        };
        let without = parts(labels)
            .into_iter()
            .map(|label| Some(label.strip_prefix('!')?.to_owned()));
        let fields = parts(fields).into_iter().map(|field| {
            let (key, value) = field.split_once('=')?;
            let unequal = key.strip_suffix('!');
            Some((
                unequal.unwrap_or(key).to_owned(),
                unequal.is_none(),
                value.to_owned(),
            ))
        });
        Some(Self {
            without: without.collect::<Option<_>>()?,
            fields: fields.collect::<Option<_>>()?,
        })
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let field = |key: &str| {
            let pointer = format!("/{}", key.replace('.', "/"));
            object
                .pointer(&pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        self.without
            .iter()
            .all(|label| labels[label.as_str()].is_null())
            && self
                .fields
                .iter()
                .all(|(key, equal, value)| (field(key) == value) == *equal)
    }
}
