//! The static program, and its symbols in a file of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Arch, VERSION, git};
use crate::apt::{self, Tool};
use crate::{cargo, paths, process};

/// Builds for `arch`. Returns the stripped program; its symbols go to `out`.
pub(super) fn build(arch: Arch, out: &Path) -> Result<PathBuf> {
    let target = arch.target();
    let here = Arch::of_this_machine()?;
    prepare(arch, here)?;
    let commit = git(&["rev-parse", "HEAD"])?;
    let mut build = Command::new("cargo");
    build
        .current_dir(paths::workspace())
        .args(["build", "--locked", "--profile", "dist"])
        .args(["--package", "svcproxy"])
        .args(["--target", &target])
        // The symbols are split off below.
        .args(["--config", "profile.dist.strip='none'"])
        .env("SVCPROXY_COMMIT", commit);
    if arch != here {
        // The TLS library ring contains C code, and needs no C library. Rust's own linker links.
        let compiler = format!("{}-linux-gnu-gcc", arch.machine());
        build.env(format!("CC_{}", target.replace('-', "_")), compiler);
    }
    process::run(&mut build)?;
    let built = cargo::target_directory()?
        .join(&target)
        .join("dist/svcproxy");
    split(&built, arch, here, out)
}

/// Installs the compiler's parts for the target.
fn prepare(arch: Arch, here: Arch) -> Result<()> {
    let target = arch.target();
    process::output(
        Command::new("rustup")
            .args(["target", "add", &target])
            .current_dir(paths::workspace()),
    )
    .with_context(|| format!("no Rust for {target}"))?;
    if arch == here {
        return apt::ensure(&[Tool::new("musl-gcc", "musl-tools")]);
    }
    match arch {
        Arch::Amd64 => apt::ensure(&[Tool::new("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu")]),
        Arch::Arm64 => apt::ensure(&[Tool::new("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")]),
    }
}

/// Moves the symbols of `built` to `svcproxy-VERSION-linux-ARCH.debug` in `out`. A debugger finds
/// that file by the name that the program notes.
fn split(built: &Path, arch: Arch, here: Arch, out: &Path) -> Result<PathBuf> {
    let objcopy = if arch == here {
        "objcopy".to_owned()
    } else {
        format!("{}-linux-gnu-objcopy", arch.machine())
    };
    let symbols = out.join(format!("svcproxy-{VERSION}-linux-{}.debug", arch.name()));
    let program = built.with_file_name("svcproxy.stripped");
    let objcopy = || Command::new(&objcopy);
    process::run(
        objcopy()
            .args(["--only-keep-debug", "--compress-debug-sections"])
            .args([built, &symbols]),
    )?;
    process::run(objcopy().arg("--strip-all").args([built, &program]))?;
    let link = format!("--add-gnu-debuglink={}", symbols.display());
    process::run(objcopy().arg(link).arg(&program))?;
    Ok(program)
}
