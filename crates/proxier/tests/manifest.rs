//! Objects and diagnostics of manifests: a golden text for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proxier::model::{EndpointSlice, Service};
use proxier::source::manifest::{self, Manifests, Reading};
use proxier::store::Change;

/// The Services and slices of a first reading.
fn objects(reading: &Reading) -> (&[Service], &[EndpointSlice]) {
    match reading.changes.as_slice() {
        [
            Change::ServicesReplaced(services),
            Change::EndpointSlicesReplaced(slices),
        ] => (services, slices),
        other => panic!("not a first reading: {other:?}"),
    }
}

fn golden(reading: &Reading) -> String {
    let mut text = String::new();
    let (services, slices) = objects(reading);
    for service in services {
        write!(text, "Service {}:", service.name).unwrap();
        for address in &service.cluster_ips {
            write!(text, " {address}").unwrap();
        }
        for port in &service.ports {
            write!(text, ", {:?} {:?} {}", port.name, port.protocol, port.port).unwrap();
        }
        writeln!(text, ", affinity {:?}", service.session_affinity).unwrap();
    }
    for slice in slices {
        write!(text, "EndpointSlice {} of {}:", slice.name, slice.service).unwrap();
        for port in &slice.ports {
            write!(text, " {:?} {:?} {},", port.name, port.protocol, port.port).unwrap();
        }
        for endpoint in &slice.endpoints {
            let ready = if endpoint.conditions.ready {
                ""
            } else {
                " not ready"
            };
            let node = endpoint.node.as_deref().unwrap_or("?");
            write!(text, " {} on {node}", endpoint.address).unwrap();
            if let Some(zone) = &endpoint.zone {
                write!(text, " in {zone}").unwrap();
            }
            text.push_str(ready);
        }
        writeln!(text).unwrap();
    }
    for diagnostic in &reading.diagnostics {
        writeln!(text, "{:?}: {diagnostic}", diagnostic.severity).unwrap();
    }
    text
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("manifest/golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

#[test]
fn examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut reading = Manifests::new([examples]).read();
    // The slice of a headless Service is left out with a note.
    let reported: Vec<_> = reading.diagnostics.iter().map(|d| &d.object).collect();
    assert_eq!(
        reported,
        [&Some("EndpointSlice default/peers-v6r4z".into())]
    );
    assert!(!reading.has_errors());
    reading.diagnostics.clear();
    settings().bind(|| insta::assert_snapshot!("examples", golden(&reading)));
}

#[test]
fn malformed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest/malformed");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 17, "the files are gone: {files:?}");
    for file in files {
        let name = Path::new(file.file_name().unwrap());
        let text = fs::read_to_string(&file).unwrap();
        let reading = manifest::parse(name, &text);
        let (services, slices) = objects(&reading);
        let good = |name: &str| name.starts_with("default/good");
        assert!(services.iter().any(|s| good(s.name.as_str())), "{name:?}");
        assert!(slices.iter().any(|s| good(s.name.as_str())), "{name:?}");
        settings().bind(|| {
            insta::assert_snapshot!(
                name.file_stem().unwrap().to_str().unwrap(),
                golden(&reading)
            );
        });
    }
}

#[test]
fn reports_of_hostile_input_are_bounded() {
    let notes = "kind: Secret\n---\n".repeat(2000);
    let errors = format!("kind: List\nitems:\n{}", "- 7\n".repeat(2000));
    let ports = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  clusterIP: None\n  \
         ports:\n{}",
        "  - {}\n".repeat(2000)
    );
    let reading = manifest::parse(Path::new("x.yaml"), &(notes + &errors + &ports));
    assert!(reading.has_errors(), "notes do not crowd errors out");
    assert_eq!(reading.diagnostics.len(), 2 * 1001);
    let ports = manifest::parse(Path::new("x.yaml"), &ports);
    assert_eq!(ports.diagnostics.len(), 100);
    assert_eq!(objects(&ports).0, []);
}

/// A list of Services with a slice each, as `kubectl get -o json` prints it. With `note`, each
/// Service has a port that is left out.
fn json_list(count: usize, note: bool) -> String {
    let items = (0..count).map(|n| {
        let address = format!("10.96.{}.{}", n / 250, n % 250 + 1);
        let extra = match note {
            true => r#", {"port": 70000, "name": "wrong", "protocol": "TCP"}"#,
            false => "",
        };
        format!(
            r#"{{"apiVersion": "v1", "kind": "Service",
                "metadata": {{"name": "s{n}", "namespace": "default", "labels": {{"a": "b"}}}},
                "spec": {{"clusterIP": "{address}", "clusterIPs": ["{address}"], "type": "ClusterIP",
                    "ports": [{{"port": 80, "name": "http", "protocol": "TCP"}}{extra}]}}}},
            {{"addressType": "IPv4", "apiVersion": "discovery.k8s.io/v1",
                "endpoints": [{{"addresses": ["10.244.1.1"], "conditions": {{"ready": true}}}},
                    {{"addresses": ["10.244.1.2"], "conditions": {{"ready": true}}}}],
                "kind": "EndpointSlice",
                "metadata": {{"name": "s{n}-1", "namespace": "default",
                    "labels": {{"kubernetes.io/service-name": "s{n}"}}}},
                "ports": [{{"port": 8080, "name": "http", "protocol": "TCP"}}]}}"#
        )
    });
    let items: Vec<_> = items.collect();
    format!(
        "{{\"apiVersion\": \"v1\", \"items\": [{}], \"kind\": \"List\"}}",
        items.join(",")
    )
}

/// The allocations for each Service with its slice, and the bytes at the peak.
fn cost_of_each(note: bool) -> (u64, u64) {
    let of = |count| {
        let text = json_list(count, note);
        let mut reading = None;
        let cost = allocation_counter::measure(|| {
            reading = Some(manifest::parse(Path::new("list.json"), &text));
        });
        let reading = reading.unwrap();
        assert_eq!(objects(&reading).0.len(), count);
        assert_eq!(reading.diagnostics.len(), if note { count } else { 0 });
        (cost.count_total, cost.bytes_max)
    };
    let ((few, small), (many, large)) = (of(100), of(600));
    ((many - few) / 500, (large - small) / 500)
}

/// Counts allocations, because the YAML parser makes hundreds for each object.
#[test]
fn json_bypasses_the_yaml_parser_also_for_objects_with_diagnostics() {
    let (allocations, bytes) = cost_of_each(false);
    println!("{allocations} allocations, {bytes} bytes");
    assert!(allocations <= 110, "{allocations}");
    let (allocations, bytes) = cost_of_each(true);
    println!("{allocations} allocations, {bytes} bytes with a diagnostic");
    assert!(allocations <= 260, "{allocations}");
}
