//! From lists and events of one kind to changes, whatever order they come in. Pure.

use std::collections::HashMap;

use super::super::{Cause, Diagnostic, Reading};
use super::kind::{Kind, Metadata};
use super::split::{LONGEST_OBJECT, Text};
use super::wire::AnyObject;

/// A resource version. They grow with each write to any object of a kind (Kubernetes KEP-5504);
/// of a server whose versions are no numbers, the order of events is taken as it is.
type Version = Option<u64>;

/// What an event says has become of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    Applied,
    Deleted,
}

/// Why an event cannot be taken in. Only a new list can tell what is.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventError {
    #[error("an event holds no object with a name")]
    NotAnObject(#[source] serde_json::Error),
    /// The object is not known, and the event is older than others: the object may have been
    /// deleted meanwhile.
    #[error("events came out of order")]
    OutOfOrder,
}

/// One kind's objects as far as they must be known to tell new from old: names and versions.
#[derive(Debug)]
pub(super) struct Follower<K: Kind> {
    kind: K,
    known: HashMap<K::Name, Version>,
    /// The newest version that was heard of, from which on there is more to hear. None if there
    /// must be a list first.
    position: Option<String>,
    /// The newest version that was heard of, also once there must be a list.
    newest: Option<String>,
    was_listed: bool,
    /// The list that is under way.
    list: HashMap<K::Name, Item<K::Model>>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug)]
struct Item<M> {
    version: Version,
    outcome: Outcome<M>,
}

#[derive(Debug)]
enum Outcome<M> {
    Good(M),
    /// There is such an object, and it asks nothing of a service proxy.
    LeftOut,
    /// Its last good version stays in force.
    Refused,
}

impl<K: Kind> Follower<K> {
    pub(super) fn new(kind: K) -> Self {
        Self {
            kind,
            known: HashMap::new(),
            position: None,
            newest: None,
            was_listed: false,
            list: HashMap::new(),
            diagnostics: Vec::new(),
        }
    }

    /// From which version on there is more to hear. None if there must be a list first.
    pub(super) fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// The newest version that was heard of. A list older than this would undo what is in force.
    pub(super) fn newest(&self) -> Option<&str> {
        self.newest.as_deref()
    }

    /// Whether there was a list ever.
    pub(super) fn was_listed(&self) -> bool {
        self.was_listed
    }

    /// There must be a list first.
    pub(super) fn lose_position(&mut self) {
        self.position = None;
    }

    /// Nothing else has happened up to this version.
    pub(super) fn bookmark(&mut self, version: &str) {
        if self.is_next(parse(version)) {
            self.goes_on(version.to_owned());
        }
    }

    fn goes_on(&mut self, version: String) {
        self.newest = Some(version.clone());
        self.position = Some(version);
    }

    fn is_next(&self, version: Version) -> bool {
        is_newer(version, self.position().and_then(parse))
    }

    /// A list begins; one that was not finished is forgotten.
    pub(super) fn begin_list(&mut self) {
        self.list.clear();
        self.diagnostics.clear();
    }

    /// An object of the list.
    ///
    /// # Errors
    ///
    /// If the text is no object with a name.
    pub(super) fn list_item(&mut self, text: Text<'_>) -> Result<(), serde_json::Error> {
        match text {
            Text::Whole(text) => {
                let object = Decoded::<K>::applied(text, &mut self.diagnostics)?;
                self.list(object);
            }
            Text::TooLong(outline) => {
                let AnyObject { metadata } = serde_json::from_slice(outline)?;
                self.list_too_long(metadata);
            }
        }
        Ok(())
    }

    /// An object of the list that is too long to be read.
    pub(super) fn list_too_long(&mut self, metadata: Metadata) {
        let object = Decoded::<K>::too_long(metadata, &mut self.diagnostics);
        self.list(object);
    }

    fn list(&mut self, object: Decoded<K>) {
        let Some(name) = object.name else { return };
        let item = Item {
            version: parse_any(object.version.as_deref()),
            outcome: object.outcome,
        };
        let before = self.list.get(&name);
        if before.is_none_or(|before| !is_older(item.version, before.version)) {
            self.list.insert(name, item);
        }
    }

    /// The list is complete, as of `version`. All of the reading is to be applied at once: what is
    /// not listed is gone, but for what is listed and refused.
    pub(super) fn end_list(&mut self, version: &str) -> Reading {
        let list = std::mem::take(&mut self.list);
        let known = list
            .iter()
            .map(|(name, item)| (name.clone(), item.version))
            .collect();
        let mut gone = std::mem::replace(&mut self.known, known);
        // A server whose data were put back starts again from a lower version.
        self.goes_on(version.to_owned());
        let mut models = Vec::with_capacity(list.len());
        for (name, item) in list {
            match item.outcome {
                Outcome::Good(model) => models.push(model),
                Outcome::LeftOut => continue,
                Outcome::Refused => {}
            }
            gone.remove(&name);
        }
        let changes = if self.was_listed {
            let gone = gone.into_keys().filter_map(|name| self.kind.deleted(name));
            let mut changes: Vec<_> = gone.collect();
            changes.extend(
                models
                    .into_iter()
                    .filter_map(|model| self.kind.applied(model)),
            );
            changes
        } else {
            vec![self.kind.replaced(models)]
        };
        self.was_listed = true;
        Reading {
            changes,
            diagnostics: std::mem::take(&mut self.diagnostics),
            ..Reading::default()
        }
    }

    /// Something happened to an object after the list.
    ///
    /// # Errors
    ///
    /// [`EventError`] if it must be listed again. Nothing was taken in then.
    pub(super) fn event(&mut self, happened: Happened, text: &[u8]) -> Result<Reading, EventError> {
        let mut reading = Reading::default();
        let object = match happened {
            Happened::Applied => Decoded::<K>::applied(text, &mut reading.diagnostics),
            Happened::Deleted => {
                let object = serde_json::from_slice(text);
                object.map(|AnyObject { metadata }| Decoded::<K>::deleted(metadata))
            }
        };
        self.take_in(happened, object.map_err(EventError::NotAnObject)?, reading)
    }

    /// Something happened to an object that is too long to be read.
    ///
    /// # Errors
    ///
    /// As [`event`](Self::event).
    pub(super) fn event_too_long(
        &mut self,
        happened: Happened,
        metadata: Metadata,
    ) -> Result<Reading, EventError> {
        let mut reading = Reading::default();
        let object = match happened {
            Happened::Applied => Decoded::<K>::too_long(metadata, &mut reading.diagnostics),
            Happened::Deleted => Decoded::<K>::deleted(metadata),
        };
        self.take_in(happened, object, reading)
    }

    fn take_in(
        &mut self,
        happened: Happened,
        object: Decoded<K>,
        mut reading: Reading,
    ) -> Result<Reading, EventError> {
        let Some(name) = object.name else {
            return Ok(reading);
        };
        let version = parse_any(object.version.as_deref());
        let cause = object.version.as_ref();
        let cause = cause.map(|version| Cause::new(K::NAME, name.to_string(), version));
        let is_next = self.is_next(version);
        match (self.known.get(&name), happened) {
            (Some(known), Happened::Applied) if !is_newer(version, *known) => {
                return Ok(Reading::default());
            }
            (Some(known), Happened::Deleted) if is_older(version, *known) => {
                return Ok(Reading::default());
            }
            (None, Happened::Applied) if !is_next => return Err(EventError::OutOfOrder),
            _ => {}
        }
        if let Some(version) = object.version.filter(|_| is_next) {
            self.goes_on(version);
        }
        let change = match happened {
            Happened::Applied => {
                self.known.insert(name.clone(), version);
                match object.outcome {
                    Outcome::Good(model) => self.kind.applied(model),
                    Outcome::LeftOut => self.kind.deleted(name),
                    Outcome::Refused => None,
                }
            }
            Happened::Deleted => {
                self.known.remove(&name);
                self.kind.deleted(name)
            }
        };
        reading.changes.extend(change);
        reading.causes.extend(cause);
        Ok(reading)
    }
}

fn is_older(one: Version, than: Version) -> bool {
    one.zip(than).is_some_and(|(one, than)| one < than)
}

/// Where versions are no numbers, what comes later is newer.
fn is_newer(one: Version, than: Version) -> bool {
    one.zip(than).is_none_or(|(one, than)| one > than)
}

fn parse(version: &str) -> Version {
    version.parse().ok()
}

fn parse_any(version: Option<&str>) -> Version {
    version.and_then(parse)
}

/// What a text says of an object.
struct Decoded<K: Kind> {
    /// None if no object can have that name.
    name: Option<K::Name>,
    version: Option<String>,
    outcome: Outcome<K::Model>,
}

impl<K: Kind> Decoded<K> {
    fn applied(text: &[u8], diagnostics: &mut Vec<Diagnostic>) -> Result<Self, serde_json::Error> {
        let AnyObject { metadata } = serde_json::from_slice(text)?;
        let (outcome, found) = match serde_json::from_slice(text) {
            Ok(object) => {
                let converted = K::convert(&object);
                let refused = converted.is_refused();
                let outcome = match converted.object {
                    Some(model) => Outcome::Good(model),
                    None if refused => Outcome::Refused,
                    None => Outcome::LeftOut,
                };
                (outcome, converted.diagnostics)
            }
            Err(error) => (Outcome::Refused, vec![Diagnostic::error(error)]),
        };
        let label = |diagnostic: Diagnostic| diagnostic.with_object(label::<K>(&metadata));
        diagnostics.extend(found.into_iter().map(label));
        let name = match &outcome {
            // Its name is kept anyway.
            Outcome::Good(model) => Some(K::name_of(model)),
            Outcome::LeftOut | Outcome::Refused => K::name(&metadata),
        };
        Ok(Self {
            name,
            version: metadata.resource_version,
            outcome,
        })
    }

    fn too_long(metadata: Metadata, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let message = format!(
            "the object is longer than {} MiB and is ignored; its last good version stays in effect",
            LONGEST_OBJECT >> 20
        );
        diagnostics.push(Diagnostic::error(message).with_object(label::<K>(&metadata)));
        Self {
            name: K::name(&metadata),
            version: metadata.resource_version,
            outcome: Outcome::Refused,
        }
    }

    fn deleted(metadata: Metadata) -> Self {
        Self {
            name: K::name(&metadata),
            version: metadata.resource_version,
            outcome: Outcome::LeftOut,
        }
    }
}

fn label<K: Kind>(metadata: &Metadata) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        Some(namespace) => format!("{} {namespace}/{name}", K::NAME),
        None => format!("{} {name}", K::NAME),
    }
}
