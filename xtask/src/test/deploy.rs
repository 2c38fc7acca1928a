//! Checks of `deploy/` and of packages with the tools of their users: Helm, Prometheus, systemd, dpkg,
//! runc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::Report;
use crate::apt::{self, Tool};
use crate::dist::{self, Checked};
use crate::{paths, process};

/// The values that the chart requires.
const REQUIRED: &str = r#"{"apiServer": "https://control-plane.example:6443"}"#;
/// Every optional part of the chart, switched on.
const EVERYTHING: &str = r#"{
    "apiServer": "https://control-plane.example:6443",
    "imagePullSecrets": [{"name": "pull"}],
    "extraArgs": ["--log-format=json"],
    "seccompProfile": {"type": "Localhost", "localhostProfile": "svcproxy.json"},
    "affinity": {"nodeAffinity": {}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "mode": "iptables",
    "metrics": {
        "serviceMonitor": {"enabled": true, "labels": {"e": "f"}},
        "prometheusRule": {
            "enabled": true,
            "labels": {"g": "h"},
            "runbookBase": "https://docs.example/svcproxy/"
        },
        "dashboard": {"enabled": true}
    }
}"#;
/// Values that differ from [`REQUIRED`], and whether pods must restart for the difference.
const CHANGES: [(&str, bool); 4] = [
    (r#""config": {"clusterCIDR": "10.9.0.0/16"}"#, false),
    (r#""mode": "iptables""#, true),
    (r#""metrics": {"serviceMonitor": {"enabled": true}}"#, true),
    (r#""config": {"logging": {"format": "json"}}"#, true),
];
/// Helm as a library, in a package of PyPI.
const HELM: &str = "helm-python-sdk==0.2.2";

pub(super) fn run(svcproxy: &Path, report: &mut Report) {
    report.phase("deployment");
    with_tool("helm", helm(), report, |packages| {
        let golden = paths::workspace().join("crates/cli/tests/golden/chart.yaml");
        let rendered = render(packages, REQUIRED)?;
        if std::env::var_os("UPDATE_CHART").is_some() {
            fs::write(&golden, &rendered)?;
        }
        ensure!(
            fs::read(&golden)? == rendered,
            "the rendered chart differs from {}; UPDATE_CHART=1 rewrites the file",
            golden.display()
        );
        let everything = String::from_utf8(render(packages, EVERYTHING)?)?;
        let link =
            "runbook_url: https://docs.example/svcproxy/docs/troubleshooting.md#svcproxydown";
        ensure!(everything.contains(link), "no alert has {link}");
        // Port 53 needs a capability.
        let dns = r#", "extraArgs": ["--dns-address=192.0.2.1:53"]}"#;
        for (end, expected) in [("}", false), (dns, true)] {
            let rendered = render(packages, &REQUIRED.replace('}', end))?;
            let may_bind = String::from_utf8(rendered)?.contains("NET_BIND_SERVICE");
            ensure!(may_bind == expected, "NET_BIND_SERVICE, with {end}");
        }
        let before = checksum(&rendered)?;
        for (change, restarts) in CHANGES {
            let values = REQUIRED.replace('}', &format!(", {change}}}"));
            let after = checksum(&render(packages, &values)?)?;
            ensure!(
                (after != before) == restarts,
                "the pods' checksum after {change}: {after}, before: {before}"
            );
        }
        Ok(())
    });
    with_tool("promtool", promtool(), report, |program| {
        let calls = [("check", "alerts.yaml"), ("test", "alerts_test.yaml")];
        calls.into_iter().try_for_each(|(what, file)| {
            let mut promtool = Command::new(program);
            promtool.args([what, "rules", file]);
            promtool.current_dir(paths::workspace().join("deploy/monitoring"));
            process::output(&mut promtool).map(drop)
        })?;
        check_dashboard(program)
    });
    with_tool("systemd-analyze", systemd_analyze(), report, |program| {
        filters_agree(program)?;
        verify_unit(program, svcproxy)?;
        is_confined(program)
    });
    report.phase("packages of a release");
    match dist::check(svcproxy) {
        Ok(outcomes) => outcomes
            .into_iter()
            .for_each(|(name, outcome)| match outcome {
                Ok(Checked::Passed) => report.check(name, Ok(())),
                Ok(Checked::Skipped(why)) => report.skip(name, why),
                Err(error) => report.check(name, Err(error)),
            }),
        Err(error) => report.fail("packages of a release", &format!("{error:#}")),
    }
}

/// Runs a check with a tool; counts it as skipped if the tool cannot be installed.
fn with_tool(
    name: &str,
    tool: Result<PathBuf>,
    report: &mut Report,
    check: impl FnOnce(&Path) -> Result<()>,
) {
    match tool {
        Ok(tool) => report.check(name, check(&tool)),
        Err(error) => report.skip(name, format!("{error:#}")),
    }
}

/// The directory that has Helm for Python.
fn helm() -> Result<PathBuf> {
    apt::ensure(&[
        Tool::new("python3", "python3"),
        Tool::new("pip3", "python3-pip"),
    ])?;
    let packages = paths::workspace().join("target/helm");
    if !packages.join("helm_python").exists() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]);
        process::output(pip.arg(&packages).arg(HELM))?;
    }
    Ok(packages)
}

fn render(packages: &Path, values: &str) -> Result<Vec<u8>> {
    let mut helm = Command::new("python3");
    helm.env("PYTHONPATH", packages)
        .args(["-c", include_str!("helm.py")])
        .arg(paths::workspace().join("deploy/helm/svcproxy"))
        .arg(values);
    process::output(&mut helm).context("cannot render the chart")
}

/// The annotation that makes Kubernetes replace the pods when it changes.
fn checksum(rendered: &[u8]) -> Result<String> {
    let text = str::from_utf8(rendered)?;
    let line = text.lines().find(|line| line.contains("checksum/restart:"));
    line.map(str::to_owned).context("the pods have no checksum")
}

/// Unpacked from Debian's package: installing that would start a server.
fn promtool() -> Result<PathBuf> {
    let directory = paths::workspace().join("target/prometheus");
    let program = directory.join("usr/bin/promtool");
    if !program.exists() {
        let choose = |names: &str| {
            let exact = names.lines().filter(|name| *name == "prometheus");
            exact.map(str::to_owned).collect()
        };
        apt::unpack("prometheus", choose, &directory)?;
    }
    Ok(program)
}

/// The dashboard's queries, as rules: promtool parses nothing else.
fn check_dashboard(promtool: &Path) -> Result<()> {
    let file = paths::workspace().join("deploy/monitoring/dashboard.json");
    let dashboard: Value = serde_json::from_slice(&fs::read(file)?)?;
    let mut queries = Vec::new();
    collect_queries(&dashboard, &mut queries);
    ensure!(queries.len() > 20, "only {} queries found", queries.len());
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        // Variables that are not inside of quotation marks.
        .map(|(index, query)| (index, query.replace("$__rate_interval", "5m")))
        .map(|(index, query)| json!({"record": format!("query:{index}"), "expr": query}))
        .collect();
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let scratch = tempfile::NamedTempFile::new()?;
    fs::write(scratch.path(), serde_json::to_vec(&rules)?)?;
    let mut check = Command::new(promtool);
    process::output(check.args(["check", "rules"]).arg(scratch.path())).map(drop)
}

fn collect_queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(
                fields
                    .get("expr")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            fields
                .values()
                .for_each(|value| collect_queries(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_queries(item, found)),
        _ => {}
    }
}

fn systemd_analyze() -> Result<PathBuf> {
    let program = PathBuf::from("systemd-analyze");
    process::output(Command::new(&program).arg("--version"))?;
    Ok(program)
}

/// The limit of systemd's measure of what a unit may do, from 0 to 100. Without the lines that
/// restrict it, the unit has 96.
const EXPOSURE: &str = "--threshold=20";

fn unit() -> PathBuf {
    paths::workspace().join("deploy/systemd/svcproxy.service")
}

/// The unit must allow the system calls that svcproxy is tested with.
fn filters_agree(systemd_analyze: &Path) -> Result<()> {
    let mut listing = Command::new(systemd_analyze);
    let listing = process::output(listing.args(["syscall-filter", "--no-pager"]))?;
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    let mut group = "";
    for line in str::from_utf8(&listing)?.lines() {
        match line.trim() {
            name if !line.starts_with(' ') => group = name,
            name => groups.entry(group).or_default().push(name),
        }
    }
    let calls = |set: &str| {
        let (mut calls, mut open) = (BTreeSet::new(), vec![set.to_owned()]);
        while let Some(name) = open.pop() {
            if calls.insert(name.clone()) {
                let more = groups.get(name.as_str()).into_iter().flatten();
                open.extend(more.map(|name| (*name).to_owned()));
            }
        }
        calls
    };
    let mut allowed = BTreeSet::new();
    let unit = fs::read_to_string(unit())?;
    let filters = unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="));
    for filter in filters {
        match filter.strip_prefix('~') {
            Some(set) => calls(set).iter().for_each(|call| _ = allowed.remove(call)),
            None => allowed.extend(calls(filter)),
        }
    }
    let profile = paths::workspace().join("deploy/seccomp/svcproxy.json");
    let profile: Value = serde_json::from_slice(&fs::read(profile)?)?;
    let names = profile.pointer("/syscalls/0/names");
    let names = names.and_then(Value::as_array).context("no system calls")?;
    let names = names.iter().filter_map(Value::as_str);
    let missing: Vec<_> = names.filter(|name| !allowed.contains(*name)).collect();
    ensure!(missing.is_empty(), "the unit forbids {missing:?}");
    Ok(())
}

/// `systemd-analyze` requires the program to exist, and only warns about an unknown setting.
fn verify_unit(systemd_analyze: &Path, svcproxy: &Path) -> Result<()> {
    let unit = fs::read_to_string(unit())?;
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join("svcproxy.service");
    let svcproxy = svcproxy
        .to_str()
        .context("the path of svcproxy is not valid UTF-8")?;
    fs::write(&copy, unit.replace("/usr/local/bin/svcproxy", svcproxy))?;
    let mut verify = Command::new(systemd_analyze);
    let verify = verify.args(["verify", "--man=no"]).arg(&copy).output()?;
    let said = String::from_utf8_lossy(&verify.stderr);
    let is_about_the_unit = |line: &str| line.contains("svcproxy.service");
    let is_fine = verify.status.success() && !said.lines().any(is_about_the_unit);
    ensure!(is_fine, "{}: {said}", verify.status);
    Ok(())
}

/// The unit restricts what svcproxy may do to what it needs.
fn is_confined(systemd_analyze: &Path) -> Result<()> {
    let mut security = Command::new(systemd_analyze);
    let security = security.args(["security", "--offline=true", "--no-pager", EXPOSURE]);
    process::output(security.arg(unit())).map(drop)
}
