//! The summary, about ten lines.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use jiff::Timestamp;

use super::Status;
use crate::figures::Age;
use crate::inventory::Totals;
use crate::logging::Shown;
use crate::notices::Condition;
use crate::observe::COMMIT;
use crate::running::{Running, SourceState};

/// Conditions that are listed, at most.
const LISTED: usize = 10;

/// The summary of a node.
pub(super) struct Summary<'a>(pub(super) &'a Status);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(status) = self;
        let running = status.running.as_ref();
        version(f, running)?;
        process(f, status)?;
        let read = status.kernel.as_ref().ok();
        mode(f, running, read.map(|(mode, _)| mode.name()))?;
        if let Some(running) = running {
            source(f, &running.source, running.time)?;
            last_sync(f, running)?;
            dns(f, &running.dns)?;
        }
        match read {
            Some((_, inventory)) => totals(f, &inventory.totals)?,
            None => row(f, "serves", "unknown: the kernel cannot be read")?,
        }
        conditions(f, status.conditions.as_deref())
    }
}

fn row(f: &mut Formatter<'_>, name: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{name:<11} {text}")
}

fn version(f: &mut Formatter<'_>, running: Option<&Running>) -> fmt::Result {
    let own = (env!("CARGO_PKG_VERSION"), COMMIT);
    let is = |running: &&Running| (running.version.as_str(), running.commit.as_str()) != own;
    let (version, commit) = own;
    match running.filter(is) {
        None => row(f, "svcproxy", format_args!("{version} (commit {commit})")),
        Some(other) => row(
            f,
            "svcproxy",
            format_args!(
                "{} (commit {}); this command is {version} (commit {commit})",
                Shown(&other.version),
                Shown(&other.commit)
            ),
        ),
    }
}

fn process(f: &mut Formatter<'_>, status: &Status) -> fmt::Result {
    let text = match (&status.running, &status.holder) {
        (Some(running), _) => {
            let age = Age::between(running.started_at, running.time);
            let sick = match running.healthy {
                true => "",
                false => ", unhealthy: changes are not applied in time",
            };
            format!("yes: PID {}, for {age}{sick}", running.pid)
        }
        (None, Some(holder)) => format!(
            "yes: {holder}; it does not answer (--metrics-bind-address), so the rest is what the \
             kernel has"
        ),
        (None, None) => "no: this is what the kernel has".to_owned(),
    };
    row(f, "running", text)
}

fn mode(f: &mut Formatter<'_>, running: Option<&Running>, read: Option<&str>) -> fmt::Result {
    let Some(running) = running else {
        return row(f, "mode", read.unwrap_or("unknown"));
    };
    let in_effect = Shown(&running.mode);
    match running.mode == running.mode_wanted {
        true => row(f, "mode", in_effect),
        false => {
            let wanted = Shown(&running.mode_wanted);
            let why = running.fallback_reason.as_deref().unwrap_or("unknown");
            row(
                f,
                "mode",
                format_args!("{in_effect}, because {wanted} cannot run: {}", Shown(why)),
            )
        }
    }
}

fn source(f: &mut Formatter<'_>, source: &SourceState, now: Timestamp) -> fmt::Result {
    let connected = match source.connected {
        Some(true) => ", connected",
        Some(false) => ", not connected",
        None => "",
    };
    let what = match source.connected {
        Some(_) => "last response",
        None => "last change",
    };
    let heard = match source.last_heard {
        Some(heard) => format!("{what} {} ago", Age::between(heard, now)),
        None => "no response yet".to_owned(),
    };
    row(
        f,
        "source",
        format_args!("{}{connected}; {heard}", Shown(&source.name)),
    )?;
    for (kind, error) in &source.failing {
        row(f, "", format_args!("{}: {}", Shown(kind), Shown(error)))?;
    }
    Ok(())
}

fn last_sync(f: &mut Formatter<'_>, running: &Running) -> fmt::Result {
    let last = match running.last_sync {
        Some(last) => format!("{} ago", Age::between(last, running.time)),
        None => "none yet".to_owned(),
    };
    let pending = match running.pending_changes {
        0 => "nothing pending".to_owned(),
        1 => "1 change pending".to_owned(),
        more => format!("{more} changes pending"),
    };
    row(f, "last sync", format_args!("{last}, {pending}"))
}

/// The DNS server, if there is one: a line for each address.
fn dns(f: &mut Formatter<'_>, addresses: &BTreeMap<SocketAddr, Option<String>>) -> fmt::Result {
    let names = std::iter::once("DNS").chain(std::iter::repeat(""));
    for (name, (address, error)) in names.zip(addresses) {
        match error {
            None => row(f, name, format_args!("listens at {address}"))?,
            Some(error) => {
                let error = Shown(error);
                row(
                    f,
                    name,
                    format_args!("does not serve {address}: {error}; tries again"),
                )?;
            }
        }
    }
    Ok(())
}

fn totals(f: &mut Formatter<'_>, totals: &Totals) -> fmt::Result {
    let Totals {
        services,
        vip_ports,
        real_servers,
        draining_real_servers: draining,
        now,
    } = totals;
    row(
        f,
        "serves",
        format_args!("{services} Services, {vip_ports} VIP ports, {real_servers} real servers"),
    )?;
    // Mode iptables counts no connections, and leaves draining to connection tracking.
    if let Some(now) = now {
        let (active, inactive) = (now.active_connections, now.inactive_connections);
        row(
            f,
            "connections",
            format_args!("{active} active, {inactive} inactive"),
        )?;
        row(f, "draining", format_args!("{draining} real servers"))?;
    }
    Ok(())
}

/// Counts the conditions by reason, and lists those that are not about a single port: `svcproxy
/// services` says why a port has no endpoints.
fn conditions(f: &mut Formatter<'_>, conditions: Option<&[Condition]>) -> fmt::Result {
    let Some(conditions) = conditions else {
        return row(f, "conditions", "unknown, no svcproxy answers");
    };
    let mut counts = BTreeMap::<&str, usize>::new();
    for condition in conditions {
        *counts.entry(&condition.reason).or_default() += 1;
    }
    if counts.is_empty() {
        return row(f, "conditions", "none");
    }
    let counts = counts.iter();
    let counts: Vec<_> = counts
        .map(|(reason, count)| format!("{} {count}", Shown(reason)))
        .collect();
    row(f, "conditions", counts.join(", "))?;
    let mut listed: Vec<_> = conditions.iter().filter(|c| c.port.is_none()).collect();
    listed.sort_by_key(|c| (&c.reason, &c.about, &c.message));
    for Condition {
        reason,
        about,
        message,
        ..
    } in listed.iter().take(LISTED)
    {
        let (reason, about, message) = (Shown(reason), Shown(about), Shown(message));
        writeln!(f, "  {reason}  {about}: {message}")?;
    }
    match listed.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more: svcproxy status -o json"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::args::Mode;
    use crate::inventory::Inventory;
    use crate::inventory::{Now, ServiceStatus};
    use crate::lock::Writer;

    /// The text without the commit of this build.
    fn shown(text: &str) -> String {
        text.replace(&format!("(commit {COMMIT})"), "(commit COMMIT)")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn running() -> Running {
        Running {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.to_owned(),
            pid: 4242,
            started_at: at("2026-01-01T00:00:00Z"),
            time: at("2026-01-03T05:06:07Z"),
            mode: "ipvs".to_owned(),
            mode_wanted: "ipvs".to_owned(),
            fallback_reason: None,
            healthy: true,
            source: SourceState {
                name: "API server 10.0.0.1:6443".to_owned(),
                connected: Some(true),
                last_heard: Some(at("2026-01-03T05:06:03Z")),
                failing: BTreeMap::new(),
            },
            last_sync: Some(at("2026-01-03T05:05:00Z")),
            pending_changes: 0,
            dns: BTreeMap::new(),
        }
    }

    fn node() -> Status {
        let totals = Totals {
            services: 1000,
            vip_ports: 1200,
            real_servers: 3000,
            draining_real_servers: 2,
            now: Some(Now {
                active_connections: 12,
                inactive_connections: 40,
            }),
        };
        let inventory = Inventory {
            services: Vec::<ServiceStatus>::new(),
            totals,
        };
        Status {
            kernel: Ok((Mode::Ipvs, inventory)),
            running: Some(running()),
            holder: None,
            conditions: Some(Vec::new()),
        }
    }

    fn condition(reason: &str, about: &str) -> Condition {
        Condition {
            reason: reason.to_owned(),
            about: about.to_owned(),
            message: "said\u{1b}[2J".to_owned(),
            port: None,
        }
    }

    #[test]
    fn a_healthy_node_is_a_few_lines() {
        let text = Summary(&node()).to_string();
        assert_eq!(text.lines().count(), 9);
        insta::assert_snapshot!(shown(&text));
    }

    #[test]
    fn what_is_wrong_is_in_its_row() {
        let mut node = node();
        let mut it = running();
        it.mode = "iptables".to_owned();
        it.fallback_reason = Some("no module\u{202e} ip_vs".to_owned());
        it.healthy = false;
        it.pending_changes = 7;
        it.source.connected = Some(false);
        it.dns = [
            ("10.96.0.10:53".parse().unwrap(), None),
            (
                "[fd00::a]:53".parse().unwrap(),
                Some("Permission denied (os error 13)".to_owned()),
            ),
        ]
        .into();
        let failing = [("Service".to_owned(), "connection refused".to_owned())];
        it.source.failing = failing.into();
        it.version = "0.0.9".to_owned();
        node.running = Some(it);
        let hosts = (0..12).map(|n| condition("AddressRefused", &format!("Service a/s{n:02}")));
        let conditions = hosts.chain([condition("FirewallInTheWay", "Node n")]);
        node.conditions = Some(conditions.collect());
        let text = Summary(&node).to_string();
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        insta::assert_snapshot!(shown(&text));
    }

    #[test]
    fn without_a_process_it_is_what_the_kernel_has() {
        let mut node = node();
        (node.running, node.conditions) = (None, None);
        insta::assert_snapshot!(shown(&Summary(&node).to_string()));
        node.holder = Some(Writer { pid: Some(77) });
        node.kernel = Err(anyhow::anyhow!("not permitted"));
        insta::assert_snapshot!(shown(&Summary(&node).to_string()));
    }
}
