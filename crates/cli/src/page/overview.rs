//! The first page: summary, Services, drains, conditions, last changes.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::Common;
use super::layout::{self, Counters, ago, shown};
use super::list::{DrainOf, List, Query, ROWS, Row};
use super::reading::Reading;
use crate::args::Mode;
use crate::figures::Age;
use crate::history::Recorded;
use crate::load::ServiceLoad;
use crate::notices::MOST;

/// What the page shows.
pub(super) struct Overview<'a> {
    pub(super) common: &'a Common,
    pub(super) query: &'a Query,
    pub(super) list: &'a List,
    /// Or why the kernel cannot be read.
    pub(super) reading: Result<&'a Reading, String>,
    pub(super) changes: Vec<Recorded>,
}

impl Overview<'_> {
    pub(super) fn markup(&self) -> Markup {
        let conditions: Vec<_> = self.common.conditions.iter().collect();
        html! {
            h1.hidden { "Services of node " (shown(&self.common.node)) }
            section #summary data-live { (self.summary()) }
            section {
                h2 { "Services" }
                (self.search())
                div #services data-live { (self.services()) }
            }
            div.columns {
                section #changes data-live {
                    h2 { "Last changes" }
                    (layout::changes(&self.changes, self.common.running.time, true))
                }
                div {
                    section #conditions data-live {
                        h2 { "Conditions" }
                        (layout::conditions(&conditions))
                    }
                    section #drains data-live {
                        h2 { "Drains" }
                        (self.drains())
                    }
                }
            }
        }
    }

    fn summary(&self) -> Markup {
        let running = &self.common.running;
        let source = &running.source;
        let mut reasons = BTreeMap::<&str, usize>::new();
        for condition in &self.common.conditions {
            *reasons.entry(&condition.reason).or_default() += 1;
        }
        html! {
            dl.cards {
                div {
                    dt { "Services" }
                    dd.big { (self.list.all) }
                }
                div {
                    dt { "Last sync" }
                    dd {
                        @match running.last_sync {
                            Some(last) => (ago(last, running.time)),
                            None => "none yet",
                        }
                        div.quiet {
                            @match running.pending_changes {
                                0 => "nothing pending",
                                1 => "1 change pending",
                                more => { (more) " changes pending" }
                            }
                        }
                    }
                }
                div {
                    dt { "Source" }
                    dd {
                        (shown(&source.name))
                        @if let Some(heard) = source.last_heard {
                            div.quiet {
                                @if source.connected == Some(false) { "not connected; " }
                                "last response " (ago(heard, running.time))
                            }
                        }
                        @for (kind, error) in &source.failing {
                            div.error { (shown(kind)) ": " (shown(error)) }
                        }
                    }
                }
                div {
                    dt { "Conditions" }
                    dd {
                        @if reasons.is_empty() { "none" }
                        @for (reason, count) in reasons {
                            div { (shown(reason)) " " b { (count) } }
                        }
                        @if self.common.conditions.len() >= MOST {
                            div.quiet { "of the first " (MOST) }
                        }
                    }
                }
                @if let Some(why) = &running.fallback_reason {
                    div {
                        dt { "Fallback" }
                        dd { "mode " (shown(&running.mode_wanted)) " cannot run: " (shown(why)) }
                    }
                }
            }
        }
    }

    fn search(&self) -> Markup {
        html! {
            form #search method="get" action="/" role="search" {
                label for="q" { "Search" }
                input #q type="search" name="q" value=(shown(&self.query.text)) autocomplete="off"
                    spellcheck="false" placeholder="name, address or port";
                label.check {
                    input type="checkbox" name="problems" value="1" checked[self.query.with_problems];
                    "only with problems"
                }
                button type="submit" { "Search" }
            }
        }
    }

    fn services(&self) -> Markup {
        let List {
            all, found, rows, ..
        } = self.list;
        let counters = Counters::new(self.common, self.reading.as_ref().ok().copied());
        let first = self.query.from;
        html! {
            @if let Err(error) = &self.reading {
                p.error { (shown(error)) }
            }
            @if rows.is_empty() {
                p.quiet {
                    @if *all == 0 { "svcproxy knows no Services yet." }
                    @else if *found == 0 { "No Service matches." }
                    @else { "The list has become shorter: " a href=(format!("/?{}", self.query.at(0))) { "its beginning" } }
                }
            } @else {
                (layout::table(
                    "Services",
                    &html! {
                        th scope="col" { "Service" }
                        th scope="col" { "Ports" }
                        th scope="col" { "Addresses" }
                        th.number scope="col" { "Endpoints" }
                        (counters.head())
                        th scope="col" { "State" }
                    },
                    &html! { @for row in rows { (self.row(row, counters)) } },
                ))
                nav.pages aria-label="Pages of Services" {
                    span { (first + 1) "–" (first + rows.len()) " of " (found) }
                    @if first > 0 {
                        a rel="prev" href={ "/?" (self.query.at(first.saturating_sub(ROWS))) } { "Previous" }
                    }
                    @if first + rows.len() < *found {
                        a rel="next" href={ "/?" (self.query.at(first + ROWS)) } { "Next" }
                    }
                }
                @if !counters.any() {
                    p.quiet { "Mode " (shown(&self.common.running.mode)) " counts no connections." }
                }
            }
        }
    }

    fn row(&self, row: &Row, counters: Counters) -> Markup {
        let load = self.reading.as_ref().ok().and_then(|reading| {
            let mut services = reading.loads.services.iter();
            services.find(|of| of.service == row.service)
        });
        let draining = load.map_or(0, |of: &ServiceLoad| of.draining);
        html! {
            tr {
                th scope="row" { (layout::service_link(&row.service)) }
                td data-label="Ports" { @for port in &row.ports { div { (shown(port)) } } }
                td.mono data-label="Addresses" { @for address in &row.addresses { div { (shown(address)) } } }
                td.number data-label="Endpoints" {
                    (row.endpoints)
                    @if draining > 0 { div.quiet { (draining) " draining" } }
                }
                (counters.cells(load.map(|of| &of.load)))
                td data-label="State" {
                    @if row.problems.is_empty() {
                        span.state.good { "served" }
                    } @else {
                        @for problem in &row.problems {
                            div.state.warn { (shown(problem)) }
                        }
                    }
                }
            }
        }
    }

    fn drains(&self) -> Markup {
        let List {
            draining, drains, ..
        } = self.list;
        let by_kernel = matches!(self.common.mode(), Some(Mode::Iptables | Mode::Nftables));
        html! {
            @if by_kernel {
                p.quiet {
                    "In mode " (shown(&self.common.running.mode)) ", connections stay with their \
                     endpoint while it exists: there is nothing to list."
                }
            } @else if drains.is_empty() {
                p.quiet { "Nothing drains." }
            } @else {
                ul.drains {
                    @for DrainOf { vip, service, endpoint, seconds } in drains {
                        li {
                            span.mono { (shown(endpoint)) } " of "
                            @match service {
                                Some(service) => (layout::service_link(service)),
                                None => "a Service that is gone",
                            }
                            span.quiet {
                                " (" (shown(vip)) ")"
                                @if let Some(seconds) = seconds { ", for " (Age::of_seconds(*seconds)) }
                            }
                        }
                    }
                }
                @if *draining > drains.len() {
                    p.quiet { "and " (draining - drains.len()) " more." }
                }
            }
        }
    }
}
