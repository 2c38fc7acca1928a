//! Notifications of changes by other programs.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use super::*;

/// Longer than the time between two reports.
const QUIET: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);

fn quiet(reports: &Receiver<()>) {
    loop {
        match reports.recv_timeout(QUIET) {
            Ok(()) => {}
            Err(error) => return assert_eq!(error, RecvTimeoutError::Timeout),
        }
    }
}

#[test]
#[ignore = "netns: needs root"]
fn changes_by_other_programs_are_reported_and_own_changes_are_not() {
    let namespace = namespace();
    let foreign = "table inet filter { chain forward { type filter hook forward priority 0; }; }";
    namespace.enter(|| {
        let mut kernel = kernel();
        let (report, reports) = mpsc::channel();
        let watching = watch(move || _ = report.send(())).unwrap();
        let steps = || {
            let steps = elements().0.into_iter();
            [install()].into_iter().chain(steps).chain([
                Step::AddRoute(route("10.96.0.0/12", "127.0.0.1")),
                Step::AddRoute(route("fd00:10:96::/112", "::1")),
                Step::AddPolicyRoute(policy(Family::V4)),
                Step::AddPolicyRoute(policy(Family::V6)),
            ])
        };
        succeed(&mut kernel, steps());
        namespace
            .run_with_input(["nft", "-f", "-"], foreign)
            .unwrap();
        namespace
            .ip(&[
                "route add blackhole 203.0.113.0/24",
                "addr add 192.0.2.9/32 dev lo",
            ])
            .unwrap();
        let none = reports.recv_timeout(QUIET);
        assert_eq!(none, Err(RecvTimeoutError::Timeout));
        for change in [
            "ip route del local 10.96.0.0/12 dev lo table local",
            "ip -6 route del local fd00:10:96::/112 dev lo table local",
            "ip route add blackhole 10.0.0.0/8 table local",
            "ip rule del priority 73",
            "ip -6 rule del priority 72",
            "ip rule add priority 5 prohibit",
            "nft add chain inet filter input { type filter hook input priority 0; }",
            "nft add table inet svcproxy { flags dormant; }",
            "nft flush chain inet svcproxy refused",
            "nft flush ruleset",
        ] {
            namespace.run(change.split(' ')).unwrap();
            assert_eq!(reports.recv_timeout(LIMIT), Ok(()), "{change}");
            quiet(&reports);
        }
        // The other state is still there.
        let report = apply(&mut kernel, steps());
        assert!(report.failures.len() < 40, "{:#?}", report.failures);
        drop(watching);
        assert_eq!(reports.recv(), Err(mpsc::RecvError));
    });
}
