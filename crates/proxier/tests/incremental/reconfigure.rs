//! Settings that change while the proxier runs.

use std::sync::Arc;

use ipvs::Scheduler;
use proptest::prelude::*;
use proxier::Proxier;
use proxier::desired::{Config, DesiredState, Marks};
use proxier::mode::ipvs::{FakeNode, Ipvs};
use proxier::reconcile::SyncKind;
use proxier::store::Change;

use crate::arbitrary::{change, config};
use crate::frontends;

/// The default settings with some changes.
fn settings() -> impl Strategy<Value = Arc<Config>> {
    let change = |change: fn(&mut Config)| Just(change);
    let changes = prop_oneof![
        change(|c| c.scheduler = Scheduler::LeastConnection),
        change(|c| c.masquerade_all = true),
        change(|c| c.strict_arp = true),
        change(|c| c.exclude_cidrs.clear()),
        change(|c| c.exclude_cidrs.push("10.96.0.0/30".parse().unwrap())),
        change(|c| c.cluster_cidrs = vec!["10.240.0.0/13".parse().unwrap()]),
        change(|c| c.service_cidrs.truncate(1)),
        change(|c| c.node_ips.truncate(1)),
        change(|c| c.node_port_addresses = vec!["192.0.2.0/24".parse().unwrap()]),
        change(|c| c.primary_node_ports = true),
        change(|c| c.marks = Marks::new(20, 0xff03_2000).unwrap()),
        change(|c| c.zone = Some("west".into())),
        change(|c| c.timeouts.tcp = Some(77)),
        change(|c| c.conntrack.udp = Some(77)),
        change(|c| c.drain_timeout = std::time::Duration::ZERO),
    ];
    let changes = proptest::collection::vec(changes, 0..4);
    changes.prop_filter_map("settings that cannot work", |changes| {
        let mut settings = (*config(30)).clone();
        changes.iter().for_each(|change| change(&mut settings));
        settings.validate().ok().map(|()| Arc::new(settings))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn new_settings_have_the_effect_of_a_new_start(
        mut changes in proptest::collection::vec(change(), 1..40),
        (first, then) in (settings(), settings()),
    ) {
        let empty = [
            Change::ServicesReplaced(Vec::new()),
            Change::EndpointSlicesReplaced(Vec::new()),
        ];
        changes.splice(0..0, empty);
        let node = FakeNode::default();
        let backend = || node.kernel().unwrap();
        let mut running = Proxier::new(first, Ipvs::new(backend()));
        prop_assert!(running.handle(changes.clone()).unwrap().unwrap().is_success());
        running.reconfigure(Arc::clone(&then));
        let mut new = Proxier::new(Arc::clone(&then), Ipvs::new(backend()));
        let steps = new.preview(changes.clone()).unwrap();

        // No more steps than a new start.
        let report = running.handle([]).unwrap().unwrap();
        prop_assert!(report.is_success());
        match report.kind {
            SyncKind::Full => prop_assert_eq!(&report.plan, &steps),
            _ => prop_assert!(report.plan.is_empty() && steps.is_empty(), "{steps:?}"),
        }
        let scratch = Arc::new(running.desired().config().clone());
        let scratch = DesiredState::from_store(scratch, running.store());
        prop_assert_eq!(frontends(running.desired()), frontends(&scratch));
        prop_assert_eq!(running.desired().problems(), scratch.problems());

        let mut new = Proxier::new(then, Ipvs::new(backend()));
        let report = new.handle(changes).unwrap().unwrap();
        prop_assert!(report.plan.is_empty(), "left to do: {:?}", report.plan);
        prop_assert_eq!(running.desired().config(), new.desired().config());
        prop_assert_eq!(frontends(running.desired()), frontends(new.desired()));
    }
}
