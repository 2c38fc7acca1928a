//! `svcproxy support-bundle`: what it holds, and that it holds no secrets.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testbed::{ApiServer, Behaviour, Resource};

use crate::follower::Follower;
use crate::lab::{Lab, succeed};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.aHVudGVyMg";
const PASSWORD: &str = "hunter2";
const KEY: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC";

/// All files of an archive below a directory, with their contents.
fn unpacked(directory: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(unpacked(&path)),
            false => {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.display().to_string(), text));
            }
        }
    }
    files
}

fn unpack(archive: &Path) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(directory.path());
    succeed(&mut tar);
    unpacked(directory.path())
}

fn text<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    let file = files.iter().find(|(path, _)| path.ends_with(name));
    &file.unwrap_or_else(|| panic!("no {name}: {files:#?}")).1
}

#[test]
#[ignore = "netns: needs root"]
fn it_holds_the_state_of_the_node_and_no_secrets() {
    let lab = Lab::new("bundle", &[]);
    let server = lab
        .node()
        .enter(|| ApiServer::start(Behaviour::default()).unwrap());
    server.require_token(TOKEN);
    server.put(
        Resource::Services,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.90", "clusterIPs": ["10.96.0.90"],
                     "ports": [{"port": 80, "protocol": "TCP"}]},
        }),
    );
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: {:?}}}\n\
         contexts:\n- name: c\n  context: {{cluster: c, user: u}}\ncurrent-context: c\n\
         users:\n- name: u\n  user: {{token: {TOKEN:?}}}\n",
        server.url()
    );
    fs::write(&kubeconfig, &config).unwrap();
    // What a careless program may have logged.
    let log = directory.path().join("svcproxy.log");
    let key = format!("-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----");
    let said = format!(
        "{config}\nGET /api: Authorization: Bearer {TOKEN}\nproxy http://me:{PASSWORD}@proxy:80/\n\
         password={PASSWORD}\nclient-key-data: {KEY}\n{key}\nthe end\n"
    );
    fs::write(&log, said).unwrap();

    let node = lab.node();
    let mut command = lab.svcproxy(&["--mode=nftables", "--log-format=json"]);
    command.args(["--node-name=node-a", "--service-cidr=10.96.0.0/12"]);
    command.arg(format!("--node-ip={}", node.v4));
    command.arg(format!("--kubeconfig={}", kubeconfig.display()));
    let svcproxy = Follower::start(&mut command);
    svcproxy.wait("a sync", |event| event["message"] == "synced");

    let archive = directory.path().join("bundle.tar.gz");
    let mut bundle = lab.svcproxy(&["support-bundle"]);
    bundle.arg(format!("--output={}", archive.display()));
    bundle.arg(format!("--log={}", log.display()));
    let said = succeed(&mut bundle);
    assert!(said.starts_with(&archive.display().to_string()), "{said}");
    let files = unpack(&archive);
    for (name, text) in &files {
        for secret in [TOKEN, "aHVudGVyMg", PASSWORD, KEY] {
            assert!(!text.contains(secret), "{name}: {text}");
        }
    }
    let manifest = text(&files, "MANIFEST.txt");
    for missing in manifest.lines().filter(|line| line.contains("\tmissing\t")) {
        // This kernel may have no IPVS.
        assert!(missing.starts_with("host/"), "{missing}");
    }
    for (name, part) in [
        ("status.json", "\"mode\":\"nftables\""),
        ("configuration.json", "10.96.0.0/12"),
        ("conditions.json", "NoEndpoints"),
        ("metrics.txt", "kubeproxy_"),
        ("plan.txt", "default/shop"),
        ("kernel/state.txt", "10.96.0.90"),
        ("kernel/services.json", "default/shop"),
        ("check.json", "\"canRun\": true"),
        ("process/cmdline.txt", "--mode=nftables"),
        ("svcproxy.log", "the end"),
        ("host/proc/version", "Linux"),
    ] {
        let text = text(&files, name);
        assert!(text.contains(part), "{name}: {text}");
    }
    let differences: Value = serde_json::from_str(text(&files, "differences.json")).unwrap();
    assert_eq!(differences["totals"]["differs"], 0, "{differences:#}");

    // Nothing is overwritten.
    let again = bundle.output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    svcproxy.terminate();

    // Without a process there is less, and the archive says so.
    let archive = directory.path().join("other.tar.gz");
    let mut bundle = lab.svcproxy(&["support-bundle", "--master=http://127.0.0.1:9"]);
    bundle.args(["--timeout=1s", "--node-name=node-a"]);
    bundle.arg(format!("--output={}", archive.display()));
    succeed(&mut bundle);
    let files = unpack(&archive);
    let manifest = text(&files, "MANIFEST.txt");
    for missing in [
        "metrics.txt\tmissing\tmetrics: no svcproxy answers",
        "plan.txt\tmissing\twhat the node should have: initial list incomplete",
        "log\tmissing\tthe log: svcproxy logs to standard error",
    ] {
        assert!(manifest.contains(missing), "{manifest}");
    }
    assert!(text(&files, "kernel/state.txt").contains("10.96.0.90"));
}
