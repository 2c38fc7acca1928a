//! The scenarios in mode iptables: both iptables accept the rules of every scenario.

use std::fs;

use proxier::Proxier;
use proxier::mode::PlanSteps;
use proxier::mode::iptables::{Flavour, Iptables, IptablesKernel};
use proxier::source::manifest::Manifests;
use testbed::Namespace;

use super::play::config;
use super::script::Script;
use super::{names, script};

/// Plays a scenario. After every act, checks that iptables accepted all rules and that nothing is
/// left to do; at the end, that cleanup removes all of them.
fn play(script: &Script, flavour: Flavour) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(&script.file);
    let config = config(script, &file);
    let start = || {
        let kernel = IptablesKernel::with_flavour(flavour).unwrap();
        let manifests = Manifests::new([&file]).for_node(&*config.node_name);
        (
            Proxier::new(config.clone(), Iptables::new(kernel)),
            manifests,
        )
    };
    let (mut proxier, mut manifests) = start();
    for act in &script.acts {
        if act.restart {
            (proxier, manifests) = start();
        }
        fs::write(&file, &act.documents).unwrap();
        let changes = manifests.read().changes;
        let Some(report) = proxier.handle(changes).unwrap() else {
            // If manifests cannot be read at the start, nothing is changed.
            continue;
        };
        assert!(report.is_success(), "{:?}", report.applied.failures);
        let left = proxier.audit().unwrap().unwrap().plan;
        assert_eq!(left.count(), 0, "left to do: {left:?}");
    }
    IptablesKernel::remove_all().unwrap();
    let mut kernel = IptablesKernel::with_flavour(flavour).unwrap();
    let node = kernel.observe().unwrap();
    assert!(node.v4.is_empty() && node.v6.is_empty());
}

fn every_text_is_accepted(flavour: Flavour) {
    let names = names();
    assert!(names.len() >= 60, "the scenarios are gone");
    for name in names {
        println!("{}", name.display());
        let namespace = Namespace::new("scenario").unwrap();
        namespace.enter(|| play(&script(&name), flavour));
    }
}

#[test]
#[ignore = "netns: needs root"]
fn netns_every_text_is_accepted_by_nft() {
    every_text_is_accepted(Flavour::Nft);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_every_text_is_accepted_by_legacy() {
    every_text_is_accepted(Flavour::Legacy);
}
