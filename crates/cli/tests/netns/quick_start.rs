//! The commands of docs/quick-start.md, as they are there.

use std::fs;
use std::path::Path;
use std::process::Command;

const PAGE: &str = include_str!("../../../../docs/quick-start.md");

/// The text of the blocks of a kind, without the indentation of the list.
fn blocks(kind: &str) -> Vec<String> {
    let open = format!("   ```{kind}\n");
    let blocks = PAGE.split(&open).skip(1);
    let text = blocks.map(|rest| rest.split_once("   ```\n").unwrap().0);
    text.map(|text| text.replace("\n   ", "\n").trim_start().to_owned())
        .collect()
}

#[test]
#[ignore = "netns: needs root"]
fn the_commands_of_the_quick_start_work() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = &blocks("yaml")[0];
    fs::write(directory.path().join("quick-start.yaml"), yaml).unwrap();
    let commands: Vec<_> = blocks("console")
        .iter()
        .flat_map(|block| block.lines())
        .filter_map(|line| line.strip_prefix("# "))
        .map(str::to_owned)
        .collect();
    assert!(commands.len() > 15, "{commands:#?}");
    // Other runs of this test on the machine have other namespaces.
    let id = std::process::id();
    let script = commands.join("\n");
    let script = script.replace("quick-node", &format!("quick-node-{id}"));
    let script = script.replace("quick-pod", &format!("quick-pod-{id}"));
    let svcproxy = Path::new(env!("CARGO_BIN_EXE_svcproxy"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", svcproxy.parent().unwrap().display());
    let output = Command::new("sh")
        .args(["-e", "-x", "-c", &script])
        .env("PATH", path)
        .current_dir(&directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{error}");
    for part in [
        "200\n",
        "10.96.0.80",
        "default/web",
        "served by 1 endpoint\n  -> 10.244.1.10:8080",
    ] {
        assert!(text.contains(part), "{part}: {text}\n{error}");
    }
}
