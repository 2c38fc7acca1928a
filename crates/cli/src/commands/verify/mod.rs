//! `svcproxy verify`.

mod connect;
mod drift;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use proxier::desired::{DesiredState, Frontend};
use proxier::host::Host;
use proxier::mode::iptables::IptablesKernel;
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::NftablesKernel;
use serde::Serialize;

use self::connect::{Bounds, Connection, connect, targets};
use self::drift::{Difference, of_iptables, of_ipvs, of_nftables, of_userspace, unrouted};
use self::text::Text;
use super::subject::Subject;
use super::{DiagnosticLog, json};
use crate::Ending;
use crate::args::{Mode, Selection, VerifyArgs, VerifyFormat};
use crate::description::ProblemOf;
use crate::logging::Shown;

/// Between two comparisons with `--wait`.
const PAUSE: Duration = Duration::from_secs(1);
/// Where the kernel's sysctls are.
const PROC_SYS: &str = "/proc/sys";

/// Compares the kernel with the plan, and with `--connect` connects to everything.
pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<Ending> {
    let subject = Subject::of(&args.node, args.mode())?;
    let mut log = DiagnosticLog::default();
    let began = Instant::now();
    let (planned, mut report) = loop {
        let planned = subject.read(&mut log)?;
        let differences = differences(&subject, &planned.desired)?;
        let report = Report::new(&planned.desired, differences, &args.selection, subject.mode);
        if report.agrees() || began.elapsed() >= args.wait {
            break (planned, report);
        }
        thread::sleep(PAUSE.min(args.wait.saturating_sub(began.elapsed())));
    };
    let services = report.services.iter().map(|of| of.service.as_str());
    let services = services.chain(report.refused.iter().map(|of| of.service.as_str()));
    let missing = args.selection.missing(services);
    for name in &missing {
        tracing::error!(
            "neither the source nor this node has a Service {}",
            Shown(name)
        );
    }
    let is_missing = !missing.is_empty();
    if args.connect {
        report.connect(&planned.desired, Bounds::from(args));
    }
    match args.output {
        Some(VerifyFormat::Json) => json(&report)?,
        format => {
            let every = format == Some(VerifyFormat::Wide);
            write!(
                io::stdout().lock(),
                "{}",
                Text {
                    report: &report,
                    every
                }
            )?;
        }
    }
    Ok(
        match (planned.is_invalid, report.is_right() && !is_missing) {
            (true, _) => Ending::InvalidInput,
            (false, true) => Ending::Done,
            (false, false) => Ending::Failed,
        },
    )
}

/// Reads the kernel, and compares it.
fn differences(subject: &Subject, desired: &DesiredState) -> anyhow::Result<Vec<Difference>> {
    Ok(match subject.mode {
        Mode::Ipvs => {
            let mut kernel = IpvsKernel::open()?;
            let mut node = kernel.outline()?;
            node.retain_owned(desired);
            let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
            kernel.read_real_servers(&mut node, &keys)?;
            of_ipvs(desired, &node)
        }
        Mode::Iptables => of_iptables(desired, &IptablesKernel::open()?.observe()?),
        Mode::Nftables => of_nftables(desired, &NftablesKernel::open()?.observe()?),
        Mode::Userspace => {
            let node = subject.proxy()?.node;
            let mut differences = of_userspace(desired, &node);
            if !node.given.is_empty() {
                // It changes no sysctl, and reads none here.
                let mut host = Host::open(Path::new(PROC_SYS))?;
                let given = drift::given(desired, &node);
                let ways = host.ways(given.iter().copied())?;
                differences.extend(unrouted(desired, &given, &ways));
            }
            differences
        }
    })
}

/// The verdicts on all Services, as JSON text.
pub(super) fn document(subject: &Subject, desired: &DesiredState) -> anyhow::Result<String> {
    let differences = differences(subject, desired)?;
    let report = Report::new(desired, differences, &Selection::default(), subject.mode);
    Ok(serde_json::to_string_pretty(&report)?)
}

/// The verdicts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    mode: &'static str,
    /// Steps for what Services share: rules, routes, sysctls.
    shared: Vec<String>,
    services: Vec<Verdict>,
    /// Services of which nothing is served, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Refused>,
    totals: Totals,
}

/// A Service of which nothing is served.
#[derive(Debug, Serialize)]
struct Refused {
    service: String,
    problems: Vec<ProblemOf>,
}

/// The verdict on a Service.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    service: String,
    verdict: Outcome,
    /// Steps that lead from the kernel's state to the planned one.
    differences: Vec<String>,
    /// What the Service requests and does not get. It does not change the verdict.
    problems: Vec<ProblemOf>,
    /// None without `--connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Vec<Connection>>,
    /// UDP and SCTP ports, which `--connect` does not try.
    #[serde(skip_serializing_if = "Option::is_none")]
    ports_not_tried: Option<usize>,
}

/// Whether a Service is as planned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    #[default]
    Ok,
    /// The kernel is as planned, but a connection failed.
    Unreachable,
    /// The kernel is not as planned.
    Differs,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Differs => "differs",
        }
    }
}

/// How many Services have which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    services: usize,
    ok: usize,
    unreachable: usize,
    differs: usize,
    /// Services that request something and get nothing: no address of theirs is served.
    refused: usize,
}

impl Report {
    /// The verdicts on the selected Services of the plan, and on those that only the kernel has.
    fn new(
        desired: &DesiredState,
        differences: Vec<Difference>,
        selection: &Selection,
        mode: Mode,
    ) -> Self {
        let mut shared = Vec::new();
        let mut by_service = BTreeMap::<_, Vec<_>>::new();
        for Difference { service, step } in differences {
            match service {
                Some(service) => by_service.entry(service).or_default().push(step),
                None => shared.push(step),
            }
        }
        let is_selected = |frontend: &Frontend| {
            let endpoints = frontend.backends.iter().map(|backend| backend.address);
            let external = frontend.external.iter().flat_map(|all| all.iter());
            let endpoints = endpoints.chain(external.map(|backend| backend.address));
            selection.has(&frontend.key, endpoints)
        };
        let planned = desired.frontends().filter(|frontend| is_selected(frontend));
        let planned: BTreeSet<_> = planned.map(|of| of.owner.service.clone()).collect();
        let mut services = BTreeMap::new();
        for name in planned {
            let service = name.to_string();
            let problems = desired.problems_of(&name).into_iter().map(ProblemOf::from);
            let verdict = Verdict {
                problems: problems.collect(),
                differences: by_service.remove(&service).unwrap_or_default(),
                service: service.clone(),
                ..Verdict::default()
            };
            services.insert(service, verdict);
        }
        // Their addresses are unknown.
        for (service, differences) in by_service {
            if selection.is_by_name() {
                let verdict = Verdict {
                    service: service.clone(),
                    differences,
                    ..Verdict::default()
                };
                services.insert(service, verdict);
            }
        }
        let mut refused = BTreeMap::<_, Vec<_>>::new();
        for problem in desired.problems() {
            let service = problem.service.to_string();
            let is_named = selection.is_by_name() && selection.names(&service);
            if is_named && !services.contains_key(&service) {
                let of_service = refused.entry(service).or_default();
                of_service.push(ProblemOf::from(problem));
            }
        }
        let refused = refused.into_iter();
        let services = services.into_values();
        let mut report = Self {
            mode: mode.name(),
            shared,
            services: services.filter(|of| selection.names(&of.service)).collect(),
            refused: refused
                .map(|(service, problems)| Refused { service, problems })
                .collect(),
            totals: Totals::default(),
        };
        report.judge();
        report
    }

    fn judge(&mut self) {
        let mut totals = Totals {
            services: self.services.len(),
            refused: self.refused.len(),
            ..Totals::default()
        };
        for of in &mut self.services {
            let mut connections = of.connections.iter().flatten();
            let (outcome, count) = if !of.differences.is_empty() {
                (Outcome::Differs, &mut totals.differs)
            } else if connections.any(|connection| !connection.connected) {
                (Outcome::Unreachable, &mut totals.unreachable)
            } else {
                (Outcome::Ok, &mut totals.ok)
            };
            of.verdict = outcome;
            *count += 1;
        }
        self.totals = totals;
    }

    /// Whether the kernel is as planned.
    fn agrees(&self) -> bool {
        self.shared.is_empty() && self.totals.differs == 0
    }

    /// Whether that is so, something of each Service is served, and every connection was made.
    fn is_right(&self) -> bool {
        self.agrees() && self.totals.unreachable == 0 && self.refused.is_empty()
    }

    /// Connects to each VIP and endpoint of these Services.
    fn connect(&mut self, desired: &DesiredState, bounds: Bounds) {
        let mut of_service = BTreeMap::<_, Vec<&Frontend>>::new();
        for frontend in desired.frontends() {
            let service = frontend.owner.service.as_str();
            of_service.entry(service).or_default().push(frontend);
        }
        let (mut all, mut counts) = (Vec::new(), Vec::new());
        for of in &mut self.services {
            let frontends = of_service.remove(of.service.as_str()).unwrap_or_default();
            let (targets, left_out) = targets(frontends.into_iter(), desired.config());
            of.ports_not_tried = Some(left_out).filter(|count| *count > 0);
            counts.push(targets.len());
            all.extend(targets);
        }
        let mut results = connect(&all, bounds).into_iter();
        for (of, count) in self.services.iter_mut().zip(counts) {
            of.connections = Some(results.by_ref().take(count).collect());
        }
        self.judge();
    }
}
