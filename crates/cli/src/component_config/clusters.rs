//! Command lines and files with which clusters start kube-proxy. svcproxy must start with each of
//! them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::{args, node};

const CLUSTERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kube-proxy/clusters");

/// Starts with the command line from a file's first line and the file itself as `--config`. Returns
/// the settings that are reported as without effect, and those that the file expects.
fn start(path: &Path) -> anyhow::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let text = fs::read_to_string(path)?;
    let line = |begins: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(begins));
        line.ok_or_else(|| anyhow::anyhow!("no line {begins:?}"))
    };
    let config = format!("--config={}", path.display());
    let words = line("#! kube-proxy ")?.split(' ').map(|word| {
        // The shell removes the quotes.
        let word = word.replace('"', "");
        let is_config = word.starts_with("--config=");
        OsString::from(if is_config { config.clone() } else { word })
    });
    let mut cli = args::try_parse([OsString::from("svcproxy")].into_iter().chain(words))?;
    let notes = super::ingest(&mut cli)?;
    node::config_on(&cli.run.node, || Ok(vec!["192.0.2.1/24".parse()?]))?;
    let subject = |note: &super::Note| {
        let note = note.to_string();
        let (subject, _) = note.split_once(' ').unwrap_or((&note, ""));
        subject.trim_start_matches("--").to_owned()
    };
    let ignored = line("#! ignored:")?.split_whitespace().map(str::to_owned);
    Ok((notes.iter().map(subject).collect(), ignored.collect()))
}

#[test]
fn svcproxy_starts_as_clusters_start_kube_proxy() {
    let mut count = 0;
    let mut wrong = String::new();
    for entry in fs::read_dir(CLUSTERS).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("README.md") {
            continue;
        }
        count += 1;
        let name = path.display();
        match start(&path) {
            Ok((named, expected)) if named == expected => {}
            Ok((named, expected)) => {
                wrong += &format!("{name}: {named:?} instead of {expected:?}\n");
            }
            Err(error) => wrong += &format!("{name}: {error:#}\n"),
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count >= 25, "{count}");
}
