//! Decodes a file's text into checked objects.

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::api::{self, Identified};
use super::super::convert::Ingested;
use super::super::convert::{self, Converted};
use super::super::{Diagnostic, Extent, Location};
use super::document::{self, Document, Format};
use super::lines::Lines;
use super::object::{self, DEFAULT_NAMESPACE, Items, Key, Kind, Maker, NotAList, Object, Raw};
use super::parsed::{Cache, Definition, Documents, Known, Parsed};

/// The label with the name of a slice's controller.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The suffix of the names of the control plane's slice controllers.
const CONTROL_PLANE: &str = "controller.k8s.io";
/// Numeric fields in which people write leading zeros.
const NUMBERS: [&str; 6] = [
    "port",
    "targetPort",
    "nodePort",
    "containerPort",
    "healthCheckNodePort",
    "timeoutSeconds",
];
/// The remedy for a template.
const RENDER: &str =
    "render it first, for instance with 'helm template RELEASE CHART', and use the output";

/// Decodes the text of a file, which diagnostics call `name`. `path` is the file's key in the
/// cache.
pub(super) fn decode(
    name: &Path,
    text: &str,
    cache: &mut Cache,
    path: &Path,
) -> (Parsed, Documents) {
    let mut parsed = Parsed::default();
    let mut before = cache.take_documents(path);
    let mut documents = Documents::new();
    for (index, document) in document::split(text).iter().enumerate() {
        let location = Location {
            document: Some(index + 1),
            line: Some(document.line),
            ..Location::new(name)
        };
        let hash = cache.hash(document.text);
        if let Some(known) = before.remove(&hash) {
            let definition = |known: &Known| Definition {
                key: known.key.clone(),
                location: Location {
                    item: known.item.clone(),
                    ..location.clone()
                },
                outcome: Ingested::Good(known.object.clone()),
            };
            parsed.definitions.extend(known.iter().map(definition));
            documents.insert(hash, known);
            continue;
        }
        let definitions = parsed.definitions.len();
        let found = (parsed.errors, parsed.notes);
        decode_document(document, location, cache.extent, &mut parsed);
        if (parsed.errors, parsed.notes) == found {
            let new = parsed.definitions.iter().skip(definitions);
            documents.insert(hash, new.filter_map(Definition::known).collect());
        }
    }
    (parsed, documents)
}

fn decode_document(
    document: &Document<'_>,
    location: Location,
    extent: Extent,
    parsed: &mut Parsed,
) {
    let found = parsed.diagnostics.len();
    let error = match document.format {
        Format::Json => {
            decoder(document, location.clone(), extent, parsed)
                .object(Raw::Text(document.text), None);
            None
        }
        Format::BrokenJson => {
            let error = object::malformed(document.text);
            Some((document.line_of(error.line()), error.message))
        }
        Format::Yaml => match document.parse() {
            // kubectl prints an empty document like this.
            Ok(Value::Null) => None,
            Ok(value) => {
                decoder(document, location.clone(), extent, parsed)
                    .object(Raw::Value(&value), None);
                locate_all(document, &location, found, parsed);
                None
            }
            Err(error) => Some((error.line, error.message)),
        },
    };
    let Some((line, message)) = error else {
        hint_at_template(parsed.since(found));
        return;
    };
    let (line, message) = match document.template() {
        Some((found, line)) => (
            Some(line),
            format!("{found} is an expression of a template, such as Helm's: {RENDER}"),
        ),
        None => (line.or(location.line), message),
    };
    parsed.report(Diagnostic::error(message).at(Location { line, ..location }));
    (parsed.unattributed, parsed.unread) = (true, true);
}

fn decoder<'a>(
    document: &'a Document<'a>,
    location: Location,
    extent: Extent,
    parsed: &'a mut Parsed,
) -> Decoder<'a> {
    Decoder {
        document,
        location,
        extent,
        parsed,
        counted: (0, 0),
    }
}

/// Adds lines to the diagnostics of a YAML document, and notes octal numbers.
fn locate_all(document: &Document<'_>, location: &Location, found: usize, parsed: &mut Parsed) {
    let octal = document.may_have_octal();
    if parsed.since(found).is_empty() && !octal {
        return;
    }
    let Some(lines) = document.lines() else {
        return;
    };
    for diagnostic in parsed.since(found) {
        locate(diagnostic, document, &lines, true);
    }
    if octal {
        note_octals(document, location, &lines, parsed);
    }
}

/// Adds the line of the field to a diagnostic, and quotes the text there. `lines` are those of the
/// document or, without `whole`, of the item.
fn locate(diagnostic: &mut Diagnostic, document: &Document<'_>, lines: &Lines, whole: bool) {
    let Some(location) = &mut diagnostic.location else {
        return;
    };
    let item = location.item.as_deref().filter(|_| whole);
    let field = diagnostic.field.as_deref().unwrap_or_default();
    let path = format!("{}.{field}", item.unwrap_or_default());
    location.line = document.line_of(lines.line(&path)).or(location.line);
    if let Some(written) = lines.written(&path, document.text)
        && diagnostic.is_error()
        && !is_quoted(&diagnostic.message, written)
    {
        let message = format!("{} (written as {written})", diagnostic.message);
        diagnostic.set_message(message);
    }
}

/// Whether a message already contains a value as written, apart from quotes.
fn is_quoted(message: &str, written: &str) -> bool {
    let plain = written.trim_matches(['"', '\'']);
    let is_escaped = plain.contains(['"', '\'', '\\']);
    plain.is_empty() || is_escaped || message.contains(plain)
}

/// Notes numbers that kubectl and svcproxy read as octal, but people and YAML 1.2 as decimal.
fn note_octals(document: &Document<'_>, location: &Location, lines: &Lines, parsed: &mut Parsed) {
    let mut octals = Vec::new();
    lines.scalars(document.text, &mut |path, written| {
        let name = path.rsplit('.').next().unwrap_or_default();
        let digits = written.strip_prefix('0').unwrap_or_default();
        if let Ok(number) = u32::from_str_radix(digits, 8)
            && NUMBERS.contains(&name)
        {
            octals.push((path.to_owned(), written, number));
        }
    });
    octals.sort();
    for (path, written, number) in octals {
        let note = format!(
            "{written} is an octal number, {number}, for kubectl and so for svcproxy: leave out the \
             leading 0 if {} is meant",
            written.trim_start_matches('0')
        );
        let line = document.line_of(lines.line(&path)).or(location.line);
        let place = Location {
            line,
            ..location.clone()
        };
        parsed.report(Diagnostic::note(note).with_field(path).at(place));
    }
}

/// Adds a hint to values with braces: the template was not rendered.
fn hint_at_template(diagnostics: &mut [Diagnostic]) {
    for diagnostic in diagnostics {
        if diagnostic.is_error() && diagnostic.message.contains("{{") {
            let message = format!(
                "{}: {{{{ begins an expression of a template, such as Helm's: {RENDER}",
                diagnostic.message
            );
            diagnostic.set_message(message);
        }
    }
}

/// Decodes one document.
struct Decoder<'a> {
    document: &'a Document<'a>,
    location: Location,
    extent: Extent,
    parsed: &'a mut Parsed,
    /// A place in the document's text, and the number of line ends before it.
    counted: (usize, usize),
}

/// Kind and `apiVersion` of a list, because the API server omits them in the items of a list of one
/// kind.
type Defaults<'a> = Option<(&'a str, &'a str)>;

impl Decoder<'_> {
    fn object(&mut self, raw: Raw<'_>, defaults: Defaults<'_>) {
        let found = self.parsed.diagnostics.len();
        self.decode(raw, defaults);
        // Items of a list have been located already.
        if let Raw::Text(text) = raw
            && !self.parsed.since(found).is_empty()
        {
            self.locate(text, found);
        }
    }

    /// Adds lines to the new diagnostics of this JSON text.
    fn locate(&mut self, text: &str, found: usize) {
        let item = self.location.item.clone();
        let line = self.document.first_line + self.lines_before(text);
        let place = Document {
            text,
            format: Format::Json,
            first_line: line,
            line,
        };
        let lines = place.lines();
        for diagnostic in self.parsed.since(found) {
            let location = diagnostic.location.as_mut();
            let Some(location) = location.filter(|location| location.item == item) else {
                continue;
            };
            location.line = Some(line);
            if let Some(lines) = &lines {
                locate(diagnostic, &place, lines, false);
            }
        }
    }

    /// The number of line ends before a part of the document. The parts come in order.
    fn lines_before(&mut self, part: &str) -> usize {
        let at = part.as_ptr().addr() - self.document.text.as_ptr().addr();
        let (from, lines) = match self.counted {
            counted @ (from, _) if from <= at => counted,
            _ => (0, 0),
        };
        let between = self.document.text.get(from..at).unwrap_or_default();
        self.counted = (at, lines + document::lines_in(between));
        self.counted.1
    }

    fn decode(&mut self, raw: Raw<'_>, defaults: Defaults<'_>) {
        let shape = raw.shape();
        let kind = shape.kind.as_deref().or(defaults.map(|(kind, _)| kind));
        let api_version = shape.api_version.as_deref();
        let api_version = api_version.or(defaults.map(|(_, version)| version));
        let api_version = api_version.unwrap_or_default();
        let Some(kind) = kind.filter(|kind| !kind.is_empty()) else {
            let error = Diagnostic::error("missing: not a Kubernetes object");
            return self.unread(error.with_field("kind"));
        };
        if let Some(item) = kind.strip_suffix("List")
            && (item.is_empty() || Kind::parse(item).is_some())
        {
            let defaults = Some((item, api_version)).filter(|_| !item.is_empty());
            return self.list(shape.items, defaults);
        }
        let extent = self.extent;
        let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
        match Kind::parse(kind) {
            Some(kind) if api_version == kind.api_version() => match kind {
                Kind::Service => self.convert(kind, raw, |object| service(object, extent)),
                Kind::Endpoints => self.convert(kind, raw, |object| endpoints(object, extent)),
                Kind::EndpointSlice => {
                    self.convert(kind, raw, |object| endpoint_slice(object, extent))
                }
                Kind::Pod => self.convert(kind, raw, |object: api::Pod| {
                    map(convert::pod(&object), Object::Pod)
                }),
                Kind::Node => self.convert(kind, raw, |object: api::Node| {
                    map(convert::node(&object), Object::Node)
                }),
            },
            Some(kind)
                if api_version.is_empty() || group(api_version) == group(kind.api_version()) =>
            {
                let message = format!("{api_version:?} is not {:?}", kind.api_version());
                let error = Diagnostic::error(message).with_field("apiVersion");
                self.refused(&Id::of(raw, kind), vec![error]);
            }
            _ => {
                let note = Diagnostic::note("a kind that a service proxy does not use");
                self.report(note.with_object(label(kind, &raw.header())));
            }
        }
    }

    fn list(&mut self, items: Result<Items<'_>, NotAList>, defaults: Defaults<'_>) {
        let list = self.location.item.take();
        let item = |decoder: &mut Self, index: usize, raw: Raw<'_>| {
            decoder.location.item = Some(match &list {
                Some(list) => format!("{list}.items[{index}]"),
                None => format!("items[{index}]"),
            });
            decoder.object(raw, defaults);
        };
        match items {
            Ok(Items::Values(values)) => {
                for (index, value) in values.iter().enumerate() {
                    item(self, index, Raw::Value(value));
                }
            }
            Ok(Items::Texts(texts)) => {
                for (index, text) in texts.iter().enumerate() {
                    item(self, index, Raw::Text(text.get()));
                }
            }
            Err(NotAList) => {
                self.location.item.clone_from(&list);
                let error = Diagnostic::error("not a list");
                self.unread(error.with_field("items"));
            }
        }
        self.location.item = list;
    }

    fn convert<T: DeserializeOwned + Identified>(
        &mut self,
        kind: Kind,
        raw: Raw<'_>,
        convert: impl FnOnce(T) -> Converted<Object>,
    ) {
        let object: T = match raw.decode() {
            Ok(object) => object,
            Err(error) => return self.refused(&Id::of(raw, kind), vec![*error]),
        };
        let key = match object.identity() {
            (Some(name), written) => Key::new(kind, namespace(written), name),
            (None, _) => None,
        };
        let converted = convert(object);
        let Some(key) = key.filter(|_| !converted.is_refused()) else {
            return self.refused(&Id::of(raw, kind), converted.diagnostics);
        };
        for diagnostic in converted.diagnostics {
            self.report(diagnostic.with_object(&key));
        }
        self.parsed.definitions.push(Definition {
            key,
            location: self.location.clone(),
            outcome: converted
                .object
                .map_or(Ingested::LeftOut, |object| Ingested::Good(Arc::new(object))),
        });
    }

    /// Records an object with errors. Its last good version can stay if its name can be read.
    fn refused(&mut self, id: &Id, diagnostics: Vec<Diagnostic>) {
        for diagnostic in diagnostics {
            self.report(diagnostic.with_object(&id.label));
        }
        match &id.key {
            Some(key) => self.parsed.definitions.push(Definition {
                key: key.clone(),
                location: self.location.clone(),
                outcome: Ingested::Refused,
            }),
            // The name is invalid, so the object may have been in effect under another one.
            None => self.parsed.unattributed = true,
        }
    }

    fn unread(&mut self, error: Diagnostic) {
        (self.parsed.unattributed, self.parsed.unread) = (true, true);
        self.report(error);
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.parsed.report(diagnostic.at(self.location.clone()));
    }
}

fn service(object: api::Service, extent: Extent) -> Converted<Object> {
    let selection = convert::selection(&object, extent);
    let refused = selection.is_refused();
    let mut converted = map(convert::service(&object, extent), |service| {
        Object::Service {
            service,
            selection: selection.object,
        }
    });
    converted.diagnostics.extend(selection.diagnostics);
    converted.object = converted.object.filter(|_| !refused);
    converted
}

fn endpoints(object: api::Endpoints, extent: Extent) -> Converted<Object> {
    let mirrored = convert::is_mirrored(&object);
    map(convert::endpoints(&object, extent), |slices| {
        Object::Endpoints { slices, mirrored }
    })
}

fn endpoint_slice(object: api::EndpointSlice, extent: Extent) -> Converted<Object> {
    let made_by = match object.metadata.label(MANAGED_BY) {
        Some(controller) if controller.ends_with(CONTROL_PLANE) => Maker::ControlPlane,
        _ => Maker::Other,
    };
    map(convert::endpoint_slice(&object, extent), |slice| {
        Object::EndpointSlice { slice, made_by }
    })
}

fn map<T>(converted: Converted<T>, wrap: impl FnOnce(T) -> Object) -> Converted<Object> {
    Converted {
        object: converted.object.map(wrap),
        diagnostics: converted.diagnostics,
    }
}

/// The identity of an object of a used kind.
struct Id {
    /// None if the name is invalid.
    key: Option<Key>,
    /// Kind and name as written, valid or not.
    label: String,
}

impl Id {
    /// That of an object that is not used: of the others, the decoded object has it.
    fn of(raw: Raw<'_>, kind: Kind) -> Self {
        let header = raw.header();
        let name = header.name();
        Self {
            key: name.and_then(|name| Key::new(kind, namespace(header.namespace()), name)),
            label: label(&format!("{kind:?}"), &header),
        }
    }
}

fn label(kind: &str, header: &api::Header) -> String {
    let namespaced = Kind::parse(kind).is_none_or(Kind::is_namespaced);
    match header.name() {
        Some(name) if namespaced => format!("{kind} {}/{name}", namespace(header.namespace())),
        Some(name) => format!("{kind} {name}"),
        None => kind.to_owned(),
    }
}

fn namespace(written: Option<&str>) -> &str {
    written
        .filter(|text| !text.is_empty())
        .unwrap_or(DEFAULT_NAMESPACE)
}
