//! `svcproxy check`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::{env, fmt};

use proxier::desired::Config;
use proxier::host::{Concern, Host, Role, judge};
use proxier::mode::probe::{Finding, Missing, Mode as Probed, Probe, Reason, Requirement, Weight};
use proxier::mode::{iptables, ipvs, nftables, userspace};
use serde::Serialize;

use crate::args::{CheckArgs, CheckFormat, Mode, ModeArgs};
use crate::commands::json;
use crate::logging::Shown;
use crate::{Ending, node};

/// Prints whether the chosen mode can run on this node, what is missing, and what else on the host
/// keeps Service traffic from its endpoints.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<Ending> {
    let verdict = judged(args.mode(), &args.mode, &node::config(&args.node)?);
    match args.output {
        CheckFormat::Text => check_text(&verdict)?,
        CheckFormat::Json => check_json(&verdict)?,
    }
    Ok(if verdict.can_run() {
        Ending::Done
    } else {
        Ending::Failed
    })
}

/// The findings as JSON text.
pub(super) fn findings(wanted: Mode, mode: &ModeArgs, config: &Config) -> anyhow::Result<String> {
    let verdict = judged(wanted, mode, config);
    Ok(serde_json::to_string_pretty(&Document::new(&verdict))?)
}

fn judged(wanted: Mode, mode: &ModeArgs, config: &Config) -> Verdict {
    let proc_sys = &mode.proc_sys;
    let ipvs = ipvs::probe(config, proc_sys);
    let found = ipvs
        .and(iptables::probe(config, proc_sys))
        .and(nftables::probe(config, proc_sys))
        .and(userspace::probe());
    let mut verdict = Verdict::new(wanted, mode.fallbacks(), found);
    let role = Role::new(wanted.probed(), config);
    (verdict.concerns, verdict.unknown) = host(&role, proc_sys);
    verdict
}

/// What concerns this host, and what could not be found out.
fn host(role: &Role<'_>, proc_sys: &Path) -> (Vec<Concern>, Vec<String>) {
    let mut host = match Host::open(proc_sys) {
        Ok(host) => host,
        Err(error) => return (Vec::new(), vec![format!("the host: {error}")]),
    };
    let mut facts = host.facts();
    host.ask_programs(&mut facts);
    (judge(&facts, role), facts.unknown)
}

/// The findings, and the modes that can run.
pub(crate) struct Verdict {
    mode: Mode,
    /// The modes to fall back to, in order.
    fallbacks: Vec<Mode>,
    probe: Probe,
    /// What else is on the host.
    pub(crate) concerns: Vec<Concern>,
    /// What of it could not be found out.
    pub(crate) unknown: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(mode: Mode, fallbacks: &[Mode], probe: Probe) -> Self {
        Self {
            mode,
            fallbacks: fallbacks.to_vec(),
            probe,
            concerns: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Whether the chosen mode can run, regardless of a fallback.
    pub(crate) fn can_run(&self) -> bool {
        self.probe.can_run(self.mode.probed())
    }

    /// The mode that svcproxy would fall back to.
    fn instead(&self) -> Option<Mode> {
        let is_decided = !self.can_run() && !self.probe.is_undecided(self.mode.probed());
        let falls_back = self.mode == Mode::Ipvs && is_decided;
        let mut others = self.fallbacks.iter().copied().filter(|_| falls_back);
        others.find(|other| self.probe.can_run(other.probed()))
    }

    fn conclusion(&self) -> String {
        let mode = self.mode.name();
        match (self.can_run(), self.instead()) {
            (true, _) => format!("mode {mode} can run on this node"),
            (false, Some(other)) => format!(
                "mode {mode} cannot run on this node; svcproxy would fall back to mode {}",
                other.name()
            ),
            (false, None) => format!("mode {mode} cannot run on this node"),
        }
    }
}

/// Prints one JSON document.
pub(crate) fn check_json(verdict: &Verdict) -> anyhow::Result<()> {
    json(&Document::new(verdict))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    mode: &'static str,
    can_run: bool,
    /// The mode that svcproxy would fall back to.
    fallback: Option<&'static str>,
    findings: Vec<Row<'a>>,
    /// What else on the host keeps Service traffic from its endpoints.
    host: Vec<HostRow<'a>>,
    /// What of it could not be found out.
    unknown: &'a [String],
}

#[derive(Serialize)]
struct HostRow<'a> {
    name: &'static str,
    result: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
}

impl<'a> From<&'a Concern> for HostRow<'a> {
    fn from(concern: &'a Concern) -> Self {
        Self {
            name: concern.kind.as_str(),
            result: result_of(concern),
            message: &concern.message,
            remedy: concern.remedy.as_deref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: String,
    what: String,
    result: &'static str,
    /// Whether each mode requires it or can run without it.
    modes: BTreeMap<&'static str, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<&'a str>,
    #[serde(flatten)]
    missing: Option<Lack<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lack<'a> {
    reason: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_file: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl<'a> Document<'a> {
    fn new(verdict: &'a Verdict) -> Self {
        Self {
            mode: verdict.mode.name(),
            can_run: verdict.can_run(),
            fallback: verdict.instead().map(Mode::name),
            findings: verdict.probe.findings.iter().map(Row::new).collect(),
            host: verdict.concerns.iter().map(HostRow::from).collect(),
            unknown: &verdict.unknown,
        }
    }
}

impl<'a> Row<'a> {
    fn new(finding: &'a Finding) -> Self {
        let requirement = &finding.requirement;
        let modes = Probed::ALL.into_iter().filter_map(|mode| {
            let weight = match requirement.weight(mode)? {
                Weight::Needed => "needed",
                _ => "wanted",
            };
            Some((mode.as_str(), weight))
        });
        Self {
            name: requirement.name(),
            what: requirement.to_string(),
            result: result(finding),
            modes: modes.collect(),
            found: finding.result.as_ref().ok().map(String::as_str),
            missing: finding.result.as_ref().err().map(|missing| Lack {
                remedy: finding.remedy(),
                ..Lack::new(missing)
            }),
        }
    }
}

impl<'a> Lack<'a> {
    fn new(missing: &'a Missing) -> Self {
        let (module, module_file) = match &missing.reason {
            Reason::NoModule { module, file } => (Some(&**module), Some(file.as_str())),
            _ => (None, None),
        };
        Self {
            reason: missing.reason.as_str(),
            message: &missing.message,
            errno: missing.errno,
            module,
            module_file,
            remedy: None,
        }
    }
}

/// The finding in one word.
fn result(finding: &Finding) -> &'static str {
    match &finding.result {
        Ok(_) => "ok",
        Err(Missing {
            reason: Reason::NotTried,
            ..
        }) => "not tried",
        Err(_) => "missing",
    }
}

/// The concern in one word.
const fn result_of(concern: &Concern) -> &'static str {
    match concern.is_note {
        true => "note",
        false => "warning",
    }
}

/// Prints a table with one finding per line, and the remedy below it.
pub(crate) fn check_text(verdict: &Verdict) -> anyhow::Result<()> {
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut out = io::stdout().lock();
    let colour = out.is_terminal() && !no_colour;
    write!(out, "{}", Table { verdict, colour })?;
    Ok(())
}

/// A line of the table, and what to do about it.
struct TextRow {
    cells: [String; 4],
    remedy: Option<String>,
}

impl Verdict {
    /// The findings, then what else is on the host. Texts may quote programs and names of others.
    fn rows(&self) -> Vec<TextRow> {
        let findings = self.probe.findings.iter().map(|finding| TextRow {
            cells: [
                result(finding).to_owned(),
                modes(&finding.requirement),
                finding.requirement.to_string(),
                match &finding.result {
                    Ok(found) => Shown(found).to_string(),
                    Err(missing) => Shown(&missing.message).to_string(),
                },
            ],
            remedy: finding.remedy(),
        });
        let host = |result: &str, what: &str, found: &str, remedy: Option<&String>| TextRow {
            cells: [
                result.to_owned(),
                String::new(),
                format!("host: {what}"),
                Shown(found).to_string(),
            ],
            remedy: remedy.map(|remedy| Shown(remedy).to_string()),
        };
        let concerns = self.concerns.iter().map(|concern| {
            let (what, remedy) = (concern.kind.as_str(), concern.remedy.as_ref());
            host(result_of(concern), what, &concern.message, remedy)
        });
        let unknown = self.unknown.iter();
        let unknown = unknown.map(|unknown| host("unknown", "unknown", unknown, None));
        findings.chain(concerns).chain(unknown).collect()
    }
}

struct Table<'a> {
    verdict: &'a Verdict,
    colour: bool,
}

impl Table<'_> {
    fn row(&self, f: &mut fmt::Formatter<'_>, cells: [&str; 4], widths: [usize; 3]) -> fmt::Result {
        let [result, modes, what, found] = cells;
        let [first, second, third] = widths;
        let (on, off) = match result {
            "ok" if self.colour => ("\x1b[32m", "\x1b[0m"),
            "missing" if self.colour => ("\x1b[31m", "\x1b[0m"),
            "warning" if self.colour => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        writeln!(
            f,
            "{on}{result:first$}{off}  {modes:second$}  {what:third$}  {found}"
        )
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.verdict.rows();
        let heads = ["RESULT", "FOR MODE", "WHAT", "FOUND"];
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.cells.get(column));
            let longest = cells.map(|cell| cell.chars().count()).max();
            let head = heads.get(column).map_or(0, |head| head.len());
            longest.unwrap_or(0).max(head)
        };
        let widths = [width(0), width(1), width(2)];
        self.row(f, heads, widths)?;
        for TextRow { cells, remedy } in &rows {
            self.row(f, cells.each_ref().map(String::as_str), widths)?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:width$}  remedy: {remedy}", "", width = widths[0])?;
            }
        }
        writeln!(f, "\n{}", self.verdict.conclusion())
    }
}

/// The modes that use it; in parentheses those that can run without it.
fn modes(requirement: &Requirement) -> String {
    let modes = Probed::ALL.into_iter().filter_map(|mode| {
        requirement.weight(mode).map(|weight| match weight {
            Weight::Needed => mode.to_string(),
            _ => format!("({mode})"),
        })
    });
    modes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proxier::mode::probe::{Finding, ModuleFile};

    use super::*;

    fn verdict(fallbacks: &[Mode]) -> Verdict {
        let finding = |requirement| Finding::new(requirement, Ok("found".to_owned()));
        let missing = |reason, errno, message: &str| {
            let mut missing = Missing::new(reason, message);
            missing.errno = errno;
            Err(missing)
        };
        let no_ipvs = Reason::NoModule {
            module: "ip_vs".into(),
            file: ModuleFile::Absent,
        };
        let findings = [
            Finding::new(
                Requirement::Ipvs,
                missing(no_ipvs, None, "the kernel has no IPVS"),
            ),
            Finding::new(
                Requirement::VirtualServers(::ipvs::Family::V4),
                missing(Reason::NotTried, None, "not tried without IPVS"),
            ),
            Finding::new(
                Requirement::Nftables,
                missing(Reason::Permission, Some(1), "cannot validate the rules"),
            ),
            finding(Requirement::RoutingRules),
            finding(Requirement::ConnectionTracking),
            finding(Requirement::Iptables),
        ];
        Verdict::new(Mode::Ipvs, fallbacks, findings.into_iter().collect())
    }

    #[test]
    fn table_has_a_remedy_below_each_missing_row() {
        let verdict = verdict(&[Mode::Iptables]);
        let colour = false;
        insta::assert_snapshot!(Table {
            verdict: &verdict,
            colour
        });
    }

    #[test]
    fn document_for_programs() {
        let verdict = verdict(&[Mode::Iptables]);
        let text = serde_json::to_string_pretty(&Document::new(&verdict)).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn colour_marks_results_alone() {
        let verdict = verdict(&[Mode::Iptables]);
        let [plain, coloured] = [false, true].map(|colour| {
            let table = Table {
                verdict: &verdict,
                colour,
            };
            table.to_string()
        });
        assert!(!plain.contains('\x1b') && coloured.contains("\x1b[31mmissing"));
        let stripped = ["\x1b[31m", "\x1b[32m", "\x1b[0m"];
        let stripped = stripped
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }

    #[test]
    fn a_fallback_is_reported_and_the_mode_still_cannot_run() {
        let reported = verdict(&[Mode::Iptables]);
        assert!(!reported.can_run());
        assert_eq!(reported.instead(), Some(Mode::Iptables));
        let never = verdict(&[]);
        assert!(!never.can_run());
        assert_eq!(never.instead(), None);
    }
}
