//! The pictures of the page: a small shop with traffic, in mode userspace, which any kernel has.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testbed::{Backend, Client, Host, Protocol};

use crate::apt::{self, Tool};
use crate::scene::Scene;
use crate::{cargo, paths, process, setup};

/// The Services, with a change that leaves a trace on the page.
const SHOP: &str = include_str!("shop.yaml");
const STABLE: &str = "- {addresses: [10.244.2.21], nodeName: node-b, zone: eu-west-1b}";
const LEAVING: &str = "- {addresses: [10.244.2.21], nodeName: node-b, zone: eu-west-1b, \
                       conditions: {ready: false, serving: true, terminating: true}}";

/// The endpoints that answer.
const ENDPOINTS: [&str; 11] = [
    "10.244.1.11:8443",
    "10.244.1.12:8443",
    "10.244.2.21:8443",
    "10.244.1.13:9000",
    "10.244.2.23:9000",
    "10.244.1.14:8080",
    "10.244.2.21:9090",
    "10.244.2.23:8443",
    "10.244.1.13:6443",
    "10.244.1.2:53",
    "10.244.2.2:53",
];

/// What clients ask for, the pause between two requests, and for how long they keep a connection.
const LOADS: [(&str, u64, u64); 7] = [
    ("10.96.12.40:443", 90, 700),
    ("203.0.113.40:443", 160, 900),
    ("10.96.12.41:9000", 240, 400),
    ("10.96.12.43:80", 500, 1500),
    ("10.96.0.10:53", 70, 0),
    ("10.96.40.8:9090", 900, 2000),
    ("10.96.0.1:443", 2000, 9000),
];

/// Smaller pictures: it quantises colours, of which these have few.
const QUANTISE: Tool = Tool::new("pngquant", "pngquant");

/// A picture: file, path of the page, width, height, and whether it is dark.
const PICTURES: [(&str, &str, u32, u32, bool); 4] = [
    ("page.png", "/", 1280, 1030, false),
    (
        "page-service.png",
        "/page/shop/storefront",
        1280,
        1430,
        false,
    ),
    ("page-dark.png", "/page/shop/storefront", 1280, 700, true),
    ("page-narrow.png", "/", 500, 1100, false),
];

/// `cargo xtask screenshots`.
pub(crate) fn run_command() -> Result<ExitCode> {
    apt::ensure(&[&setup::TOOLS[..], &[setup::BROWSER, QUANTISE]].concat())?;
    let svcproxy = cargo::svcproxy()?;
    let scene = Scene::new(
        "pictures",
        &svcproxy,
        &[vec![2, 11, 12, 13, 14], vec![2, 21, 23]],
    )?;
    let backends: Vec<_> = ENDPOINTS
        .iter()
        .map(|at| {
            let at: SocketAddr = at.parse()?;
            let pod = scene.topology.pod(at.ip()).context("a pod is missing")?;
            Ok(Backend::start(pod, Protocol::Tcp, at, &at.to_string())?)
        })
        .collect::<Result<_>>()?;
    scene.write("shop", "shop.yaml", SHOP)?;
    let running = scene.start(&Scene::settings("userspace", "shop"))?;
    let is_over = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        for (at, pause, hold) in LOADS {
            // From outside where it is a load balancer's address, else from a pod.
            let from = match at.starts_with("203.") {
                true => &scene.topology.client,
                false => scene
                    .topology
                    .node()
                    .pods
                    .first()
                    .unwrap_or(&scene.topology.client),
            };
            let is_over = &is_over;
            scope.spawn(move || load(from, at, pause, hold, is_over));
        }
        let taken = take_all(&scene);
        is_over.store(true, Ordering::Relaxed);
        taken
    });
    taken?;
    drop(backends);
    running.stop()?;
    Ok(ExitCode::SUCCESS)
}

/// Opens connections, one after another, each of which lasts for some time. A few that fail are part of
/// the picture.
fn load(from: &Host, at: &str, pause: u64, hold: u64, is_over: &AtomicBool) {
    let Ok(at) = at.parse::<SocketAddr>() else {
        return;
    };
    let mut open = std::collections::VecDeque::new();
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(connection) = Client::new(Protocol::Tcp, at).connect(from) {
            open.push_back(connection);
        }
        while open.len() as u64 > hold / pause {
            open.pop_front();
        }
        thread::sleep(Duration::from_millis(pause));
    }
}

fn take_all(scene: &Scene) -> Result<()> {
    let images = paths::workspace().join("docs/images");
    fs::create_dir_all(&images)?;
    // Some of them stay, and drain.
    let shop: SocketAddr = "10.96.12.40:443".parse()?;
    let lasting: Vec<_> = (0..6)
        .filter_map(|_| {
            Client::new(Protocol::Tcp, shop)
                .connect(&scene.topology.client)
                .ok()
        })
        .collect();
    thread::sleep(Duration::from_secs(2));
    if !SHOP.contains(STABLE) {
        bail!("shop.yaml has no endpoint that can leave");
    }
    scene.write("shop", "shop.yaml", &SHOP.replace(STABLE, LEAVING))?;
    thread::sleep(Duration::from_secs(2));
    for (file, path, width, height, dark) in PICTURES {
        // The rates of the picture are those since this reading.
        visit(scene, path)?;
        thread::sleep(Duration::from_secs(3));
        take(scene, &images.join(file), path, (width, height), dark)?;
    }
    drop(lasting);
    Ok(())
}

/// Asks for a page as a browser does.
fn visit(scene: &Scene, path: &str) -> Result<()> {
    let get = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", 10249))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    };
    let answered = scene.topology.node().host.enter(get);
    answered.with_context(|| format!("cannot read {path}"))
}

/// Takes a picture.
fn take(
    scene: &Scene,
    file: &Path,
    path: &str,
    (width, height): (u32, u32),
    dark: bool,
) -> Result<()> {
    let profile = tempfile::tempdir()?;
    let raw = profile.path().join("raw.png");
    let scheme = if dark { 0 } else { 1 };
    let local = IpAddr::from([127, 0, 0, 1]);
    let mut browser = scene.topology.node().host.command("timeout");
    browser
        .args([
            "120",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .args([
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},{height}"))
        .arg("--virtual-time-budget=100")
        .arg(format!("--screenshot={}", raw.display()))
        .arg(format!("http://{local}:10249{path}"));
    process::output(&mut browser)?;
    process::run(
        std::process::Command::new("pngquant")
            .args([
                "--force",
                "--skip-if-larger",
                "--speed=1",
                "--strip",
                "--output",
            ])
            .arg(file)
            .arg("64")
            .arg(&raw),
    )?;
    println!("{}: {} bytes", file.display(), fs::metadata(file)?.len());
    Ok(())
}
