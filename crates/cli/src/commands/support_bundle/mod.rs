//! `svcproxy support-bundle`.

mod archive;
mod mask;
mod state;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use proxier::desired::DesiredState;

use self::archive::Parts;
use super::DiagnosticLog;
use super::subject::Subject;
use crate::Ending;
use crate::args::{Mode, SupportBundleArgs};
use crate::commands::{check, proxy, verify};
use crate::inventory::{self, Wanted};
use crate::observe::COMMIT;
use crate::running::{Client, Running};

/// Pages of the running svcproxy.
const PAGES: [(&str, &str, &str); 5] = [
    ("status.json", "/status", "the state of the process"),
    ("configuration.json", "/configz", "the settings in effect"),
    (
        "conditions.json",
        "/conditions",
        "conditions of Services and of the node",
    ),
    ("metrics.txt", "/metrics", "metrics"),
    ("version.json", "/version", "the version of the process"),
];

/// Files of the kernel.
const FILES: [(&str, &str); 9] = [
    ("/proc/version", "the kernel"),
    ("/proc/modules", "loaded modules"),
    ("/proc/meminfo", "memory"),
    ("/proc/loadavg", "load"),
    (
        "/proc/thread-self/net/ip_vs",
        "IPVS, as the kernel prints it",
    ),
    ("/proc/thread-self/net/ip_vs_stats", "statistics of IPVS"),
    (
        "/proc/thread-self/net/stat/nf_conntrack",
        "statistics of connection tracking",
    ),
    (
        "/proc/thread-self/net/softnet_stat",
        "statistics of packet processing",
    ),
    ("/etc/os-release", "the distribution"),
];

/// The last part of a log that is taken, and the longest file.
const TAKEN: u64 = 1 << 20;

/// Writes the archive.
pub(crate) fn support_bundle(args: &SupportBundleArgs) -> anyhow::Result<Ending> {
    let parts = collect(args);
    let time = Timestamp::now();
    let stamp = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let node = rustix::system::uname();
    let node = file_name(&node.nodename().to_string_lossy());
    let directory = format!("svcproxy-support-{node}-{stamp}");
    let head = format!(
        "svcproxy {} (commit {COMMIT}), node {node}, {time}",
        env!("CARGO_PKG_VERSION")
    );
    let manifest = parts.manifest(&head);
    let (all, missing) = parts.counts();
    let path = match &args.output {
        Some(path) if path.as_os_str() == "-" => {
            parts.write(io::stdout().lock(), &directory, &manifest)?;
            tracing::info!(parts = all, missing, "support bundle written");
            return Ok(Ending::Done);
        }
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{directory}.tar.gz")),
    };
    let mut file = OpenOptions::new();
    // Neither an existing file nor a link is followed.
    let file = file.write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    parts
        .write(file, &directory, &manifest)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", path.display())?;
    match missing {
        0 => writeln!(out, "{all} parts")?,
        _ => writeln!(
            out,
            "{all} parts, {missing} missing: see MANIFEST.txt in it"
        )?,
    }
    Ok(Ending::Done)
}

fn collect(args: &SupportBundleArgs) -> Parts {
    let mut parts = Parts::new(args.part_timeout);
    parts.collect("version.txt", "this command", || {
        let (version, os, arch) = (
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
        );
        Ok(format!(
            "svcproxy {version} (commit {COMMIT}), {os}/{arch}\n"
        ))
    });
    let address = args.node.monitor.metrics_bind_address;
    let mut process = None;
    for (name, path, what) in PAGES {
        match Client::at(&address) {
            None => parts.lack(name, what, "--metrics-bind-address is empty"),
            Some(client) => parts.collect(name, what, move || {
                let page = client.page(path);
                page.with_context(|| format!("no svcproxy answers at its metrics address ({path})"))
            }),
        }
    }
    if let Some(Running { pid, .. }) = Client::at(&address).and_then(|client| client.status()) {
        process = Some(pid);
    }
    of_process(&mut parts, process);
    of_node(&mut parts, args);
    for (path, what) in FILES {
        let name = format!("host{}", path.replace("thread-self/", ""));
        parts.collect(name, what, move || taken(Path::new(path)));
    }
    match args.log.is_empty() {
        true => parts.lack(
            "log",
            "the log",
            "svcproxy logs to standard error: give --log FILE, or add the output of journalctl \
             --unit svcproxy, or of kubectl logs",
        ),
        false => {
            for (number, path) in args.log.iter().enumerate() {
                let own = file_name(&path.file_name().unwrap_or_default().to_string_lossy());
                let path = path.clone();
                let name = format!("log/{number}-{own}");
                parts.collect(name, "a log file", move || taken(&path));
            }
        }
    }
    parts
}

/// The running process.
fn of_process(parts: &mut Parts, process: Option<u32>) {
    const WHAT: [(&str, &str); 3] = [
        ("cmdline", "the command line of the process"),
        ("status", "the process"),
        ("limits", "its limits"),
    ];
    for (file, what) in WHAT {
        let name = format!("process/{file}.txt");
        match process {
            None => parts.lack(&name, what, "no svcproxy answers"),
            Some(pid) => parts.collect(name, what, move || {
                let text = taken(Path::new(&format!("/proc/{pid}/{file}")))?;
                Ok(text.replace('\0', "\n"))
            }),
        }
    }
}

/// The plan, the kernel and what differs.
fn of_node(parts: &mut Parts, args: &SupportBundleArgs) {
    let (mode, monitor) = (args.mode.mode, args.node.monitor.clone());
    parts.collect(
        "kernel/services.json",
        "what the kernel serves",
        move || {
            let client = Client::at(&monitor.metrics_bind_address);
            let (_, inventory) = inventory::read(mode, client.as_ref(), &Wanted::ALL)?;
            Ok(serde_json::to_string_pretty(&inventory)?)
        },
    );
    let node = args.node.clone();
    parts.collect(
        "kernel/state.txt",
        "svcproxy's state in the kernel",
        move || {
            // In mode userspace, the running svcproxy says what its sockets are for.
            let client = Client::at(&node.monitor.metrics_bind_address);
            match proxy::mode_of(mode, client.as_ref()) {
                Some(Mode::Userspace) => {
                    let found = proxy::read(client.as_ref(), &node.listen)?;
                    Ok(state::of_userspace(&found.node))
                }
                mode => state::kernel(inventory::in_use(mode)?.0),
            }
        },
    );
    let (node, flags) = (args.node.clone(), args.mode.clone());
    parts.collect("check.json", "what svcproxy check finds", move || {
        let subject = Subject::of(&node, flags.mode)?;
        check::findings(subject.mode, &flags, &subject.settings()?)
    });
    let planned = |args: &SupportBundleArgs| {
        let (node, mode) = (args.node.clone(), args.mode.mode);
        move || -> anyhow::Result<(Subject, Arc<DesiredState>)> {
            let subject = Subject::of(&node, mode)?;
            let planned = subject.read(&mut DiagnosticLog::default())?;
            Ok((subject, Arc::new(planned.desired)))
        }
    };
    let read = planned(args);
    parts.collect("plan.txt", "what the node should have", move || {
        let (subject, desired) = read()?;
        Ok(state::plan(subject.mode, &desired))
    });
    let read = planned(args);
    parts.collect(
        "differences.json",
        "what svcproxy verify finds",
        move || {
            let (subject, desired) = read()?;
            verify::document(&subject, &desired)
        },
    );
}

/// The last part of a file.
fn taken(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let length = fs::metadata(path).with_context(cannot)?.len();
    if length > TAKEN {
        file.seek(SeekFrom::Start(length - TAKEN))
            .with_context(cannot)?;
    }
    let mut bytes = Vec::new();
    file.take(TAKEN)
        .read_to_end(&mut bytes)
        .with_context(cannot)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line is not whole.
    Ok(match text.split_once('\n') {
        Some((_, rest)) if length > TAKEN => rest.to_owned(),
        _ => text,
    })
}

/// A name that is safe in an archive.
fn file_name(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = text
        .chars()
        .map(|c| if is_safe(c) { c } else { '_' })
        .collect();
    match name.trim_start_matches('.') {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe() {
        assert_eq!(file_name("node-a.example"), "node-a.example");
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name(".."), "unnamed");
        assert_eq!(file_name(""), "unnamed");
    }

    #[test]
    fn the_last_part_of_a_long_log_is_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = "a line of a log\n";
        fs::write(file.path(), line.repeat(200_000) + "the last\n").unwrap();
        let text = taken(file.path()).unwrap();
        assert!(text.len() < 1 << 20 && text.len() > 1 << 19);
        assert!(text.starts_with(line) && text.ends_with("the last\n"));
    }
}
