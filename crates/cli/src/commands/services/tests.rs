//! The rows of known Services.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Parser;

use super::*;
use crate::args::{Cli, Command, SortBy};
use crate::inventory::{ClientGroup, VipState};
use crate::testing::{vip, without_endpoints};

/// A Service of each kind of state, and one with a hostile name.
fn inventory() -> Inventory {
    let mut services = BTreeMap::new();
    let mut inside = vip(
        "tcp 30080",
        "http",
        &[("10.244.1.1:8080", 1, 3), ("10.244.2.1:8080", 1, 4)],
    );
    inside.clients = ClientGroup::Inside;
    let mut outside = without_endpoints("tcp 30080", "http", VipState::Dropped);
    outside.clients = ClientGroup::Outside;
    let mut sticky = vip(
        "tcp 10.96.0.80:80",
        "http",
        &[("10.244.1.1:8080", 1, 3), ("10.244.9.9:8080", 0, 2)],
    );
    sticky.persistence_seconds = Some(10_800);
    let external = vip("tcp 203.0.113.9:80", "http", &[("10.244.1.1:8080", 1, 0)]);
    services.insert(
        "shop/web".to_owned(),
        vec![inside, outside, sticky, external],
    );
    let mut nobody = without_endpoints("tcp 10.96.0.81:80", "", VipState::Refused);
    nobody.reason = Some("2 not ready".to_owned());
    // What is left of its last endpoints.
    let drains = vip("tcp 10.96.0.81:80", "", &[("10.244.7.7:80", 0, 1)]);
    services.insert("default/nobody".to_owned(), vec![nobody, drains]);
    let elsewhere = without_endpoints("udp 10.96.0.82:53", "dns", VipState::Dropped);
    services.insert("default/elsewhere".to_owned(), vec![elsewhere]);
    let mut gone = vip("tcp 10.96.0.83:80", "", &[]);
    gone.scheduler = None;
    services.insert("default/gone".to_owned(), vec![gone]);
    let hostile = vip(
        "tcp [fd00:10:96::1]:80",
        "\u{1b}[2J",
        &[("[fd00::1]:80", 1, 9)],
    );
    services.insert("default/\u{202e}evil".to_owned(), vec![hostile]);
    Inventory::new(services)
}

fn text(sort: SortBy, wide: bool) -> String {
    let rows = rows(&inventory(), sort);
    let rows = rows.iter().map(|row| row.cells(wide));
    let lines: Vec<_> = [header(wide)].into_iter().chain(rows).collect();
    let mut out = Vec::new();
    Table::default().print(&mut out, &lines).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn one_line_per_port_and_its_state() {
    let narrow = text(SortBy::Name, false);
    assert!(!narrow.contains(['\u{1b}', '\u{202e}']), "{narrow}");
    let mut both = narrow;
    let _ = write!(both, "\n{}", text(SortBy::Connections, true));
    insta::assert_snapshot!(both);
}

#[test]
fn the_order_is_chosen() {
    let first = |sort| {
        let rows = rows(&inventory(), sort);
        rows.first().map(|row| row.name.clone()).unwrap()
    };
    assert_eq!(first(SortBy::Name), "elsewhere");
    assert_eq!(first(SortBy::Connections), "web");
    assert_eq!(first(SortBy::Endpoints), "web");
    assert_eq!(first(SortBy::Rate), "web");
}

fn args(arguments: &[&str]) -> ServicesArgs {
    let words = [&["svcproxy", "services"], arguments].concat();
    match Cli::try_parse_from(words).unwrap().command {
        Some(Command::Services(args)) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_namespaces_addresses_and_endpoints_select() {
    let found = |arguments: &[&str]| {
        let args = args(arguments);
        let inventory = inventory().with(|of| args.selection.names(&of.service));
        let inventory = inventory.with(|of| of.vips.iter().any(|vip| has(&args, vip)));
        let services = inventory.services.into_iter().map(|of| of.service);
        services.collect::<Vec<_>>()
    };
    assert_eq!(found(&[]).len(), 5);
    assert_eq!(found(&["web"]), ["shop/web"]);
    assert_eq!(found(&["shop/web"]), ["shop/web"]);
    assert_eq!(found(&["web", "-n", "default"]), [""; 0]);
    assert_eq!(found(&["-n=shop"]), ["shop/web"]);
    assert_eq!(
        found(&["nobody", "gone"]),
        ["default/gone", "default/nobody"]
    );
    assert_eq!(found(&["--vip=203.0.113.9"]), ["shop/web"]);
    assert_eq!(found(&["--vip=10.96.0.82:53"]), ["default/elsewhere"]);
    assert_eq!(found(&["--vip=10.96.0.82:80"]), [""; 0]);
    assert_eq!(
        found(&["--vip=[fd00:10:96::1]:80"]),
        ["default/\u{202e}evil"]
    );
    assert_eq!(found(&["--endpoint=10.244.9.9"]), ["shop/web"]);
    let missing = |services: &[&str]| {
        let selection = args(&["web", "x/y"]).selection;
        let names = selection.missing(services.iter().copied());
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(missing(&[]), ["web", "x/y"]);
    assert_eq!(missing(&["shop/web"]), ["x/y"]);
}

#[test]
fn watch_prints_what_changes() {
    let row = |state: &str| -> Vec<String> {
        ["n", "web", "80", "10.96.0.80", "1", "0", "0", state]
            .map(str::to_owned)
            .into()
    };
    let all = |rows: &[(&'static str, &str)]| -> BTreeMap<_, _> {
        rows.iter().map(|(key, state)| (*key, row(state))).collect()
    };
    let before = all(&[("a", "served"), ("b", "served"), ("c", "served")]);
    let now = all(&[("a", "served"), ("b", "refused"), ("d", "served")]);
    assert_eq!(changed(&before, &before), Vec::<Vec<String>>::new());
    assert_eq!(
        changed(&before, &now),
        [row("refused"), row("served"), row("gone")]
    );
}

#[test]
fn yaml_has_no_hidden_characters() {
    let inventory = inventory();
    let mut value = serde_json::to_value(document(&inventory)).unwrap();
    show_strings(&mut value);
    let text = serde_saphyr::to_string(&value).unwrap();
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(read, value);
    assert_eq!(read["totals"]["services"], 5);
}
