//! Tests of the packages, as root: the Debian package is installed and removed in a copy of this
//! machine's file system, the image is started by runc.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Arch, Parts, VERSION, deb, image};
use crate::apt::{self, Tool};
use crate::{paths, process};

/// The runtime that starts the image.
const RUNC: Tool = Tool::new("runc", "runc");

/// What a test said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Passed,
    /// With the reason.
    Skipped(String),
}

/// Packs the program `built`, as it is but without symbols, and tests the packages.
pub(crate) fn check(built: &Path) -> Result<Vec<(&'static str, Result<Checked>)>> {
    apt::ensure(&super::TOOLS)?;
    let scratch = tempfile::tempdir()?;
    let program = scratch.path().join("svcproxy");
    process::run(
        Command::new("objcopy")
            .arg("--strip-all")
            .args([built, &program]),
    )?;
    let parts = Parts {
        arch: Arch::of_this_machine()?,
        runs_here: program.clone(),
        program,
        licences: "Not collected for a test.".to_owned(),
        epoch: super::epoch()?,
    };
    let package = deb::pack(&parts, scratch.path(), deb::Compression::Fast)?;
    let image = || match apt::ensure(&[image::UMOCI, RUNC]) {
        Ok(()) => image(&image::pack(&parts, scratch.path())?),
        Err(error) => Ok(Checked::Skipped(format!("{error:#}"))),
    };
    Ok(vec![
        ("the Debian package installs and goes", deb(&package)),
        ("the image starts", image()),
    ])
}

/// Installs, upgrades, removes and purges the package in an overlay over this machine's files,
/// which the machine itself does not see.
pub(crate) fn deb(package: &Path) -> Result<Checked> {
    if let Some(why) = not_root()? {
        return Ok(Checked::Skipped(why));
    }
    let mut install = Command::new("unshare");
    install
        .args(["--mount", "--propagation=private", "--net", "sh", "-euc"])
        .arg(include_str!("install.sh"))
        .arg("sh")
        .arg(package)
        .arg(paths::workspace().join("examples"));
    process::output(&mut install).context("the Debian package does not install")?;
    Ok(Checked::Passed)
}

/// Starts the image in a network namespace with manifests, once for each mode that every kernel has.
pub(crate) fn image(archive: &Path) -> Result<Checked> {
    if let Some(why) = not_root()? {
        return Ok(Checked::Skipped(why));
    }
    apt::ensure(&[image::UMOCI, RUNC])?;
    let scratch = tempfile::tempdir()?;
    let layout = scratch.path().join("layout");
    fs::create_dir(&layout)?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(&layout);
    process::run(&mut tar)?;
    let bundle = scratch.path().join("bundle");
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image"]);
    umoci.arg(format!("{}:{VERSION}", layout.display()));
    process::output(umoci.arg(&bundle))?;
    let version = start(&bundle, &["--version"])?;
    ensure!(version.contains(VERSION), "`--version` says {version:?}");
    for mode in ["nftables", "iptables"] {
        let flags = ["--once", "--mode", mode, "--fallback=never"];
        let node = ["--manifests=/examples/web.yaml", "--node-ip=172.18.0.1"];
        let system = ["--cluster-cidr=10.244.0.0/16", "--proc-sys=/host/proc/sys"];
        start(&bundle, &[&flags[..], &node, &system].concat())
            .with_context(|| format!("the image cannot run in mode {mode}"))?;
    }
    Ok(Checked::Passed)
}

/// Runs the image's entrypoint with `arguments`, with CAP_NET_ADMIN alone.
fn start(bundle: &Path, arguments: &[&str]) -> Result<String> {
    let file = bundle.join("config.json");
    let original = fs::read(&file)?;
    let mut config: Value = serde_json::from_slice(&original)?;
    let entrypoint = at(&mut config, "/process/args")?;
    ensure!(
        *entrypoint == json!(["/usr/local/bin/svcproxy"]),
        "the entrypoint is {entrypoint}"
    );
    let args = ["/usr/local/bin/svcproxy"].iter().chain(arguments);
    *entrypoint = args.copied().collect();
    *at(&mut config, "/process/terminal")? = json!(false);
    let has = json!(["CAP_NET_ADMIN"]);
    *at(&mut config, "/process/capabilities")? = json!({
        "bounding": has, "effective": has, "permitted": has, "inheritable": [], "ambient": []
    });
    let root = at(&mut config, "/root")?.as_object_mut();
    let root = root.context("the root is no object")?;
    root.insert("readonly".to_owned(), json!(true));
    let mounts = at(&mut config, "/mounts")?.as_array_mut();
    let mounts = mounts.context("the mounts are no list")?;
    mounts.push(json!({
        "destination": "/examples",
        "source": paths::workspace().join("examples"),
        "type": "bind",
        "options": ["bind", "ro"],
    }));
    mounts.push(json!({
        "destination": "/run",
        "source": "tmpfs",
        "type": "tmpfs",
    }));
    mounts.push(json!({
        "destination": "/host/proc/sys/net",
        "source": "/proc/sys/net",
        "type": "bind",
        "options": ["bind"],
    }));
    fs::write(&file, serde_json::to_vec(&config)?)?;
    let name = format!("svcproxy-dist-{}", std::process::id());
    // A container that never ends would be a fault of the image.
    let mut runc = Command::new("timeout");
    runc.args(["--kill-after=5", "60", "runc", "--root"])
        .arg(bundle.with_file_name("runc"))
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(name);
    let output = process::output(&mut runc);
    fs::write(&file, original)?;
    Ok(String::from_utf8_lossy(&output?).into_owned())
}

fn at<'a>(config: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    let value = config.pointer_mut(pointer);
    value.with_context(|| format!("the container's configuration has no {pointer}"))
}

fn not_root() -> Result<Option<String>> {
    let id = process::output(Command::new("id").arg("--user"))?;
    Ok((id != b"0\n").then(|| "only root can mount and make containers".to_owned()))
}
