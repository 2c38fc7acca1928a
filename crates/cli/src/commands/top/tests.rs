//! Loads, keys and the screen.

use std::collections::BTreeMap;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::view::List;
use super::*;
use crate::args::TopSort;
use crate::inventory::{RealServerStatus, ServiceStatus, VipState};
use crate::running::SourceState;
use crate::testing::{vip, without_endpoints};

/// Three Services: a busy one, an idle one, and one with a hostile name.
fn inventory() -> Inventory {
    let mut services = BTreeMap::new();
    let cluster_ip = vip(
        "tcp 10.96.0.80:80",
        "http",
        &[
            ("10.244.1.1:8080", 1, 3),
            ("10.244.2.1:8080", 1, 4),
            ("10.244.9.9:8080", 0, 2),
        ],
    );
    let node_port = vip("tcp 30080", "http", &[("10.244.1.1:8080", 1, 5)]);
    services.insert("shop/web".to_owned(), vec![cluster_ip, node_port]);
    let mut nobody = without_endpoints("tcp 10.96.0.81:80", "", VipState::Refused);
    nobody.reason = Some("2 not ready".to_owned());
    services.insert("default/nobody".to_owned(), vec![nobody]);
    let hostile = vip("tcp 10.96.0.82:80", "\u{1b}[2J", &[("10.244.3.1:80", 1, 1)]);
    services.insert("default/\u{202e}evil".to_owned(), vec![hostile]);
    Inventory::new(services)
}

fn loads(sort: TopSort) -> Loads {
    let mut loads = Loads::new(&inventory(), None);
    loads.sort(sort);
    loads
}

#[test]
fn an_endpoint_behind_several_vips_is_one() {
    let loads = loads(TopSort::Rate);
    let web = &loads.services[0];
    assert_eq!(web.service, "shop/web");
    assert_eq!((web.endpoints, web.draining), (2, 1));
    assert_eq!(web.load.active_connections, 3 + 4 + 2 + 5);
    assert_eq!(web.load.packets_per_second, 4 * 20);
    let of_both = loads
        .endpoints
        .iter()
        .find(|of| of.address.to_string() == "10.244.1.1:8080");
    assert_eq!(of_both.unwrap().load.active_connections, 8);
    assert_eq!(loads.all.active_connections, 15);
}

#[test]
fn the_busiest_come_first_and_equal_ones_by_name() {
    let first = |sort| loads(sort).services[0].service.clone();
    for sort in [
        TopSort::Rate,
        TopSort::Active,
        TopSort::Bytes,
        TopSort::Draining,
    ] {
        assert_eq!(first(sort), "shop/web");
    }
    assert_eq!(first(TopSort::Name), "default/nobody");
    let draining = loads(TopSort::Draining).endpoints;
    assert!(draining[0].draining && !draining[1].draining);
}

/// As in mode iptables.
fn counted(total: u64, port: u16) -> Inventory {
    let mut of = vip("tcp 10.96.0.80:80", "", &[("10.244.1.1:8080", 1, 0)]);
    of.real_servers = vec![RealServerStatus {
        address: "10.244.1.1".parse().unwrap(),
        port,
        scheduled: None,
        total_connections: Some(total),
    }];
    Inventory::new([("shop/web".to_owned(), vec![of])].into())
}

#[test]
fn without_rates_of_the_kernel_they_are_counted_between_readings() {
    let before = Loads::new(&counted(100, 8080), None);
    let rate = |inventory: &Inventory, seconds| {
        let loads = Loads::new(inventory, Some((&before, seconds)));
        loads.services[0].load.connections_per_second
    };
    assert_eq!(before.all.connections_per_second, 0.0);
    assert_eq!(rate(&counted(150, 8080), 2.0), 25.0);
    assert_eq!(rate(&counted(150, 8080), 0.0), 0.0);
    // A new rule counts from zero, and a new endpoint has no earlier count.
    assert_eq!(rate(&counted(7, 8080), 2.0), 0.0);
    assert_eq!(rate(&counted(150, 8081), 2.0), 0.0);
}

fn view() -> View {
    let mut view = View::new(TopSort::Rate);
    view.take(loads(TopSort::Rate));
    view
}

fn press(view: &mut View, keys: &str) {
    for key in keys.chars() {
        let key = match key {
            '\n' => Key::Enter,
            '\t' => Key::Tab,
            '\u{1b}' => Key::Escape,
            '<' => Key::Backspace,
            'v' => Key::Down,
            '^' => Key::Up,
            other => Key::Char(other),
        };
        assert_eq!(view.press(key), Act::Continue);
    }
}

#[test]
fn keys_select_open_and_go_back() {
    let mut view = view();
    press(&mut view, "vvvvvv");
    assert_eq!(view.selected, 2, "not below the last line");
    press(&mut view, "^^^^");
    assert_eq!(view.selected, 0);
    press(&mut view, "\n");
    assert_eq!(view.open.as_deref(), Some("shop/web"));
    press(&mut view, "\u{1b}");
    assert_eq!(view.open, None);
    press(&mut view, "\t");
    assert_eq!((view.list, view.endpoints().count()), (List::Endpoints, 4));
    press(&mut view, "p?");
    assert!(view.is_paused && view.shows_help);
    press(&mut view, "\u{1b}");
    assert!(!view.shows_help);
    assert_eq!(view.press(Key::Char('q')), Act::Quit);
    assert_eq!(view.press(Key::Interrupt), Act::Quit);
}

#[test]
fn a_filter_is_typed_kept_and_removed() {
    let mut view = view();
    press(&mut view, "/webq<");
    assert!(view.is_typing);
    assert_eq!(view.services().count(), 1);
    press(&mut view, "\n");
    assert!(!view.is_typing);
    assert_eq!(view.filter, "web");
    press(&mut view, "\u{1b}");
    assert_eq!(view.services().count(), 3);
    press(&mut view, "/");
    press(&mut view, &"x".repeat(1000));
    assert_eq!(view.filter.len(), 64);
    assert_eq!(view.services().count(), 0);
    press(&mut view, "vv\n\n");
    assert_eq!((view.selected, &view.open), (0, &None));
    // Endpoints are found by address, too.
    press(&mut view, "\u{1b}\t/10.244.3\n");
    assert_eq!(view.endpoints().count(), 1);
    assert_eq!(view.press(Key::Interrupt), Act::Quit);
}

#[test]
fn the_selected_service_stays_selected_and_the_first_line_stays_the_first() {
    let mut view = view();
    press(&mut view, "v");
    let name = view.services().nth(1).unwrap().service.clone();
    press(&mut view, "ssssss");
    assert_eq!(view.sort, TopSort::Name);
    assert_eq!(view.services().nth(view.selected).unwrap().service, name);
    press(&mut view, "S");
    assert_eq!(view.sort, TopSort::Draining);
    press(&mut view, "^^^");
    view.take(loads(TopSort::Rate));
    assert_eq!(view.selected, 0);
    view.take(Loads::default());
    assert_eq!(view.selected, 0);
}

pub(super) fn reading() -> Reading {
    let at = |text: &str| text.parse().unwrap();
    let condition = |reason: &str| Condition {
        reason: reason.to_owned(),
        about: "Node n".to_owned(),
        message: "m".to_owned(),
        port: None,
    };
    Reading {
        mode: Mode::Ipvs,
        inventory: inventory(),
        running: Some(Running {
            version: "0.1.0".to_owned(),
            commit: "x".to_owned(),
            pid: 4242,
            started_at: at("2026-01-01T00:00:00Z"),
            time: at("2026-01-03T05:06:07Z"),
            mode: "ipvs".to_owned(),
            mode_wanted: "ipvs".to_owned(),
            fallback_reason: None,
            healthy: true,
            source: SourceState {
                name: "API server 10.0.0.1:6443".to_owned(),
                connected: Some(true),
                last_heard: None,
                failing: BTreeMap::new(),
            },
            last_sync: Some(at("2026-01-03T05:06:04Z")),
            pending_changes: 0,
            dns: BTreeMap::new(),
        }),
        conditions: ["NoEndpoints", "FirewallInTheWay", "NoEndpoints"]
            .map(condition)
            .into(),
        at: Instant::now(),
        error: None,
    }
}

/// The screen as text, without trailing spaces.
fn screen(view: &View, reading: &Reading, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, view, reading))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for line in buffer.content().chunks(width.into()) {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[test]
fn the_screens() {
    let (mut view, mut reading) = (view(), reading());
    let services = screen(&view, &reading, 110, 14);
    assert!(!services.contains(['\u{1b}', '\u{202e}']), "{services}");
    insta::assert_snapshot!("services", services);
    press(&mut view, "\n");
    insta::assert_snapshot!("opened", screen(&view, &reading, 110, 18));
    press(&mut view, "\u{1b}\t/shop");
    (reading.running, reading.error) = (None, Some("not permitted\u{1b}[2J".to_owned()));
    insta::assert_snapshot!("endpoints", screen(&view, &reading, 110, 14));
    press(&mut view, "\n?");
    insta::assert_snapshot!("help", screen(&view, &reading, 90, 20));
}

#[test]
fn no_window_is_too_small() {
    let (mut view, reading) = (view(), reading());
    for keys in ["", "\n", "?"] {
        press(&mut view, keys);
        for (width, height) in [(1, 1), (3, 2), (10, 5), (20, 7), (300, 3)] {
            screen(&view, &reading, width, height);
        }
    }
    view.open = Some("gone/\u{1b}".to_owned());
    let text = screen(&view, &reading, 80, 30);
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_failed_reading_keeps_the_last_one() {
    let (mut view, mut reading) = (view(), reading());
    take(
        &mut view,
        &mut reading,
        Err(anyhow::anyhow!("not permitted")),
    );
    assert_eq!(reading.error.as_deref(), Some("not permitted"));
    assert_eq!(view.services().count(), 3);
    let mut new = self::reading();
    new.inventory = Inventory::new([("a/b".to_owned(), Vec::new())].into());
    take(&mut view, &mut reading, Ok(new));
    assert_eq!(reading.error, None);
    let services: Vec<_> = view.services().map(|of| of.service.as_str()).collect();
    assert_eq!(services, ["a/b"]);
    let services: &[ServiceStatus] = &reading.inventory.services;
    assert_eq!(services.len(), 1);
}
