//! What a release consists of: binaries, a Debian package, an image, the chart, lists of contents.

mod binary;
mod check;
mod deb;
mod image;
mod licences;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::apt::{self, Tool};
use crate::{cargo, paths, process};

pub(crate) use check::{Checked, check};

/// Programs that packing needs. All come from Debian or Ubuntu.
const TOOLS: [Tool; 4] = [
    Tool::new("dpkg-deb", "dpkg"),
    Tool::new("objcopy", "binutils"),
    Tool::new("tar", "tar"),
    Tool::new("gzip", "gzip"),
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Arguments of `dist`.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Architecture of the binaries [default: this machine's]
    ///
    /// For another one, a cross compiler is needed, and no image is made: its packages come from
    /// this machine's distribution.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Directory for the files [default: target/release-files]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only pack a debug build, and install, start and remove what comes of it.
    #[arg(long, conflicts_with_all = ["arch", "out"])]
    check: bool,
}

/// A processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn of_this_machine() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("releases are made for x86_64 and aarch64, not for {other}"),
        }
    }

    /// As Rust and GNU call it.
    const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// As Debian and OCI call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's target: musl, because its static binaries run on any Linux.
    fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.machine())
    }
}

/// What all packages of one architecture are made of.
#[derive(Debug)]
struct Parts {
    arch: Arch,
    /// The stripped program.
    program: PathBuf,
    /// A program that runs on this machine, for man pages and completions.
    runs_here: PathBuf,
    /// Licences of everything that is linked in.
    licences: String,
    /// The time of the commit: the same sources make the same packages.
    epoch: String,
}

/// `cargo xtask dist`.
pub(crate) fn run_command(args: &DistArgs) -> Result<ExitCode> {
    if args.check {
        for (name, outcome) in check(&cargo::svcproxy()?)? {
            match outcome.with_context(|| format!("{name}: no"))? {
                Checked::Passed => println!("{name}: yes"),
                Checked::Skipped(why) => println!("{name}: not tried: {why}"),
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    apt::ensure(&TOOLS)?;
    let here = Arch::of_this_machine()?;
    let arch = args.arch.unwrap_or(here);
    let out = args
        .out
        .clone()
        // Not target/dist: cargo builds in a directory with the name of the profile.
        .unwrap_or_else(|| paths::workspace().join("target/release-files"));
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let out = out.canonicalize()?;
    let program = binary::build(arch, &out)?;
    let parts = Parts {
        arch,
        runs_here: if arch == here {
            program.clone()
        } else {
            cargo::svcproxy()?
        },
        program,
        licences: licences::collect(&arch.target())?,
        epoch: epoch()?,
    };
    archive(&parts, &out)?;
    let deb = deb::pack(&parts, &out, deb::Compression::Small)?;
    check::deb(&deb)?;
    if arch == here {
        let image = image::pack(&parts, &out)?;
        check::image(&image)?;
    } else {
        eprintln!("no image: run this on {}", arch.machine());
    }
    sbom::write(&arch.target(), arch, &out)?;
    chart(&parts.epoch, &out)?;
    checksums(&out)?;
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// The time that packages carry: `SOURCE_DATE_EPOCH`, else that of the last commit.
fn epoch() -> Result<String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(given);
    }
    git(&["log", "-1", "--format=%ct"])
}

fn git(arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(paths::workspace());
    let text = process::output(&mut git)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The program with its pages, for machines without a package manager.
fn archive(parts: &Parts, out: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let name = format!("svcproxy-{VERSION}-linux-{}", parts.arch.name());
    let top = scratch.path().join(&name);
    copy(&parts.program, &top.join("svcproxy"), 0o755)?;
    pages(parts, &top.join("man"))?;
    for (shell, file) in COMPLETIONS {
        completion(parts, shell, &top.join("completions").join(file))?;
    }
    let deploy = paths::workspace().join("deploy/systemd");
    for file in ["svcproxy.service", "svcproxy.env"] {
        copy(&deploy.join(file), &top.join("systemd").join(file), 0o644)?;
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        copy(&paths::workspace().join(file), &top.join(file), 0o644)?;
    }
    write(&top.join("LICENSES-THIRD-PARTY"), &parts.licences)?;
    let file = out.join(format!("{name}.tar.gz"));
    tar(scratch.path(), &name, &parts.epoch, &file)
}

/// Shells, and the names of their completion scripts.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "svcproxy"),
    ("zsh", "_svcproxy"),
    ("fish", "svcproxy.fish"),
];

/// Writes the man pages into `directory`.
fn pages(parts: &Parts, directory: &Path) -> Result<()> {
    process::run(Command::new(&parts.runs_here).arg("man").arg(directory))
}

fn completion(parts: &Parts, shell: &str, file: &Path) -> Result<()> {
    let script = process::output(Command::new(&parts.runs_here).args(["completion", shell]))?;
    write(file, &String::from_utf8_lossy(&script))
}

/// Packs the chart. A chart is an archive whose top directory has its name.
fn chart(epoch: &str, out: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    // Links to files outside of the chart become files.
    process::run(
        Command::new("cp")
            .args(["--recursive", "--dereference"])
            .arg(paths::workspace().join("deploy/helm/svcproxy"))
            .arg(scratch.path()),
    )?;
    let file = out.join(format!("svcproxy-{VERSION}.tgz"));
    tar(scratch.path(), "svcproxy", epoch, &file)
}

/// Packs the directory `name` below `parent`: the same content makes the same bytes.
fn tar(parent: &Path, name: &str, epoch: &str, file: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=0"])
        .args(["--use-compress-program", "gzip -9n"])
        .args(["--group=0", "--numeric-owner", "--mode=u+rw,go=rX"])
        .arg(format!("--mtime=@{epoch}"))
        .arg("--file")
        .arg(file)
        .arg("--directory")
        .arg(parent)
        .arg(name);
    process::run(&mut tar)
}

/// `SHA256SUMS` of all other files in `out`, for `sha256sum --check`.
fn checksums(out: &Path) -> Result<()> {
    const NAME: &str = "SHA256SUMS";
    let mut names = Vec::new();
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != NAME {
            names.push(entry.file_name());
        }
    }
    names.sort();
    let sums = process::output(Command::new("sha256sum").args(names).current_dir(out))?;
    fs::write(out.join(NAME), sums)?;
    Ok(())
}

/// Writes a file, and creates its directory.
fn write(file: &Path, text: &str) -> Result<()> {
    let create = || {
        fs::create_dir_all(file.parent().unwrap_or(file))?;
        fs::write(file, text)
    };
    create().with_context(|| format!("cannot write {}", file.display()))
}

/// Copies a file, creates its directory, and sets its permissions.
fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let mut install = Command::new("install");
    install.arg("-D").arg(format!("--mode={mode:o}"));
    process::run(install.arg(from).arg(to))
}
