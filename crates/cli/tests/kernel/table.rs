//! The kernel's table equals the output of `svcproxy plan`, and later syncs do not change it.

use std::collections::BTreeSet;
use std::fs;

use testbed::Namespace;

use crate::lab::{Lab, sorted, succeed};

#[test]
#[ignore = "kernel: needs IPVS"]
fn plan_is_what_ipvsadm_saves_and_restores() {
    let lab = Lab::new("table", &[]);
    lab.use_all_examples();
    lab.once();
    let plan = lab.plan(&["-o=ipvsadm"]);
    assert_eq!(lab.ipvsadm(), sorted(&plan));
    let other = Namespace::new("table-restored").unwrap();
    other.run_with_input(["ipvsadm", "-R"], &plan).unwrap();
    assert_eq!(
        sorted(&other.run(["ipvsadm", "-Sn"]).unwrap()),
        sorted(&plan)
    );
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn rules_are_listed_as_written() {
    let lab = Lab::new("rules", &[]);
    lab.use_all_examples();
    lab.once();
    let routes = |family| {
        let routes = [
            "ip", family, "route", "show", "table", "local", "proto", "73",
        ];
        lab.node().run(routes).unwrap()
    };
    assert_eq!(
        sorted(&routes("-4")),
        [format!(
            "local 10.96.0.0/12 dev lo scope host src {}",
            lab.node().v4
        )]
    );
    assert!(
        routes("-6").starts_with("local fd00:10:96::/112 dev lo"),
        "{}",
        routes("-6")
    );
    let addresses = lab.node().run(["ip", "-oneline", "address"]).unwrap();
    assert!(!addresses.contains("10.96."), "{addresses}");
    assert!(!addresses.contains("fd00:10:96:"), "{addresses}");
    let set = lab.node().run([
        "nft",
        "list",
        "set",
        "inet",
        "svcproxy",
        "virtual-servers-v4",
    ]);
    let set = set.unwrap();
    assert!(
        set.contains("10.96.0.80 . tcp . 80 comment \"default/web:http\""),
        "{set}"
    );
    assert!(
        set.contains("10.96.0.81 . sctp . 3868 comment \"default/gateway:diameter\""),
        "{set}"
    );
    for sysctl in [
        "ipv4/vs/conntrack",
        "ipv4/vs/expire_nodest_conn",
        "ipv4/ip_forward",
    ] {
        let path = format!("/proc/sys/net/{sysctl}");
        let value = lab.node().enter(|| fs::read_to_string(&path)).unwrap();
        assert_eq!(value, "1\n", "{sysctl}");
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn second_run_sends_no_change() {
    let lab = Lab::new("second", &[]);
    lab.use_all_examples();
    let first = trace(&lab);
    let kinds = ["sysctl", "packet filter", "route", "IPVS"].map(str::to_owned);
    assert_eq!(first, BTreeSet::from(kinds), "what strace can see");
    assert_eq!(trace(&lab), BTreeSet::new());

    let counts = lab.once();
    for count in [
        "steps",
        "ipvs_changes",
        "transactions",
        "elements",
        "routes",
        "sysctls",
    ] {
        assert_eq!(counts[count], 0, "{count}: {counts}");
    }
    assert_eq!(lab.steps(), [""; 0]);
}

/// Runs svcproxy under strace; returns the kinds of changes that it requested from the kernel,
/// except for the probe.
fn trace(lab: &Lab) -> BTreeSet<String> {
    let trace = lab.manifests().join(".trace");
    let mut strace = lab.node().command("strace");
    let once = lab.once_command();
    // behind nsenter's own arguments, since strace is inside already
    let svcproxy = once.get_args().skip(2);
    strace
        .args([
            "-f",
            "-v",
            "-s",
            "64",
            "-e",
            "trace=network,write,writev,openat",
            "-o",
        ])
        .arg(&trace)
        .args(svcproxy);
    succeed(&mut strace);
    let trace = fs::read_to_string(trace).unwrap();
    assert!(
        trace.contains("nlmsg_type=IPVS"),
        "strace names the family: {trace}"
    );
    let lines = trace.lines();
    lines.flat_map(changes).map(str::to_owned).collect()
}

fn changes(call: &str) -> Vec<&'static str> {
    // linux/ip_vs.h: IPVS_CMD_GET_SERVICE, GET_DEST, GET_DAEMON, GET_CONFIG, GET_INFO
    const READING: [&str; 5] = ["\\x04", "\\x08", "\\x0b", "\\x0d", "\\x0f"];
    // NEW_SERVICE, GET_SERVICE, DEL_SERVICE: the probe, which leaves nothing behind
    const TRIAL: [&str; 3] = ["\\x01", "\\x04", "\\x03"];
    let mut changes = Vec::new();
    if !call.contains("send") {
        if call.contains("/proc/sys/") && !call.contains("O_RDONLY") {
            changes.push("sysctl");
        }
        return changes;
    }
    // A transaction without an end is validated, not committed.
    if call.contains("NFNL_MSG_BATCH_END") {
        changes.push("packet filter");
    }
    if call.contains("RTM_NEW") || call.contains("RTM_DEL") {
        changes.push("route");
    }
    // the header's end, then the payload, whose first byte is the command
    let messages = call.split("nlmsg_type=IPVS").skip(1);
    let payloads = messages.map(|message| message.split("}, \"").nth(1).unwrap_or_default());
    let commands: Vec<_> = payloads.map(|payload| payload.get(..4)).collect();
    let is_reading = |command: &Option<&str>| READING.map(Some).contains(command);
    if commands != TRIAL.map(Some) && !commands.iter().all(is_reading) {
        changes.push("IPVS");
    }
    changes
}
