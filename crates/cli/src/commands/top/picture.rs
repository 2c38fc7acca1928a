//! The picture of the screen in the documentation, `docs/images/top.svg`: drawn from the buffer of a
//! terminal, so it is what the command draws.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::Modifier;

use super::*;
use crate::args::TopSort;
use crate::inventory::{Rates, Scheduled, VipState};
use crate::testing::{vip, without_endpoints};

/// Size of the screen in cells, and of a cell.
const COLUMNS: u16 = 104;
const ROWS: u16 = 22;
const CELL: (f64, f64) = (8.4, 17.0);
const MARGIN: f64 = 14.0;

/// Services of a shop, in the order of their load: name, endpoints, draining, active connections,
/// connections and bytes per second.
const SHOP: [(&str, usize, usize, u64, u64, u64); 11] = [
    ("shop/storefront", 12, 1, 1840, 412, 38_200_000),
    ("kube-system/dns", 3, 0, 96, 365, 214_000),
    ("shop/cart", 6, 0, 420, 118, 2_900_000),
    ("shop/search", 8, 2, 365, 96, 11_400_000),
    ("shop/payments", 4, 0, 88, 21, 640_000),
    ("shop/recommendations", 5, 0, 74, 17, 1_200_000),
    ("monitoring/prometheus", 2, 0, 31, 6, 480_000),
    ("monitoring/grafana", 1, 0, 12, 2, 95_000),
    ("ingress/gateway", 2, 0, 9, 1, 21_000),
    ("default/kubernetes", 3, 0, 58, 0, 12_000),
    ("shop/newsletter", 0, 0, 0, 0, 0),
];

fn inventory() -> Inventory {
    let mut services = BTreeMap::new();
    for (number, (name, count, draining, active, rate, bytes)) in SHOP.into_iter().enumerate() {
        let key = format!("tcp 10.96.{number}.10:80");
        let addresses: Vec<_> = (0..count + draining)
            .map(|n| format!("10.244.{}.{}:8080", n % 5, 10 + number * 12 + n))
            .collect();
        let servers: Vec<_> = addresses.iter().map(|at| (at.as_str(), 1, 0)).collect();
        let mut one = match count {
            0 => without_endpoints(&key, "http", VipState::Refused),
            _ => vip(&key, "http", &servers),
        };
        for (place, server) in one.real_servers.iter_mut().enumerate() {
            let share = |of: u64| of / u64::try_from(count).unwrap_or(1).max(1);
            let drains = place >= count;
            let new = if drains { 0 } else { 1 };
            server.total_connections = Some(share(rate) * 86_400);
            server.scheduled = Some(Scheduled {
                weight: new,
                now: crate::inventory::Now {
                    active_connections: share(active),
                    inactive_connections: share(rate) * 2,
                },
                rates: Rates {
                    connections_per_second: share(rate) * u64::from(new),
                    packets_per_second: share(bytes) / 700,
                    bytes_per_second: share(bytes),
                },
            });
        }
        services.insert(name.to_owned(), vec![one]);
    }
    Inventory::new(services)
}

/// A run of cells that look alike.
struct Run {
    column: usize,
    text: String,
    modifier: Modifier,
}

fn runs(line: &[Cell]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (column, cell) in line.iter().enumerate() {
        match runs.last_mut() {
            Some(last) if last.modifier == cell.modifier => last.text.push_str(cell.symbol()),
            _ => runs.push(Run {
                column,
                text: cell.symbol().to_owned(),
                modifier: cell.modifier,
            }),
        }
    }
    runs
}

/// A screen as a picture in dark colours, which also suits a light page.
fn svg(buffer: &Buffer) -> String {
    let (width, height) = (f64::from(COLUMNS) * CELL.0, f64::from(ROWS) * CELL.1);
    let (all, tall) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {all:.0} {tall:.0}\" role=\"img\">\n\
         <title>svcproxy top</title>\n\
         <rect width=\"{all:.0}\" height=\"{tall:.0}\" rx=\"10\" fill=\"#12161d\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\" fill=\"#e6eaf0\">\n"
    );
    for (row, line) in buffer.content().chunks(COLUMNS.into()).enumerate() {
        let row = f64::from(u16::try_from(row).unwrap());
        for run in runs(line) {
            let x = MARGIN + CELL.0 * f64::from(u16::try_from(run.column).unwrap());
            let y = MARGIN + CELL.1 * row;
            let length = CELL.0 * f64::from(u16::try_from(run.text.chars().count()).unwrap());
            let is_reversed = run.modifier.contains(Modifier::REVERSED);
            if is_reversed {
                let _ = writeln!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{}\" \
                     fill=\"#85b4ff\"/>",
                    CELL.1
                );
            }
            if run.text.trim().is_empty() {
                continue;
            }
            let style = match (is_reversed, run.modifier.contains(Modifier::BOLD)) {
                (true, _) => " fill=\"#12161d\"",
                (_, true) => " font-weight=\"bold\"",
                _ => "",
            };
            // Viewers collapse other spaces.
            let text = run.text.replace(' ', "\u{a0}");
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{length:.1}\"{style}>{text}</text>",
                y + 13.0
            );
        }
    }
    out + "</g>\n</svg>\n"
}

/// Rewritten with `INSTA_UPDATE=always`, as the other golden files.
#[test]
fn the_picture_in_the_documentation_is_current() {
    let mut reading = super::tests::reading();
    reading.inventory = inventory();
    let mut view = View::new(TopSort::Rate);
    view.take(Loads::new(&reading.inventory, None));
    view.press(Key::Down);
    let mut terminal = Terminal::new(TestBackend::new(COLUMNS, ROWS)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, &view, &reading))
        .unwrap();
    let picture = svg(terminal.backend().buffer());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images/top.svg");
    if env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &picture).unwrap();
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(recorded, picture, "rewrite it: INSTA_UPDATE=always");
}
