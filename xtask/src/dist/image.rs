//! The container image, made without a daemon and without a base image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Parts, VERSION, copy, write};
use crate::apt::{self, Tool};
use crate::{paths, process};

/// The program of OCI that writes layers and configurations.
pub(super) const UMOCI: Tool = Tool::new("umoci", "umoci");
/// What Debian's packages have, and neither svcproxy nor iptables need. Their licences stay.
const NEEDLESS: [&str; 6] = [
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/gcc",
    "usr/share/libc-bin",
];
const LABELS: [(&str, &str); 4] = [
    ("title", "svcproxy"),
    ("description", "A Kubernetes service proxy for IPVS"),
    ("licenses", "MIT OR Apache-2.0"),
    ("version", VERSION),
];

/// Writes `svcproxy-VERSION-linux-ARCH.oci.tar` into `out`.
pub(super) fn pack(parts: &Parts, out: &Path) -> Result<PathBuf> {
    apt::ensure(&[UMOCI])?;
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    files(parts, &root)?;
    // The same content makes the same layer.
    let mut touch = Command::new("find");
    touch
        .arg(&root)
        .args(["-exec", "touch", "--no-dereference"]);
    touch
        .arg(format!("--date=@{}", parts.epoch))
        .args(["{}", "+"]);
    process::run(&mut touch)?;
    let layout = scratch.path().join("layout");
    write_layout(parts, &root, &layout)?;
    let file = out.join(format!(
        "svcproxy-{VERSION}-linux-{}.oci.tar",
        parts.arch.name()
    ));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0"])
        .arg("--mode=u+rw,go=rX")
        .arg(format!("--mtime=@{}", parts.epoch))
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(&layout)
        .args(["blobs", "index.json", "oci-layout"]);
    process::run(&mut tar)?;
    Ok(file)
}

/// The file system: svcproxy, and both iptables for mode iptables and for chains that kube-proxy
/// left. There is no shell.
fn files(parts: &Parts, root: &Path) -> Result<()> {
    for directory in ["etc", "run", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    apt::unpack_with_dependencies("iptables", root)?;
    // The links that the package's script would make.
    for family in ["iptables", "ip6tables"] {
        for end in ["", "-save", "-restore"] {
            let link = root.join("usr/sbin").join(format!("{family}{end}"));
            symlink(format!("{family}-nft{end}"), link)?;
        }
    }
    // Newer distributions have everything below usr; libraries are searched in both.
    for directory in ["bin", "sbin", "lib", "lib64"] {
        if !root.join(directory).exists() {
            symlink(Path::new("usr").join(directory), root.join(directory))?;
        }
    }
    let gconv = format!("usr/lib/{}-linux-gnu/gconv", parts.arch.machine());
    for directory in NEEDLESS.into_iter().chain([gconv.as_str()]) {
        let directory = root.join(directory);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
    }
    let programs = root.join("usr/local/bin");
    copy(&parts.program, &programs.join("svcproxy"), 0o755)?;
    // kube-proxy's DaemonSet starts the program by its own name.
    symlink("svcproxy", programs.join("kube-proxy"))?;
    let licences = root.join("usr/share/licenses/svcproxy");
    for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&paths::workspace().join(file), &licences.join(file), 0o644)?;
    }
    write(&licences.join("LICENSES-THIRD-PARTY"), &parts.licences)
}

/// Writes an OCI image layout with one layer.
fn write_layout(parts: &Parts, root: &Path, layout: &Path) -> Result<()> {
    let image = format!("{}:{VERSION}", layout.display());
    let umoci = || Command::new("umoci");
    process::output(umoci().args(["init", "--layout"]).arg(layout))?;
    process::output(umoci().args(["new", "--image", &image]))?;
    let created = process::output(Command::new("date").args([
        "--utc",
        "--date",
        &format!("@{}", parts.epoch),
        "+%FT%TZ",
    ]))?;
    let created = String::from_utf8(created).context("date wrote no text")?;
    let created = created.trim();
    process::output(
        umoci()
            .args(["insert", "--image", &image, "--history.created", created])
            .arg(root)
            .arg("/"),
    )?;
    let mut config = umoci();
    config
        .args(["config", "--image", &image, "--no-history"])
        .args(["--created", created, "--os", "linux"])
        .args(["--architecture", parts.arch.name()])
        // Kubernetes can add capabilities only to root. svcproxy needs CAP_NET_ADMIN and no other.
        .args(["--config.user", "0:0"])
        .args(["--config.entrypoint", "/usr/local/bin/svcproxy"])
        .args(["--config.env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin"]);
    for (key, value) in LABELS {
        let pair = format!("org.opencontainers.image.{key}={value}");
        config.args(["--config.label", &pair, "--manifest.annotation", &pair]);
    }
    process::output(&mut config)?;
    process::output(umoci().args(["gc", "--layout"]).arg(layout)).map(drop)
}
