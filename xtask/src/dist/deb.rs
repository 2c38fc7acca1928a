//! The Debian package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{COMPLETIONS, Parts, VERSION, completion, copy, pages, write};
use crate::{paths, process};

/// Scripts that dpkg runs. None of them enables or starts the service: it would program the node's
/// network with the settings of an example.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("postinst.sh")),
    ("prerm", include_str!("prerm.sh")),
    ("postrm", include_str!("postrm.sh")),
];

/// How much time packing may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compression {
    Small,
    Fast,
}

/// Packs `svcproxy_VERSION_ARCH.deb` into `out`.
pub(super) fn pack(parts: &Parts, out: &Path, compression: Compression) -> Result<PathBuf> {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path();
    let size = fs::metadata(&parts.program)?.len() / 1024;
    let control = format!(
        "Package: svcproxy\n\
         Version: {VERSION}\n\
         Architecture: {}\n\
         Maintainer: The svcproxy authors\n\
         Installed-Size: {size}\n\
         Section: net\n\
         Priority: optional\n\
         Recommends: kmod\n\
         Suggests: iptables\n\
         Description: Kubernetes service proxy\n \
          svcproxy makes the virtual IPs of Kubernetes Services work on a node, with IPVS,\n \
          iptables or nftables, or as a proxy in userspace. It reads Services from files or\n \
          from an API server.\n \
          .\n \
          The unit is neither enabled nor started. Edit /etc/svcproxy/svcproxy.env first.\n",
        parts.arch.name()
    );
    write(&root.join("DEBIAN/control"), &control)?;
    write(
        &root.join("DEBIAN/conffiles"),
        "/etc/svcproxy/svcproxy.env\n",
    )?;
    for (name, script) in SCRIPTS {
        let file = scratch.path().join("DEBIAN").join(name);
        write(&file, script)?;
        executable(&file)?;
    }
    copy(&parts.program, &root.join("usr/bin/svcproxy"), 0o755)?;
    systemd(root)?;
    documents(parts, root)?;
    let file = out.join(format!("svcproxy_{VERSION}_{}.deb", parts.arch.name()));
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.env("SOURCE_DATE_EPOCH", &parts.epoch)
        .args(["--build", "--root-owner-group"]);
    match compression {
        Compression::Small => dpkg.args(["-Zxz", "-z9"]),
        Compression::Fast => dpkg.args(["-Zgzip", "-z1"]),
    };
    process::output(dpkg.arg(root).arg(&file))?;
    Ok(file)
}

/// The unit and its settings. A package's programs are in `/usr/bin`.
fn systemd(root: &Path) -> Result<()> {
    let deploy = paths::workspace().join("deploy/systemd");
    let unit = fs::read_to_string(deploy.join("svcproxy.service"))?;
    write(
        &root.join("usr/lib/systemd/system/svcproxy.service"),
        &unit.replace("/usr/local/bin/svcproxy", "/usr/bin/svcproxy"),
    )?;
    let settings = root.join("etc/svcproxy/svcproxy.env");
    copy(&deploy.join("svcproxy.env"), &settings, 0o644)?;
    fs::create_dir(root.join("etc/svcproxy/manifests")).context("cannot create a directory")
}

/// Man pages, completions, licences, changes.
fn documents(parts: &Parts, root: &Path) -> Result<()> {
    let man = root.join("usr/share/man/man1");
    pages(parts, &man)?;
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "--no-name", "--recursive"]).arg(&man);
    process::run(&mut gzip)?;
    let directories = [
        "bash-completion/completions",
        "zsh/vendor-completions",
        "fish/vendor_completions.d",
    ];
    for ((shell, file), directory) in COMPLETIONS.into_iter().zip(directories) {
        let file = root.join("usr/share").join(directory).join(file);
        completion(parts, shell, &file)?;
    }
    let doc = root.join("usr/share/doc/svcproxy");
    let licence = |name| fs::read_to_string(paths::workspace().join(name));
    let copyright = format!(
        "svcproxy is under either of the licences MIT and Apache-2.0, at your option.\n\n{}\n{}\n{}",
        licence("LICENSE-MIT")?,
        licence("LICENSE-APACHE")?,
        parts.licences
    );
    write(&doc.join("copyright"), &copyright)?;
    let changes = doc.join("changelog");
    copy(&paths::workspace().join("CHANGELOG.md"), &changes, 0o644)?;
    process::run(Command::new("gzip").args(["-9", "--no-name"]).arg(&changes))
}

fn executable(file: &Path) -> Result<()> {
    process::run(Command::new("chmod").arg("755").arg(file))
}
