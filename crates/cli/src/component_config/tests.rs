use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::CommandFactory;
use serde_json::{Value, json};

use super::*;
use crate::args::{self, COVERED, Command, ConntrackArgs};
use crate::kube_proxy::{FLAGS, OBSOLETE_FIELDS, OBSOLETE_FLAGS};

const TABLE: &str = include_str!("../../../../docs/kube-proxy.md");
/// The file that kubeadm writes, with mode ipvs.
const KUBEADM: &str = include_str!("../../tests/kube-proxy/kubeadm.conf");

/// The command line with the file of this text, and the notes.
fn read(text: &str) -> Result<(String, Vec<String>), Vec<String>> {
    let mut cli = cli(&[]);
    let mut log = cli.log.clone();
    let args = cli.node_mut().unwrap();
    let notes = apply_text(text, args, &mut log);
    let texts = |errors: Vec<FieldError>| -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    };
    let notes: Vec<_> = notes
        .map_err(texts)?
        .iter()
        .map(ToString::to_string)
        .collect();
    // The file is kept for `/configz` only.
    args.kube_proxy.file = None;
    Ok((format!("{args:#?} {log:#?}"), notes))
}

fn cli(flags: &[&str]) -> Cli {
    let command = ["plan", "--manifests", "x", "--node-name", "a"];
    try_cli(&[&command, flags].concat()).unwrap()
}

fn try_cli(words: &[&str]) -> Result<Cli, String> {
    let words = ["svcproxy"].iter().chain(words).map(OsString::from);
    args::try_parse(words).map_err(|error| error.to_string())
}

fn file(fields: &Value) -> String {
    let mut file = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "ipvs",
    });
    merge(&mut file, fields);
    file.to_string()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(json!({})), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// An object with this value at a path.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.')
        .fold(value, |value, name| json!({name: value}))
}

fn errors(text: &str) -> Vec<String> {
    read(text).expect_err(text)
}

#[test]
fn errors_have_the_path_of_the_field() {
    let header = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n";
    let cases = [
        (
            "ipvs: {strictARP: 'yes'}",
            "ipvs.strictARP: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "ipvs: {syncPeriod: 30}",
            "ipvs.syncPeriod: invalid type: integer `30`, expected a string",
        ),
        (
            "ipvs: {syncPeriod: 30sec}",
            "ipvs.syncPeriod: \"30sec\" is not a duration (30s, 1m30s, 2h)",
        ),
        ("ipvs: [rr]", "ipvs: [\"rr\"] must be a map of fields"),
        (
            "logging: {vmodule: [3]}",
            "logging.vmodule[0]: 3 must be a map of fields",
        ),
        (
            "nodePortAddresses: 10.0.0.0/8",
            "nodePortAddresses: invalid type: string \"10.0.0.0/8\", expected a sequence",
        ),
        (
            "clusterCIDR: 10",
            "clusterCIDR: invalid type: integer `10`, expected a string",
        ),
        (
            "featureGates: {A: 1}",
            "featureGates.A: invalid type: integer `1`, expected a boolean",
        ),
        (
            "logging: {options: {json: {infoBufferSize: big}}}",
            "logging.options.json.infoBufferSize: \"big\" is not a quantity (64Ki)",
        ),
        (
            "mode: kernelspace",
            "mode: \"kernelspace\" must be ipvs, iptables, nftables, userspace or empty",
        ),
        (
            "oomScoreAdj: 2000",
            "oomScoreAdj: 2000 must be within -1000 and 1000",
        ),
        (
            "iptables: {masqueradeBit: 32}",
            "iptables.masqueradeBit: 32 must be within 0 and 31",
        ),
        (
            "conntrack: {min: -1}",
            "conntrack.min: -1 must not be negative",
        ),
        (
            "conntrack: {udpTimeout: -1s}",
            "conntrack.udpTimeout: -1s must not be negative",
        ),
        (
            "mode: ipvs\nipvs: {syncPeriod: 1s, minSyncPeriod: 2s}",
            "ipvs.syncPeriod: 1s must be more than 0 and not less than minSyncPeriod",
        ),
        (
            "ipvs: {tcpTimeout: 1500ms}",
            "ipvs.tcpTimeout: 1s500ms: IPVS accepts whole seconds, at most 2678400",
        ),
        (
            "mode: ipvs\nipvs: {excludeCIDRs: [10.0.0.0/8, 10.0.0.1]}",
            "ipvs.excludeCIDRs[1]: \"10.0.0.1\": not a network (192.0.2.0/24)",
        ),
        (
            "nodePortAddresses: [primary, here]",
            "nodePortAddresses[1]: \"here\": neither a network (192.0.2.0/24) nor \"primary\", \"localhost\", \"all\"",
        ),
        (
            "clusterCIDR: 10.0.0.0/8,10.1.0.0/16",
            "clusterCIDR: \"10.0.0.0/8,10.1.0.0/16\" must be one network, or one of each family",
        ),
        (
            "detectLocalMode: ByMagic",
            "detectLocalMode: \"ByMagic\" is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix",
        ),
        (
            "healthzBindAddress: localhost:1",
            "healthzBindAddress: \"localhost:1\" is not an IP address with a port",
        ),
        (
            "bindAddress: node-a",
            "bindAddress: \"node-a\" is not an IP address",
        ),
        (
            "logging: {format: xml}",
            "logging.format: \"xml\" is neither text nor json",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(
            errors(&format!("{header}{text}\n")).join("; "),
            expected,
            "{text}"
        );
    }
    let scheduler = errors(&format!("{header}ipvs: {{scheduler: fastest}}"));
    assert!(
        scheduler[0].starts_with("ipvs.scheduler: \"fastest\": unknown scheduler"),
        "{scheduler:?}"
    );
    let interface = errors(&format!("{header}detectLocalMode: BridgeInterface"));
    assert!(
        interface[0].starts_with("detectLocal.bridgeInterface: "),
        "{interface:?}"
    );
    for text in [
        "",
        "[]",
        "kind: Deployment",
        "kind: KubeProxyConfiguration\napiVersion: v1",
    ] {
        let error = errors(text);
        assert!(
            error[0].starts_with("kind: must be kind \"KubeProxyConfiguration\""),
            "{error:?}"
        );
    }
    assert_eq!(errors("a: [").len(), 1);
    let others = errors("kind: KubeletConfiguration\n---\nkind: KubeProxyConfiguration\n");
    assert!(
        others[0].contains("in the first document of the file"),
        "{others:?}"
    );
}

/// As in kube-proxy, which decodes leniently if strict decoding fails.
#[test]
fn what_kube_proxy_ignores_is_named_and_ignored() {
    let header = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                  mode: ipvs\n";
    let plain = read(header).unwrap();
    let cases: [(&str, &[&str]); 8] = [
        (
            "ipvs: {schedular: rr}\nnope: null",
            &[
                "ipvs.schedular is not a field of KubeProxyConfiguration and has no effect",
                "nope is not a field of KubeProxyConfiguration and has no effect",
            ],
        ),
        (
            "logging: {vmodule: [{filePattern: a, level: 3}]}",
            &[
                "logging.vmodule[0].level is not a field of KubeProxyConfiguration and has no effect",
                "logging.vmodule has no effect: the log is one stream without a buffer to set; SVCPROXY_LOG filters it",
            ],
        ),
        (
            "Mode: iptables",
            &["Mode is not a field of KubeProxyConfiguration and has no effect"],
        ),
        (
            "conntrack: {max: null}\nresourceContainer: /kube-proxy\nudpIdleTimeout: 250ms",
            &[
                "conntrack.max is obsolete and has no effect: conntrack.maxPerCore and \
                 conntrack.min, or their flags, set the limit",
                "resourceContainer is obsolete and has no effect: the container runtime or the \
                 service manager sets the cgroup",
                "udpIdleTimeout is obsolete and has no effect: it is for the userspace mode of \
                 earlier versions",
            ],
        ),
        (
            "ipvs:\n  scheduler: lc\n  scheduler: rr\n",
            &["ipvs.scheduler is set more than once: the last value counts"],
        ),
        (
            "enableProfiling: False\nipvs: {strictARP: no}\niptables: {masqueradeBit: 016}",
            &[],
        ),
        (
            "---\nkind: KubeletConfiguration\n---\n# nothing\n---\na: b\n",
            &[
                "the file has 3 documents, and only the first is read, as in kube-proxy: move the \
               others (KubeletConfiguration, no kind) to separate files",
            ],
        ),
        (
            "---\na: [",
            &[
                "the file has 2 documents, and only the first is read, as in kube-proxy: move the \
             others (no kind) to separate files",
            ],
        ),
    ];
    for (text, expected) in cases {
        let (settings, notes) = read(&format!("# first\n---\n{header}{text}")).unwrap();
        assert_eq!(notes, expected, "{text}");
        assert_eq!(settings, plain.0, "{text}");
    }
}

#[test]
fn a_mode_of_kube_proxy_is_noted_if_it_is_not_the_one_in_effect() {
    let note = |mode: &str| read(&file(&json!({ "mode": mode }))).unwrap().1;
    assert_eq!(note("ipvs"), [""; 0]);
    assert_eq!(note("iptables"), [""; 0]);
    assert_eq!(
        note(""),
        ["mode is empty, which means iptables in kube-proxy; svcproxy uses mode ipvs"]
    );
    assert_eq!(note("nftables"), [""; 0]);
    assert_eq!(note("userspace"), [""; 0]);
}

#[test]
fn kubeadms_file_is_accepted_unchanged() {
    let (_, notes) = read(KUBEADM).unwrap();
    assert_eq!(notes, [""; 0]);
    // The file has all fields, but those that are left out where they are empty,
    let there: BTreeSet<_> = leaves(&serde_yaml(KUBEADM)).into_iter().collect();
    let omitted = [
        "featureGates",
        "logging.format",
        "logging.vmodule",
        "windowsRunAsService",
    ];
    let streams = [
        "logging.options.text.splitStream",
        "logging.options.json.splitStream",
    ];
    // and a newer one.
    let others = ["iptables.snatNodeInternalIP"];
    let mut all: BTreeSet<_> = leaves(&decode::schema()).into_iter().collect();
    for field in omitted.iter().chain(&streams).chain(&others) {
        assert!(all.remove(*field), "{field}");
    }
    assert_eq!(there, all);
}

fn serde_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The paths of leaves.
fn leaves(value: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, leaves: &mut Vec<String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    walk(&decode::join(path, name), value, leaves);
                }
            }
            _ => leaves.push(path.to_owned()),
        }
    }
    let mut leaves = Vec::new();
    walk("", value, &mut leaves);
    leaves
}

/// A non-default value of each field, with the mode if it needs one.
fn example(path: &str) -> Value {
    let value = match path {
        "featureGates" => json!({"A": true}),
        "logging.vmodule" => json!([{"filePattern": "a", "verbosity": 3}]),
        "logging.format" => json!("json"),
        "logging.flushFrequency" => json!(5_000_000_000u64),
        "bindAddress" => json!("192.0.2.1"),
        "healthzBindAddress" | "metricsBindAddress" => json!("192.0.2.1:10000"),
        "mode" => json!("iptables"),
        "detectLocalMode" => json!("NodeCIDR"),
        "clusterCIDR" => json!("10.244.0.0/16"),
        "clientConnection.acceptContentTypes" | "clientConnection.contentType" => {
            json!("application/json")
        }
        "nodePortAddresses" | "ipvs.excludeCIDRs" => json!(["192.0.2.0/24"]),
        "ipvs.scheduler" => json!("lc"),
        _ => {
            let schema = path
                .split('.')
                .try_fold(&decode::schema(), |value, name| value.get(name))
                .cloned();
            match schema.unwrap() {
                Value::Bool(_) => json!(true),
                Value::Number(_) => json!(5),
                Value::String(zero) if zero == "0s" => json!("77s"),
                Value::String(_) if path.ends_with("infoBufferSize") => json!("64Ki"),
                Value::String(_) => json!("text"),
                _ if path.starts_with("conntrack.tcp") => json!("77s"),
                _ if path.contains("NodePorts") || path.contains("snat") => json!(true),
                _ => json!(7),
            }
        }
    };
    let mut fields = at(path, value);
    let others = match path {
        "hostnameOverride" => return fields,
        "detectLocal.bridgeInterface" => json!({"detectLocalMode": "BridgeInterface"}),
        "detectLocal.interfaceNamePrefix" => json!({"detectLocalMode": "InterfaceNamePrefix"}),
        "iptables.syncPeriod" => json!({"mode": "iptables"}),
        path if path.ends_with("minSyncPeriod") => {
            let section = path.split('.').next().unwrap();
            json!({"mode": section, section: {"syncPeriod": "80s"}})
        }
        path if path.starts_with("nftables.") => json!({"mode": "nftables"}),
        _ => return fields,
    };
    merge(&mut fields, &others);
    fields
}

/// The rows of the tables of settings in the documentation: name and status.
fn rows(begins: fn(&str) -> bool) -> BTreeMap<&'static str, &'static str> {
    let row = |line: &'static str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        begins(name).then_some((name, rest.split(" |").next()?))
    };
    let (_, tables) = TABLE.split_once("\n## Flags\n").unwrap();
    tables.lines().filter_map(row).collect()
}

#[test]
fn every_field_is_in_the_table_and_does_what_it_says() {
    let rows = rows(|name| !name.starts_with("--"));
    let (obsolete, rows): (BTreeMap<_, _>, BTreeMap<_, _>) = rows
        .into_iter()
        .partition(|(_, status)| *status == "obsolete");
    let expected: BTreeSet<_> = OBSOLETE_FIELDS.iter().map(|(name, _)| *name).collect();
    assert_eq!(obsolete.into_keys().collect::<BTreeSet<_>>(), expected);
    let all: BTreeSet<_> = leaves(&decode::schema()).into_iter().collect();
    assert_eq!(
        rows.keys()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>(),
        all
    );

    for (path, status) in rows {
        if ["kind", "apiVersion", "hostnameOverride"].contains(&path) {
            continue;
        }
        let with = example(path);
        // The same file without the field.
        let mut without = with.clone();
        merge(&mut without, &at(path, Value::Null));
        let (before, _) = match path {
            // Needed by the mode.
            "detectLocal.bridgeInterface" | "detectLocal.interfaceNamePrefix" => {
                read(&file(&json!({})))
            }
            _ => read(&file(&without)),
        }
        .unwrap_or_else(|errors| panic!("{path}: {errors:?}"));
        let (after, notes) =
            read(&file(&with)).unwrap_or_else(|errors| panic!("{path}: {errors:?}"));
        let named: Vec<_> = notes.iter().filter(|note| note.starts_with(path)).collect();
        match status {
            "no effect" => {
                assert_eq!(before, after, "{path}");
                assert!(
                    named.len() == 1 && named[0].contains(" has no effect: "),
                    "{path}: {notes:?}"
                );
            }
            "honoured" => assert!(
                before != after || path == "mode" && !named.is_empty(),
                "{path}"
            ),
            other => panic!("{path}: {other}"),
        }
    }
}

/// kube-proxy checks the section of its mode only.
#[test]
fn errors_in_another_modes_section_are_warnings() {
    let cases = [
        (
            "ipvs.scheduler",
            json!("fastest"),
            "ipvs",
            &["iptables", "nftables"][..],
        ),
        (
            "ipvs.excludeCIDRs",
            json!(["10.0.0.1"]),
            "ipvs",
            &["iptables", "nftables"],
        ),
        (
            "ipvs.tcpTimeout",
            json!("1500ms"),
            "ipvs",
            &["iptables", "userspace"],
        ),
        (
            "ipvs.syncPeriod",
            json!("-1s"),
            "ipvs",
            &["iptables", "nftables"],
        ),
        (
            "iptables.masqueradeBit",
            json!(32),
            "iptables",
            &["nftables"],
        ),
        (
            "iptables.syncPeriod",
            json!("-1s"),
            "iptables",
            &["ipvs", "nftables"],
        ),
        (
            "iptables.minSyncPeriod",
            json!("-1s"),
            "iptables",
            &["ipvs", "nftables", ""],
        ),
        (
            "nftables.masqueradeBit",
            json!(-1),
            "nftables",
            &["ipvs", "iptables", ""],
        ),
        (
            "nftables.syncPeriod",
            json!("-1s"),
            "nftables",
            &["ipvs", "iptables"],
        ),
    ];
    for (path, value, own, others) in cases {
        let config = |mode: &str, value: &Value| {
            let mut fields = at(path, value.clone());
            merge(&mut fields, &json!({"mode": mode}));
            file(&fields)
        };
        let error = errors(&config(own, &value));
        assert!(error[0].starts_with(path), "{error:?}");
        for mode in others {
            let (args, notes) = read(&config(mode, &value)).unwrap();
            let note = notes.iter().find(|note| note.starts_with(path));
            let note = note.unwrap_or_else(|| panic!("{path} in mode {mode:?}: {notes:?}"));
            assert!(
                note.ends_with("it belongs to another mode's section"),
                "{note}"
            );
            let (without, _) = read(&config(mode, &Value::Null)).unwrap();
            assert_eq!(args, without, "{path} in mode {mode:?}");
        }
    }
}

#[test]
fn the_encoding_is_that_of_the_file() {
    let protobuf = "application/vnd.kubernetes.protobuf";
    let json = "application/json";
    for (accepted, content_type, expected) in [
        ("", "", "Protobuf"),
        ("", protobuf, "Protobuf"),
        ("", json, "Json"),
        (json, protobuf, "Json"),
        (
            "application/cbor, application/json;q=0.9, application/vnd.kubernetes.protobuf",
            "",
            "Json",
        ),
    ] {
        let types = json!({"acceptContentTypes": accepted, "contentType": content_type});
        let (args, notes) = read(&file(&json!({"clientConnection": types}))).unwrap();
        let line = format!("kube_api_content_type: {expected},");
        assert!(
            args.contains(&line),
            "{accepted:?} {content_type:?}: {args}"
        );
        assert!(notes.is_empty(), "{notes:?}");
    }
    for field in ["acceptContentTypes", "contentType"] {
        let types = json!({"clientConnection": {field: "application/yaml"}});
        let error = errors(&file(&types));
        let path = format!("clientConnection.{field}: \"application/yaml\"");
        assert!(error[0].starts_with(&path), "{error:?}");
    }
}

#[test]
fn the_command_line_wins_where_kube_proxys_does() {
    let flags = [
        "--hostname-override=Node-B",
        "--v=4",
        "--logging-format=json",
    ];
    let plan = ["plan", "--manifests", "x"];
    let mut cli = try_cli(&[&plan, &flags[..]].concat()).unwrap();
    let mut log = cli.log.clone();
    let args = cli.node_mut().unwrap();
    let fields = json!({"hostnameOverride": "a", "logging": {"verbosity": 2, "format": "text"}});
    apply_text(&file(&fields), args, &mut log).unwrap();
    assert_eq!(args.node_name.as_deref(), Some("node-b"));
    assert_eq!(
        (log.verbosity, log.log_format),
        (Some(4), Some(crate::args::LogFormat::Json))
    );

    let Some(Command::Plan(mut plan)) = try_cli(&plan).unwrap().command else {
        panic!("not a plan");
    };
    apply_text(
        &file(&json!({"hostnameOverride": " Node-C "})),
        &mut plan.node,
        &mut log,
    )
    .unwrap();
    assert_eq!(plan.node.node_name.as_deref(), Some("node-c"));
}

/// The flags of kube-proxy 1.36, `AddFlags` in cmd/kube-proxy/app/options.go and
/// component-base/logs/api/v1/options.go; without those for Windows.
const KUBE_PROXY: &str = "bind-address bind-address-hard-fail cleanup cluster-cidr config \
    config-sync-period conntrack-max-per-core conntrack-min conntrack-tcp-be-liberal \
    conntrack-tcp-timeout-close-wait conntrack-tcp-timeout-established conntrack-udp-timeout \
    conntrack-udp-timeout-stream detect-local-mode feature-gates healthz-bind-address healthz-port \
    hostname-override init-only iptables-localhost-nodeports iptables-masquerade-bit \
    iptables-min-sync-period iptables-sync-period ipvs-exclude-cidrs ipvs-min-sync-period \
    ipvs-scheduler ipvs-strict-arp ipvs-sync-period ipvs-tcp-timeout ipvs-tcpfin-timeout \
    ipvs-udp-timeout kube-api-burst kube-api-content-type kube-api-qps kubeconfig \
    log-flush-frequency log-json-info-buffer-size log-json-split-stream log-text-info-buffer-size \
    log-text-split-stream logging-format masquerade-all master metrics-bind-address metrics-port \
    nodeport-addresses oom-score-adj pod-bridge-interface pod-interface-name-prefix profiling \
    proxy-mode show-hidden-metrics-for-version v vmodule write-config-to";

#[test]
fn every_flag_of_kube_proxy_is_in_the_table_and_accepted_as_stated() {
    let rows = rows(|name| name.starts_with("--"));
    let (obsolete, rows): (BTreeMap<_, _>, BTreeMap<_, _>) = rows
        .into_iter()
        .partition(|(_, status)| *status == "obsolete");
    assert_eq!(
        obsolete
            .keys()
            .map(|name| &name[2..])
            .collect::<BTreeSet<_>>(),
        OBSOLETE_FLAGS.iter().map(|flag| flag.name).collect()
    );
    let known: BTreeSet<_> = KUBE_PROXY.split_whitespace().collect();
    assert_eq!(
        rows.keys().map(|name| &name[2..]).collect::<BTreeSet<_>>(),
        known
    );
    let command = Cli::command();
    let accepted: BTreeSet<_> = command
        .get_arguments()
        .flat_map(|arg| {
            arg.get_long_and_visible_aliases()
                .into_iter()
                .flatten()
                .chain(arg.get_all_aliases().into_iter().flatten())
        })
        .collect();
    for (flag, status) in rows {
        let name = &flag[2..];
        let inert = FLAGS.iter().any(|flag| flag.name == name);
        assert_eq!(inert, status == "no effect", "{flag}");
        assert_eq!(accepted.contains(name), status != "refused", "{flag}");
    }
    for (argument, flag) in COVERED {
        let found = command.get_arguments().find(|arg| arg.get_id() == argument);
        assert_eq!(found.unwrap().get_long(), Some(*flag));
    }
}

#[test]
fn flags_without_effect_are_noted_and_checked() {
    let note = |flags: &[&str]| {
        let mut cli = cli(flags);
        let notes = ingest(&mut cli).unwrap();
        notes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(note(&["--masquerade-all=true", "--conntrack-min=0"]), "");
    assert_eq!(
        note(&[
            "--profiling=false",
            "--feature-gates=A=true",
            "--feature-gates=B=true"
        ]),
        "--feature-gates has no effect: svcproxy has none of kube-proxy's feature gates\n\
         --profiling has no effect: there are no profiling handlers"
    );
    assert_eq!(
        note(&["--proxy-mode="]),
        "--proxy-mode is empty, which means iptables in kube-proxy; svcproxy uses mode ipvs"
    );
    assert_eq!(note(&["--proxy-mode=userspace"]), "");
    assert_eq!(
        note(&["--logtostderr=true", "--resource-container="]),
        "--logtostderr has no effect: the log goes to standard error in one stream"
    );
    let command = ["plan", "--manifests", "x"];
    for bad in [
        "--kube-api-qps=fast",
        "--config-sync-period=1",
        "--profiling=maybe",
        "--oom-score-adj=1001",
    ] {
        assert!(try_cli(&[&command, &[bad][..]].concat()).is_err(), "{bad}");
    }
    let good = ["--oom-score-adj", "-999", "-v=2"];
    assert!(try_cli(&[&command, &good[..]].concat()).is_ok());
}

#[test]
fn port_0_disables_the_server() {
    let servers = |flags: &[&str]| {
        let mut cli = cli(flags);
        let notes = ingest(&mut cli).unwrap();
        let monitor = &cli.node_mut().unwrap().monitor;
        let addresses = [monitor.healthz_bind_address, monitor.metrics_bind_address];
        let notes = notes.iter().map(ToString::to_string).collect::<Vec<_>>();
        (addresses.map(|address| address.0.map(|a| a.port())), notes)
    };
    let healthz = ["--healthz-port=0", "--healthz-bind-address=0.0.0.0:10256"];
    let (ports, notes) = servers(&healthz);
    assert_eq!((ports, notes.len()), ([None, Some(10249)], 0));
    assert_eq!(servers(&["--metrics-port", "0"]).0, [Some(10256), None]);
    let (ports, notes) = servers(&["--healthz-port=0", "--healthz-port=9", "--metrics-port=-1"]);
    assert_eq!(ports, [Some(10256), Some(10249)]);
    assert_eq!(
        notes,
        [
            "--healthz-port has no effect: the bind address includes the port",
            "--metrics-port has no effect: the bind address includes the port"
        ]
    );
    assert!(try_cli(&["plan", "--healthz-port=x"]).is_err());
}

#[test]
fn connection_tracking_grows_with_the_processors() {
    let settings = |fields: Value| {
        let mut cli = cli(&[]);
        let mut log = cli.log.clone();
        let args = cli.node_mut().unwrap();
        apply_text(&file(&fields), args, &mut log).unwrap();
        let conntrack = args.kube_proxy.conntrack.settings(8);
        (conntrack.max, conntrack.tcp_established, conntrack.udp)
    };
    assert_eq!(settings(json!({})), (Some(8 * 32768), Some(86400), None));
    assert_eq!(
        settings(json!({"conntrack": {"maxPerCore": 1000}})).0,
        Some(131_072)
    );
    assert_eq!(
        settings(json!({"conntrack": {"maxPerCore": 0, "min": 9}})).0,
        None
    );
    let timeouts = json!({"conntrack": {"tcpEstablishedTimeout": "0s", "udpTimeout": "90s"}});
    assert_eq!(settings(timeouts), (Some(8 * 32768), None, Some(90)));
    assert_eq!(
        ConntrackArgs::default().settings(8),
        proxier::desired::Conntrack::default()
    );
}

/// Every flag with a single value in kube-proxy: pflag's `Var`, `StringVar`, `BoolVar` and so on.
#[test]
fn the_last_of_repeated_flags_counts_and_lists_grow() {
    let settings = |flags: &[&str]| format!("{:?}", cli(flags));
    let rows: [(&[&str], &[&str]); 9] = [
        (&["--v=2", "--v=4"], &["-v", "4"]),
        (
            &["--masquerade-all=True", "--masquerade-all=f"],
            &["--masquerade-all=false"],
        ),
        (&["--ipvs-strict-arp=TRUE"], &["--strict-arp"]),
        (&["--masquerade_all=1"], &["--masquerade-all"]),
        (
            &["--hostname-override=a", "--node-name=b"],
            &["--node-name=b"],
        ),
        (
            &["--cluster-cidr=10.0.0.0/8", "--cluster-cidr=10.1.0.0/16"],
            &["--cluster-cidr=10.1.0.0/16"],
        ),
        (
            &["--cluster-cidr=10.1.0.0/16", "--cluster-cidr=fd00::/48"],
            &["--cluster-cidr=10.1.0.0/16,fd00::/48"],
        ),
        (
            &[
                "--nodeport-addresses=10.0.0.0/8",
                "--nodeport-addresses=fd00::/8",
            ],
            &["--nodeport-addresses=10.0.0.0/8,fd00::/8"],
        ),
        (
            &["--ipvs-exclude-cidrs=10.0.0.0/8", "--ipvs-exclude-cidrs="],
            &["--exclude-cidrs=10.0.0.0/8"],
        ),
    ];
    for (one, other) in rows {
        assert_eq!(settings(one), settings(other), "{one:?}");
    }
    // All values are checked, also the overridden ones.
    assert!(try_cli(&["--v=x", "--v=2"]).is_err());
}

/// Every switch of kube-proxy accepts Go's booleans, and no value.
#[test]
fn switches_take_gos_booleans() {
    let mut count = 0;
    for arg in Cli::command().get_arguments() {
        let takes = arg.get_num_args().unwrap_or_default();
        if takes.min_values() > 0 || takes.max_values() != 1 {
            continue;
        }
        let aliases = arg.get_all_aliases().into_iter().flatten();
        for name in arg.get_long().into_iter().chain(aliases) {
            count += 1;
            let parse = |value: &str| {
                let cli = try_cli(&[&format!("--{name}{value}")]);
                cli.map(|cli| format!("{cli:?}"))
            };
            let on = parse("").unwrap();
            let off = parse("=false").unwrap();
            for value in ["=1", "=t", "=T", "=TRUE", "=true", "=True"] {
                assert_eq!(parse(value).as_ref(), Ok(&on), "--{name}{value}");
            }
            for value in ["=0", "=f", "=F", "=FALSE", "=False"] {
                assert_eq!(parse(value).as_ref(), Ok(&off), "--{name}{value}");
            }
            assert!(parse("=maybe").is_err(), "--{name}");
        }
    }
    assert!(count > 15, "{count}");
}
