//! Changes of chains by others are reported when they are made.

use std::sync::mpsc::{self, RecvTimeoutError};

use proxier::mode::iptables::watch;

use super::*;

/// Longer than successive reports of one change are apart.
const QUIET: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);

const SERVICE: &str = "-A SVCPROXY-SERVICES -j RETURN";

#[test]
#[ignore = "netns: needs root"]
fn changes_of_others_are_reported_and_svcproxys_own_are_not() {
    let namespace = namespace();
    namespace.enter(|| {
        let mut backend = backend(Flavour::Nft);
        let (report, reports) = mpsc::channel();
        let watching = watch(Flavour::Nft, move || _ = report.send(())).unwrap();
        assert!(watching.is_some());
        let mut sync = || {
            let node = backend.observe().unwrap();
            let plan = Plan::new(&desired(&[], &config(60)), &node, Scope::Full);
            let report = backend.apply(&plan);
            assert!(report.failures.is_empty(), "{:#?}", report.failures);
            plan.steps().len()
        };
        assert!(sync() > 0);
        let run = |script: &str| namespace.run(["sh", "-c", script]).unwrap();
        for foreign in [
            "iptables-nft -t nat -N CNI-A && iptables-nft -t nat -A CNI-A -j RETURN",
            "iptables-nft -t nat -I PREROUTING -j CNI-A",
            "iptables-nft -t mangle -A FORWARD -j ACCEPT",
            "nft add table inet other && nft add chain inet other SVCPROXY-X",
        ] {
            run(foreign);
        }
        assert_eq!(reports.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout));
        let append = format!("iptables-nft -t nat {SERVICE}");
        for change in [
            append.as_str(),
            "iptables-nft -t nat -F SVCPROXY-SERVICES",
            "iptables-nft -t nat -F PREROUTING",
            "ip6tables-nft -t filter -F",
            "nft delete table ip nat",
            "nft flush ruleset",
        ] {
            run(change);
            assert_eq!(reports.recv_timeout(LIMIT), Ok(()), "{change}");
            while reports.recv_timeout(QUIET).is_ok() {}
            assert!(sync() > 0, "{change}");
            assert_eq!(
                reports.recv_timeout(QUIET),
                Err(RecvTimeoutError::Timeout),
                "the repair of: {change}"
            );
        }
        drop(watching);
        assert_eq!(reports.recv(), Err(mpsc::RecvError));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn legacy_iptables_has_no_notifications() {
    namespace().enter(|| assert!(watch(Flavour::Legacy, || ()).unwrap().is_none()));
}
