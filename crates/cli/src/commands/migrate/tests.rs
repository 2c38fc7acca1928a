//! Reports of known configurations and nodes.

use std::path::Path;

use clap::Parser;
use proxier::mode::probe::{self, Missing, ModuleFile, Probe, Reason, Requirement};
use proxier::source::manifest;

use super::report::{Markdown, Text};
use super::*;
use crate::args::{Cli, Command, Mode};

/// The modes to fall back to.
const FALLBACKS: [Mode; 2] = [Mode::Iptables, Mode::Nftables];

/// Settings of each kind, one with a hostile name.
const CONFIG: &str = "
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
clusterCIDR: 10.244.0.0/16
ipvs: {scheduler: wrr, strictARP: true, excludeCIDRs: [10.96.7.0/24]}
iptables: {snatNodeInternalIP: true, localhostNodePorts: true}
featureGates: {SomeGate: true}
conntrack: {max: 5, maxPerCore: 16384}
\"evil|\\e[2J<b>\": 1
";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, externalIPs: [10.96.0.13], ports: [{port: 80}]}
";

fn args(arguments: &[&str]) -> MigrateArgs {
    let words = [&["svcproxy", "migrate"], arguments].concat();
    match Cli::try_parse_from(words).unwrap().command {
        Some(Command::Migrate(args)) => *args,
        other => panic!("{other:?}"),
    }
}

fn theirs(text: &str, arguments: &[&str]) -> Theirs {
    let args = args(arguments);
    Theirs::of_text(text, "x".into(), "file x|y".to_owned(), args.node, false).unwrap()
}

fn config() -> Config {
    let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
    config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    config
}

fn desired(text: &str) -> DesiredState {
    let reading = manifest::parse(Path::new("services.yaml"), text);
    Planned::of(&config(), reading).unwrap().desired
}

fn probed(ipvs: Result<&str, Missing>) -> Probe {
    let found = |requirement| probe::Finding::new(requirement, Ok("found".to_owned()));
    let ipvs = ipvs.map(str::to_owned);
    [
        probe::Finding::new(Requirement::Ipvs, ipvs),
        found(Requirement::Nftables),
        found(Requirement::NftablesRules),
        found(Requirement::Iptables),
    ]
    .into_iter()
    .collect()
}

fn held() -> Removed {
    let mut held = Removed::default();
    (held.virtual_servers, held.sets, held.devices) = (3, 20, 1);
    (held.addresses, held.chains) = (3, 24);
    held
}

fn on_node(node: OnNode<'_>) -> Vec<(Kind, String)> {
    let findings = node.findings().into_iter();
    findings
        .map(|of| (of.kind, format!("{}: {}", of.subject, of.message)))
        .collect()
}

#[test]
fn a_report_has_every_setting_and_difference() {
    let theirs = theirs(CONFIG, &[]);
    let from = theirs.mode();
    let mut findings = settings(&theirs.survey, &from, "ipvs");
    findings.extend(behaviour::differences(&from, "ipvs"));
    let (probe, services, config) = (probed(Ok("found")), desired(SERVICES), config());
    let node = OnNode {
        from: &from,
        wanted: Mode::Ipvs,
        fallbacks: &FALLBACKS,
        probe: &probe,
        facts: Ok(Facts::default()),
        holdings: &Ok(held()),
        config: &config,
        services: Some(&services),
        available: Some(8 << 30),
    };
    findings.extend(node.findings());
    let report = Report::new(findings, from, "ipvs", theirs.from);
    assert!(!report.is_ready());
    let both = format!("{}\n{}", Text(&report), Markdown(&report));
    assert!(!both.contains('\u{1b}'), "{both}");
    insta::assert_snapshot!(both);
}

#[test]
fn without_a_mode_kube_proxy_uses_iptables() {
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let of = theirs(text, &[]);
    assert_eq!(of.mode(), "iptables");
    let mode = |arguments: &[&str]| args(arguments).mode(&of.args);
    assert_eq!(mode(&[]), Mode::Ipvs);
    assert_eq!(mode(&["--mode=nftables"]), Mode::Nftables);
    let differs = settings(&of.survey, "iptables", "ipvs");
    assert_eq!(differs[0].kind, Kind::Differs);
    let messages: Vec<_> = behaviour::differences("iptables", "ipvs").collect();
    assert!(
        messages
            .iter()
            .any(|of| of.subject == "node ports at 127.0.0.1")
    );
    assert!(!messages.iter().any(|of| of.subject == "ping"));
}

#[test]
fn flags_are_a_configuration_too() {
    let mut node = args(&[
        "--proxy-mode=ipvs",
        "--ipvs-scheduler=wrr",
        "--kube-api-qps=5",
    ])
    .node;
    let survey = component_config::survey_flags(&mut node);
    let honoured: Vec<_> = survey
        .honoured
        .iter()
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(honoured, ["--proxy-mode", "--ipvs-scheduler"]);
    let findings = settings(&survey, "ipvs", "ipvs");
    let inert = findings
        .iter()
        .find(|of| of.kind == Kind::NoEffect)
        .unwrap();
    assert!(inert.subject.contains("kube-api-qps"), "{inert:?}");
}

#[test]
fn what_the_node_lacks_decides_on_the_verdict() {
    let no_ipvs = || {
        let module = "ip_vs".into();
        let file = ModuleFile::Absent;
        Err(Missing::new(
            Reason::NoModule { module, file },
            "the kernel has no IPVS",
        ))
    };
    let config = config();
    let of = |ipvs, fallbacks: &[Mode]| {
        on_node(OnNode {
            from: "ipvs",
            wanted: Mode::Ipvs,
            fallbacks,
            probe: &probed(ipvs),
            facts: Ok(Facts::default()),
            holdings: &Ok(Removed::default()),
            config: &config,
            services: None,
            available: None,
        })
    };
    let worst = |found: &[(Kind, String)]| found.iter().map(|(kind, _)| *kind).min().unwrap();
    assert_eq!(worst(&of(Ok("found"), &[])), Kind::Note);
    let found = of(no_ipvs(), &FALLBACKS);
    assert_eq!(worst(&found), Kind::Risk);
    assert!(
        found
            .iter()
            .any(|(_, text)| text.contains("fall back to mode iptables"))
    );
    assert!(
        found
            .iter()
            .any(|(_, text)| text.contains("the kernel has no IPVS"))
    );
    assert_eq!(worst(&of(no_ipvs(), &[])), Kind::Blocker);
}

#[test]
fn what_is_unknown_is_a_risk() {
    let config = config();
    let found = on_node(OnNode {
        from: "iptables",
        wanted: Mode::Iptables,
        fallbacks: &FALLBACKS,
        probe: &probed(Ok("found")),
        facts: Err("not permitted".to_owned()),
        holdings: &Err("not permitted".to_owned()),
        config: &config,
        services: None,
        available: None,
    });
    let risks = found.iter().filter(|(kind, _)| *kind == Kind::Risk);
    let risks: Vec<_> = risks.map(|(_, text)| text.as_str()).collect();
    assert_eq!(risks.len(), 2, "{found:?}");
    assert!(risks.iter().all(|text| text.ends_with("not permitted")));
}

#[test]
fn virtual_servers_and_little_memory_are_risks() {
    let (config, services) = (config(), desired(SERVICES));
    let found = on_node(OnNode {
        from: "iptables",
        wanted: Mode::Iptables,
        fallbacks: &FALLBACKS,
        probe: &probed(Ok("found")),
        facts: Ok(Facts::default()),
        holdings: &Ok(held()),
        config: &config,
        services: Some(&services),
        available: Some(1 << 20),
    });
    let risks = found.iter().filter(|(kind, _)| *kind == Kind::Risk);
    let risks: Vec<_> = risks.map(|(_, text)| text.as_str()).collect();
    let has = |part: &str| risks.iter().any(|text| text.contains(part));
    assert!(has("has what mode ipvs makes"), "{risks:?}");
    assert!(has("are cut after --drain-timeout"), "{risks:?}");
    assert!(has("memory: svcproxy needs about 13 MiB"), "{risks:?}");
    assert!(has("Service default/web: AddressRefused"), "{risks:?}");
}
