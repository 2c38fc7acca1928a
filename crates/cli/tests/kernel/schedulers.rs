//! Every scheduler of the kernel can be chosen.

use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, run_logged};

const SCHEDULERS: [&str; 13] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf",
];

#[test]
#[ignore = "kernel: needs IPVS"]
fn each_is_set_and_read_back() {
    let lab = Lab::new("schedulers", &[]);
    lab.use_example("web.yaml");
    for scheduler in SCHEDULERS {
        assert_eq!(choose(&lab, scheduler), (0, String::new()), "{scheduler}");
        is_in_force(&lab, scheduler);
    }
}

/// The scheduler is in Linux since 5.12, but in few distributions.
#[test]
#[ignore = "kernel: needs IPVS"]
fn a_scheduler_that_the_kernel_lacks_is_an_error() {
    let lab = Lab::new("twos", &[]);
    lab.use_example("web.yaml");
    let has_it = Command::new("modprobe")
        .args(["--dry-run", "--quiet", "ip_vs_twos"])
        .status();
    let (code, error) = choose(&lab, "twos");
    if has_it.unwrap().success() {
        assert_eq!(code, 0, "{error}");
        is_in_force(&lab, "twos");
    } else {
        assert_eq!(code, 1, "{error}");
        let start = "mode ipvs cannot run on this node: scheduler twos: ";
        assert!(error.starts_with(start), "{error}");
    }
}

/// The exit code, and the first error.
fn choose(lab: &Lab, scheduler: &str) -> (i32, String) {
    let mut once = lab.once_command();
    let (log, code) = run_logged(once.args(["--fallback=never", "--ipvs-scheduler", scheduler]));
    let error = log.iter().find(|event| event["level"] == "ERROR");
    let message = error.map_or(&Value::Null, |event| &event["message"]);
    (code, message.as_str().unwrap_or_default().to_owned())
}

fn is_in_force(lab: &Lab, scheduler: &str) {
    let server = format!("-A -t 10.96.0.80:80 -s {scheduler}");
    let table = lab.ipvsadm();
    // ipvsadm prints the flags of mh and sh after the name.
    assert!(
        table.iter().any(|line| line.trim_end() == server),
        "{scheduler}: {table:?}"
    );
    assert_eq!(table.len(), 4, "{table:?}");
}
