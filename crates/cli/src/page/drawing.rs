//! A drawing of one Service: clients on the left, virtual IPs in the middle, endpoints on the right. It
//! shows what the kernel has, so it is right where the kernel is not. The tables of the page say the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use maud::{Markup, html};

use super::layout::{clients, shown};
use crate::figures::rate;
use crate::inventory::{ClientGroup, RealServerStatus, VipState, VipStatus};
use crate::load::EndpointLoad;

/// Virtual IPs and endpoints that are drawn, at most: more cannot be told apart.
const VIPS: usize = 10;
const ENDPOINTS: usize = 14;

/// Sizes, in the units of the drawing.
const WIDTH: usize = 1000;
const BOX: usize = 40;
const ROW: usize = 54;
const HEAD: usize = 30;
/// Left edge and width of each column.
const CLIENTS_AT: (usize, usize) = (2, 190);
const VIPS_AT: (usize, usize) = (330, 270);
const ENDPOINTS_AT: (usize, usize) = (738, 260);
/// The longest label, and the longest note under one, in characters.
const LABEL: usize = 31;
const NOTE: usize = 42;

/// What is drawn.
pub(super) struct Drawing<'a> {
    pub(super) vips: &'a [&'a VipStatus],
    pub(super) loads: &'a [EndpointLoad],
    /// This node.
    pub(super) node: &'a str,
    /// The node of an endpoint, if it is known.
    pub(super) node_of: &'a dyn Fn(SocketAddr) -> Option<String>,
}

/// A box in one of the columns.
struct Node {
    class: &'static str,
    label: String,
    note: String,
}

/// A line between two boxes of neighbouring columns, by their numbers.
struct Edge {
    from: usize,
    to: usize,
    class: &'static str,
}

impl Drawing<'_> {
    pub(super) fn markup(&self) -> Markup {
        if self.vips.is_empty() {
            return html! { p.quiet { "Nobody: the kernel serves none of its addresses." } };
        }
        let (groups, asked) = self.clients();
        let vips: Vec<_> = self.vips.iter().take(VIPS).map(|of| vip(of)).collect();
        let (endpoints, answered) = self.endpoints();
        let rows = groups.len().max(vips.len()).max(endpoints.len());
        let height = HEAD + rows * ROW;
        let columns = [
            ("Clients", CLIENTS_AT, &groups),
            ("Virtual IPs and node ports", VIPS_AT, &vips),
            ("Endpoints", ENDPOINTS_AT, &endpoints),
        ];
        let gaps = [
            (&asked, CLIENTS_AT, groups.len(), VIPS_AT, vips.len()),
            (
                &answered,
                VIPS_AT,
                vips.len(),
                ENDPOINTS_AT,
                endpoints.len(),
            ),
        ];
        html! {
            div.scroll tabindex="0" role="region" aria-label="Drawing" {
                svg.drawing viewBox={ "0 0 " (WIDTH) " " (height) } role="img"
                    aria-labelledby="drawing-title" {
                    title #drawing-title { (self.title()) }
                    @for (edges, left, left_count, right, right_count) in gaps {
                        @for edge in edges {
                            path class={ "edge " (edge.class) }
                                d=(curve(
                                    (left.0 + left.1, middle(edge.from, left_count, rows)),
                                    (right.0, middle(edge.to, right_count, rows)),
                                )) {}
                        }
                    }
                    @for (head, at, nodes) in columns {
                        text.head x=(at.0) y="14" { (head) }
                        @for (index, node) in nodes.iter().enumerate() {
                            (boxed(node, at, middle(index, nodes.len(), rows)))
                        }
                    }
                }
            }
            (self.left_out(endpoints.len()))
        }
    }

    fn title(&self) -> String {
        let endpoints: BTreeSet<_> = self.servers().map(|(_, at, _)| at).collect();
        let (vips, endpoints) = (self.vips.len(), endpoints.len());
        format!(
            "{vips} virtual IPs and node ports, {endpoints} endpoints; the tables below say the same"
        )
    }

    /// The groups of clients, and the virtual IPs that each asks.
    fn clients(&self) -> (Vec<Node>, Vec<Edge>) {
        let all: BTreeSet<_> = self.vips.iter().map(|vip| vip.clients).collect();
        let one_group = all.iter().all(|group| *group == ClientGroup::All);
        let groups = match one_group {
            true => vec![ClientGroup::All],
            false => vec![ClientGroup::Inside, ClientGroup::Outside],
        };
        let mut edges = Vec::new();
        for (to, vip) in self.vips.iter().take(VIPS).enumerate() {
            for (from, group) in groups.iter().enumerate() {
                if vip.clients == *group || vip.clients == ClientGroup::All {
                    let class = match (vip.state, group) {
                        (VipState::Served, ClientGroup::Outside) => "outside",
                        (VipState::Served, _) => "inside",
                        _ => "refused",
                    };
                    edges.push(Edge { from, to, class });
                }
            }
        }
        let nodes = groups.into_iter().map(|group| Node {
            class: match group {
                ClientGroup::Outside => "client outside",
                _ => "client inside",
            },
            label: clients(group).to_owned(),
            note: match group {
                ClientGroup::All => "pods, nodes, outside",
                ClientGroup::Inside => "pods and nodes",
                ClientGroup::Outside => "all others",
            }
            .to_owned(),
        });
        (nodes.collect(), edges)
    }

    /// Each real server with the number of its virtual IP.
    fn servers(&self) -> impl Iterator<Item = (usize, SocketAddr, &RealServerStatus)> {
        let vips = self.vips.iter().enumerate();
        vips.flat_map(|(from, vip)| {
            let servers = vip.real_servers.iter();
            servers.map(move |of| (from, SocketAddr::new(of.address, of.port), of))
        })
    }

    /// The endpoints, and the virtual IPs that send to each.
    fn endpoints(&self) -> (Vec<Node>, Vec<Edge>) {
        let mut places = BTreeMap::new();
        let mut nodes = Vec::new();
        let mut edges = Vec::new();
        let drawn = self.servers().take_while(|(from, ..)| *from < VIPS);
        for (from, at, server) in drawn {
            let to = match places.get(&at) {
                Some(to) => *to,
                None if nodes.len() < ENDPOINTS => {
                    let to = nodes.len();
                    places.insert(at, to);
                    nodes.push(self.endpoint(at, server));
                    to
                }
                None => continue,
            };
            let class = match server.drains() {
                true => "draining",
                false
                    if self
                        .vips
                        .get(from)
                        .is_some_and(|vip| vip.clients == ClientGroup::Outside) =>
                {
                    "outside"
                }
                false => "inside",
            };
            edges.push(Edge { from, to, class });
        }
        (nodes, edges)
    }

    fn endpoint(&self, at: SocketAddr, server: &RealServerStatus) -> Node {
        let node = (self.node_of)(at);
        let is_here = node.as_deref() == Some(self.node);
        let place = match &node {
            _ if is_here => "this node".to_owned(),
            Some(node) => node.clone(),
            None => "node unknown".to_owned(),
        };
        let load = self.loads.iter().find(|of| of.address == at);
        let per_second = load.map_or(0.0, |of| of.load.connections_per_second);
        // It drains if it gets new connections from no virtual IP.
        let drains = load.map_or(server.drains(), |of| of.draining);
        let note = match (drains, per_second > 0.0) {
            (true, _) => format!("{place}, draining"),
            (false, true) => format!("{place}, {}/s", rate(per_second)),
            (false, false) => place,
        };
        Node {
            class: match (drains, is_here) {
                (true, _) => "endpoint draining",
                (false, true) => "endpoint here",
                (false, false) => "endpoint",
            },
            label: at.to_string(),
            note,
        }
    }

    fn left_out(&self, drawn: usize) -> Markup {
        let vips = self.vips.len().saturating_sub(VIPS);
        let endpoints: BTreeSet<_> = self.servers().map(|(_, at, _)| at).collect();
        let endpoints = endpoints.len().saturating_sub(drawn);
        html! {
            @if vips + endpoints > 0 {
                p.quiet { "Not drawn: " (vips) " virtual IPs, " (endpoints) " endpoints." }
            }
        }
    }
}

fn vip(vip: &VipStatus) -> Node {
    let note = match vip.state {
        VipState::Served => {
            let count = vip.real_servers.iter().filter(|of| !of.drains()).count();
            let noun = if count == 1 { "endpoint" } else { "endpoints" };
            let scheduler = vip.scheduler.as_deref().unwrap_or("no virtual server");
            format!("{count} {noun}, {scheduler}")
        }
        VipState::Refused => "refused: no endpoints".to_owned(),
        VipState::Dropped => "dropped: no endpoints here".to_owned(),
        VipState::NotServed => "not served".to_owned(),
    };
    let note = match vip.port_name.as_str() {
        "" => note,
        name => format!("{name}: {note}"),
    };
    Node {
        class: match vip.state {
            VipState::Served => "vip",
            _ => "vip refused",
        },
        label: vip.key.to_string(),
        note,
    }
}

/// The height of the middle of a box, in a column of so many, centred among so many rows.
const fn middle(index: usize, count: usize, rows: usize) -> usize {
    HEAD + (rows - count) * ROW / 2 + index * ROW + BOX / 2
}

/// A line from one box to another that leaves and arrives level.
fn curve((x, y): (usize, usize), (to_x, to_y): (usize, usize)) -> String {
    let half = usize::midpoint(x, to_x);
    format!("M{x} {y}C{half} {y} {half} {to_y} {to_x} {to_y}")
}

fn boxed(node: &Node, (x, width): (usize, usize), middle: usize) -> Markup {
    let (label, note) = (short(&node.label, LABEL), short(&node.note, NOTE));
    html! {
        g class=(node.class) {
            rect x=(x) y=(middle - BOX / 2) width=(width) height=(BOX) rx="7" {}
            text.label x=(x + 12) y=(middle - 3) { (label) }
            text.note x=(x + 12) y=(middle + 13) { (note) }
            title { (shown(&node.label)) ", " (shown(&node.note)) }
        }
    }
}

/// A text that fits.
fn short(text: &str, most: usize) -> String {
    let text = shown(text);
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text,
    }
}
