//! What the node means for a switch. Pure, except for [`available_memory`].

use std::fs;

use proxier::desired::{Config, DesiredState};
use proxier::host::{Facts, Role, Trace, judge};
use proxier::mode::probe::Probe;
use proxier::takeover::Removed;

use super::report::{Finding, Kind};
use crate::args::Mode;

/// Services that are named in one finding, at most.
const NAMED: usize = 10;
const MIB: u64 = 1 << 20;

/// What is known of the node.
pub(super) struct OnNode<'a> {
    /// kube-proxy's mode.
    pub(super) from: &'a str,
    /// svcproxy's.
    pub(super) wanted: Mode,
    /// The modes to fall back to, in order.
    pub(super) fallbacks: &'a [Mode],
    pub(super) probe: &'a Probe,
    /// What else is on the host, or why it is unknown.
    pub(super) facts: Result<Facts, String>,
    /// What kube-proxy has, or why it is unknown.
    pub(super) holdings: &'a Result<Removed, String>,
    pub(super) config: &'a Config,
    /// What Services want of the node, if they were read.
    pub(super) services: Option<&'a DesiredState>,
    /// In bytes.
    pub(super) available: Option<u64>,
}

impl OnNode<'_> {
    pub(super) fn findings(mut self) -> Vec<Finding> {
        let mut findings = self.mode();
        findings.extend(self.kube_proxy());
        findings.extend(self.host());
        findings.extend(self.of_services());
        findings.extend(self.memory());
        findings
    }

    /// Whether the mode can run, and what it lacks.
    fn mode(&self) -> Vec<Finding> {
        let (mode, name) = (self.wanted.probed(), self.wanted.name());
        let mut findings = Vec::new();
        if self.probe.can_run(mode) {
            let message = format!("mode {name} can run on this node");
            findings.push(Finding::new(Kind::Same, "mode", message));
        } else {
            let falls_back = self.wanted == Mode::Ipvs && !self.probe.is_undecided(mode);
            let mut others = self.fallbacks.iter().filter(|_| falls_back);
            let instead = others.find(|other| self.probe.can_run(other.probed()));
            findings.push(match instead {
                Some(other) => Finding::new(
                    Kind::Risk,
                    "mode",
                    format!(
                        "mode {name} cannot run on this node; svcproxy would fall back to mode {}",
                        other.name()
                    ),
                ),
                None => Finding::new(
                    Kind::Blocker,
                    "mode",
                    format!("mode {name} cannot run on this node"),
                ),
            });
        }
        let missing = self.probe.in_the_way_of(mode).map(|of| (Kind::Risk, of));
        let lacking = self.probe.lacking_in(mode).map(|of| (Kind::Risk, of));
        findings.extend(missing.chain(lacking).map(|(kind, of)| {
            let message = match &of.result {
                Ok(found) => found.clone(),
                Err(missing) => missing.to_string(),
            };
            Finding::new(kind, of.requirement.to_string(), message).remedy(of.remedy())
        }));
        findings
    }

    /// What svcproxy would take over.
    fn kube_proxy(&self) -> Vec<Finding> {
        let held = match self.holdings {
            Ok(held) => held,
            Err(error) => {
                let message = format!("what it has on this node is unknown: {error}");
                return vec![Finding::new(Kind::Risk, "kube-proxy", message)];
            }
        };
        if held.is_empty() {
            let message =
                "has nothing in this node's kernel: it has not run here, or was cleaned up";
            return vec![Finding::new(Kind::Same, "kube-proxy", message)];
        }
        let message = format!(
            "has on this node: {held}. svcproxy adopts the virtual servers at Services' addresses, \
             and removes the rest after its first complete sync"
        );
        let mut findings = vec![Finding::new(Kind::Same, "kube-proxy", message)];
        let in_kernel = match held {
            held if held.devices > 0 => "ipvs",
            held if held.tables > 0 => "nftables",
            _ => "iptables",
        };
        if in_kernel != self.from {
            let message = format!(
                "its configuration says mode {}, but the node has what mode {in_kernel} makes: \
                 it fell back, or an earlier mode was not cleaned up",
                self.from
            );
            findings.push(Finding::new(Kind::Risk, "kube-proxy", message));
        }
        if held.virtual_servers > 0 && self.wanted != Mode::Ipvs {
            let message = format!(
                "connections through kube-proxy's virtual servers are cut after --drain-timeout, \
                 because mode {} cannot continue them",
                self.wanted.name()
            );
            let remedy = "Use mode ipvs, or drain the node first".to_owned();
            findings.push(Finding::new(Kind::Risk, "connections", message).remedy(Some(remedy)));
        }
        findings
    }

    /// What other programs on the host do. kube-proxy itself is expected.
    fn host(&mut self) -> Vec<Finding> {
        let mut facts = match std::mem::replace(&mut self.facts, Ok(Facts::default())) {
            Ok(facts) => facts,
            Err(error) => {
                let message = format!("other programs on it are unknown: {error}");
                return vec![Finding::new(Kind::Risk, "host", message)];
            }
        };
        let is_its =
            |trace: &Trace| matches!(trace, Trace::KubeProxyProcess | Trace::KubeProxyRules);
        facts.traces.retain(|trace| !is_its(trace));
        let mut role = Role::new(self.wanted.probed(), self.config);
        role.captures = true;
        let concerns = judge(&facts, &role).into_iter().map(|concern| {
            let kind = match concern.is_note {
                true => Kind::Note,
                false => Kind::Risk,
            };
            let subject = format!("host: {}", concern.kind.as_str());
            Finding::new(kind, subject, concern.message).remedy(concern.remedy)
        });
        let mut findings: Vec<_> = concerns.collect();
        let unknown = facts.unknown.into_iter();
        findings.extend(unknown.map(|unknown| Finding::new(Kind::Risk, "host: unknown", unknown)));
        findings
    }

    /// What Services request and would not get.
    fn of_services(&self) -> Vec<Finding> {
        let Some(desired) = self.services else {
            let message = "were not read: give --kubeconfig, --master or --manifests to check what \
                           they request";
            return vec![Finding::new(Kind::Note, "Services", message)];
        };
        let mut problems = desired.problems();
        if self.wanted != Mode::Ipvs {
            problems.extend(proxier::mode::limits(desired, self.wanted.name()));
        }
        let count = problems.len();
        let named = problems.into_iter().take(NAMED).map(|problem| {
            let subject = format!("Service {}", problem.service);
            let message = format!("{}: {}", problem.reason, problem.message);
            Finding::new(Kind::Risk, subject, message)
        });
        let mut findings: Vec<_> = named.collect();
        if let Some(more @ 1..) = count.checked_sub(NAMED) {
            let message = format!("{more} more of their requests would not be met: svcproxy plan");
            findings.push(Finding::new(Kind::Risk, "Services", message));
        }
        if count == 0 {
            let message = format!("all {} are served", services(desired));
            findings.push(Finding::new(Kind::Same, "Services", message));
        }
        findings
    }

    fn memory(&self) -> Option<Finding> {
        let desired = self.services?;
        let endpoints: usize = desired.frontends().map(|of| of.backends.len()).sum();
        let needed = memory(services(desired), endpoints);
        let message = format!(
            "svcproxy needs about {} MiB at rest for these Services, and up to twice that while it \
             lists them",
            needed.div_ceil(MIB)
        );
        Some(match self.available {
            Some(available) if available < 2 * needed => Finding::new(
                Kind::Risk,
                "memory",
                format!("{message}; {} MiB are available", available / MIB),
            ),
            _ => Finding::new(Kind::Same, "memory", message),
        })
    }
}

/// The number of Services with a virtual IP.
fn services(desired: &DesiredState) -> usize {
    let services = desired.frontends().map(|of| &of.owner.service);
    services.collect::<std::collections::BTreeSet<_>>().len()
}

/// The memory at rest, in bytes: 41 MB were measured for 10,000 Services with 3 endpoints each, and
/// 103 MB with 50.
fn memory(services: usize, endpoints: usize) -> u64 {
    const PROCESS: u64 = 12 * MIB;
    const SERVICE: u64 = 2600;
    const ENDPOINT: u64 = 132;
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let of_services = count(services).saturating_mul(SERVICE);
    let of_endpoints = count(endpoints).saturating_mul(ENDPOINT);
    PROCESS
        .saturating_add(of_services)
        .saturating_add(of_endpoints)
}

/// The memory that this node has left, in bytes.
pub(super) fn available_memory() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_near_what_was_measured() {
        let mb = |services, endpoints| memory(services, endpoints) / 1_000_000;
        assert!((38..=46).contains(&mb(10_000, 30_000)));
        assert!((95..=111).contains(&mb(10_000, 500_000)));
    }

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       16303428 kB\nMemAvailable:   12303428 kB\nBuffers: 1 kB\n";
        assert_eq!(available(text), Some(12_303_428 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }
}
