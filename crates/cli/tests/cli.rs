//! Tests that need no kernel: `plan`, help, and errors for wrong input.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{
    ApiServer, Authority, Behaviour, Clients, Fault, ForwardProxy, Https, Resource, Verb,
};

/// The node of the examples, with the pods in `10.244.1.0/24`.
const NODE: [&str; 6] = [
    "--node-name=node-a",
    "--node-ip=172.18.0.1,fd00:172:18::1",
    "--cluster-cidr=10.244.0.0/16",
    "--cluster-cidr=fd00:10:244::/48",
    "--service-cidr=10.96.0.0/12",
    "--service-cidr=fd00:10:96::/112",
];

/// Compares with `golden/TEST.snap`.
macro_rules! assert_golden {
    ($text:expr) => {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("golden");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!($text));
    };
}

fn svcproxy(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svcproxy"));
    command
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env_remove("COLUMNS")
        .env_remove("SVCPROXY_LOG")
        .stdin(Stdio::null());
    command
}

/// Standard output, standard error and exit code.
fn run(command: &mut Command) -> (String, String, i32) {
    let Output {
        stdout,
        stderr,
        status,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr), status.code().unwrap())
}

/// Standard output of a command that logs nothing above notes.
fn succeed(arguments: &[&str]) -> String {
    let (out, err, code) = run(svcproxy(arguments).env("SVCPROXY_LOG", "warn"));
    assert_eq!((err.as_str(), code), ("", 0), "{arguments:?}");
    out
}

/// The error of wrong usage.
fn usage_error(arguments: &[&str]) -> String {
    let (out, err, code) = run(&mut svcproxy(arguments));
    assert_eq!((out.as_str(), code), ("", 2), "{arguments:?}: {err}");
    err
}

/// Level and message of each line of a JSON log.
fn messages(log: &str) -> String {
    let line = |line| {
        let event: Value = serde_json::from_str(line).unwrap();
        let text = |key| event[key].as_str().unwrap().to_owned();
        format!("{} {}\n", text("level"), text("message"))
    };
    log.lines().map(line).collect()
}

fn plan_examples(arguments: &[&str]) -> String {
    succeed(&[&["plan", "--manifests", "examples"], &NODE[..], arguments].concat())
}

/// A directory with these manifests.
fn manifests(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// `svcproxy plan` of all manifests in `directory`, which the messages do not name.
fn plan(directory: &Path, arguments: &[&str]) -> Command {
    let names = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    let mut command = svcproxy(&[&["plan"], &NODE[..], arguments, &["--manifests"]].concat());
    command.args(names).current_dir(directory);
    command
}

#[test]
fn plan_as_text() {
    assert_golden!(plan_examples(&[]));
}

#[test]
fn plan_as_json() {
    let text = plan_examples(&["-o", "json"]);
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["vipPorts"].as_array().unwrap().len(), 13);
    assert_golden!(text);
}

#[test]
fn plan_as_ipvsadm_would_save_it() {
    assert_golden!(plan_examples(&["-o", "ipvsadm"]));
}

#[test]
fn plan_as_iptables_restore_reads_it() {
    let text = plan_examples(&["--mode", "iptables"]);
    assert_golden!(text);
    let json = plan_examples(&["--mode", "iptables", "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["problems"].as_array().unwrap().len(), 0);
    let restores = json["restores"].as_array().unwrap();
    let families: Vec<_> = restores.iter().map(|one| &one["family"]).collect();
    assert_eq!(families, ["ipv4", "ipv6"]);
    for restore in restores {
        assert!(text.contains(restore["text"].as_str().unwrap()));
    }
}

#[test]
fn plan_with_another_scheduler() {
    let plan = plan_examples(&["-o", "ipvsadm", "--ipvs-scheduler", "mh"]);
    let servers = plan.lines().filter(|line| line.starts_with("-A "));
    assert!(
        servers.clone().all(|line| line.contains(" -s mh")),
        "{plan}"
    );
    assert_eq!(servers.count(), 13);
}

/// kubeadm's DaemonSet with another image and command name: same flags and file.
#[test]
fn plan_with_kubeadms_configuration_of_kube_proxy() {
    let plan = [
        "plan",
        "--manifests=examples",
        "--config=crates/cli/tests/kube-proxy/kubeadm.conf",
        "--hostname-override=node-a",
        "--node-ip=172.18.0.1,fd00:172:18::1",
        "--service-cidr=10.96.0.0/12,fd00:10:96::/112",
    ];
    assert_eq!(succeed(&plan), plan_examples(&[]));

    // Flags that the file covers are ignored, which is logged.
    let ignored = [
        "--cluster-cidr=192.0.2.0/24",
        "--ipvs-strict-arp",
        "--conntrack-min=9",
        "--bind-address=192.0.2.1",
        "--log-format=json",
    ];
    let (out, log, code) = run(&mut svcproxy(&[&plan[..], &ignored].concat()));
    assert_eq!((out, code), (plan_examples(&[]), 0));
    let messages = messages(&log);
    for flag in [
        "cluster-cidr",
        "strict-arp",
        "conntrack-min",
        "bind-address",
    ] {
        let warning = format!("WARN --{flag} is ignored: --config covers it\n");
        assert!(messages.contains(&warning), "{messages}");
    }
}

/// Command lines of managed clusters and templates, with a manifest in place of an API server.
#[test]
fn command_lines_of_kube_proxy_are_accepted_unchanged() {
    let expected = plan_examples(&[]);
    let plan = [&["plan", "--manifests=examples"], &NODE[..]].concat();
    let lines: [&[&str]; 3] = [
        // AKS's template renders unset values as empty ones.
        &[
            "--pod-interface-name-prefix=",
            "--pod-bridge-interface=",
            "--detect-local-mode=ClusterCIDR",
            "--hostname-override=",
            "--hostname-override=node-a",
            "--bind-address=",
            "--kubeconfig=",
            "--config=",
            "--nodeport-addresses=",
            "--ipvs-exclude-cidrs=",
            "--conntrack-max-per-core=0",
            "--v=3",
        ],
        // Jinja and Ansible write Python's booleans.
        &[
            "--masquerade-all=False",
            "--ipvs-strict-arp=FALSE",
            "--profiling=False",
        ],
        &[
            "--proxy_mode=ipvs",
            "--v=2",
            "--v=4",
            "--oom-score-adj",
            "-998",
        ],
    ];
    for line in lines {
        let mut command = svcproxy(&[&plan[..], line].concat());
        let (out, log, code) = run(command.env("SVCPROXY_LOG", "warn"));
        assert_eq!((&*log, code), ("", 0), "{line:?}");
        assert_eq!(out, expected, "{line:?}");
    }
    let error = usage_error(&["-proxy-mode=ipvs"]);
    assert!(error.contains("write '--proxy-mode'"), "{error}");
}

/// Files that kube-proxy reads with a warning.
#[test]
fn configurations_with_what_kube_proxy_ignores_are_read() {
    let notes = |file: &str| {
        let config = format!("--config=crates/cli/tests/kube-proxy/{file}");
        let plan = [
            "plan",
            "--manifests=examples/web.yaml",
            "--node-ip=172.18.0.1,fd00:172:18::1",
            "--service-cidr=10.96.0.0/12,fd00:10:96::/112",
            "--log-format=json",
            &config,
        ];
        let (out, log, code) = run(&mut svcproxy(&plan));
        assert_eq!(code, 0, "{log}");
        assert!(out.contains("10.96."), "{out}");
        messages(&log)
    };
    let binary = notes("binary-install.yaml");
    for field in ["conntrack.max", "udpIdleTimeout"] {
        let note = format!("INFO {field} is obsolete and has no effect: ");
        assert!(binary.contains(&note), "{binary}");
    }
    let two = notes("two-documents.yaml");
    let note = "WARN the file has 2 documents, and only the first is read, as in kube-proxy: move \
                the others (KubeletConfiguration) to separate files\n";
    assert!(two.contains(note), "{two}");
}

#[test]
fn an_invalid_log_filter_is_wrong_usage_and_no_filter_hides_errors() {
    let nothing = ["plan", "--manifests=nothing", "--log-format=json"];
    for filter in ["debgu", "proxier=loud", "info,verbose"] {
        let (_, log, code) = run(svcproxy(&nothing).env("SVCPROXY_LOG", filter));
        assert_eq!(code, 2, "{log}");
        let log = messages(&log);
        assert!(log.starts_with("ERROR SVCPROXY_LOG: "), "{log}");
    }
    for filter in ["", "off", "proxier=debug", "hyper=trace"] {
        let (_, log, code) = run(svcproxy(&nothing).env("SVCPROXY_LOG", filter));
        assert_eq!(code, 2, "{log}");
        let log = messages(&log);
        assert!(log.contains("ERROR nothing: "), "{filter}: {log}");
    }
}

/// A log that is not read, or cannot be written.
#[test]
fn losing_the_log_changes_nothing() {
    let manifests = manifests(&[("wrong.yaml", "kind: Service\napiVersion: v1\n")]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for (what, stderr) in [("full", Stdio::from(full)), ("closed", Stdio::from(closed))] {
        let output = plan(manifests.path(), &["-v=6"]).stderr(stderr).output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{what}");
    }
}

/// A file name and a field's value with terminal control sequences.
#[test]
fn quoted_text_in_the_log_is_escaped() {
    let name = "a\n\u{1b}[31m\u{202e}.yaml";
    let kind = "kind: \"Ser\\x1b]0;x\\x07\\u202Evice\"\napiVersion: v1\n";
    let manifests = manifests(&[(name, kind)]);
    for form in ["--log-format=text", "--log-format=json"] {
        let (_, log, code) = run(&mut plan(manifests.path(), &[form]));
        assert_eq!(code, 0, "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
        let hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!log.contains(hidden), "{log:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_wrong_usage() {
    let file = "kind: KubeProxyConfiguration\n\
                apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                ipvs: {scheduler: [rr]}\n";
    let directory = manifests(&[("config.conf", file)]);
    let arguments = ["plan", "--manifests=x", "--log-format=json", "--config"];
    let log = |name| {
        let mut command = svcproxy(&arguments);
        let (_, log, code) = run(command.arg(name).current_dir(directory.path()));
        assert_eq!(code, 2, "{log}");
        messages(&log)
    };
    assert_eq!(
        log("config.conf"),
        "ERROR config.conf: ipvs.scheduler: invalid type: sequence, expected a string\n"
    );
    assert_eq!(
        log("nothing.conf"),
        "ERROR nothing.conf: cannot read it: No such file or directory (os error 2)\n"
    );
}

#[test]
fn plan_is_the_same_whatever_the_order_of_the_files() {
    let expected = plan_examples(&["-o", "ipvsadm"]);
    let mut files: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| path.into_os_string().into_string().unwrap())
        .collect();
    files.sort();
    files.reverse();
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let arguments = [&["plan", "-o", "ipvsadm", "--manifests"], &files[..], &NODE].concat();
    assert_eq!(succeed(&arguments), expected);
}

#[test]
fn plan_without_ipv6_names_what_it_leaves_out() {
    let (out, log, code) = run(&mut svcproxy(&[
        "plan",
        "--log-format=json",
        "--node-name=node-a",
        "--node-ip=172.18.0.1",
        "--manifests",
        "examples/dual-stack.yaml",
    ]));
    assert_golden!(format!("{out}\n{}exit code {code}", messages(&log)));
}

#[test]
fn cluster_ip_outside_of_the_service_cidrs_has_its_own_route() {
    let manifests = manifests(&[("stray.yaml", STRAY)]);
    let (out, log, code) = run(&mut plan(manifests.path(), &[]));
    assert_eq!((log.as_str(), code), ("", 0));
    assert_golden!(out);
}

const STRAY: &str = "
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {clusterIP: 192.0.2.80, ports: [{port: 80}]}
";

/// Every kind of error in a manifest, each beside valid parts.
#[test]
fn malformed_manifests_are_reported_and_the_rest_is_used() {
    let manifests = manifests(&[
        (
            "1-broken.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: broken\n",
        ),
        ("2-ports.yaml", PORTS),
        ("3-endpoints.yaml", ENDPOINTS),
        ("4-twice.yaml", TWICE),
        ("5-names.yaml", NAMES),
        ("6-other.yaml", OTHER),
    ]);
    let arguments = ["-o", "ipvsadm", "--log-format=json"];
    let (out, log, code) = run(&mut plan(manifests.path(), &arguments));
    assert_golden!(format!("{}\n{out}\nexit code {code}", messages(&log)));
}

const PORTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: zero}
spec: {clusterIP: 10.96.1.1, ports: [{port: 0}]}
---
apiVersion: v1
kind: Service
metadata: {name: much}
spec: {clusterIP: 10.96.1.2, ports: [{port: 80}, {name: b, port: 70000}]}
---
apiVersion: v1
kind: Service
metadata: {name: unnamed}
spec: {clusterIP: 10.96.1.3, ports: [{name: a, port: 80}, {port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.1.4, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: good, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.1]}]
";

const ENDPOINTS: &str = r"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: loopback, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.2]}, {addresses: [127.0.0.1]}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: linklocal}
subsets: [{addresses: [{ip: 169.254.169.254}], ports: [{port: 80}]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: more, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.3]}]
";

const TWICE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: late}
spec: {clusterIP: 10.96.1.4, ports: [{port: 80}]}
";

const NAMES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: "a\nb"}
spec: {clusterIP: 10.96.1.5, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: "a\"; drop"}
spec: {clusterIP: 10.96.1.6, ports: [{port: 80}]}
"#;

const OTHER: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: v1
kind: Service
metadata: {name: fine}
spec: {clusterIP: 10.96.1.7, ports: [{port: 53, protocol: UDP}]}
";

#[test]
fn missing_manifests_are_invalid_input() {
    let arguments = ["plan", "--log-format=json", "--manifests", "nothing.yaml"];
    let (out, log, code) = run(svcproxy(&arguments).args(NODE));
    assert_golden!(format!("{}\n{out}\nexit code {code}", messages(&log)));
}

#[test]
fn wrong_usage_is_an_error() {
    let plan = ["plan", "--manifests", "examples"];
    let with = |arguments: &[&'static str]| usage_error(&[&plan, arguments].concat());
    assert_golden!(
        [
            usage_error(&["--manifests"]),
            usage_error(&["--manifests", "examples", "--mode", "kernelspace"]),
            usage_error(&["--manifests", "examples", "--mode", "userspace", "--once"]),
            usage_error(&["plan", "--manifests"]),
            with(&["--ipvs-scheduler", "fastest"]),
            with(&["--node-ip", "node-a"]),
            with(&["--service-cidr", "10.96.0.0"]),
            with(&["--against", "kernel", "-o", "ipvsadm"]),
            with(&["--mode", "iptables", "-o", "ipvsadm"]),
            with(&["--mode", "nftables", "-o", "ipvsadm"]),
            with(&["--mode", "userspace", "-o", "ipvsadm"]),
            with(&["--once"]),
            usage_error(&["--once", "status"]),
        ]
        .join("--------\n")
    );
}

#[test]
fn without_manifests_and_out_of_a_pod_there_is_no_server() {
    let (_, log, code) = run(svcproxy(&["plan"]).args(NODE));
    assert_eq!(code, 1, "{log}");
    assert!(
        log.contains("no kubeconfig and no server are given"),
        "{log}"
    );
    let arguments = ["plan", "--kubeconfig", "nothing.conf"];
    let (_, log, code) = run(svcproxy(&arguments).args(NODE));
    assert_eq!(code, 1, "{log}");
    assert!(
        log.contains("cannot read the kubeconfig nothing.conf: No such file or directory"),
        "{log}"
    );
}

#[test]
fn plan_of_what_an_api_server_has() {
    let server = ApiServer::start(Behaviour::default()).unwrap();
    let metadata = |name| json!({"namespace": "default", "name": name});
    server.put(
        Resource::Services,
        json!({
            "metadata": metadata("web"),
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        }),
    );
    let mut slice = json!({
        "metadata": metadata("web-1"), "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.244.0.1"]}],
    });
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
    server.put(Resource::EndpointSlices, slice);
    server.put(Resource::Nodes, json!({"metadata": {"name": "node-a"}}));
    let arguments = ["plan", "-o", "ipvsadm", "--master", &server.url()];
    let out = succeed(&[&arguments[..], &NODE].concat());
    assert_eq!(
        out,
        "-A -t 10.96.0.1:80 -s rr\n-a -t 10.96.0.1:80 -r 10.244.0.1:8080 -m -w 1\n"
    );
}

/// The error of `svcproxy plan` with an API server after the timeout.
fn plan_in_vain(server: &str, timeout: &str) -> String {
    let arguments = [
        "plan",
        "--log-format=json",
        "--master",
        server,
        "--timeout",
        timeout,
    ];
    let (out, log, code) = run(svcproxy(&arguments).args(NODE));
    assert_eq!((out.as_str(), code), ("", 1), "{log}");
    messages(&log).lines().last().unwrap().to_owned()
}

#[test]
fn a_silent_server_is_waited_for_until_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    assert_eq!(
        plan_in_vain(&url, "1s"),
        "ERROR initial list incomplete after 1s (--timeout): missing EndpointSlice, Node, Service, \
         ServiceCIDR; no answer, and no error"
    );
}

#[test]
fn the_error_of_a_server_is_quoted_at_the_timeout() {
    let server = ApiServer::start(Behaviour::default()).unwrap();
    let unavailable = Fault::Status {
        code: 503,
        retry_after: None,
    };
    for verb in [Verb::List, Verb::Watch] {
        server.fail(Resource::Nodes, verb, vec![unavailable.clone(); 1000]);
    }
    let said = plan_in_vain(&server.url(), "5s");
    assert!(
        said.contains("Node (the API server answers: 503 "),
        "{said}"
    );
    assert!(
        said.contains("EndpointSlice, ") && said.contains(", Service"),
        "{said}"
    );
}

/// kubeadm copies the proxy variables of its own environment into kube-proxy's DaemonSet
/// (kubernetes/kubernetes#84559).
#[test]
fn proxy_variables_and_no_proxy_are_followed() {
    let server = ApiServer::start(Behaviour::default()).unwrap();
    let authority = Authority::new().unwrap();
    let host = "api.svcproxy.invalid";
    let front = Https::in_front_of(server.address(), &authority, host, Clients::All).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ca.crt"), authority.certificate()).unwrap();
    let kubeconfig = directory.path().join("config");
    let text = format!(
        "{{current-context: a, contexts: [{{name: a, context: {{cluster: a}}}}], clusters: [{{name: a, \
         cluster: {{server: 'https://{host}:6443', certificate-authority: ca.crt}}}}]}}"
    );
    fs::write(&kubeconfig, text).unwrap();
    let plan = |timeout, variables: &[(&str, String)]| {
        let mut command = svcproxy(&["plan", timeout, "--kubeconfig"]);
        command.arg(&kubeconfig).args(NODE);
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        let variables = variables.iter().map(|(name, value)| (name, value));
        run(command.envs(variables))
    };
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let proxy = ForwardProxy::start(front.address(), None).unwrap();
        let address = proxy.address().to_string();
        let no_proxy = "10.0.0.0/8,.cluster.local,svcproxy.invalid:443,127.0.0.1".to_owned();
        let (_, log, code) = plan("--timeout=30s", &[(name, address), ("NO_PROXY", no_proxy)]);
        assert_eq!(code, 0, "{name}: {log}");
        let asks = proxy.asks();
        assert!(
            asks[0].starts_with(&format!("CONNECT {host}:6443 ")),
            "{asks:?}"
        );
    }
    // svcproxy.invalid is not found without a proxy.
    let proxy = ForwardProxy::start(front.address(), None).unwrap();
    let address = proxy.address().to_string();
    for name in ["ALL_PROXY", "all_proxy"] {
        let (_, log, code) = plan("--timeout=5s", &[(name, address.clone())]);
        assert_eq!(code, 1, "{name}: {log}");
        assert_eq!(proxy.asks(), [""; 0], "{name}");
    }
    for no_proxy in ["*", "svcproxy.invalid", ".svcproxy.invalid:6443"] {
        let mut command = svcproxy(&["plan", "--timeout=5s", "--kubeconfig"]);
        command.arg(&kubeconfig).args(NODE);
        command
            .env("HTTPS_PROXY", &address)
            .env("NO_PROXY", no_proxy);
        let (_, log, code) = run(&mut command);
        assert_eq!(code, 1, "{log}");
        assert_eq!(proxy.asks(), [""; 0], "{no_proxy}");
    }
}

/// A hanging plugin blocks neither the time limit nor a signal.
#[test]
fn plan_ends_in_time_though_an_exec_plugin_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("config");
    fs::write(
        &kubeconfig,
        "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], \
         clusters: [{name: a, cluster: {server: 'http://192.0.2.1'}}], \
         users: [{name: a, user: {exec: {command: sleep, args: ['100000'], \
         apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}}]}",
    )
    .unwrap();
    let mut command = svcproxy(&["plan", "--timeout=1s", "--kubeconfig"]);
    let (_, log, code) = run(command.arg(&kubeconfig).args(NODE));
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("after 1s (--timeout)"), "{log}");
}

#[test]
fn log_format_may_stand_before_a_subcommand() {
    let arguments = ["--log-format=json", "plan", "--manifests", "nothing.yaml"];
    let (_, log, code) = run(svcproxy(&arguments).args(NODE));
    assert_eq!((log.starts_with('{'), code), (true, 2), "{log}");
}

#[test]
fn contradicting_settings_are_wrong_usage() {
    const CIDR: &str = "--service-cidr=10.96.0.0/12";
    let log = |arguments: &[&'static str]| {
        let plan = ["plan", "--log-format=json", "--manifests", "examples"];
        messages(&usage_error(&[&plan, arguments].concat()))
    };
    assert_golden!(
        [
            log(&["--node-ip", "192.0.2.1,192.0.2.2"]),
            log(&["--node-ip", "10.96.0.7", CIDR]),
            log(&["--node-ip", "192.0.2.1", "--service-cidr", "fd00::/112"]),
            log(&["--node-ip", "192.0.2.1", CIDR, "--cluster-cidr=10.0.0.0/8"]),
        ]
        .concat()
    );
}

#[test]
fn text_log_goes_to_standard_error_without_colour() {
    let manifests = manifests(&[("a.yaml", "kind: [")]);
    let (out, log, code) = run(&mut plan(manifests.path(), &["-o", "ipvsadm"]));
    assert_eq!((out.as_str(), code), ("", 2));
    assert!(log.contains("ERROR a.yaml: "), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn help() {
    let texts = [
        &[][..],
        &["plan"],
        &["status"],
        &["services"],
        &["describe"],
        &["explain"],
        &["top"],
        &["verify"],
        &["migrate"],
        &["support-bundle"],
        &["env"],
        &["cleanup"],
        &["completion"],
    ]
    .map(|command| succeed(&[command, &["--help"]].concat()));
    assert_golden!(texts.join("--------\n"));
}

#[test]
fn env_prints_the_variables_of_docs_discovery() {
    let arguments = ["env", "-n", "shop", "--manifests", "examples/standalone/"];
    let text = succeed(&arguments);
    let docs = include_str!("../../../docs/discovery.md");
    assert!(docs.contains(&format!("$ svcproxy {}\n{text}```", arguments.join(" "))));
    let docker = succeed(&[&arguments[..], &["-o", "docker"]].concat());
    assert!(
        docker.contains("CART_SERVICE_HOST=10.96.0.20\n"),
        "{docker}"
    );
    let json = succeed(&[&arguments[..], &["-o", "json"]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    let first = json!({"name": "CART_PORT", "value": "tcp://10.96.0.20:8080"});
    assert_eq!((&json[0], json.as_array().unwrap().len()), (&first, 8));
    assert_eq!(
        succeed(&[&arguments[..], &["--service-links=false"]].concat()),
        ""
    );
    let error = usage_error(&["env", "-n", "Shop"]);
    assert!(error.contains("not a namespace"), "{error}");
}

#[test]
fn completion_scripts() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeed(&["completion", shell]);
        for word in ["manifests", "cleanup", "log-format"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    let bash = succeed(&["completion", "bash"]);
    assert!(bash.contains("svcproxy services --output name"), "{bash}");
    let script = manifests(&[("svcproxy.bash", &bash)]);
    let check = Command::new("bash")
        .arg("-n")
        .arg(script.path().join("svcproxy.bash"))
        .status();
    assert!(check.unwrap().success());
}

#[test]
fn man_pages_are_those_of_the_visible_commands() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("man1");
    succeed(&["man", path.to_str().unwrap()]);
    let names = fs::read_dir(&path).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    for name in [
        "svcproxy.1",
        "svcproxy-describe.1",
        "svcproxy-explain.1",
        "svcproxy-status.1",
    ] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    assert!(!names.contains(&"svcproxy-man.1".to_owned()), "{names:?}");
    let text = fs::read_to_string(path.join("svcproxy.1")).unwrap();
    assert!(
        text.contains("cluster\\-cidr") && !text.contains("kube\\-api\\-qps"),
        "{text}"
    );
    let text = fs::read_to_string(path.join("svcproxy-explain.1")).unwrap();
    assert!(!text.contains("healthz\\-bind\\-address"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = svcproxy(&[&["plan", "--manifests", "examples"], &NODE[..]].concat())
        .env("SVCPROXY_LOG", "warn")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(
        (status.code(), String::from_utf8(stderr).unwrap().as_str()),
        (Some(0), "")
    );
}

#[test]
fn manifests_are_read_from_standard_input() {
    let plan = |manifests: &str, input: Stdio| {
        let mut command = svcproxy(&["plan", "-o", "json", "--manifests", manifests]);
        let command = command.args(NODE).env("SVCPROXY_LOG", "warn").stdin(input);
        run(command)
    };
    let open = |path: &str| {
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        Stdio::from(fs::File::open(format!("{workspace}/{path}")).unwrap())
    };
    let from_file = plan("examples/web.yaml", Stdio::null());
    assert!(from_file.0.contains("10.96."), "{from_file:?}");
    assert_eq!(plan("-", open("examples/web.yaml")), from_file);
    let (_, log, code) = plan("-", open("deploy/monitoring/dashboard.json"));
    assert_eq!(code, 2, "{log}");
    assert!(
        log.contains("standard input: document 1 (line 1): "),
        "{log}"
    );
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    for format in ["text", "json", "ipvsadm"] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = svcproxy(&["plan", "--manifests", "examples", "-o", format]);
        let Output { status, stderr, .. } = command.args(NODE).stdout(full).output().unwrap();
        let log = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("No space left on device"), "{log}");
    }
}

/// The arguments of each `svcproxy` that these lines call, with examples for placeholders.
fn calls(text: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    let mut in_console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_console = line == "```console";
        }
        let call = line
            .split_once("svcproxy ")
            .filter(|(before, _)| before.ends_with("# ") || before.ends_with("-- "));
        let Some((_, arguments)) = call.filter(|_| in_console) else {
            continue;
        };
        let is_end = |word: &&str| ["|", "||", ">", "\\"].contains(word);
        let words = arguments
            .split_whitespace()
            .take_while(|word| !is_end(word));
        let example = |word: &str| match word {
            "ADDRESS:PORT" => "10.96.0.1:80".to_owned(),
            "CLIENT" => "10.244.1.1".to_owned(),
            word => word.to_owned(),
        };
        calls.push(words.map(example).collect());
    }
    calls
}

#[test]
fn the_documented_commands_exist() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut count = 0;
    for page in ["operate.md", "migrate.md", "troubleshooting.md"] {
        let text = fs::read_to_string(docs.join(page)).unwrap();
        let mut calls = calls(&text);
        // The arguments of a container, one on each line.
        let args = text
            .lines()
            .skip_while(|line| line.trim() != "args:")
            .skip(1);
        let args = args.map_while(|line| line.trim().strip_prefix("- "));
        let args: Vec<_> = args.map(str::to_owned).collect();
        calls.extend((!args.is_empty()).then_some(args));
        for call in calls {
            // clap reads the arguments from left to right, and stops at this one.
            let mut command = svcproxy(&[]);
            let output = command.args(&call).arg("--help").output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}: {call:?}: {error}");
            count += 1;
        }
    }
    assert!(count >= 15, "{count}");
}
