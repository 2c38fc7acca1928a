//! The report, as text, Markdown and JSON.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};

use serde::Serialize;

use crate::logging::Shown;

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// The setting, or what it is about.
    pub(super) subject: String,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// What a finding means. In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// svcproxy cannot run.
    Blocker,
    /// Traffic of Services may be lost, or something is unknown.
    Risk,
    /// svcproxy behaves otherwise.
    Differs,
    /// To know, or to look at.
    Note,
    /// A setting that svcproxy does not need.
    NoEffect,
    /// As with kube-proxy.
    Same,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Blocker,
        Self::Risk,
        Self::Differs,
        Self::Note,
        Self::NoEffect,
        Self::Same,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Blocker => "In the way",
            Self::Risk => "At risk",
            Self::Differs => "Differs from kube-proxy",
            Self::Note => "Notes",
            Self::NoEffect => "Settings without effect",
            Self::Same => "The same, or taken over",
        }
    }
}

impl Finding {
    pub(super) fn new(kind: Kind, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            message: message.into(),
            remedy: None,
        }
    }

    pub(super) fn remedy(self, remedy: Option<String>) -> Self {
        Self { remedy, ..self }
    }
}

/// Whether to switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    Ready,
    AtRisk,
    Blocked,
}

/// All findings, and the verdict.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    verdict: Verdict,
    /// kube-proxy's mode.
    kube_proxy_mode: String,
    /// The mode that svcproxy would use.
    mode: &'static str,
    /// Where kube-proxy's configuration comes from.
    configuration: String,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(
        mut findings: Vec<Finding>,
        kube_proxy_mode: String,
        mode: &'static str,
        configuration: String,
    ) -> Self {
        findings.sort_by_key(|finding| finding.kind);
        let has = |kind| findings.iter().any(|finding| finding.kind == kind);
        let verdict = match (has(Kind::Blocker), has(Kind::Risk)) {
            (true, _) => Verdict::Blocked,
            (false, true) => Verdict::AtRisk,
            (false, false) => Verdict::Ready,
        };
        Self {
            verdict,
            kube_proxy_mode,
            mode,
            configuration,
            findings,
        }
    }

    /// Whether nothing is at risk.
    pub(super) fn is_ready(&self) -> bool {
        self.verdict == Verdict::Ready
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |of| of.kind == kind)
    }

    fn conclusion(&self) -> String {
        let count = |kind| self.of(kind).count();
        match self.verdict {
            Verdict::Ready => "ready: nothing is at risk on this node".to_owned(),
            Verdict::AtRisk => format!(
                "at risk: {} to look at before the switch",
                plural(count(Kind::Risk), "finding")
            ),
            Verdict::Blocked => "blocked: svcproxy cannot run on this node".to_owned(),
        }
    }

    pub(super) fn print_text(&self) -> io::Result<()> {
        write!(io::stdout().lock(), "{}", Text(self))
    }

    pub(super) fn print_markdown(&self) -> io::Result<()> {
        write!(io::stdout().lock(), "{}", Markdown(self))
    }
}

fn plural(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// For a terminal.
pub(super) struct Text<'a>(pub(super) &'a Report);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        writeln!(f, "verdict        {}", report.conclusion())?;
        writeln!(
            f,
            "kube-proxy     mode {}, configuration from {}",
            Shown(&report.kube_proxy_mode),
            Shown(&report.configuration)
        )?;
        writeln!(f, "svcproxy       mode {}", report.mode)?;
        for kind in Kind::ALL {
            let mut findings = report.of(kind).peekable();
            if findings.peek().is_none() {
                continue;
            }
            writeln!(f, "\n{}", kind.title())?;
            for finding in findings {
                let (subject, message) = (Shown(&finding.subject), Shown(&finding.message));
                writeln!(f, "  {subject}: {message}")?;
                if let Some(remedy) = &finding.remedy {
                    writeln!(f, "    remedy: {}", Shown(remedy))?;
                }
            }
        }
        Ok(())
    }
}

/// For a change request.
pub(super) struct Markdown<'a>(pub(super) &'a Report);

impl Display for Markdown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        writeln!(f, "# From kube-proxy to svcproxy\n")?;
        writeln!(f, "**{}**\n", Cell(&report.conclusion()))?;
        writeln!(
            f,
            "kube-proxy: mode {}, configuration from {}. svcproxy {}: mode {}.",
            Cell(&report.kube_proxy_mode),
            Cell(&report.configuration),
            env!("CARGO_PKG_VERSION"),
            report.mode
        )?;
        for kind in Kind::ALL {
            let mut findings = report.of(kind).peekable();
            if findings.peek().is_none() {
                continue;
            }
            writeln!(f, "\n## {}\n", kind.title())?;
            writeln!(f, "| what | finding | remedy |\n| --- | --- | --- |")?;
            for finding in findings {
                let remedy = finding.remedy.as_deref().unwrap_or_default();
                let (subject, message) = (Cell(&finding.subject), Cell(&finding.message));
                writeln!(f, "| {subject} | {message} | {} |", Cell(remedy))?;
            }
        }
        Ok(())
    }
}

/// Text from outside in a cell of a Markdown table: neither markup nor HTML.
struct Cell<'a>(&'a str);

impl Display for Cell<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in Shown(self.0).to_string().chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '!' | '~' => write!(f, "\\{c}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}
