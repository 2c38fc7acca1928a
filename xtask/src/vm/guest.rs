//! The scripts that run inside of the VM.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{INSIDE, kernel::Kernel, out_dir};

/// The initramfs' init.
pub(super) const INIT: &str = include_str!("init.sh");

/// Modules that the kernel does not load on demand, or loads too late for a test.
///
/// The kernel loads the schedulers lblc and lblcr on demand, but hangs if a network namespace is
/// being removed at that moment.
const MODULES: &str = "ip_vs ip_vs_lblc ip_vs_lblcr sctp nf_conntrack nf_tables dummy veth";

/// A command to run inside.
pub(crate) struct Job {
    command: Vec<OsString>,
    directory: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Job {
    /// `command` with this process's directory and environment.
    pub(crate) fn here(command: Vec<OsString>) -> Result<Self> {
        Ok(Self {
            command,
            directory: env::current_dir().context("no current directory")?,
            environment: env::vars_os().collect(),
        })
    }

    /// Sets a variable of the environment.
    pub(crate) fn set(&mut self, name: &str, value: &OsStr) {
        self.environment.push((name.into(), value.into()));
    }

    /// The script that PID 1 runs in the new root; `terminal` if a person uses it.
    ///
    /// Bytes, since paths and arguments need not be UTF-8.
    pub(super) fn script(&self, kernel: &Kernel, terminal: bool) -> Vec<u8> {
        let mut script = Vec::new();
        let mut line = |words: &[&[u8]]| {
            script.extend_from_slice(&words.concat());
            script.push(b'\n');
        };
        line(&[PREPARE.as_bytes()]);
        line(&[b"modprobe --all ", MODULES.as_bytes()]);
        let out = quote(out_dir().as_os_str());
        line(&[b"mkdir -p ", &out, b" && mount -t 9p -o $plan9 out ", &out]);
        for (name, value) in &self.environment {
            if is_identifier(name.as_bytes()) {
                line(&[b"export ", name.as_bytes(), b"=", &quote(value)]);
            }
        }
        line(&[
            b"export ",
            INSIDE.as_bytes(),
            b"=",
            &quote(kernel.release.as_ref()),
        ]);
        line(&[
            b"cd ",
            &quote(self.directory.as_os_str()),
            b" || finish 126",
        ]);
        let words: Vec<_> = self.command.iter().map(|word| quote(word)).collect();
        let streams: &[u8] = if terminal {
            b" </dev/hvc0 >/dev/hvc0 2>&1"
        } else {
            b" </dev/null >/dev/virtio-ports/stdout 2>/dev/virtio-ports/stderr"
        };
        // Its own session: a terminal's signals must not reach PID 1.
        let setsid: &[u8] = if terminal {
            b"setsid --ctty --wait "
        } else {
            b""
        };
        line(&[setsid, &words.join(&b' '), streams]);
        line(&[b"finish $?"]);
        script
    }
}

const PREPARE: &str = r#"#!/bin/sh
# Runs in the new root as PID 1, which must never end.
plan9=trans=virtio,version=9p2000.L,msize=512000,rw,cache=none
finish() {
    echo "$1" >/run/vm/status
    sync
    echo o >/proc/sysrq-trigger
    sleep 60
}
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
mkdir /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    if [ -e "$port/name" ]; then
        ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
    fi
done
hostname vm 2>/dev/null
ip link set lo up
"#;

/// `text` as one word of a shell's command line.
pub(crate) fn quote(text: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for &byte in text.as_bytes() {
        match byte {
            b'\'' => word.extend_from_slice(br"'\''"),
            other => word.push(other),
        }
    }
    word.push(b'\'');
    word
}

fn is_identifier(name: &[u8]) -> bool {
    // PWD and the like are the inner shell's own.
    !name.first().is_none_or(u8::is_ascii_digit)
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_the_shell() {
        for text in [
            "",
            "a b",
            "it's",
            "\"$HOME\" `id` \\",
            "two\nlines",
            "--",
            "*?",
        ] {
            let mut script = b"printf %s ".to_vec();
            script.extend(quote(text.as_ref()));
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(OsStr::from_bytes(&script))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
