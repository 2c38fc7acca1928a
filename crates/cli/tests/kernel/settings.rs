//! Settings that change under traffic, and the report of a foreign virtual server.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use testbed::eventually;

use crate::follower::{Follower, PATIENCE};
use crate::lab::{Lab, run_logged};
use crate::ports;

/// A configuration file of kube-proxy's format that a svcproxy follows.
pub(crate) struct Configuration {
    directory: TempDir,
}

impl Configuration {
    /// With these fields beside the pods' networks.
    pub(crate) fn new(fields: &str) -> Self {
        let configuration = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        configuration.write(fields);
        configuration
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("config.conf")
    }

    /// Replaces the fields.
    pub(crate) fn write(&self, fields: &str) {
        let new = self.file().with_extension("new");
        let pods = [testbed::POD_CIDR_V4, testbed::POD_CIDR_V6].join(",");
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        fs::write(&new, format!("{head}clusterCIDR: {pods:?}\n{fields}")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// Starts svcproxy with the file; returns after the first sync.
    pub(crate) fn follow(&self, lab: &Lab) -> Follower {
        let file = format!("--config={}", self.file().display());
        lab.follow_with(&[&file])
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_outlive_a_change_of_the_configuration_file() {
    let lab = Lab::new("settings", ports::API_SERVER);
    lab.use_example("api-server.yaml");
    let configuration = Configuration::new("");
    let svcproxy = configuration.follow(&lab);
    let port = &ports::API_SERVER[0];
    let mut connection = lab.connect(lab.probe(), port);
    let first = connection.ask().unwrap();
    // Scheduler and masquerade: virtual servers are changed in place.
    configuration.write("ipvs: {scheduler: lc}\niptables: {masqueradeAll: true}\n");
    let changed = || {
        let table = lab.ipvsadm();
        let servers: Vec<_> = table.iter().filter(|line| line.starts_with("-A")).collect();
        let all = !servers.is_empty() && servers.iter().all(|line| line.contains("-s lc"));
        if all { Ok(()) } else { Err(table.clone()) }
    };
    eventually(PATIENCE, changed).unwrap();
    let says = |text: &'static str| {
        move |event: &Value| {
            event["message"]
                .as_str()
                .is_some_and(|said| said.contains(text))
        }
    };
    svcproxy.wait(
        "the scheduler",
        says("ipvs.scheduler: changed from rr to lc"),
    );
    assert_eq!(connection.ask().unwrap(), first);
    assert!(lab.ask(lab.probe(), port).is_ok());

    configuration.write("ipvs: {scheduler: fastest}\n");
    svcproxy.wait(
        "an error",
        says("ipvs.scheduler: \"fastest\": unknown scheduler"),
    );
    assert_eq!(connection.ask().unwrap(), first);
    changed().unwrap();
    svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn a_foreign_virtual_server_is_reported_once() {
    let lab = Lab::new("stranger", &[]);
    lab.use_example("web.yaml");
    let node = lab.node();
    let add = ["ipvsadm", "-A", "-t", "10.96.0.80:80", "-s", "wlc"];
    node.run(add).unwrap();
    let reported = || {
        let (log, code) = run_logged(&mut lab.once_command());
        assert_eq!(code, 0, "{log:#?}");
        let reasons = log
            .iter()
            .filter(|event| event["reason"] == "ForeignVirtualServer");
        let messages = reasons.map(|event| event["message"].as_str().unwrap().to_owned());
        messages.collect::<Vec<_>>()
    };
    let first = reported();
    assert_eq!(first.len(), 1, "{first:?}");
    let about = "Service default/web: tcp 10.96.0.80:80: took over a virtual server";
    assert!(first[0].starts_with(about), "{first:?}");
    // svcproxy owns it now.
    assert_eq!(reported(), [""; 0]);
}
