//! The example of the guide on a node in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../examples/json_registry.rs"]
#[allow(dead_code, reason = "its main function is for a real node")]
mod registry;

use std::collections::BTreeSet;
use std::sync::Arc;

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeNode, Ipvs};

struct Lab {
    node: FakeNode,
    proxier: Proxier<Ipvs<proxier::mode::ipvs::FakeIpvs>>,
}

impl Lab {
    fn new() -> Self {
        let node = FakeNode::default();
        let config = Config::new("registry", vec!["192.0.2.1".parse().unwrap()]);
        let data_plane = Ipvs::new(node.kernel().unwrap());
        let proxier = Proxier::new(Arc::new(config), data_plane);
        Self { node, proxier }
    }

    /// The virtual servers and their real servers after a file with this text.
    fn after(&mut self, json: &str) -> Vec<String> {
        let report = self.proxier.handle(registry::changes(json).unwrap());
        assert!(report.unwrap().unwrap().is_success());
        let table = self.node.ipvs().client().unwrap().table().unwrap();
        let servers = table.iter().flat_map(|entry| {
            let real = entry.real_servers.iter();
            let real = real.map(|real| format!("{} x{}", real.server.key, real.server.weight));
            let real: BTreeSet<_> = real.collect();
            [entry.virtual_server.server.key.to_string()]
                .into_iter()
                .chain(real)
        });
        servers.collect()
    }
}

#[test]
fn serves_what_the_file_lists() {
    let mut lab = Lab::new();
    let web = r#"{"name": "web", "address": "10.96.0.80", "port": 80, "endpoints": [
        {"address": "10.244.1.7", "port": 8080, "weight": 3},
        {"address": "10.244.1.8", "port": 8081}
    ]}"#;
    let served = lab.after(&format!("[{web}]"));
    assert_eq!(
        served,
        [
            "tcp 10.96.0.80:80",
            "10.244.1.7:8080 x3",
            "10.244.1.8:8081 x1"
        ]
    );
    // A name that is none costs only itself.
    let bad = r#"{"name": "a b", "address": "10.96.0.81", "port": 80, "endpoints": []}"#;
    assert_eq!(lab.after(&format!("[{bad}, {web}]")), served);
    assert_eq!(lab.after("[]"), [""; 0]);
}

/// Addresses that cannot be served are problems of their service; no step fails.
#[test]
fn impossible_addresses_cost_only_themselves() {
    let mut lab = Lab::new();
    let entry = |name: &str, address: &str, endpoint: &str| {
        format!(
            r#"{{"name": "{name}", "address": "{address}", "port": 80, "endpoints": [
                {{"address": "{endpoint}", "port": 80}}, {{"address": "10.244.1.9", "port": 80}}
            ]}}"#
        )
    };
    let entries = [
        entry("any", "0.0.0.0", "10.244.1.1"),
        entry("group", "224.0.0.1", "10.244.1.2"),
        entry("loopback", "127.0.0.1", "10.244.1.3"),
        entry("broadcast", "255.255.255.255", "10.244.1.4"),
        entry("to-any", "10.96.0.1", "0.0.0.0"),
        entry("to-group", "10.96.0.2", "224.0.0.1"),
        entry("to-loopback", "10.96.0.3", "127.0.0.1"),
        entry("to-other-family", "10.96.0.4", "2001:db8::1"),
    ];
    let served = lab.after(&format!("[{}]", entries.join(",")));
    let expected = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4"]
        .map(|vip| [format!("tcp {vip}:80"), "10.244.1.9:80 x1".to_owned()]);
    assert_eq!(served, expected.concat());
    let problems = lab.proxier.problems();
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(problems.join("\n"));
}
