//! Draws the screen.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState};

use super::Reading;
use super::view::{List, View};
use crate::figures::{Age, rate, short};
use crate::inventory::{ClientGroup, ServiceStatus, VipState, VipStatus};
use crate::load::Load;
use crate::logging::Shown;

const KEYS: &str = "q quit  ? help  Tab Services/endpoints  s order  / filter  Enter open  p pause";

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

const HELP: [&str; 12] = [
    "q, Ctrl-C      quit",
    "Up, Down, j, k select a line; also PageUp, PageDown, Home, End",
    "Tab            Services or endpoints",
    "s, S           next order, previous order",
    "/              type a filter; Enter keeps it, Esc removes it",
    "Enter          VIPs and endpoints of the selected Service",
    "Esc            back; without a Service, removes the filter",
    "p, Space       pause",
    "",
    "ACTIVE and the rates are sums over all VIPs. Rates are the kernel's averages;",
    "in mode iptables, CONN/S is counted between two readings. Mode nftables",
    "counts nothing.",
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, reading: &Reading) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(5),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header(view, reading)), head);
    let service = view.open.as_ref().and_then(|name| {
        let mut services = reading.inventory.services.iter();
        services.find(|of| of.service == *name)
    });
    match (&view.open, service) {
        (Some(_), Some(service)) => opened(frame, body, view, service),
        (Some(name), None) => {
            let text = format!(
                "The kernel does not serve Service {} any more.",
                Shown(name)
            );
            frame.render_widget(Paragraph::new(text), body);
        }
        (None, _) => listed(frame, body, view),
    }
    let keys = match view.is_typing {
        true => format!("filter: {}_", Shown(&view.filter)),
        false => KEYS.to_owned(),
    };
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(keys).style(reversed), foot);
    if view.shows_help {
        help(frame);
    }
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let height = u16::try_from(HELP.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let width = area.width.min(84);
    let area = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let lines: Vec<_> = HELP
        .iter()
        .map(|line| Line::raw(format!(" {line}")))
        .collect();
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn header(view: &View, reading: &Reading) -> Vec<Line<'static>> {
    let mode = reading.mode.name();
    let process = match &reading.running {
        Some(running) => {
            let age = Age::between(running.started_at, running.time);
            let sick = if running.healthy { "" } else { ", unhealthy" };
            format!("PID {}, for {age}{sick}", running.pid)
        }
        None => "no svcproxy answers".to_owned(),
    };
    let state = match (&reading.error, view.is_paused) {
        (Some(error), _) => format!("  [{}]", Shown(error)),
        (None, true) => "  [paused]".to_owned(),
        (None, false) => String::new(),
    };
    let sync = match &reading.running {
        Some(running) => {
            let last = match running.last_sync {
                Some(last) => format!("{} ago", Age::between(last, running.time)),
                None => "none yet".to_owned(),
            };
            let pending = running.pending_changes;
            format!(
                "last sync {last}, {pending} pending; source {}",
                Shown(&running.source.name)
            )
        }
        None => String::new(),
    };
    let totals = reading.inventory.totals;
    let all = &view.loads.all;
    let load = format!(
        "{} Services, {} VIP ports, {} endpoints, {} draining; {} active, {} inactive",
        totals.services,
        totals.vip_ports,
        totals.real_servers,
        totals.draining_real_servers,
        all.active_connections,
        all.inactive_connections,
    );
    let rates = format!(
        "{} connections/s, {} packets/s, {} bytes/s",
        rate(all.connections_per_second),
        short(all.packets_per_second),
        short(all.bytes_per_second)
    );
    let mut counts = BTreeMap::<&str, usize>::new();
    for condition in &reading.conditions {
        *counts.entry(&condition.reason).or_default() += 1;
    }
    let counts = counts
        .iter()
        .map(|(reason, count)| format!("{} {count}", Shown(reason)));
    let conditions = counts.collect::<Vec<_>>().join(", ");
    [
        format!(
            "svcproxy {}  mode {mode}  {process}{state}",
            env!("CARGO_PKG_VERSION")
        ),
        sync,
        load,
        rates,
        match conditions.as_str() {
            "" => "conditions: none".to_owned(),
            some => format!("conditions: {some}"),
        },
    ]
    .map(Line::raw)
    .into()
}

/// The columns of [`cells`], with their widths.
const COLUMNS: [(&str, u16); 6] = [
    ("ACTIVE", 8),
    ("INACTIVE", 8),
    ("CONN/S", 8),
    ("PACKETS/S", 9),
    ("BYTES/S", 8),
    ("TOTAL", 8),
];

/// A table of loads: a name, [`COLUMNS`], and a last column of this width.
fn of_loads<'a>(
    name: &'a str,
    (last, width): (&'a str, u16),
    rows: Vec<Vec<String>>,
    title: String,
) -> Table<'a> {
    let columns = COLUMNS.into_iter();
    let head = [name]
        .into_iter()
        .chain(columns.clone().map(|(name, _)| name));
    let head = head.chain([last]);
    let widths = columns.map(|(_, width)| Constraint::Length(width));
    let widths = [Constraint::Min(24)].into_iter().chain(widths);
    let widths = widths.chain([Constraint::Length(width)]);
    Table::new(rows.into_iter().map(Row::new), widths)
        .header(Row::new(head).style(BOLD))
        .block(Block::bordered().title(title))
}

fn cells(load: &Load) -> [String; 6] {
    [
        short(load.active_connections),
        short(load.inactive_connections),
        rate(load.connections_per_second),
        short(load.packets_per_second),
        short(load.bytes_per_second),
        short(load.total_connections),
    ]
}

fn listed(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let (what, rows): (_, Vec<_>) = match view.list {
        List::Services => {
            let rows = view.services().map(|of| {
                let mut row = vec![Shown(&of.service).to_string()];
                row.extend(cells(&of.load));
                row.push(match of.draining {
                    0 => of.endpoints.to_string(),
                    draining => format!("{}, {draining} draining", of.endpoints),
                });
                row
            });
            ("SERVICE", rows.collect())
        }
        List::Endpoints => {
            let rows = view.endpoints().map(|of| {
                let mut row = vec![format!("{}  {}", of.address, Shown(&of.service))];
                row.extend(cells(&of.load));
                row.push(if of.draining { "draining" } else { "" }.to_owned());
                row
            });
            ("ENDPOINT", rows.collect())
        }
    };
    let filter = match view.filter.as_str() {
        "" => String::new(),
        filter => format!(", filter {}", Shown(filter)),
    };
    let last = match view.list {
        List::Services => ("ENDPOINTS", 16),
        List::Endpoints => ("STATE", 16),
    };
    let title = format!(" {} by {}{filter} ", rows.len(), view.order());
    let table = of_loads(what, last, rows, title)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(view.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

/// One Service: its VIPs, then its endpoints.
fn opened(frame: &mut Frame<'_>, area: Rect, view: &View, service: &ServiceStatus) {
    let vips: Vec<_> = service.vips.iter().map(vip).collect();
    let height = u16::try_from(vips.len() + 3).unwrap_or(u16::MAX);
    let [upper, lower] = Layout::vertical([
        Constraint::Length(height.min(area.height / 2)),
        Constraint::Min(1),
    ])
    .areas(area);
    let head = Row::new(["VIP", "PORT NAME", "CLIENTS", "STATE", "SCHEDULER"]).style(BOLD);
    let widths = [
        Constraint::Min(30),
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Min(20),
        Constraint::Length(10),
    ];
    let title = format!(" Service {} ", Shown(&service.service));
    let table = Table::new(vips.into_iter().map(Row::new), widths).header(head);
    frame.render_widget(table.block(Block::bordered().title(title)), upper);

    let rows: Vec<_> = view
        .loads
        .endpoints
        .iter()
        .filter(|of| of.service == service.service)
        .map(|of| {
            let mut row = vec![of.address.to_string()];
            row.extend(cells(&of.load));
            row.push(if of.draining { "draining" } else { "" }.to_owned());
            row
        })
        .collect();
    let title = format!(" {} endpoints ", rows.len());
    let table = of_loads("ENDPOINT", ("STATE", 10), rows, title);
    frame.render_widget(table, lower);
}

fn vip(vip: &VipStatus) -> Vec<String> {
    let clients = match vip.clients {
        ClientGroup::All => "all",
        ClientGroup::Inside => "inside",
        ClientGroup::Outside => "outside",
    };
    let state = match vip.state {
        VipState::Served => "served",
        VipState::Refused => "refused: no endpoints",
        VipState::Dropped => "dropped: no endpoints here",
        VipState::NotServed => "not served",
    };
    let state = match &vip.reason {
        Some(reason) => format!("{state}: {}", Shown(reason)),
        None => state.to_owned(),
    };
    vec![
        vip.key.to_string(),
        Shown(&vip.port_name).to_string(),
        clients.to_owned(),
        state,
        vip.scheduler.clone().unwrap_or_default(),
    ]
}
