//! Every scheduler of the kernel can be chosen.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use testbed::eventually;

use crate::lab::{Lab, PATIENCE, run_logged};
use crate::ports::WEB;
use crate::settings::Configuration;

const SCHEDULERS: [&str; 13] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf",
];

#[test]
#[ignore = "kernel: needs IPVS"]
fn each_is_set_and_read_back() {
    let lab = Lab::new("schedulers", &[]);
    lab.use_example("web.yaml");
    let configuration = Configuration::new("");
    let svcproxy = configuration.follow(&lab);
    for scheduler in SCHEDULERS {
        configuration.write(&format!("ipvs: {{scheduler: {scheduler}}}\n"));
        let in_force = || is_in_force(&lab, scheduler);
        eventually(PATIENCE, in_force)
            .unwrap_or_else(|table| panic!("{scheduler}: {table:?}; {:#?}", svcproxy.log()));
    }
    svcproxy.terminate();
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
        is_in_force(&lab, "twos").unwrap();
    } else {
        assert_eq!(code, 1, "{error}");
        let start = "mode ipvs cannot run on this node: scheduler twos: ";
        assert!(error.starts_with(start), "{error}");
    }
}

/// Each endpoint gets as many connections as its weight says, and one of weight 0 drains.
#[test]
#[ignore = "kernel: needs IPVS"]
fn weights_decide_how_many_connections_an_endpoint_gets() {
    const ROUNDS: usize = 5;
    let lab = Lab::new("weights", &[WEB]);
    lab.use_example("web.yaml");
    let weigh = |from: &str, weights: &str| {
        lab.edit("web.yaml", from, weights);
        lab.once();
    };
    let answers = |count: usize| {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let backend = lab.ask(lab.probe(), &WEB).unwrap().backend;
            *answers.entry(backend).or_insert(0) += 1;
        }
        answers
    };
    let expected = |shares: [usize; 3]| -> BTreeMap<_, _> {
        let backends = WEB.backends().map(|address| address.to_string());
        let shares = backends.zip(shares.map(|share| ROUNDS * share));
        shares.filter(|(_, share)| *share > 0).collect()
    };
    let name = "  name: web-x7k2p\n";
    let annotation = |weights| format!("  annotations: {{svcproxy.io/weight: \"{weights}\"}}\n");
    let first = annotation("1, 10.244.1.10=4, 10.244.2.10=2");
    weigh(name, &format!("{name}{first}"));
    assert_eq!(answers(7 * ROUNDS), expected([4, 1, 2]));
    weigh(&first, &annotation("2, 10.244.1.10=0, 10.244.2.10=1"));
    assert_eq!(answers(3 * ROUNDS), expected([0, 2, 1]));
}

/// The exit code, and the first error.
fn choose(lab: &Lab, scheduler: &str) -> (i32, String) {
    let mut once = lab.once_command();
    let (log, code) = run_logged(once.args(["--fallback=never", "--ipvs-scheduler", scheduler]));
    let error = log.iter().find(|event| event["level"] == "ERROR");
    let message = error.map_or(&Value::Null, |event| &event["message"]);
    (code, message.as_str().unwrap_or_default().to_owned())
}

/// Whether the example's virtual server has it, and the table if not.
fn is_in_force(lab: &Lab, scheduler: &str) -> Result<(), Vec<String>> {
    let table = lab.ipvsadm();
    let server = format!("-A -t 10.96.0.80:80 -s {scheduler}");
    // ipvsadm prints the flags of mh and sh after the name.
    let has_it = table.iter().any(|line| line.trim_end() == server);
    if has_it && table.len() == 4 {
        Ok(())
    } else {
        Err(table)
    }
}
