//! What all documents have in common: head, header, and small parts.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use super::Common;
use super::reading::Reading;
use crate::args::Mode;
use crate::description;
use crate::figures::{Age, rate, short};
use crate::history::Recorded;
use crate::inventory::ClientGroup;
use crate::load::Load;
use crate::logging::Shown;
use crate::notices::Condition;

/// Conditions that are listed, at most.
const LISTED: usize = 50;

/// A text from outside, with its hidden characters visible. The template escapes it for HTML.
pub(super) fn shown(text: &str) -> String {
    Shown(text).to_string()
}

/// A whole document. `title` is empty on the first page.
pub(super) fn document(common: &Common, title: &str, main: &Markup) -> Markup {
    let running = &common.running;
    let node = shown(&common.node);
    let heading = match title {
        "" => format!("{node} – svcproxy"),
        title => format!("{} – {node} – svcproxy", shown(title)),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (heading) }
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    div.bar {
                        a.brand href="/" { span.mark aria-hidden="true" {} "svcproxy" }
                        span.node { "node " b { (node) } }
                        span.badge #mode data-live { "mode " (shown(&running.mode)) }
                        (health(common))
                        // The script shows it: without one, nothing is live.
                        button #live type="button" hidden aria-pressed="true" { "Live" }
                    }
                }
                main #main tabindex="-1" { (main) }
                footer {
                    "svcproxy " (running.version) " (commit " (shown(&running.commit)) "), PID "
                    (running.pid) ", running for "
                    (Age::between(running.started_at, running.time)) ". Read-only. For programs: "
                    @for (index, path) in FOR_PROGRAMS.iter().enumerate() {
                        @if index > 0 { ", " }
                        a href=(path) { (path) }
                    }
                }
            }
        }
    }
}

/// A table, in a part that scrolls where the screen is narrow.
pub(super) fn table(label: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr { (head) } }
                tbody { (rows) }
            }
        }
    }
}

const FOR_PROGRAMS: [&str; 5] = ["/metrics", "/status", "/conditions", "/changes", "/configz"];

/// A document with one sentence.
pub(super) fn message(common: &Common, title: &str, text: &str) -> Markup {
    let main = html! {
        h1 { (title) }
        p { (shown(text)) }
        p { a href="/" { "All Services" } }
    };
    document(common, title, &main)
}

fn health(common: &Common) -> Markup {
    let running = &common.running;
    let is_fallback = running.mode != running.mode_wanted;
    let lost = running.source.connected == Some(false);
    let (class, text) = match running.healthy {
        false => ("bad", "unhealthy: changes are not applied in time"),
        true if lost => ("warn", "API server not connected"),
        true if is_fallback => ("warn", "fallback mode"),
        true => ("good", "healthy"),
    };
    html! { span #health data-live class={ "badge " (class) } { (text) } }
}

/// A time, and how long ago it was.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(then) title=(then) { (Age::between(then, now)) " ago" } }
}

/// The counters of a load that are known: a mode that does not count has no columns for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    mode: Mode,
    has_rates: bool,
}

/// The name of a column, and its text for a load.
type Column = (&'static str, fn(&Load) -> String);

impl Counters {
    pub(super) fn new(common: &Common, reading: Option<&Reading>) -> Self {
        Self {
            mode: common.mode().unwrap_or(Mode::Ipvs),
            has_rates: reading.is_some_and(|reading| reading.has_rates),
        }
    }

    /// Whether connections are counted at all.
    pub(super) fn any(self) -> bool {
        self.mode != Mode::Nftables
    }

    fn columns(self) -> impl Iterator<Item = Column> {
        let is_known = move |name: &str| match name {
            "Active" => matches!(self.mode, Mode::Ipvs | Mode::Userspace),
            "Bytes/s" => self.mode == Mode::Ipvs,
            _ => self.any(),
        };
        let all: [Column; 4] = [
            ("Active", |of| short(of.active_connections)),
            ("New/s", |of| rate(of.connections_per_second)),
            ("Bytes/s", |of| short(of.bytes_per_second)),
            ("Total", |of| short(of.total_connections)),
        ];
        all.into_iter().filter(move |(name, _)| is_known(name))
    }

    pub(super) fn head(self) -> Markup {
        html! {
            @for (name, _) in self.columns() { th.number scope="col" { (name) } }
        }
    }

    pub(super) fn cells(self, load: Option<&Load>) -> Markup {
        html! {
            @for (name, text) in self.columns() {
                @let load = load.filter(|_| self.has_rates || name != "New/s");
                td.number data-label=(name) {
                    (load.map_or_else(|| "–".to_owned(), text))
                }
            }
        }
    }
}

pub(super) fn clients(group: ClientGroup) -> &'static str {
    match group {
        ClientGroup::All => "all clients",
        ClientGroup::Inside => "clients in the cluster",
        ClientGroup::Outside => "clients outside",
    }
}

/// A link to a Service; only its name if that is none of a Service.
pub(super) fn service_link(service: &str) -> Markup {
    let Some(name) = description::name(service) else {
        return html! { (shown(service)) };
    };
    html! {
        a.service href={ "/page/" (name) } {
            span.namespace { (name.namespace()) "/" } (name.name())
        }
    }
}

pub(super) fn conditions(all: &[&Condition]) -> Markup {
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|of| (&of.reason, &of.about, &of.message));
    html! {
        @if sorted.is_empty() {
            p.quiet { "None." }
        } @else {
            ul.conditions {
                @for of in sorted.iter().take(LISTED) {
                    li {
                        span.badge.warn { (shown(&of.reason)) } " "
                        (about(&of.about)) ": "
                        (shown(&of.message))
                    }
                }
            }
            @if sorted.len() > LISTED {
                p.quiet { "and " (sorted.len() - LISTED) " more: " a href="/conditions" { "/conditions" } }
            }
        }
    }
}

fn about(about: &str) -> Markup {
    match about.strip_prefix("Service ") {
        Some(service) => service_link(service),
        None => html! { (shown(about)) },
    }
}

pub(super) fn changes(all: &[Recorded], now: Timestamp, with_service: bool) -> Markup {
    html! {
        @if all.is_empty() {
            p.quiet { "None since svcproxy started." }
        } @else {
            ol.changes {
                @for of in all {
                    li {
                        div.when { (ago(of.time, now)) }
                        div {
                            @if with_service && !of.service.is_empty() {
                                (service_link(&of.service)) " "
                            }
                            span.what { (shown(&of.what)) }
                            @if of.failed_steps > 0 {
                                " " span.badge.bad { (of.failed_steps) " steps of this sync failed" }
                            }
                            @if !of.cause.is_empty() {
                                div.cause { "cause: " (shown(&of.cause)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
