//! Answers to requests.

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::format::Format;
use super::http::{EXISTS, FORBIDDEN, GONE, NOT_FOUND, Refusal, TOO_LARGE};
use super::objects::{Selector, line};
use super::{Ask, Cut, Fault, Resource, Shared, State, Verb, events, http};

/// How often a watch checks even without a change.
const LOOK: Duration = Duration::from_millis(100);
/// The pause after each byte of a dripping answer.
const DRIP: Duration = Duration::from_millis(20);

pub(super) fn connection(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(ask) = http::read(&mut requests, || shared.lock().prefix.clone())? {
        let Ok(ask) = ask else {
            refuse(&mut stream, Format::Json, &NOT_FOUND)?;
            continue;
        };
        if !answer(&ask, &mut stream, shared)? {
            break;
        }
    }
    stream.shutdown(std::net::Shutdown::Both)
}

fn refuse(stream: &mut TcpStream, format: Format, refusal: &Refusal) -> io::Result<()> {
    let body = format.object(&refusal.status());
    http::write(stream, refusal.code, format.content_type(), "", &body)
}

/// Answers a request. Returns whether the connection may be reused.
fn answer(ask: &Ask, stream: &mut TcpStream, shared: &Shared) -> io::Result<bool> {
    let (fault, refusal, format) = shared.change(|state| {
        state.asks.push(ask.clone());
        let mut faults = state.faults.iter();
        let next = faults.position(|(of, verb, _)| (*of, *verb) == (ask.resource, ask.verb));
        let fault = next.map(|index| state.faults.remove(index).2);
        (fault, state.refusal(ask), state.format(ask))
    });
    match &fault {
        Some(Fault::Close) => return Ok(false),
        Some(Fault::Silence) => {
            wait_until(shared, |state| state.stops || state.is_away);
            return Ok(false);
        }
        Some(Fault::Status { code, retry_after }) => {
            let header = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n"));
            let mut message = shared.lock().message.clone();
            message.push('\n');
            http::write(
                stream,
                *code,
                "text/plain",
                &header.unwrap_or_default(),
                message.as_bytes(),
            )?;
            return Ok(true);
        }
        Some(_) | None => {}
    }
    if let Some(refusal) = refusal {
        refuse(stream, format, &refusal)?;
        return Ok(true);
    }
    match ask.verb {
        Verb::Get => get(ask, stream, shared),
        Verb::Create => create(ask, fault.as_ref(), stream, shared),
        Verb::List => list(ask, fault.as_ref(), format, stream, shared),
        Verb::Watch => Watch::new(ask, format, shared, stream).run(fault.as_ref()),
    }
}

/// Sends the middle of an endless string.
fn endless(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let part = [b'x'; 64 << 10];
    (0..bytes.div_ceil(part.len())).try_for_each(|_| http::write_chunk(stream, &part))
}

fn wait_until(shared: &Shared, mut done: impl FnMut(&State) -> bool) {
    let state = shared.lock();
    drop(shared.changed.wait_while(state, |state| !done(state)));
}

impl State {
    /// The encoding of the answer. Objects that are read one by one, and Events, are JSON.
    fn format(&self, ask: &Ask) -> Format {
        let is_read = matches!(ask.verb, Verb::List | Verb::Watch);
        if is_read && ask.accepts_protobuf && self.behaviour.has_protobuf {
            Format::Protobuf(ask.resource)
        } else {
            Format::Json
        }
    }

    /// Why a server with this behaviour rejects the request, if it does.
    fn refusal(&self, ask: &Ask) -> Option<Refusal> {
        let given = ask
            .authorization
            .as_deref()
            .and_then(|given| given.strip_prefix("Bearer "));
        if self
            .token
            .as_deref()
            .is_some_and(|token| given != Some(token))
        {
            return Some(Refusal {
                code: 401,
                reason: "Unauthorized",
                message: "Unauthorized",
            });
        }
        if self.forbidden.contains(&ask.resource) {
            return Some(FORBIDDEN);
        }
        if ask.resource == Resource::ServiceCidrs && !self.behaviour.has_service_cidrs {
            return Some(NOT_FOUND);
        }
        let fields = ask.parameter("fieldSelector").unwrap_or_default();
        if fields.contains("spec.clusterIP") && !self.behaviour.selects_cluster_ips {
            return Some(Refusal {
                code: 400,
                reason: "BadRequest",
                message: "Unable to find \"/v1, Resource=services\" that match field selector",
            });
        }
        if ask.parameter("sendInitialEvents").is_some() && !self.behaviour.streams_lists {
            return Some(Refusal {
                code: 422,
                reason: "Invalid",
                message: "sendInitialEvents is forbidden for watch unless the WatchList feature \
                          gate is enabled",
            });
        }
        // A watch may continue from a future version.
        let lists = ask.verb == Verb::List || ask.parameter("sendInitialEvents").is_some();
        let version = ask.parameter("resourceVersion");
        let version = version.and_then(|version| version.parse().ok());
        if lists && version.is_some_and(|version: u64| version > self.objects.version()) {
            return Some(TOO_LARGE);
        }
        selector(ask).is_none().then_some(Refusal {
            code: 400,
            reason: "BadRequest",
            message: "unable to parse requirement",
        })
    }
}

fn selector(ask: &Ask) -> Option<Selector> {
    Selector::new(
        ask.parameter("labelSelector").unwrap_or_default(),
        ask.parameter("fieldSelector").unwrap_or_default(),
    )
}

/// One object.
fn get(ask: &Ask, stream: &mut TcpStream, shared: &Shared) -> io::Result<bool> {
    let parts = [ask.namespace.as_deref(), ask.name.as_deref()];
    let name = parts.map(Option::unwrap_or_default).join("/");
    let object =
        shared.change(|state| state.objects.kind(ask.resource).objects.get(&name).cloned());
    match object {
        Some(object) => {
            let body = Format::Json.object(&object);
            http::write(stream, 200, Format::Json.content_type(), "", &body)?;
        }
        None => refuse(stream, Format::Json, &NOT_FOUND)?,
    }
    Ok(true)
}

/// Creates an Event.
fn create(
    ask: &Ask,
    fault: Option<&Fault>,
    stream: &mut TcpStream,
    shared: &Shared,
) -> io::Result<bool> {
    let event = ask.body.clone().unwrap_or_default();
    let taken = shared.change(|state| {
        events::check(&event, ask.namespace.as_deref())?;
        let name = super::objects::name(&event);
        if state.objects.kind(ask.resource).objects.contains_key(&name) {
            return Err(EXISTS);
        }
        state.objects.put(ask.resource, event.clone());
        Ok(())
    });
    match taken {
        Ok(()) if fault.is_some() => return Ok(false),
        Ok(()) => {
            let body = Format::Json.object(&event);
            http::write(stream, 201, Format::Json.content_type(), "", &body)?;
        }
        Err(refusal) => refuse(stream, Format::Json, &refusal)?,
    }
    Ok(true)
}

/// A page of a list. The continue token consists of the version of the first page and the number of
/// sent objects.
fn list(
    ask: &Ask,
    fault: Option<&Fault>,
    format: Format,
    stream: &mut TcpStream,
    shared: &Shared,
) -> io::Result<bool> {
    let content_type = format.content_type();
    let selector = selector(ask).unwrap_or_default();
    let token = ask
        .parameter("continue")
        .and_then(|token| token.split_once('.'));
    let token = token.and_then(|(version, sent)| Some((version.parse().ok()?, sent.parse().ok()?)));
    let page = {
        let mut state = shared.lock();
        let (first, sent): (u64, usize) = token.unwrap_or((state.objects.version(), 0));
        let kind = state.objects.kind(ask.resource);
        if token.is_some() && first < kind.compacted {
            None
        } else {
            let all = kind.at(first);
            let all: Vec<_> = all
                .iter()
                .filter(|object| selector.selects(object))
                .collect();
            let limit = ask.parameter("limit").and_then(|limit| limit.parse().ok());
            let limit = limit.unwrap_or(usize::MAX).min(state.behaviour.page);
            let items = all.iter().skip(sent).take(limit);
            let items: Vec<&Value> = items.map(|object| object.as_ref()).collect();
            let sent = sent + items.len();
            let next = (sent < all.len()).then(|| format!("{first}.{sent}"));
            Some(json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": first.to_string(), "continue": next},
                "items": items,
            }))
        }
    };
    let Some(page) = page else {
        refuse(stream, format, &GONE)?;
        return Ok(true);
    };
    let (body, headers) = packed(format.list(&page), ask)?;
    match fault {
        Some(Fault::Half | Fault::Ended) => {
            http::write_head(stream, 200, content_type, headers, body.len())?;
            stream.write_all(body.get(..body.len() / 2).unwrap_or_default())?;
            return Ok(false);
        }
        Some(Fault::Garbage) => http::write(stream, 200, content_type, "", &format.garbage())?,
        Some(Fault::Slow) => {
            http::write_head(stream, 200, content_type, headers, body.len())?;
            for part in body.chunks(body.len() / 10 + 1) {
                stream.write_all(part)?;
                thread::sleep(LOOK);
            }
        }
        Some(Fault::Drip) => {
            http::write_head(stream, 200, content_type, headers, body.len())?;
            for byte in body.chunks(1) {
                stream.write_all(byte)?;
                thread::sleep(DRIP);
            }
        }
        Some(Fault::Endless(bytes)) => {
            http::begin_chunks(stream, content_type)?;
            http::write_chunk(stream, &format.beginning_of_list(*bytes))?;
            endless(stream, *bytes)?;
            return Ok(false);
        }
        _ => http::write(stream, 200, content_type, headers, &body)?,
    }
    Ok(true)
}

/// The size above which an API server compresses an answer (`defaultGzipThresholdBytes`).
const PACKED_FROM: usize = 128 << 10;

/// A page, compressed if it is long and the client accepts that, and the header that says so.
fn packed(page: Vec<u8>, ask: &Ask) -> io::Result<(Vec<u8>, &'static str)> {
    if page.len() <= PACKED_FROM || !ask.accepts_gzip {
        return Ok((page, ""));
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&page)?;
    Ok((packer.finish()?, "Content-Encoding: gzip\r\n"))
}

impl super::objects::Kind {
    /// The objects as they were at a version.
    fn at(&self, version: u64) -> Vec<Arc<Value>> {
        let mut objects = self.objects.clone();
        for event in self
            .log
            .iter()
            .rev()
            .take_while(|event| event.version > version)
        {
            let object = event.after.as_ref().or(event.before.as_ref());
            let name = object
                .map(|object| super::objects::name(object))
                .unwrap_or_default();
            match &event.before {
                Some(before) => objects.insert(name, Arc::clone(before)),
                None => objects.remove(&name),
            };
        }
        objects.into_values().collect()
    }
}

struct Watch<'a> {
    ask: &'a Ask,
    format: Format,
    selector: Selector,
    shared: &'a Shared,
    stream: &'a mut TcpStream,
    /// The sent part of the log.
    position: usize,
    bookmarks: u64,
    cuts: u64,
    /// Whether it was requested from a future version. Then nothing is sent before that version
    /// exists, not even a bookmark.
    waits: bool,
}

/// The next action of a watch.
enum Next {
    Send(Vec<String>),
    Cut(Cut),
    Wait,
    End,
}

impl<'a> Watch<'a> {
    fn new(ask: &'a Ask, format: Format, shared: &'a Shared, stream: &'a mut TcpStream) -> Self {
        let mut state = shared.lock();
        let bookmarks = state.bookmarks;
        let kind = state.objects.kind(ask.resource);
        Self {
            ask,
            format,
            selector: selector(ask).unwrap_or_default(),
            shared,
            stream,
            position: kind.log.len(),
            bookmarks,
            cuts: kind.cuts.0,
            waits: false,
        }
    }

    /// Answers until the watch ends. Returns whether the connection may be reused: a client keeps
    /// the connection of an answer that has ended, as it does with a real server, so one that is
    /// closed then would fail the client's next request, whatever its kind.
    fn run(mut self, fault: Option<&Fault>) -> io::Result<bool> {
        let version = self
            .ask
            .parameter("resourceVersion")
            .and_then(|text| text.parse().ok());
        let lists = self.ask.parameter("sendInitialEvents").is_some();
        let first = match version.filter(|version| *version != 0 && !lists) {
            Some(version) => match self.resume(version) {
                Ok(()) => Vec::new(),
                Err(refusal) => return self.refuse(&refusal).map(|()| true),
            },
            None => self.initial(),
        };
        let format = self.format;
        http::begin_chunks(self.stream, format.content_type_of_watch())?;
        match fault {
            Some(Fault::Garbage) => http::write_chunk(self.stream, &format.garbage_event())?,
            Some(Fault::Half | Fault::Ended) => {
                self.send(first.get(..first.len() / 2).unwrap_or_default())?;
                return match fault {
                    Some(Fault::Half) => self.send_half().map(|()| false),
                    _ => http::end_chunks(self.stream).map(|()| true),
                };
            }
            Some(Fault::Slow) => {
                for event in first.iter().map(|line| format.event(line)) {
                    let (one, other) = event.split_at(event.len() / 2);
                    http::write_chunk(self.stream, one)?;
                    thread::sleep(LOOK);
                    http::write_chunk(self.stream, other)?;
                }
            }
            Some(Fault::Drip) => {
                for event in first.iter().map(|line| format.event(line)) {
                    for byte in event.chunks(1) {
                        http::write_chunk(self.stream, byte)?;
                        thread::sleep(DRIP);
                    }
                }
            }
            Some(Fault::Endless(bytes)) => {
                http::write_chunk(self.stream, &format.beginning_of_event(*bytes))?;
                return endless(self.stream, *bytes).map(|()| false);
            }
            _ => self.send(&first)?,
        }
        let seconds = self
            .ask
            .parameter("timeoutSeconds")
            .and_then(|text| text.parse().ok());
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(3600));
        loop {
            match self.next(end) {
                Next::Send(lines) => self.send(&lines)?,
                Next::Wait => {}
                Next::End => {
                    if !self.waits {
                        let version = self.shared.lock().objects.version();
                        self.send(&[bookmark(version, json!({}))])?;
                    }
                    return http::end_chunks(self.stream).map(|()| true);
                }
                Next::Cut(Cut::End) => return http::end_chunks(self.stream).map(|()| true),
                Next::Cut(Cut::Close) => return Ok(false),
                Next::Cut(Cut::MidEvent) => return self.send_half().map(|()| false),
                Next::Cut(Cut::Silence) => {
                    wait_until(self.shared, |state| state.stops || state.is_away);
                    return Ok(false);
                }
            }
        }
    }

    fn send(&mut self, lines: &[String]) -> io::Result<()> {
        lines
            .iter()
            .try_for_each(|line| http::write_chunk(self.stream, &self.format.event(line)))
    }

    /// Sends the beginning of an event.
    fn send_half(&mut self) -> io::Result<()> {
        http::write_chunk(self.stream, &self.format.beginning_of_event(0))
    }

    fn refuse(self, refusal: &Refusal) -> io::Result<()> {
        if !self.shared.lock().behaviour.gone_by_event {
            return refuse(self.stream, self.format, refusal);
        }
        http::begin_chunks(self.stream, self.format.content_type_of_watch())?;
        let event = self.format.event(&line("ERROR", &refusal.status()));
        http::write_chunk(self.stream, &event)?;
        http::end_chunks(self.stream)
    }

    /// Continues from a version.
    fn resume(&mut self, version: u64) -> Result<(), Refusal> {
        let mut state = self.shared.lock();
        let kind = state.objects.kind(self.ask.resource);
        if version < kind.compacted {
            return Err(GONE);
        }
        self.position = kind.log.partition_point(|event| event.version <= version);
        self.waits = version > state.objects.version();
        Ok(())
    }

    /// All existing objects and, if requested, the bookmark at their end.
    fn initial(&mut self) -> Vec<String> {
        let mut state = self.shared.lock();
        let version = state.objects.version();
        let kind = state.objects.kind(self.ask.resource);
        self.position = kind.log.len();
        let objects = kind
            .objects
            .values()
            .filter(|object| self.selector.selects(object));
        let mut lines: Vec<_> = objects.map(|object| line("ADDED", object)).collect();
        if self.ask.parameter("sendInitialEvents").is_some() {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            lines.push(bookmark(version, annotations));
        }
        lines
    }

    fn next(&mut self, end: Instant) -> Next {
        let mut state = self.shared.lock();
        let (version, bookmarks) = (state.objects.version(), state.bookmarks);
        if state.stops || state.is_away {
            return Next::Cut(Cut::Close);
        }
        let kind = state.objects.kind(self.ask.resource);
        // Earlier events are sent first.
        let to = kind.held.unwrap_or(kind.log.len());
        self.waits &= self.position >= to;
        if self.position < to {
            let releases = kind.releases.iter();
            let release = releases
                .rev()
                .find(|r| r.from == self.position && r.to > r.from);
            if let Some(release) = release {
                self.position = release.to;
                return Next::Send(release.lines.clone());
            }
            let starts = kind.releases.iter().map(|release| release.from);
            let to = starts
                .filter(|from| *from > self.position)
                .fold(to, usize::min);
            let events = kind.log.get(self.position..to).unwrap_or_default();
            let lines = events
                .iter()
                .filter_map(|e| e.line(|object| self.selector.selects(object)));
            let lines = lines.collect();
            self.position = to;
            return Next::Send(lines);
        }
        if bookmarks > self.bookmarks && kind.held.is_none() {
            self.bookmarks = bookmarks;
            return Next::Send(vec![bookmark(version, json!({}))]);
        }
        if let (count, Some(cut)) = kind.cuts
            && count > self.cuts
        {
            return Next::Cut(cut);
        }
        if Instant::now() >= end {
            return Next::End;
        }
        let waited = self.shared.changed.wait_timeout(state, LOOK);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Next::Wait
    }
}

fn bookmark(version: u64, annotations: Value) -> String {
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    line(
        "BOOKMARK",
        &json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": metadata}),
    )
}
