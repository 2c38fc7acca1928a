//! The page beside the metrics: with and without JavaScript, in each mode that this kernel has.

use std::process::Command;

use testbed::{Protocol, eventually};

use crate::fallback::fetch;
use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, client, succeed};
use crate::refused::manifest;

fn lab(name: &str) -> Lab {
    let lab = Lab::over(testbed::Topology::new(name, &[1, 1]).unwrap());
    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.1.1"));
    lab.write("b.yaml", &manifest("b", "10.96.0.22", "10.244.2.1"));
    lab
}

fn start(lab: &Lab, arguments: &[&str]) -> Follower {
    let mut command = lab.svcproxy(arguments);
    command.arg("--log-format=json").args(lab.settings());
    let svcproxy = Follower::start(&mut command);
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    svcproxy
}

/// That the first line has this status.
#[track_caller]
fn is(page: &str, status: u16) {
    let first = page.lines().next().unwrap_or_default();
    assert!(first.contains(&format!(" {status} ")), "{page}");
}

#[track_caller]
fn has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
#[ignore = "netns: needs root"]
fn the_page_shows_services_and_the_last_changes_with_their_causes() {
    for mode in ["iptables", "nftables", "userspace"] {
        the_page_shows(mode);
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_the_page_shows_services_in_mode_ipvs() {
    the_page_shows("ipvs");
}

fn the_page_shows(mode: &str) {
    let lab = lab("page");
    let at = ([10, 244, 1, 1], 8080).into();
    let _backend = lab.serve(Protocol::Tcp, at);
    let svcproxy = start(&lab, &[&format!("--mode={mode}")]);
    let vip = ([10, 96, 0, 21], 80).into();
    client(Protocol::Tcp, vip).ask(lab.node()).unwrap();

    let page = fetch(&lab, 10249, "/");
    is(&page, 200);
    let mode_badge = format!("mode {mode}<");
    has(
        &page,
        &[
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self';",
            "frame-ancestors 'none'",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            &mode_badge,
            "href=\"/page/default/a\"",
            "10.96.0.22",
            ">served<",
        ],
    );
    // Nothing comes from elsewhere.
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "{page}"
    );
    let found = fetch(&lab, 10249, "/?q=10.96.0.22");
    has(&found, &["/page/default/b", "1–1 of 1"]);
    assert!(!found.contains("/page/default/a\""), "{found}");
    let service = fetch(&lab, 10249, "/page/default/a");
    has(
        &service,
        &[
            "<svg class=\"drawing\"",
            "10.244.1.1:8080",
            "tcp 10.96.0.21:80",
            ">served<",
        ],
    );
    for missing in [
        "/page/default/nobody",
        "/page/x",
        "/page/",
        "/page/A/B",
        "/index.html",
    ] {
        is(&fetch(&lab, 10249, missing), 404);
    }
    has(
        &fetch(&lab, 10249, "/page.css"),
        &["content-type: text/css"],
    );
    has(
        &fetch(&lab, 10249, "/page.js"),
        &["content-type: text/javascript"],
    );

    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.2.1"));
    let changed = || {
        let page = fetch(&lab, 10249, "/page/default/a");
        let parts = ["added 10.244.2.1:8080", "EndpointSlice default/a-1 changed"];
        match parts.iter().all(|part| page.contains(part)) {
            true => Ok(()),
            false => Err(page),
        }
    };
    eventually(PATIENCE, changed).unwrap();
    has(
        &fetch(&lab, 10249, "/changes"),
        &["\"service\":\"default/a\""],
    );
    let drains = fetch(&lab, 10249, "/");
    let counts = matches!(mode, "userspace" | "ipvs");
    assert_eq!(
        drains.contains("there is nothing to list"),
        !counts,
        "{drains}"
    );
    svcproxy.terminate();
    succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
}

#[test]
#[ignore = "netns: needs root"]
fn a_drain_is_listed_until_its_connections_have_ended() {
    a_drain_is_listed("userspace");
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_a_drain_is_listed_in_mode_ipvs() {
    a_drain_is_listed("ipvs");
}

fn a_drain_is_listed(mode: &str) {
    let lab = lab("drains");
    let at = ([10, 244, 1, 1], 8080).into();
    let _backend = lab.serve(Protocol::Tcp, at);
    let svcproxy = start(&lab, &[&format!("--mode={mode}")]);
    let vip = ([10, 96, 0, 21], 80).into();
    let mut connection = client(Protocol::Tcp, vip).connect(lab.node()).unwrap();
    connection.ask().unwrap();
    let listed = |is_wanted: bool| {
        let page = fetch(&lab, 10249, "/");
        let is_listed = page.contains("<span class=\"mono\">10.244.1.1:8080</span> of ");
        match is_listed == is_wanted {
            true => Ok(()),
            false => Err(page),
        }
    };
    listed(false).unwrap();
    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.2.1"));
    eventually(PATIENCE, || listed(true)).unwrap();
    drop(connection);
    eventually(PATIENCE, || listed(false)).unwrap();
    svcproxy.terminate();
}

#[test]
#[ignore = "netns: needs root"]
fn without_the_page_the_other_documents_stay() {
    let lab = lab("nopage");
    let svcproxy = start(&lab, &["--mode=nftables", "--page=false"]);
    for gone in ["/", "/page/default/a", "/page.js", "/changes"] {
        is(&fetch(&lab, 10249, gone), 404);
    }
    has(&fetch(&lab, 10249, "/services/default/a"), &["10.244.1.1"]);
    has(&fetch(&lab, 10249, "/metrics"), &["svcproxy_proxy_mode"]);
    svcproxy.terminate();
}

/// Opens a page in Chromium, lets it run for some seconds of its own time, and returns the document
/// and what its console has.
fn browse(lab: &Lab, path: &str, width: u32) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let mut command: Command = lab.node().command("timeout");
    command
        .args([
            "120",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .args([
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},900"))
        .args(["--virtual-time-budget=15000", "--dump-dom"])
        .arg(format!("http://127.0.0.1:10249{path}"));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (page, log) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{}: {log}", output.status);
    let console = log.lines().filter(|line| line.contains("CONSOLE"));
    (page, console.collect::<Vec<_>>().join("\n"))
}

#[test]
#[ignore = "browser: needs root and Chromium"]
fn browser_keeps_the_page_up_to_date_under_its_own_policy() {
    let lab = lab("browser");
    let at = ([10, 244, 1, 1], 8080).into();
    let _backend = lab.serve(Protocol::Tcp, at);
    let svcproxy = start(&lab, &["--mode=userspace"]);
    for (path, width) in [("/", 1400), ("/page/default/a", 1400), ("/?q=a", 500)] {
        let (page, console) = browse(&lab, path, width);
        assert_eq!(console, "", "{path}");
        // The script has shown the button, so the policy allows it.
        let button = page
            .split("id=\"live\"")
            .nth(1)
            .and_then(|rest| rest.split('>').next());
        let is_shown = button.is_some_and(|attributes| !attributes.contains("hidden"));
        assert!(is_shown, "{path}: {page}");
        has(&page, &["10.96.0.21"]);
    }
    // The line of rates has points of several readings.
    let (page, _) = browse(&lab, "/page/default/a", 1400);
    let line = page.split("<polyline points=\"").nth(1);
    let points = line.and_then(|rest| rest.split('"').next());
    let count = points.map_or(0, |points| points.split(' ').count());
    assert!(count >= 2, "{page}");
    svcproxy.terminate();
}
