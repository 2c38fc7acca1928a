//! Configuration files that change.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::ffi::OsString;

use ipnet::IpNet;

use super::*;

const FILE: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn own_networks() -> anyhow::Result<Vec<IpNet>> {
    Ok(vec!["192.0.2.1/24".parse()?, "2001:db8::1/64".parse()?])
}

fn config(args: &args::NodeArgs) -> anyhow::Result<Config> {
    node::config_on(args, own_networks)
}

/// The command line with a file of these fields.
fn cli(flags: &[&str], fields: &str) -> anyhow::Result<(Cli, Vec<Note>)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.conf");
    fs::write(&file, format!("{FILE}{fields}"))?;
    let path = file.display().to_string();
    let command = ["svcproxy", "--config", &path].into_iter();
    let words = command.chain(flags.iter().copied()).map(OsString::from);
    let mut cli = args::try_parse(words)?;
    let notes = component_config::ingest(&mut cli)?;
    Ok((cli, notes))
}

/// The effect of a change of the file: the names of the settings that take effect, and of those
/// that need a restart.
fn changed(before: &str, after: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let (before, _) = cli(&[], before).unwrap();
    let mut reload = Reload::new(&before, &"node-a".into());
    let start = reload.in_effect.clone();
    let (after, notes) = cli(&[], after).unwrap();
    let asked = fields(&after, before.run.mode());
    let settings = reload.ingest(Ok((after, notes)), config);
    let differ = |one: &[Field], other: &[Field]| -> Vec<_> {
        let pairs = one
            .iter()
            .zip(other)
            .filter(|(one, other)| one.value != other.value);
        pairs.map(|(one, _)| one.name).collect()
    };
    let (live, left) = (
        differ(&start, &reload.in_effect),
        differ(&reload.in_effect, &asked),
    );
    assert_eq!(settings.is_some(), !live.is_empty());
    (live, left)
}

#[test]
fn each_field_takes_effect_or_needs_a_restart() {
    let rows: [(&str, &[&str], &[&str]); 16] = [
        ("", &[], &[]),
        ("ipvs: {scheduler: lc}", &["ipvs.scheduler"], &[]),
        (
            "ipvs: {strictARP: true, excludeCIDRs: [192.0.2.0/24], tcpTimeout: 5m}",
            &["ipvs.strictARP", "ipvs.excludeCIDRs", "ipvs.tcpTimeout"],
            &[],
        ),
        ("ipvs: {syncPeriod: 5m}", &["syncPeriod"], &[]),
        (
            "ipvs: {minSyncPeriod: 3s, syncPeriod: 1m}",
            &["minSyncPeriod"],
            &[],
        ),
        ("clusterCIDR: 10.244.0.0/16", &["clusterCIDR"], &[]),
        ("nodePortAddresses: [primary]", &["nodePortAddresses"], &[]),
        (
            "iptables: {masqueradeAll: true, masqueradeBit: 15}",
            &["masqueradeAll", "masqueradeBit"],
            &[],
        ),
        (
            "conntrack: {maxPerCore: 1, udpTimeout: 1m}",
            &["conntrack.maxPerCore", "conntrack.udpTimeout"],
            &[],
        ),
        ("oomScoreAdj: -5", &["oomScoreAdj"], &[]),
        ("mode: iptables", &[], &["mode"]),
        ("hostnameOverride: other", &[], &["hostnameOverride"]),
        (
            "clientConnection: {kubeconfig: /a}",
            &[],
            &["clientConnection.kubeconfig"],
        ),
        (
            "clientConnection: {contentType: application/json}",
            &[],
            &["clientConnection.contentType"],
        ),
        (
            "metricsBindAddress: 0.0.0.0:1\nlogging: {verbosity: 4}\nipvs: {scheduler: sh}",
            &["ipvs.scheduler"],
            &["metricsBindAddress", "logging.verbosity"],
        ),
        // Fields without effect change nothing.
        (
            "featureGates: {A: true}\niptables: {minSyncPeriod: 2s}",
            &[],
            &[],
        ),
    ];
    for (fields, live, left) in rows {
        assert_eq!(
            changed("", fields),
            (live.to_vec(), left.to_vec()),
            "{fields}"
        );
        assert_eq!(
            changed(fields, ""),
            (live.to_vec(), left.to_vec()),
            "back from {fields}"
        );
    }
}

#[test]
fn settings_of_a_running_proxy_are_those_of_a_new_one() {
    let (before, _) = cli(&["--drain-timeout=7"], "").unwrap();
    let mut reload = Reload::new(&before, &"node-a".into());
    let after = "hostnameOverride: node-a\nclusterCIDR: 10.244.0.0/16\n\
                 ipvs: {scheduler: lc, syncPeriod: 5m, minSyncPeriod: 2s, strictARP: true}\n";
    let (_, settings) = reload
        .ingest(cli(&["--drain-timeout=7"], after), config)
        .unwrap();
    let (new, _) = cli(&["--drain-timeout=7"], after).unwrap();
    assert_eq!(*settings.config, config(&new.run.node).unwrap());
    assert_eq!(settings.intervals.audit, Duration::from_secs(300));
    assert_eq!(settings.intervals.min_sync, Duration::from_secs(2));
}

#[test]
fn an_invalid_file_keeps_the_last_settings() {
    let cidr = ["--service-cidr=10.96.0.0/12"];
    let (before, _) = cli(&cidr, "ipvs: {scheduler: lc}").unwrap();
    let mut reload = Reload::new(&before, &"node-a".into());
    let start = reload.in_effect.clone();
    for (wrong, said) in [
        (
            "ipvs: {scheduler: fastest}",
            "ipvs.scheduler: \"fastest\": unknown scheduler",
        ),
        ("ipvs: {scheduler: 5}", "ipvs.scheduler: invalid type"),
        ("ipvs: [", ""),
        // A valid file, but invalid on this node.
        ("clusterCIDR: 10.96.0.0/16", "overlap"),
    ] {
        assert!(
            reload.ingest(cli(&cidr, wrong), config).is_none(),
            "{wrong}"
        );
        let error = reload.error.clone().unwrap();
        assert!(error.contains(said), "{error}");
        assert_eq!(reload.in_effect, start);
    }
    assert!(
        reload
            .ingest(cli(&cidr, "ipvs: {scheduler: lc}"), config)
            .is_none()
    );
    assert_eq!(reload.error, None);
    assert!(
        reload
            .ingest(cli(&cidr, "ipvs: {scheduler: sh}"), config)
            .is_some()
    );
}

#[test]
fn a_stuck_proxy_is_noticed_after_two_audits_and_not_too_soon() {
    let timeout = |seconds| health_timeout(Duration::from_secs(seconds)).as_secs();
    assert_eq!([1, 30, 60, 900].map(timeout), [60, 60, 120, 1800]);
    assert_eq!(health_timeout(Duration::MAX), Duration::MAX);
}

/// `docs/kube-proxy.md` names them.
#[test]
fn settings_that_need_a_restart_are_documented() {
    let docs = include_str!("../../../../docs/kube-proxy.md");
    let (_, rest) = docs.split_once("A restart is needed for these").unwrap();
    let (list, _) = rest.split_once(".\n\n").unwrap();
    let named: Vec<_> = list.split('`').skip(1).step_by(2).collect();
    let (cli, _) = cli(&[], "").unwrap();
    assert_eq!(named, taking_a_restart(&cli).collect::<Vec<_>>());
}

/// By flag, mode nftables serves node ports at all addresses; by a file without any, at the primary ones.
#[test]
fn node_port_addresses_of_mode_nftables_are_read_back() {
    let before = cli(&["--mode=nftables"], "").unwrap().0;
    let config_before = config(&before.run.node).unwrap();
    let document = component_config::effective(&before, &config_before);
    let document = serde_json::to_value(&document).unwrap();
    let addresses = &document["nodePortAddresses"];
    let file = format!("mode: nftables\nnodePortAddresses: {addresses}");
    let again = config(&cli(&[], &file).unwrap().0.run.node).unwrap();
    let networks = config_before.node_port_networks();
    assert_eq!(again.node_port_networks(), networks, "{file}");
    assert!(!again.primary_node_ports, "{file}");
}

/// `/configz`, read as a configuration file, has the same effect.
#[test]
fn configz_is_a_configuration_file_of_what_is_in_effect() {
    let kubeadm = include_str!("../../tests/kube-proxy/kubeadm.conf");
    let kubeadm = kubeadm.replace("apiVersion: kubeproxy.config.k8s.io/v1alpha1\n", "");
    let kubeadm = kubeadm.replace("kind: KubeProxyConfiguration\n", "");
    let cases: [(&[&str], &str); 6] = [
        (&[], ""),
        (&[], &kubeadm),
        (
            &["--node-name=b"],
            "mode: iptables\niptables: {syncPeriod: 7s, masqueradeBit: 3}",
        ),
        (
            &[],
            "mode: nftables\nnftables: {masqueradeAll: true}\nfeatureGates: {A: true}",
        ),
        (
            &[],
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
        ),
        (
            &[],
            "clusterCIDR: 10.244.0.0/16,fd00:1::/64\nnodePortAddresses: [192.0.2.0/24]\n\
             conntrack: {maxPerCore: 0, min: 5}\nlogging: {format: json, verbosity: 3}\n\
             ipvs: {scheduler: mh, udpTimeout: 90s, excludeCIDRs: ['203.0.113.0/24']}\n\
             bindAddress: 192.0.2.7\noomScoreAdj: -999\nclientConnection: {qps: 5}",
        ),
    ];
    for (flags, file) in cases {
        let (cli_of_file, _) = cli(flags, file).unwrap();
        let before = config(&cli_of_file.run.node).unwrap();
        let document = component_config::effective(&cli_of_file, &before);
        let mut text = serde_json::to_value(&document).unwrap();
        let fields = text.as_object_mut().unwrap();
        fields.remove("kind");
        fields.remove("apiVersion");
        // YAML, as lines of fields.
        let lines = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        let (again, _) = cli(&[], &lines.collect::<String>()).unwrap();
        assert_eq!(config(&again.run.node).unwrap(), before, "{file}");
        assert_eq!(
            component_config::effective(&again, &before),
            document,
            "{file}"
        );
    }
}
