//! Lists and watches one kind forever.
//!
//! Not with kube-runtime's watcher (5.0): it repeats forever a version that the server has rejected
//! with 410 Gone, accepts a streamed list from any server's cache, even if that is older than the
//! known state, does not fall back to a plain list, and hides `Retry-After`.

use std::convert::Infallible;
use std::mem;
use std::time::{Duration, Instant};

#[cfg(feature = "testing")]
use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::Reading;
use super::backoff::{Backoff, Timing};
use super::client::{ApiClients, Ask};
use super::encoding::{Bookmark, Encoding, Event};
use super::error::{EventError, Failure};
use super::follower::{Follower, Happened};
use super::kind::{Kind, Selection};
use super::progress::Progress;
#[cfg(feature = "testing")]
use super::split::Events;
use super::split::{LONGEST_OBJECT, Page, Text};
use super::state::States;
use super::wire::Answer;
use crate::escaped::Chain;

/// Number of objects per page of a list.
const PAGE: &str = "250";
/// A watch that ends earlier, without an event, has failed.
const SHORT: Duration = Duration::from_secs(1);

/// The state that all kinds share.
pub(super) struct Shared<'a> {
    pub(super) clients: &'a ApiClients,
    pub(super) timing: &'a Timing,
    pub(super) states: &'a States,
    pub(super) deliver: &'a (dyn Fn(Reading) + Sync),
}

/// The reaction to a failure.
enum Cure {
    /// Send another kind of request at once.
    AskOtherwise,
    /// Retry later, at the time that the server requests, if any.
    Wait(Option<Duration>),
    /// List again soon, without back-off: the server works.
    ListAgain,
    /// The kind does not exist, or svcproxy may not read it: continue without it.
    DoWithout,
}

pub(super) struct ListWatch<'a, K: Kind> {
    shared: &'a Shared<'a>,
    follower: Follower<K>,
    selection: Selection,
    /// The encoding to request.
    encoding: Encoding,
    /// Whether to request a streamed list: a watch that begins with all existing objects.
    streams: bool,
    /// Whether the next list must be a quorum read: the server does not know the newest known
    /// version, for instance after its data were restored.
    asks_for_latest: bool,
    /// Whether the server sends bookmarks, so that a watch without any counts as dead.
    sends_bookmarks: bool,
    /// When the server last sent something of this kind.
    heard: Instant,
    /// Notified when the kind has been listed in full.
    listed: Option<oneshot::Sender<()>>,
    /// Whether the server allowed other kinds when this kind was last requested. A server that
    /// starts up forbids all kinds.
    is_known: bool,
    /// How often the server has forgotten the version (410) since it last sent an event.
    forgotten: u32,
    /// Whether the server did not have the kind, or forbade it, at the last request.
    is_without: bool,
}

impl<'a, K: Kind> ListWatch<'a, K> {
    pub(super) fn new(
        kind: K,
        shared: &'a Shared<'a>,
        listed: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self {
            shared,
            selection: kind.selection(),
            follower: Follower::new(kind),
            encoding: shared.clients.encoding(),
            streams: true,
            asks_for_latest: false,
            sends_bookmarks: false,
            heard: Instant::now(),
            listed,
            is_known: false,
            forgotten: 0,
            is_without: false,
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) -> Infallible {
        let timing = self.shared.timing;
        let mut backoff = Backoff::new(timing);
        let mut last_warning: Option<Instant> = None;
        let mut is_back = self.shared.states.is_back();
        loop {
            is_back.mark_unchanged();
            let Err(mut failure) = self.list_or_watch().await else {
                continue;
            };
            let mut cure = self.cure(&failure);
            if matches!(cure, Cure::DoWithout)
                && let Err(other) = self.do_without(&failure).await
            {
                failure = other;
                cure = self.cure(&failure);
            }
            let pause = match cure {
                Cure::AskOtherwise => {
                    tracing::debug!(kind = K::NAME, %failure, "asking otherwise");
                    continue;
                }
                Cure::ListAgain => {
                    tracing::info!(kind = K::NAME, %failure, "listing again");
                    backoff = Backoff::new(timing);
                    timing.relist()
                }
                Cure::DoWithout => {
                    self.shared.states.absent(K::NAME);
                    self.report_listed();
                    timing.absent
                }
                Cure::Wait(asked) => {
                    let now = Instant::now();
                    let states = self.shared.states;
                    let starts =
                        failure.is_of_starting_server(states.was_away_within(timing.forgive));
                    let pause = backoff.pause(timing, starts, asked, now);
                    let error = Chain(&failure);
                    // Short pauses must not multiply the lines.
                    if last_warning.is_none_or(|last| now - last >= timing.last_retry) {
                        last_warning = Some(now);
                        tracing::warn!(
                            kind = K::NAME,
                            %error,
                            ?pause,
                            "cannot follow the API server; trying again after the pause"
                        );
                    } else {
                        tracing::debug!(kind = K::NAME, %error, ?pause, "cannot follow yet");
                    }
                    states.failed(K::NAME, &failure);
                    pause
                }
            };
            let retry = tokio::time::Instant::now() + pause;
            let is_away = matches!(failure, Failure::Unreachable { .. });
            tokio::select! {
                () = tokio::time::sleep_until(retry) => {}
                _ = is_back.changed(), if is_away => {
                    backoff = Backoff::new(timing);
                    let soon = tokio::time::Instant::now() + timing.relist();
                    tokio::time::sleep_until(soon.min(retry)).await;
                }
            }
        }
    }

    /// Uses the substitute for a kind that the server does not have, or forbids.
    async fn do_without(&mut self, failure: &Failure) -> Result<(), Failure> {
        let stand_in = self.follower.stand_in();
        let reading = match stand_in {
            Some(path) => self.read_stand_in(path).await?,
            None => Reading::default(),
        };
        if !mem::replace(&mut self.is_without, true) {
            let stand_in = stand_in.filter(|_| !reading.is_empty());
            tracing::warn!(
                kind = K::NAME,
                %failure,
                instead = stand_in.unwrap_or("nothing"),
                "the API server does not serve this kind to svcproxy"
            );
        }
        self.deliver(reading);
        Ok(())
    }

    async fn read_stand_in(&mut self, path: &str) -> Result<Reading, Failure> {
        let object = match self.ask(Ask::get(path, &[])).await {
            Ok(answer) => answer.short(self.shared.timing.answer).await?,
            Err(Failure::Refused {
                code: 403 | 404, ..
            }) => return Ok(Reading::default()),
            Err(failure) => return Err(failure),
        };
        Ok(self.follower.stood_in(&object))
    }

    async fn list_or_watch(&mut self) -> Result<(), Failure> {
        if self.follower.position().is_none() && !self.streams {
            self.list().await
        } else {
            self.watch().await
        }
    }

    /// How to react to a failure.
    fn cure(&mut self, failure: &Failure) -> Cure {
        let lists = self.follower.position().is_none();
        if self.encoding == Encoding::Protobuf && failure.is_of_encoding() {
            self.encoding = Encoding::Json;
            let error = Chain(failure);
            tracing::info!(kind = K::NAME, %error, "requesting JSON from now on");
            if matches!(failure, Failure::Refused { .. }) {
                return Cure::AskOtherwise;
            }
        }
        if lists
            && matches!(
                failure,
                Failure::Refused {
                    code: 410 | 500 | 504,
                    ..
                }
            )
        {
            // The server answers "Too large resource version", or the version has expired.
            self.asks_for_latest = self.follower.newest().is_some() && !self.asks_for_latest;
        }
        match failure {
            Failure::Refused { code: 400, .. }
                if self.selection.fields_optional && self.selection.fields.is_some() =>
            {
                self.selection.fields = None;
                return Cure::AskOtherwise;
            }
            // The answers of servers that do not support streamed lists.
            Failure::Refused {
                code: 400 | 422, ..
            } if lists && self.streams => {
                self.streams = false;
                return Cure::AskOtherwise;
            }
            Failure::Unfinished
            | Failure::NoAnswer { .. }
            | Failure::Silent(_)
            | Failure::Slow { .. }
                if lists =>
            {
                self.streams = false;
            }
            Failure::Refused { code: 404, .. } if self.selection.kind_optional => {
                return Cure::DoWithout;
            }
            // If it was listed before, it was allowed, and will be again.
            Failure::Refused { code: 403, .. }
                if self.selection.kind_optional && self.is_known && !self.follower.was_listed() =>
            {
                return Cure::DoWithout;
            }
            Failure::Refused { code: 401, .. } => self.shared.clients.forget(),
            Failure::Refused { code: 410, .. } if !lists => {
                self.follower.lose_position();
                self.forgotten += 1;
                // A server that has just started may forget the version of its own list.
                if self.forgotten <= 2 {
                    return Cure::ListAgain;
                }
            }
            Failure::Garbled(_) | Failure::Event(_) => self.follower.lose_position(),
            _ => {}
        }
        match failure {
            Failure::Refused { retry_after, .. } => Cure::Wait(*retry_after),
            _ => Cure::Wait(None),
        }
    }

    async fn list(&mut self) -> Result<(), Failure> {
        self.follower.begin_list();
        let mut next: Option<String> = None;
        let mut progress = Progress::of_list(self.shared.timing, Instant::now());
        loop {
            // The continue token contains the version.
            let (version, rule) = match next {
                None => self.list_version(),
                Some(_) => (None, None),
            };
            let ask = self.selection.ask(&[
                ("limit", Some(PAGE)),
                ("continue", next.as_deref()),
                ("resourceVersion", version),
                ("resourceVersionMatch", rule),
            ]);
            // Not a watch: a proxy that compresses it would hold its events back.
            let ask = ask.accepting(self.encoding).accepting_gzip();
            let mut answer = self.ask(ask).await?;
            progress.next_page(Instant::now())?;
            let encoding = answer.encoding;
            let mut page = Page::new(encoding);
            while let Some(piece) = answer.piece(&mut progress).await? {
                page.feed(&piece, |object| {
                    Ok(self.follower.list_item(encoding, object)?)
                })?;
            }
            let list = page.end()?;
            next = list.next.filter(|next| !next.is_empty());
            if next.is_none() {
                self.end_list(&list.resource_version);
                return Ok(());
            }
        }
    }

    async fn watch(&mut self) -> Result<(), Failure> {
        let timing = self.shared.timing;
        let seconds = timing.watch_seconds();
        let lasts = Duration::from_secs(seconds.into()) + timing.grace;
        let mut lists = self.follower.position().is_none();
        let (from, rule) = match self.follower.position() {
            Some(position) => (Some(position), None),
            // A streamed list requires both parameters.
            None => (self.list_version().0.or(Some("")), Some("NotOlderThan")),
        };
        let ask = self.selection.ask(&[
            ("watch", Some("true")),
            ("timeoutSeconds", Some(&seconds.to_string())),
            ("allowWatchBookmarks", Some("true")),
            ("resourceVersion", from),
            ("sendInitialEvents", lists.then_some("true")),
            ("resourceVersionMatch", rule),
        ]);
        let begun = Instant::now();
        let mut answer = self.ask(ask.accepting(self.encoding)).await?;
        let encoding = answer.encoding;
        if lists {
            self.follower.begin_list();
        } else {
            self.shared.states.connected(K::NAME);
        }
        let mut of_list = Progress::of_list(timing, Instant::now());
        let silence = timing.silence().min(lasts);
        let mut is_silent = true;
        loop {
            let now = Instant::now();
            let mut of_event =
                Progress::within(if self.sends_bookmarks { silence } else { lasts }, now);
            let progress = if lists { &mut of_list } else { &mut of_event };
            let taken = answer.event(progress, |text| self.ingest(encoding, text, lists));
            let taken = taken.await;
            let after_list = !lists;
            match taken {
                Ok(Some(still_lists)) => lists = still_lists?,
                Ok(None) => break,
                // Not a failure: the server may have had no bookmark to send.
                Err(Failure::Silent(time)) if after_list && time < lasts => {
                    tracing::debug!(
                        kind = K::NAME,
                        ?time,
                        "the watch is silent; requesting it again"
                    );
                    self.end_silence();
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
            is_silent = false;
            self.heard = Instant::now();
            if after_list {
                self.forgotten = 0;
            }
            self.shared.states.heard();
        }
        if lists {
            return Err(Failure::Unfinished);
        }
        if is_silent && begun.elapsed() < SHORT {
            return Err(Failure::Short);
        }
        if is_silent {
            self.end_silence();
        }
        Ok(())
    }

    /// Handles the end of a watch on which nothing arrived, not even a bookmark.
    ///
    /// A server with restored data waits until it reaches the requested version, and sends nothing
    /// until then.
    fn end_silence(&mut self) {
        if self.heard.elapsed() >= self.shared.timing.watch {
            self.follower.lose_position();
            self.heard = Instant::now();
        }
    }

    /// Processes an event of a watch. Returns whether the list is still under way.
    fn ingest(&mut self, encoding: Encoding, text: Text<'_>, lists: bool) -> Result<bool, Failure> {
        let text = match text {
            Text::Whole(text) => text,
            Text::TooLong(kept) => return self.ingest_long(encoding, kept, lists),
        };
        if encoding == Encoding::Json
            && let Some(event) = Event::of_plain_line(text)
            && matches!(event.kind, "ADDED" | "MODIFIED" | "DELETED")
        {
            match self.ingest_event(encoding, &event, lists) {
                // It may be written in another way.
                Err(Failure::Garbled(_) | Failure::Event(EventError::NotAnObject(_))) => {}
                other => return other,
            }
        }
        let event = encoding.event(text)?;
        self.ingest_event(encoding, &event, lists)
    }

    fn ingest_event(
        &mut self,
        encoding: Encoding,
        event: &Event<'_>,
        lists: bool,
    ) -> Result<bool, Failure> {
        let object = event.object;
        let happened = match event.kind {
            "ADDED" | "MODIFIED" => Happened::Applied,
            "DELETED" => Happened::Deleted,
            "BOOKMARK" => {
                self.sends_bookmarks = true;
                let bookmark = encoding.decode::<Bookmark>(object)?.metadata()?;
                let version = &bookmark.resource_version;
                if lists && bookmark.ends_list() {
                    self.end_list(version);
                    return Ok(false);
                }
                if !lists {
                    self.follower.bookmark(version);
                }
                return Ok(lists);
            }
            "ERROR" => return Err(Failure::of(encoding.decode(object)?, None)),
            _ => return Ok(lists),
        };
        match happened {
            Happened::Applied if lists => {
                self.follower.list_item(encoding, Text::Whole(object))?;
            }
            Happened::Deleted if lists => return Err(EventError::OutOfOrder.into()),
            happened => {
                let reading = self.follower.event(happened, encoding, object)?;
                self.deliver(reading);
            }
        }
        Ok(lists)
    }

    /// The same for an event that is too long.
    fn ingest_long(
        &mut self,
        encoding: Encoding,
        kept: &[u8],
        lists: bool,
    ) -> Result<bool, Failure> {
        let (kind, metadata) = encoding.long_event(kept)?;
        let happened = match &*kind {
            "ADDED" | "MODIFIED" => Happened::Applied,
            "DELETED" => Happened::Deleted,
            _ => return Err(Failure::TooLong("an event of the watch", LONGEST_OBJECT)),
        };
        if lists {
            self.follower.list_too_long(metadata);
        } else {
            let reading = self.follower.event_too_long(happened, metadata)?;
            self.deliver(reading);
        }
        Ok(lists)
    }

    /// The version of a list, and the match rule.
    ///
    /// A list in any version, or not older than the known one, comes from the API server's watch
    /// cache. A list without a version costs a quorum read of all objects from etcd, for every node
    /// of a cluster at once (kubernetes/kubernetes#85342).
    fn list_version(&self) -> (Option<&str>, Option<&'static str>) {
        match self.follower.newest() {
            _ if self.asks_for_latest => (None, None),
            None => (Some("0"), None),
            Some(newest) => (Some(newest), Some("NotOlderThan")),
        }
    }

    async fn ask(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let client = self.shared.clients.get().await?;
        self.is_known = self.shared.states.any_connected();
        Answer::to(ask, &client, self.shared.timing.answer).await
    }

    fn end_list(&mut self, version: &str) {
        let reading = self.follower.end_list(version);
        self.asks_for_latest = false;
        self.is_without = false;
        self.shared.states.connected(K::NAME);
        self.deliver(reading);
        self.report_listed();
    }

    fn report_listed(&mut self) {
        if let Some(listed) = self.listed.take() {
            let _ = listed.send(());
        }
    }

    fn deliver(&self, reading: Reading) {
        if !reading.is_empty() {
            (self.shared.deliver)(reading);
        }
    }
}

/// The work on answers, without requests: for fuzz targets.
#[cfg(feature = "testing")]
impl<K: Kind> ListWatch<'_, K> {
    /// Processes a page of a list that arrives in these pieces, as the whole list.
    pub(super) fn replay_list<'p>(
        &mut self,
        encoding: Encoding,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> Result<(), Failure> {
        self.follower.begin_list();
        let mut page = Page::new(encoding);
        for piece in pieces {
            page.feed(piece, |object| {
                Ok(self.follower.list_item(encoding, object)?)
            })?;
        }
        let list = page.end()?;
        self.end_list(&list.resource_version);
        Ok(())
    }

    /// Processes a watch that arrives in these pieces. If it is a streamed list, it begins with one.
    pub(super) fn replay_watch<'p>(
        &mut self,
        encoding: Encoding,
        pieces: impl Iterator<Item = &'p [u8]>,
        mut lists: bool,
    ) -> Result<(), Failure> {
        if lists {
            self.follower.begin_list();
        }
        let mut events = Events::new(encoding);
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(still_lists) =
                events.next(&mut piece, |text| self.ingest(encoding, text, lists))
            {
                lists = still_lists?;
            }
        }
        Ok(())
    }
}
