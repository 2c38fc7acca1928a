//! Scenarios: manifests in, the texts that an operator reads out.
//!
//! Each `tests/scenarios/TOPIC/NAME.yaml` begins with a comment about its purpose. The `NAME.txt`
//! beside it has the text of `svcproxy plan`, the log, and the steps of each change. Each scenario
//! runs on a node in memory, which also checks invariants (see [`play`]). `UPDATE_SCENARIOS=1`
//! rewrites the texts; read them before you commit them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod iptables;
mod play;
mod script;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{env, fs, panic};

use similar::TextDiff;

use play::{Player, play};
use script::{Act, Script};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// The scenarios' paths from the root, without extension.
fn names() -> BTreeSet<PathBuf> {
    let entries = |path: &Path| {
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    entries(&root())
        .flat_map(|topic| entries(&topic))
        .map(|file| file.strip_prefix(root()).unwrap().with_extension(""))
        .collect()
}

fn script(name: &Path) -> Script {
    let file = root().join(name).with_extension("yaml");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    Script::parse(name, &text)
}

#[test]
fn texts_match_the_golden_files() {
    let update = env::var_os("UPDATE_SCENARIOS").is_some();
    let names = names();
    assert!(names.len() >= 60, "the scenarios are gone");
    let mut failures = String::new();
    for name in names {
        let golden = root().join(&name).with_extension("txt");
        let before = fs::read_to_string(&golden).unwrap_or_default();
        let Ok(now) = panic::catch_unwind(|| play(&script(&name))) else {
            failures += &format!("{}: see above\n", name.display());
            continue;
        };
        if before == now {
            continue;
        }
        let title = name.display().to_string();
        let diff = TextDiff::from_lines(&before, &now);
        let diff = diff.unified_diff().header(&title, "now").to_string();
        if update {
            fs::write(&golden, now).unwrap();
        } else {
            failures += &diff;
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn a_huge_service_changes_nothing_for_the_others() {
    let script = script(Path::new("cluster-ip/two-ports"));
    let alone = Player::new(&script).first(&script.acts[0]);
    let slice = |name: &str, endpoints: Range<u32>| {
        let mut slice = format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: huge}}}}\n\
             addressType: IPv4\nports: [{{port: 80}}]\nendpoints:\n"
        );
        for n in endpoints {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 245, 0, 0).to_bits() + n);
            writeln!(slice, "- {{addresses: [{address}]}}").unwrap();
        }
        slice
    };
    let mut documents = script.acts[0].documents.clone();
    documents += "---\napiVersion: v1\nkind: Service\nmetadata: {name: huge}\n\
                  spec: {clusterIP: 10.96.9.9, ports: [{port: 80}]}\n";
    for n in 0..5 {
        documents += &slice(&format!("huge-{n}"), n * 1000..(n + 1) * 1000);
    }
    documents += &slice("too-long", 6000..7001);
    let act = Act {
        documents,
        ..Act::default()
    };
    let text = Player::new(&script).first(&act);

    let service = |text: &str, name: &str| {
        let parts = text.split("\n\n").filter(|part| part.starts_with(name));
        parts.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        service(&text, "default/huge")[0].matches("->").count(),
        5000
    );
    assert!(
        text.contains("default/too-long: endpoints: 1001 endpoints"),
        "{text}"
    );
    let web = service(&text, "default/web");
    assert_eq!((web.len(), &web), (2, &service(&alone, "default/web")));
}

/// If the marks run out, node ports without one are reported and everything else works.
#[test]
fn services_without_a_mark_are_reported_and_keep_their_cluster_ips() {
    let mut text = String::from("# Many node ports.\n#! flags: --mark-mask=0x1ff\n");
    for n in 0..300 {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web-{n}}}\nspec:\n  \
             type: NodePort\n  clusterIP: 10.96.{}.{}\n  ports: [{{port: 80, nodePort: {}}}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{n}, labels: {{kubernetes.io/service-name: web-{n}}}}}\n\
             addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [10.244.1.1]}}]",
            1 + n / 250,
            n % 250,
            30000 + n,
        )
        .unwrap();
    }
    let script = Script::parse(Path::new("marks"), &text);
    let text = Player::new(&script).first(&script.acts[0]);
    assert_eq!(
        text.matches("no free firewall mark in --mark-mask").count(),
        300 - 255,
        "{text}"
    );
}
