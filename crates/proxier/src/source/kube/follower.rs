//! Turns lists and events of one kind into changes, in whatever order they arrive. Pure.

use std::collections::HashMap;

use super::super::convert::Ingested;
use super::super::{Cause, Diagnostic, Reading};
use super::encoding::{DecodeError, Encoding, Metadata};
use super::error::EventError;
use super::kind::Kind;
use super::split::{LONGEST_OBJECT, Text};

/// A resource version. Versions grow with each write to any object of a kind (Kubernetes KEP-5504).
/// If a server's versions are not numbers, the order of events counts.
type Version = Option<u64>;

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    Applied,
    Deleted,
}

/// The known objects of one kind: only names and versions, to recognise old events.
#[derive(Debug)]
pub(super) struct Follower<K: Kind> {
    kind: K,
    known: HashMap<K::Name, Version>,
    /// The version to continue the watch from. None if a list is necessary first.
    position: Option<String>,
    /// The newest known version, also while a list is necessary.
    newest: Option<String>,
    was_listed: bool,
    /// The current list.
    list: HashMap<K::Name, Item<K::Model>>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug)]
struct Item<M> {
    version: Version,
    outcome: Ingested<M>,
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

    /// The path of the object that replaces the kind on servers without it.
    pub(super) fn stand_in(&self) -> Option<&'static str> {
        self.kind.stand_in()
    }

    /// Converts the object that replaces the kind.
    pub(super) fn stood_in(&mut self, object: &[u8]) -> Reading {
        Reading {
            changes: self.kind.stood_in(object).into_iter().collect(),
            ..Reading::default()
        }
    }

    /// The version to continue the watch from. None if a list is necessary first.
    pub(super) fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// The newest known version. An older list would revert what is in effect.
    pub(super) fn newest(&self) -> Option<&str> {
        self.newest.as_deref()
    }

    /// Whether a list was ever completed.
    pub(super) fn was_listed(&self) -> bool {
        self.was_listed
    }

    /// Requires a new list.
    pub(super) fn lose_position(&mut self) {
        self.position = None;
    }

    /// Records a bookmark: there are no more events up to this version.
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

    /// Begins a list; an unfinished one is forgotten.
    pub(super) fn begin_list(&mut self) {
        self.list.clear();
        self.diagnostics.clear();
    }

    /// Adds an object to the list.
    ///
    /// # Errors
    ///
    /// If the text is not an object with a name.
    pub(super) fn list_item(
        &mut self,
        encoding: Encoding,
        text: Text<'_>,
    ) -> Result<(), DecodeError> {
        match text {
            Text::Whole(text) => {
                let found = &mut self.diagnostics;
                let object = Decoded::applied(&self.kind, encoding, text, found)?;
                self.list(object);
            }
            Text::TooLong(kept) => self.list_too_long(encoding.metadata_of_long(kept)?),
        }
        Ok(())
    }

    /// Adds an object that is too long to the list.
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

    /// Ends the list, which is complete as of `version`. The whole reading must be applied
    /// together: it removes objects that are not in the list, but not those that are in it and
    /// rejected.
    pub(super) fn end_list(&mut self, version: &str) -> Reading {
        let list = std::mem::take(&mut self.list);
        let known = list
            .iter()
            .map(|(name, item)| (name.clone(), item.version))
            .collect();
        let mut gone = std::mem::replace(&mut self.known, known);
        // A server with restored data may continue from a lower version.
        self.goes_on(version.to_owned());
        let mut models = Vec::with_capacity(list.len());
        for (name, item) in list {
            match item.outcome {
                Ingested::Good(model) => models.push(model),
                Ingested::LeftOut => continue,
                Ingested::Refused => {}
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

    /// Applies an event after the list.
    ///
    /// # Errors
    ///
    /// [`EventError`] if a new list is necessary; nothing is changed then.
    pub(super) fn event(
        &mut self,
        happened: Happened,
        encoding: Encoding,
        object: &[u8],
    ) -> Result<Reading, EventError> {
        let mut reading = Reading::default();
        let object = match happened {
            Happened::Applied => {
                Decoded::applied(&self.kind, encoding, object, &mut reading.diagnostics)
            }
            Happened::Deleted => encoding.metadata(object).map(Decoded::deleted),
        };
        self.ingest(happened, object.map_err(EventError::NotAnObject)?, reading)
    }

    /// Applies an event about an object that is too long.
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
        self.ingest(happened, object, reading)
    }

    fn ingest(
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
                    Ingested::Good(model) => self.kind.applied(model),
                    Ingested::LeftOut => self.kind.deleted(name),
                    Ingested::Refused => None,
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

/// If versions are not numbers, later events are newer.
fn is_newer(one: Version, than: Version) -> bool {
    one.zip(than).is_none_or(|(one, than)| one > than)
}

fn parse(version: &str) -> Version {
    version.parse().ok()
}

fn parse_any(version: Option<&str>) -> Version {
    version.and_then(parse)
}

/// A decoded object.
struct Decoded<K: Kind> {
    /// None if the name is invalid.
    name: Option<K::Name>,
    version: Option<String>,
    outcome: Ingested<K::Model>,
}

impl<K: Kind> Decoded<K> {
    fn applied(
        kind: &K,
        encoding: Encoding,
        text: &[u8],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Self, DecodeError> {
        let decoded = encoding.object(text).map(|object: K::Object| {
            let converted = kind.convert(&object);
            (converted, Metadata::of(K::metadata(object)))
        });
        let (converted, metadata) = match decoded {
            Ok((converted, metadata)) => (Ok(converted), metadata),
            Err(error) => (Err(error), None),
        };
        // Rarely: an object that cannot be decoded may still have a name.
        let metadata = match metadata {
            Some(metadata) => metadata,
            None => encoding.metadata(text)?,
        };
        let (outcome, found) = match converted {
            Ok(converted) => {
                let refused = converted.is_refused();
                let outcome = match converted.object {
                    Some(model) => Ingested::Good(model),
                    None if refused => Ingested::Refused,
                    None => Ingested::LeftOut,
                };
                (outcome, converted.diagnostics)
            }
            Err(error) => (Ingested::Refused, vec![Diagnostic::error(error)]),
        };
        let label = |diagnostic: Diagnostic| diagnostic.with_object(label::<K>(&metadata));
        diagnostics.extend(found.into_iter().map(label));
        let name = match &outcome {
            // Left-out objects keep their name.
            Ingested::Good(model) => Some(K::name_of(model)),
            Ingested::LeftOut | Ingested::Refused => K::name(&metadata),
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
            outcome: Ingested::Refused,
        }
    }

    fn deleted(metadata: Metadata) -> Self {
        Self {
            name: K::name(&metadata),
            version: metadata.resource_version,
            outcome: Ingested::LeftOut,
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
