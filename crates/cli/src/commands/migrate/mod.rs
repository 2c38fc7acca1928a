//! `svcproxy migrate`.

mod behaviour;
mod node;
mod report;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use proxier::Runtime;
use proxier::desired::{Config, DesiredState};
use proxier::host::{Facts, Host};
use proxier::source::kube::{Access, Timing, config_map};
use proxier::takeover::{KubeProxy, Removed};

use self::node::OnNode;
use self::report::{Finding, Kind, Report};
use super::json;
use super::subject::Planned;
use crate::args::{MigrateArgs, NodeArgs, ReportFormat};
use crate::component_config::{self, ConfigFileError, Survey};
use crate::logging::chain;
use crate::source::Source;
use crate::{Ending, mode, node as node_settings};

/// The key of kube-proxy's ConfigMap, as kubeadm makes it.
const KEY: &str = "config.conf";

/// Reports what a switch from kube-proxy would change.
pub(crate) fn migrate(args: &MigrateArgs) -> anyhow::Result<Ending> {
    let theirs = Theirs::read(args)?;
    let wanted = args.mode(&theirs.args);
    let from = theirs.mode();
    let mut findings = settings(&theirs.survey, &from, wanted.name());
    findings.extend(behaviour::differences(&from, wanted.name()));

    let config = node_settings::config(&theirs.args)?;
    let services = theirs.services(&config);
    let desired = services.as_ref().and_then(|read| read.as_ref().ok());
    let mut found = mode::probe(wanted, &config, &args.mode.proc_sys);
    for other in args.mode.fallbacks() {
        found = found.and(mode::probe(*other, &config, &args.mode.proc_sys));
    }
    let (facts, holdings) = observe(args);
    let on_node = OnNode {
        from: &from,
        wanted,
        fallbacks: args.mode.fallbacks(),
        probe: &found,
        facts,
        holdings: &holdings,
        config: &config,
        services: desired,
        available: node::available_memory(),
    };
    findings.extend(on_node.findings());
    if let Some(Err(error)) = &services {
        findings.push(Finding::new(
            Kind::Risk,
            "Services",
            format!("could not be read, so nothing is known of what they request: {error:#}"),
        ));
    }
    let report = Report::new(findings, from, wanted.name(), theirs.from);
    match args.output {
        ReportFormat::Json => json(&report)?,
        ReportFormat::Markdown => report.print_markdown()?,
        ReportFormat::Text => report.print_text()?,
    }
    Ok(match report.is_ready() {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

/// kube-proxy's configuration.
struct Theirs {
    /// With its settings in place of the flags.
    args: NodeArgs,
    survey: Survey,
    /// Where it comes from.
    from: String,
    /// Whether the API server can be asked for Services.
    has_api: bool,
}

impl Theirs {
    fn read(args: &MigrateArgs) -> anyhow::Result<Self> {
        let mut node = args.node.clone();
        let has_api = node.source.is_given();
        if let Some(file) = node.kube_proxy.config.clone() {
            let text = fs::read_to_string(&file).map_err(|source| ConfigFileError::Read {
                file: file.clone(),
                source,
            })?;
            let from = format!("file {}", file.display());
            return Self::of_text(&text, file, from, node, has_api);
        }
        let is_source = |flag: &&&str| matches!(**flag, "kubeconfig" | "metrics-bind-address");
        let given = node.kube_proxy.given().iter();
        if given.filter(|flag| !is_source(flag)).count() > 0 {
            let survey = component_config::survey_flags(&mut node);
            let from = "flags of the command line".to_owned();
            return Ok(Self {
                args: node,
                survey,
                from,
                has_api,
            });
        }
        let name = &args.config_map;
        let mut access = Access::default();
        access.kubeconfig.clone_from(&node.source.kubeconfig);
        access.server.clone_from(&node.source.master);
        let data = config_map(&Runtime::start()?, access, &Timing::default(), name);
        let data = data.context(
            "kube-proxy's configuration is unknown: give --config FILE, or kube-proxy's flags",
        )?;
        let text = data
            .get(KEY)
            .with_context(|| format!("ConfigMap {name} has no key {KEY}: give --config FILE"))?;
        let from = format!("ConfigMap {name}");
        Self::of_text(text, PathBuf::from(&from), from, node, true)
    }

    fn of_text(
        text: &str,
        file: PathBuf,
        from: String,
        mut node: NodeArgs,
        has_api: bool,
    ) -> anyhow::Result<Self> {
        // The kubeconfig in it is a path in kube-proxy's pod.
        let source = node.source.clone();
        let survey = component_config::survey(text, file, &mut node)?;
        node.source = source;
        Ok(Self {
            args: node,
            survey,
            from,
            has_api,
        })
    }

    /// kube-proxy's mode; iptables if none is set.
    fn mode(&self) -> String {
        let mode = self.args.kube_proxy.proxy_mode.clone();
        mode.filter(|mode| !mode.is_empty())
            .unwrap_or_else(|| "iptables".to_owned())
    }

    /// What the cluster's Services want of this node. None if no source is known.
    fn services(&self, config: &Config) -> Option<anyhow::Result<DesiredState>> {
        self.has_api.then(|| {
            let reading = Source::new(&self.args.source, &config.node_name).read()?;
            Ok(Planned::of(config, reading)?.desired)
        })
    }
}

/// The findings about settings.
fn settings(survey: &Survey, from: &str, wanted: &str) -> Vec<Finding> {
    let mut findings = vec![match from == wanted {
        true => Finding::new(Kind::Same, "mode", from),
        false => Finding::new(
            Kind::Differs,
            "mode",
            format!(
                "kube-proxy uses {from}, svcproxy would use {wanted}; --mode chooses another one"
            ),
        ),
    }];
    let has_note = |path: &str| survey.notes.iter().any(|note| note.parts().0 == path);
    let honoured = survey.honoured.iter().filter(|(path, _)| !has_note(path));
    findings.extend(honoured.map(|(path, value)| {
        let value = match value.as_str() {
            "" => "honoured",
            value => value,
        };
        Finding::new(Kind::Same, path, value)
    }));
    let is_mode = |setting: &str| matches!(setting, "mode" | "--proxy-mode");
    for note in &survey.notes {
        let (setting, text) = note.parts();
        if is_mode(setting) {
            continue;
        }
        let kind = match note.is_warning {
            true => Kind::Differs,
            false => Kind::NoEffect,
        };
        findings.push(Finding::new(kind, setting, text));
    }
    findings
}

/// What is on the host, and what kube-proxy has there; each with the error that prevents it.
fn observe(args: &MigrateArgs) -> (Result<Facts, String>, Result<Removed, String>) {
    let facts = Host::open(&args.mode.proc_sys).map(|mut host| {
        let mut facts = host.facts();
        host.ask_programs(&mut facts);
        facts
    });
    let holdings = KubeProxy::open().and_then(|mut kube_proxy| kube_proxy.holdings());
    (
        facts.map_err(|error| error.to_string()),
        holdings.map_err(|error| chain(&error)),
    )
}
