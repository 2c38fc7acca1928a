//! Filters of other programs, for which packets to Services are marked.

use std::sync::Arc;

use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::Scope;

use super::*;

/// Installs the rules that the node needs. Returns whether packets are marked.
fn follow(node: &Namespace, kernel: &mut impl Kernel, desired: &DesiredState) -> bool {
    let plan = Plan::new(desired, &kernel.observe().unwrap(), Scope::Full);
    let packet_filter = plan
        .into_iter()
        .filter(|step| matches!(step, Step::InstallRuleset(_)));
    succeed(kernel, packet_filter.cloned());
    let settled = Plan::new(desired, &kernel.observe().unwrap(), Scope::Full);
    let mut installs = settled.into_iter();
    assert!(!installs.any(|step| matches!(step, Step::InstallRuleset(_))));
    let listed = node.run(["nft", "list", "chains"]).unwrap();
    listed.contains("chain admit {")
}

#[test]
#[ignore = "netns: needs root"]
fn packets_are_marked_while_a_filter_may_need_it() {
    let namespace = namespace();
    let desired = DesiredState::new(Arc::new(config()));
    namespace.enter(|| {
        let mut kernel = kernel();
        assert!(
            !follow(&namespace, &mut kernel, &desired),
            "there is no filter"
        );
        let others = [
            ("inet", "filter hook forward priority 0", false),
            // It sees packets before svcproxy could mark them, or after the mark is cleared.
            ("inet", "filter hook input priority -100", false),
            ("inet", "filter hook input priority 50", false),
            ("inet", "nat hook input priority 0", false),
            ("inet", "filter hook input priority 0", true),
            ("ip", "filter hook input priority 10", true),
            ("ip6", "filter hook input priority 0", true),
        ];
        for (family, hook, is_marked) in others {
            let table = format!("table {family} other {{ chain any {{ type {hook}; }}; }}");
            namespace
                .run_with_input(["nft", "-f", "-"], &table)
                .unwrap();
            assert_eq!(
                follow(&namespace, &mut kernel, &desired),
                is_marked,
                "{family} {hook}"
            );
            namespace
                .run(["nft", "delete", "table", family, "other"])
                .unwrap();
            assert!(
                !follow(&namespace, &mut kernel, &desired),
                "{family} {hook} is gone"
            );
        }
    });
}
