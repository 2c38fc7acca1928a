//! Any text as a manifest, through the whole way to a node in memory: what is printed is safe to print,
//! no step fails, and an audit finds nothing to do.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use fuzz::check;
use libfuzzer_sys::fuzz_target;
use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeNode, Ipvs};
use proxier::source::manifest::parse;

fuzz_target!(|text: &str| {
    let reading = parse(Path::new("given.yaml"), text);
    for diagnostic in &reading.diagnostics {
        check(&diagnostic.to_string());
    }
    let node = FakeNode::default();
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
    let mut config = Config::new("node-a", addresses.into());
    config.service_cidrs = ["10.96.0.0/12".parse().unwrap()].into();
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()));
    // Without a list of each kind, nothing is done.
    let Some(report) = proxier.handle(reading.changes).unwrap() else {
        return;
    };
    assert!(report.is_success(), "{:?}", report.applied);
    for step in report.plan.steps() {
        check(&step.to_string());
    }
    loop {
        if let Some(report) = proxier.audit().unwrap() {
            assert!(report.is_success() && report.plan.steps().is_empty());
        }
        if !proxier.is_auditing() {
            break;
        }
    }
});
