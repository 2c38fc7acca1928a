//! One Service: its settings, a drawing of who reaches what, its virtual IPs and endpoints.

use std::net::SocketAddr;

use maud::{Markup, html};

use super::Common;
use super::drawing::Drawing;
use super::layout::{self, Counters, clients, shown};
use super::reading::Reading;
use crate::description::{Description, EndpointOf, Port};
use crate::history::Recorded;
use crate::inventory::{VipState, VipStatus};
use crate::load::EndpointLoad;
use crate::notices::Condition;

/// Endpoints of a port that are listed.
const ENDPOINTS: usize = 200;

/// What the page shows.
pub(super) struct OneService<'a> {
    pub(super) common: &'a Common,
    pub(super) name: &'a str,
    /// `None` if svcproxy does not know it any more, and only the kernel has it.
    pub(super) description: Option<&'a Description>,
    /// Or why the kernel cannot be read.
    pub(super) reading: Result<&'a Reading, String>,
    pub(super) changes: Vec<Recorded>,
    pub(super) conditions: Vec<Condition>,
}

impl OneService<'_> {
    pub(super) fn markup(&self) -> Markup {
        let conditions: Vec<_> = self.conditions.iter().collect();
        html! {
            nav.path aria-label="Path" { a href="/" { "Services" } }
            h1 { (shown(self.name)) }
            section #facts data-live { (self.facts()) }
            div #reading data-live {
                @if let Err(error) = &self.reading { p.error { (shown(error)) } }
            }
            section {
                h2 { "Which client reaches whom" }
                div #drawing data-live {
                    @if self.reading.is_ok() { (self.drawing()) } @else { (unknown()) }
                }
            }
            section #vips data-live {
                h2 { "Virtual IPs and node ports" }
                @if self.reading.is_ok() { (self.vips()) } @else { (unknown()) }
            }
            section #endpoints data-live { (self.endpoints()) }
            div.columns {
                section #changes data-live {
                    h2 { "Last changes" }
                    (layout::changes(&self.changes, self.common.running.time, false))
                }
                section #conditions data-live {
                    h2 { "Conditions" }
                    (layout::conditions(&conditions))
                }
            }
        }
    }

    fn facts(&self) -> Markup {
        let Some(of) = self.description else {
            return html! {
                p.error { "svcproxy does not know this Service any more: its last connections end." }
            };
        };
        let external = of
            .addresses
            .iter()
            .any(|address| address.kind != "cluster IP");
        html! {
            dl.cards {
                div {
                    dt { "Traffic policies" }
                    dd {
                        div { "internal " b { (shown(&of.internal_traffic_policy)) } }
                        @if external {
                            div { "external " b { (shown(&of.external_traffic_policy)) } }
                        }
                    }
                }
                div {
                    dt { "Session affinity" }
                    dd {
                        @match of.session_affinity_seconds {
                            Some(seconds) => { "a client keeps its endpoint for " (seconds) " s" }
                            None => "none",
                        }
                    }
                }
                @if let Some(scheduler) = &of.scheduler {
                    div { dt { "Scheduler" } dd { (shown(scheduler)) } }
                }
                @if let Some(port) = of.health_check_node_port {
                    div { dt { "Health check" } dd { "node port " (port) } }
                }
                @if let Some(rate) = self.rate() {
                    div { dt { "New connections" } dd.big data-rate=(rate) { (crate::figures::rate(rate)) "/s" } }
                }
            }
        }
    }

    /// New connections per second, if they are known.
    fn rate(&self) -> Option<f64> {
        let reading = self.reading.as_ref().ok()?;
        let is_known = reading.has_rates && Counters::new(self.common, Some(reading)).any();
        is_known.then_some(reading.loads.all.connections_per_second)
    }

    /// Node ports come last.
    fn all_vips(&self) -> Vec<&VipStatus> {
        let reading = self.reading.as_ref().ok();
        let own = reading.and_then(|reading| reading.inventory.services.first());
        let mut vips: Vec<_> = own.into_iter().flat_map(|of| &of.vips).collect();
        vips.sort_by_key(|vip| vip.key.is_node_port());
        vips
    }

    fn loads(&self) -> &[EndpointLoad] {
        let loads = self
            .reading
            .as_ref()
            .map(|reading| &reading.loads.endpoints);
        loads.map_or(&[], Vec::as_slice)
    }

    /// The endpoint at an address, as its slice has it.
    fn known(&self, at: SocketAddr) -> Option<&EndpointOf> {
        let ports = self.description.into_iter().flat_map(|of| &of.ports);
        let mut endpoints = ports.flat_map(|port| &port.endpoints);
        endpoints.find(|of| of.address == at.ip() && of.port == Some(at.port()))
    }

    fn drawing(&self) -> Markup {
        let node_of = |at| self.known(at).and_then(|of| of.node.clone());
        let drawing = Drawing {
            vips: &self.all_vips(),
            loads: self.loads(),
            node: &self.common.node,
            node_of: &node_of,
        };
        drawing.markup()
    }

    fn vips(&self) -> Markup {
        let vips = self.all_vips();
        html! {
            @if vips.is_empty() {
                p.quiet { "The kernel serves none." }
            } @else {
                (layout::table(
                    "Virtual IPs",
                    &html! {
                        th scope="col" { "Virtual IP" }
                        th scope="col" { "Port" }
                        th scope="col" { "Clients" }
                        th.number scope="col" { "Endpoints" }
                        th scope="col" { "Scheduler" }
                        th scope="col" { "New connections are" }
                    },
                    &html! {
                        @for vip in vips {
                            tr {
                                th.mono scope="row" { (vip.key) }
                                td data-label="Port" { (shown(&vip.port_name)) }
                                td data-label="Clients" { (clients(vip.clients)) }
                                td.number data-label="Endpoints" { (vip.real_servers.iter().filter(|of| !of.drains()).count()) }
                                td data-label="Scheduler" { (shown(vip.scheduler.as_deref().unwrap_or("–"))) }
                                td data-label="New connections are" { (state(vip)) }
                            }
                        }
                    },
                ))
            }
        }
    }

    fn endpoints(&self) -> Markup {
        let Some(of) = self.description else {
            return html! {};
        };
        let policies = [&of.internal_traffic_policy, &of.external_traffic_policy];
        let wants_local = policies.into_iter().any(|policy| policy == "Local");
        html! {
            @for port in &of.ports {
                h2 {
                    "Endpoints of port "
                    @if !port.name.is_empty() { (shown(&port.name)) " " }
                    span.quiet { (port.port) "/" (shown(&port.protocol)) }
                }
                (self.of_port(port, wants_local))
            }
        }
    }

    fn of_port(&self, port: &Port, wants_local: bool) -> Markup {
        let counters = Counters::new(self.common, self.reading.as_ref().ok().copied());
        html! {
            @for without in &port.without_endpoints {
                @let why = without.anywhere.as_ref().map(|why| ("No endpoints", why));
                @let here = without.on_this_node.as_ref().map(|why| ("No endpoints on this node", why));
                @if let Some((what, why)) = why.or(here) {
                    p.state.warn { (what) " (" (shown(&without.family)) "): " (shown(why)) }
                }
            }
            @if port.endpoints.is_empty() {
                p.quiet { "No endpoint slice has any." }
            } @else {
                (layout::table(
                    "Endpoints",
                    &html! {
                        th scope="col" { "Endpoint" }
                        th scope="col" { "Node" }
                        th scope="col" { "Zone" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Weight" }
                        (counters.head())
                        th scope="col" { "Used" }
                    },
                    &html! {
                        @for of in port.endpoints.iter().take(ENDPOINTS) {
                            (self.endpoint(of, counters, wants_local))
                        }
                    },
                ))
                @if let Some(more @ 1..) = port.endpoints.len().checked_sub(ENDPOINTS) {
                    p.quiet { "And " (more) " more: " a href={ "/services/" (self.name) } { "/services/" (shown(self.name)) } }
                }
            }
        }
    }

    fn endpoint(&self, of: &EndpointOf, counters: Counters, wants_local: bool) -> Markup {
        let at = of.port.map(|port| SocketAddr::new(of.address, port));
        let load = at.and_then(|at| self.loads().iter().find(|load| load.address == at));
        let text = at.map_or_else(|| of.address.to_string(), |at| at.to_string());
        let is_here = of.node.as_deref() == Some(&*self.common.node);
        html! {
            tr {
                th.mono scope="row" { (text) }
                td data-label="Node" {
                    (of.node.as_deref().map_or_else(|| "unknown".to_owned(), shown))
                    @if is_here { " " span.badge { "this node" } }
                }
                td data-label="Zone" { (of.zone.as_deref().map_or_else(|| "–".to_owned(), shown)) }
                td data-label="State" { (ready(of)) }
                td.number data-label="Weight" { (of.weight) }
                (counters.cells(load.map(|of| &of.load)))
                td data-label="Used" {
                    @match (&of.unused, &of.unused_here) {
                        (Some(why), _) => span.state.warn { "no: " (shown(why)) },
                        (None, Some(why)) if wants_local => { "yes; not by " (shown(why)) }
                        (None, _) => span.state.good { "yes" },
                    }
                    @if load.is_some_and(|of| of.draining) { " " span.badge.warn { "draining" } }
                }
            }
        }
    }
}

fn unknown() -> Markup {
    html! { p.quiet { "Not known now." } }
}

fn state(vip: &VipStatus) -> Markup {
    let (class, text) = match vip.state {
        VipState::Served => ("good", "served"),
        VipState::Refused => ("warn", "refused: no endpoints"),
        VipState::Dropped => ("warn", "dropped: no endpoints here"),
        VipState::NotServed => ("bad", "not served"),
    };
    html! {
        span class={ "state " (class) } { (text) }
        @if let Some(seconds) = vip.persistence_seconds {
            span.quiet { ", " (seconds) " s affinity" }
        }
    }
}

fn ready(of: &EndpointOf) -> &'static str {
    match (of.ready, of.serving, of.terminating) {
        (true, ..) => "ready",
        (false, true, true) => "terminating, serving",
        (false, _, true) => "terminating",
        (false, ..) => "not ready",
    }
}
