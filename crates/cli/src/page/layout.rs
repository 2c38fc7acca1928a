//! What all documents have in common: head, header, and small parts.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use super::{Common, Recorded};
use crate::figures::{Age, rate, short};
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
                        span.badge { "mode " (shown(&running.mode)) }
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

const FOR_PROGRAMS: [&str; 5] = ["/metrics", "/status", "/conditions", "/changes", "/configz"];

/// A document with one sentence.
pub(super) fn message(common: &Common, title: &str, text: &str) -> Markup {
    let main = html! {
        h1 { (title) }
        p { (text) }
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

/// Columns of the counters of a load. A mode that does not count has none of them.
pub(super) fn load_head() -> Markup {
    html! {
        th.number scope="col" { "Active" }
        th.number scope="col" { "New/s" }
        th.number scope="col" { "Bytes/s" }
        th.number scope="col" { "Total" }
    }
}

/// Which of the numbers are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) open: bool,
    pub(super) rates: bool,
    pub(super) bytes: bool,
    pub(super) totals: bool,
}

pub(super) fn load_cells(load: Option<&Load>, counted: Counted) -> Markup {
    let cell = |is_known: bool, text: &dyn Fn(&Load) -> String| match load.filter(|_| is_known) {
        Some(load) => text(load),
        None => "–".to_owned(),
    };
    html! {
        td.number { (cell(counted.open, &|of| short(of.active_connections))) }
        td.number { (cell(counted.rates, &|of| rate(of.connections_per_second))) }
        td.number { (cell(counted.bytes, &|of| short(of.bytes_per_second))) }
        td.number { (cell(counted.totals, &|of| short(of.total_connections))) }
    }
}

/// A link to a Service.
pub(super) fn service_link(service: &str) -> Markup {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    html! {
        a.service href={ "/page/" (service) } {
            span.namespace { (shown(namespace)) "/" } (shown(name))
        }
    }
}

pub(super) fn conditions(all: &[&Condition]) -> Markup {
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|of| (&of.reason, &of.about, &of.message));
    html! {
        @if sorted.is_empty() {
            p.quiet { "None: everything that is requested is served." }
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
                                div.cause { "because of " (shown(&of.cause)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
