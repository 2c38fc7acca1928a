//! From a file's text to checked objects.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::convert::{self, Converted};
use super::super::{Diagnostic, Location};
use super::cache::{Cache, Known};
use super::document::{self, Document};
use super::fields::{self, project};
use super::object::{DEFAULT_NAMESPACE, Key, Kind, Maker, Object};

/// Most errors, and most notes, that are told of a file.
const MAX_TOLD: usize = 1000;
/// The label with the name of a slice's controller.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The control plane's own controllers of slices have names that end so.
const CONTROL_PLANE: &str = "controller.k8s.io";

/// What a document makes of an object.
#[derive(Debug)]
pub(super) enum Outcome {
    Good(Arc<Object>),
    /// There is such an object, and it asks nothing of a service proxy.
    LeftOut,
    Refused,
}

/// An object as a document defines it.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) key: Key,
    pub(super) location: Location,
    pub(super) outcome: Outcome,
}

impl Definition {
    /// What may be taken for known when the same document is read again.
    fn known(&self) -> Option<Known> {
        let Outcome::Good(object) = &self.outcome else {
            return None;
        };
        Some(Known {
            key: self.key.clone(),
            item: self.location.item.clone(),
            object: object.clone(),
        })
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) definitions: Vec<Definition>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Something in the file is broken in such a way that the object cannot be told.
    pub(super) unattributed: bool,
    /// How many there would be without a bound.
    errors: usize,
    notes: usize,
}

impl Parsed {
    fn report(&mut self, diagnostic: Diagnostic) {
        let count = if diagnostic.is_error() {
            &mut self.errors
        } else {
            &mut self.notes
        };
        *count += 1;
        if *count <= MAX_TOLD {
            self.diagnostics.push(diagnostic);
        } else if *count == MAX_TOLD + 1 {
            self.diagnostics.push(Diagnostic {
                object: None,
                field: None,
                message: "more like this in the rest of the file".to_owned(),
                ..diagnostic
            });
        }
    }
}

/// Reads the text of a file.
pub(super) fn decode(file: &Path, text: &str, cache: &mut Cache) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, document) in document::split(text).iter().enumerate() {
        let location = Location {
            document: Some(index + 1),
            line: Some(document.line),
            ..Location::new(file)
        };
        let hash = cache.hash(document.text);
        if let Some(known) = cache.get(hash) {
            let definition = |known: &Known| Definition {
                key: known.key.clone(),
                location: Location {
                    item: known.item.clone(),
                    ..location.clone()
                },
                outcome: Outcome::Good(known.object.clone()),
            };
            parsed.definitions.extend(known.iter().map(definition));
            continue;
        }
        let definitions = parsed.definitions.len();
        let found = (parsed.errors, parsed.notes);
        decode_document(document, location, &mut parsed);
        if (parsed.errors, parsed.notes) == found {
            let new = parsed.definitions.iter().skip(definitions);
            cache.insert(hash, new.filter_map(Definition::known));
        }
    }
    parsed
}

fn decode_document(document: &Document<'_>, location: Location, parsed: &mut Parsed) {
    let found = parsed.diagnostics.len();
    match document.parse() {
        // As kubectl prints a document of which nothing is left.
        Ok(Value::Null) => {}
        Ok(value) => {
            Decoder { location, parsed }.object(value);
            let new = parsed.diagnostics.get_mut(found..).unwrap_or_default();
            locate(new, document);
        }
        Err(error) => {
            let line = error.line.or(location.line);
            let location = Location { line, ..location };
            parsed.report(Diagnostic::error(error.message).at(location));
            parsed.unattributed = true;
        }
    }
}

/// Replaces the document's line by those of the fields.
fn locate(diagnostics: &mut [Diagnostic], document: &Document<'_>) {
    if diagnostics.is_empty() {
        return;
    }
    let line = document.lines();
    for diagnostic in diagnostics {
        let Some(location) = &mut diagnostic.location else {
            continue;
        };
        let item = location.item.as_deref().unwrap_or_default();
        let field = diagnostic.field.as_deref().unwrap_or_default();
        location.line = line(&format!("{item}.{field}")).or(location.line);
    }
}

/// Takes one document in.
struct Decoder<'a> {
    location: Location,
    parsed: &'a mut Parsed,
}

impl Decoder<'_> {
    fn object(&mut self, value: Value) {
        let api_version = text(&value, "/apiVersion").unwrap_or_default();
        let Some(kind) = text(&value, "/kind").filter(|kind| !kind.is_empty()) else {
            let error = Diagnostic::error("missing: not a Kubernetes object");
            return self.unattributed(error.with_field("kind"));
        };
        if let Some(item) = kind.strip_suffix("List")
            && (item.is_empty() || Kind::parse(item).is_some())
        {
            let (item, api_version) = (item.to_owned(), api_version.to_owned());
            return self.list(value, &item, &api_version);
        }
        let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
        match Kind::parse(kind) {
            Some(kind) if api_version == kind.api_version() => match kind {
                Kind::Service => self.convert(kind, &value, service),
                Kind::Endpoints => self.convert(kind, &value, |object: core::Endpoints| {
                    map(convert::endpoints(&object), Object::Endpoints)
                }),
                Kind::EndpointSlice => self.convert(kind, &value, endpoint_slice),
                Kind::Pod => {
                    let value = project(&value, fields::POD);
                    self.convert(kind, &value, |object: core::Pod| {
                        map(convert::pod(&object), Object::Pod)
                    });
                }
                Kind::Node => {
                    let value = project(&value, fields::NODE);
                    self.convert(kind, &value, |object: core::Node| {
                        map(convert::node(&object), Object::Node)
                    });
                }
            },
            Some(kind)
                if api_version.is_empty() || group(api_version) == group(kind.api_version()) =>
            {
                let message = format!("{api_version:?} is not {:?}", kind.api_version());
                let error = Diagnostic::error(message).with_field("apiVersion");
                self.refused(kind, &value, vec![error]);
            }
            _ => {
                let note = Diagnostic::note("a kind that a service proxy has no use for");
                self.report(note.with_object(label(kind, &value)));
            }
        }
    }

    fn list(&mut self, mut value: Value, item: &str, api_version: &str) {
        let items = match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            None | Some(Value::Null) => Vec::new(),
            Some(_) => {
                let error = Diagnostic::error("not a list");
                return self.unattributed(error.with_field("items"));
            }
        };
        let list = self.location.item.take();
        for (index, mut value) in items.into_iter().enumerate() {
            // The API server leaves these two out of the items of a list of one kind.
            if let Value::Object(object) = &mut value
                && !item.is_empty()
            {
                let version = || Value::from(api_version);
                object.entry("apiVersion").or_insert_with(version);
                object.entry("kind").or_insert_with(|| Value::from(item));
            }
            self.location.item = Some(match &list {
                Some(list) => format!("{list}.items[{index}]"),
                None => format!("items[{index}]"),
            });
            self.object(value);
        }
        self.location.item = list;
    }

    fn convert<T: DeserializeOwned>(
        &mut self,
        kind: Kind,
        value: &Value,
        convert: impl FnOnce(T) -> Converted<Object>,
    ) {
        let object: T = match serde_path_to_error::deserialize(value) {
            Ok(object) => object,
            Err(error) => {
                let field = error.path().to_string();
                let error = Diagnostic::error(error.into_inner()).with_field(field);
                return self.refused(kind, value, vec![error]);
            }
        };
        let converted = convert(object);
        let Some(key) = key(kind, value).filter(|_| !converted.is_refused()) else {
            return self.refused(kind, value, converted.diagnostics);
        };
        for diagnostic in converted.diagnostics {
            self.report(diagnostic.with_object(&key));
        }
        self.parsed.definitions.push(Definition {
            key,
            location: self.location.clone(),
            outcome: converted
                .object
                .map_or(Outcome::LeftOut, |object| Outcome::Good(Arc::new(object))),
        });
    }

    /// An object with errors: its last good version can stay if its name can be read.
    fn refused(&mut self, kind: Kind, value: &Value, diagnostics: Vec<Diagnostic>) {
        let object = label(&format!("{kind:?}"), value);
        for diagnostic in diagnostics {
            self.report(diagnostic.with_object(&object));
        }
        match key(kind, value) {
            Some(key) => self.parsed.definitions.push(Definition {
                key,
                location: self.location.clone(),
                outcome: Outcome::Refused,
            }),
            None => self.parsed.unattributed = true,
        }
    }

    fn unattributed(&mut self, error: Diagnostic) {
        self.parsed.unattributed = true;
        self.report(error);
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.parsed.report(diagnostic.at(self.location.clone()));
    }
}

fn service(object: core::Service) -> Converted<Object> {
    let selection = convert::selection(&object);
    let refused = selection.is_refused();
    let mut converted = map(convert::service(&object), |service| Object::Service {
        service,
        selection: selection.object,
    });
    converted.diagnostics.extend(selection.diagnostics);
    converted.object = converted.object.filter(|_| !refused);
    converted
}

fn endpoint_slice(object: discovery::EndpointSlice) -> Converted<Object> {
    let labels = object.metadata.labels.as_ref();
    let made_by = match labels.and_then(|labels| labels.get(MANAGED_BY)) {
        Some(controller) if controller.ends_with(CONTROL_PLANE) => Maker::ControlPlane,
        _ => Maker::Other,
    };
    map(convert::endpoint_slice(&object), |slice| {
        Object::EndpointSlice { slice, made_by }
    })
}

fn map<T>(converted: Converted<T>, wrap: impl FnOnce(T) -> Object) -> Converted<Object> {
    Converted {
        object: converted.object.map(wrap),
        diagnostics: converted.diagnostics,
    }
}

fn key(kind: Kind, value: &Value) -> Option<Key> {
    Key::new(kind, namespace(value), text(value, "/metadata/name")?)
}

/// Kind and name as they stand there, valid or not.
fn label(kind: &str, value: &Value) -> String {
    let namespaced = Kind::parse(kind).is_none_or(Kind::is_namespaced);
    match text(value, "/metadata/name") {
        Some(name) if namespaced => format!("{kind} {}/{name}", namespace(value)),
        Some(name) => format!("{kind} {name}"),
        None => kind.to_owned(),
    }
}

fn namespace(value: &Value) -> &str {
    let namespace = text(value, "/metadata/namespace");
    namespace
        .filter(|text| !text.is_empty())
        .unwrap_or(DEFAULT_NAMESPACE)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}
