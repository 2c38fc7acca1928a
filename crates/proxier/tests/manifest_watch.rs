//! Watched manifests: real files, changed as editors and the kubelet do it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use notify::Watcher as _;
use proxier::source::manifest::{Manifests, Reading, Watch};
use proxier::store::Store;

/// Far longer than it takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

struct Watched {
    readings: Receiver<Reading>,
    store: Store,
    _watch: Watch,
}

impl Watched {
    /// Watches `path`, and waits for the first reading.
    fn new(path: &Path) -> Self {
        let (deliver, readings) = channel();
        let watch = Manifests::new([path]).watch(move |reading| {
            let _ = deliver.send(reading);
        });
        let mut watched = Self {
            readings,
            store: Store::default(),
            _watch: watch.unwrap(),
        };
        watched.next();
        // An unreadable path counts as not listed.
        assert_eq!(watched.store.is_ready(), path.exists());
        watched
    }

    fn next(&mut self) -> Reading {
        let reading = self.readings.recv_timeout(PATIENCE).unwrap();
        for change in reading.changes.clone() {
            self.store.apply(change);
        }
        reading
    }

    /// Waits until the Services have these addresses. There may be readings in between, because an
    /// edit is not one step.
    fn until(&mut self, expected: &[&str]) {
        while self.addresses() != expected {
            self.next();
        }
    }

    fn endpoints(&self) -> Vec<String> {
        let slices = self.store.services().flat_map(|view| view.slices());
        let mut endpoints: Vec<_> = slices
            .flat_map(|slice| slice.endpoints.iter().map(|e| e.address.to_string()))
            .collect();
        endpoints.sort();
        endpoints
    }

    fn addresses(&self) -> Vec<String> {
        let services = self.store.services();
        let mut addresses: Vec<_> = services
            .flat_map(|view| view.service.cluster_ips.iter().map(ToString::to_string))
            .collect();
        addresses.sort();
        addresses
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn files_that_come_change_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", "10.96.0.1")).unwrap();
    let mut watched = Watched::new(directory.path());
    assert_eq!(watched.addresses(), ["10.96.0.1"]);
    fs::write(path("b.yaml"), service("b", "10.96.0.2")).unwrap();
    watched.until(&["10.96.0.1", "10.96.0.2"]);
    replace(&path("a.yaml"), &service("a", "10.96.0.3"));
    watched.until(&["10.96.0.2", "10.96.0.3"]);
    fs::remove_file(path("b.yaml")).unwrap();
    watched.until(&["10.96.0.3"]);
    // Only the diagnostics change.
    replace(&path("a.yaml"), "kind: [");
    let reading = watched.next();
    assert!(reading.has_errors() && reading.changes.is_empty());
    assert_eq!(watched.addresses(), ["10.96.0.3"]);
}

#[test]
fn pods_that_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let selector = "spec: {selector: {app: a}, ";
    let service = service("a", "10.96.0.1").replace("spec: {", selector);
    fs::write(path("a.yaml"), service).unwrap();
    let mut watched = Watched::new(directory.path());
    assert!(watched.endpoints().is_empty());
    let pod = |ip| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a-{ip}, labels: {{app: a}}}}\n\
             spec: {{containers: []}}\nstatus: {{podIP: {ip}}}\n"
        )
    };
    replace(&path("one.yaml"), &pod("10.244.1.1"));
    while watched.endpoints() != ["10.244.1.1"] {
        watched.next();
    }
    replace(&path("two.yaml"), &pod("10.244.1.2"));
    while watched.endpoints() != ["10.244.1.1", "10.244.1.2"] {
        watched.next();
    }
    fs::remove_file(path("one.yaml")).unwrap();
    while watched.endpoints() != ["10.244.1.2"] {
        watched.next();
    }
}

#[test]
fn readings_without_changes_are_not_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", "10.96.0.1")).unwrap();
    let mut watched = Watched::new(directory.path());
    let (opened, events) = channel();
    let mut observer = notify::recommended_watcher(opened).unwrap();
    let mode = notify::RecursiveMode::NonRecursive;
    observer.watch(directory.path(), mode).unwrap();
    fs::write(path("notes.txt"), "not a manifest").unwrap();
    replace(
        &path("a.yaml"),
        &format!("# the same\n{}", service("a", "10.96.0.1")),
    );
    // The file gets its name when it is complete, so the first open under that name is a reading.
    let read = notify::EventKind::Access(notify::event::AccessKind::Open(
        notify::event::AccessMode::Any,
    ));
    let is_read = |event: &notify::Event| event.kind == read && event.paths == [path("a.yaml")];
    while !is_read(&events.recv_timeout(PATIENCE).unwrap().unwrap()) {}
    fs::write(path("b.yaml"), service("b", "10.96.0.2")).unwrap();
    while watched.addresses() != ["10.96.0.1", "10.96.0.2"] {
        assert_ne!(watched.next().changes, []);
    }
}

/// As the kubelet writes a ConfigMap volume: the files are links through `..data`, a link to a
/// directory with a time for its name, and one rename of that link swaps them all.
fn config_map(volume: &Path, time: &str, files: &[(&str, String)]) {
    let directory = volume.join(format!("..{time}"));
    fs::create_dir(&directory).unwrap();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
        let link = volume.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let old = fs::read_link(volume.join("..data")).ok();
    symlink(format!("..{time}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old)).unwrap();
    }
}

fn config_map_swap(watch: impl Fn(&Path) -> PathBuf) {
    let volume = tempfile::tempdir().unwrap();
    let files = |ip| {
        [
            ("a.yaml", service("a", ip)),
            ("b.yaml", service("b", "10.96.1.1")),
        ]
    };
    config_map(volume.path(), "2026_11_21_05_00_00.1", &files("10.96.0.1"));
    let mut watched = Watched::new(&watch(volume.path()));
    for (time, ip) in [("2", "10.96.0.2"), ("3", "10.96.0.3")] {
        let time = format!("2026_11_21_05_00_00.{time}");
        config_map(volume.path(), &time, &files(ip));
        while !watched.addresses().iter().any(|address| address == ip) {
            let reading = watched.next();
            assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        }
    }
}

#[test]
fn a_config_map_volume_is_swapped() {
    config_map_swap(Path::to_owned);
}

#[test]
fn a_file_of_a_config_map_volume_is_swapped() {
    config_map_swap(|volume| volume.join("a.yaml"));
}

#[test]
fn a_directory_that_is_created_late_and_replaced() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("etc/manifests");
    let make = |at: &Path, ip: &str| {
        fs::create_dir_all(at).unwrap();
        fs::write(at.join("a.yaml"), service("a", ip)).unwrap();
    };
    let mut watched = Watched::new(&directory);
    assert!(watched.addresses().is_empty());
    make(&directory, "10.96.0.1");
    watched.until(&["10.96.0.1"]);
    let other = above.path().join("other");
    make(&other, "10.96.0.2");
    fs::rename(&directory, above.path().join("old")).unwrap();
    fs::rename(&other, &directory).unwrap();
    watched.until(&["10.96.0.2"]);
    // The new directory is watched.
    replace(&directory.join("a.yaml"), &service("a", "10.96.0.3"));
    watched.until(&["10.96.0.3"]);
}

#[test]
fn nothing_is_delivered_after_the_drop() {
    let directory = tempfile::tempdir().unwrap();
    let watched = Watched::new(directory.path());
    let Watched {
        readings, _watch, ..
    } = watched;
    drop(_watch);
    fs::write(directory.path().join("a.yaml"), service("a", "10.96.0.1")).unwrap();
    assert_eq!(
        readings.recv_timeout(PATIENCE),
        Err(RecvTimeoutError::Disconnected),
        "the thread is gone, and the callback with it"
    );
}
