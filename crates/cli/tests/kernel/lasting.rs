//! Open connections must survive every change around them.

use std::collections::BTreeSet;
use std::time::Duration;

use testbed::{AskError, eventually};

use crate::lab::{Lab, PATIENCE, SLOW_DRAIN, client};
use crate::ports::{SHOP, SHOP_UDP};
use crate::shop::{FIRST, Lasting, SECOND, THIRD, shop};

fn has(lab: &Lab, endpoints: &[&str]) {
    lab.write("shop.yaml", &shop(endpoints, "", ""));
    lab.converges();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_outlive_every_change_of_the_others() {
    let lab = Lab::new("lasting", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST], "", ""));
    let svcproxy = lab.follow();
    let mut lasting = Lasting::open(&lab, SHOP);
    // More, fewer, and different endpoints.
    for endpoints in [
        &[FIRST, SECOND, THIRD][..],
        &[FIRST, SECOND],
        &[FIRST, SECOND, THIRD],
        &[FIRST, THIRD],
    ] {
        lasting.through(|lab| has(lab, endpoints));
    }
    let chooses = |lab: &Lab, metadata: &str, spec: &str| {
        lab.write("shop.yaml", &shop(&[FIRST, THIRD], metadata, spec));
        lab.converges();
    };
    // New connections may fail: while the kernel changes the scheduler, the virtual server has none
    // (`ip_vs_edit_service`).
    for scheduler in ["lc", "mh", "rr"] {
        let annotation = format!("annotations: {{svcproxy.io/scheduler: {scheduler}}}");
        chooses(&lab, &annotation, "");
        lasting.hold();
    }
    lasting.through(|lab| chooses(lab, "", "sessionAffinity: ClientIP"));
    lasting.through(|lab| chooses(lab, "", ""));
    let svcproxy = lasting.through(|lab| {
        svcproxy.terminate();
        lab.follow()
    });
    lasting.through(|_| svcproxy.kill());
    let _svcproxy = lasting.through(Lab::follow);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_of_a_removed_endpoint_drain() {
    let lab = Lab::new("going", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST], "", ""));
    let svcproxy = lab.follow_with(&SLOW_DRAIN);
    let mut on_first = Lasting::open(&lab, SHOP);
    on_first.through(|lab| has(lab, &[THIRD]));
    let mut on_third = Lasting::open(&lab, SHOP);
    assert_eq!(on_third.backends(), BTreeSet::from(["10.244.2.10:8080"]));

    // The last endpoint is removed, too.
    has(&lab, &[]);
    on_first.hold();
    on_third.hold();
    for port in SHOP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            let answer = lab.ask(from, port);
            assert_eq!(answer, Err(AskError::Refused), "{port:?}");
        }
    }

    // An endpoint that comes back continues as before.
    has(&lab, &[FIRST]);
    on_first.hold();
    on_third.hold();
    let again = Lasting::open(&lab, SHOP);
    assert_eq!(again.backends(), BTreeSet::from(["10.244.1.10:8080"]));
    drop((on_first, again));

    // At the end, nothing is left of the removed endpoint.
    has(&lab, &[FIRST, SECOND]);
    on_third.hold();
    drop(on_third);
    let gone = || match lab.ipvsadm() {
        table if table.iter().any(|line| line.contains(THIRD)) => Err(table),
        _ => Ok(()),
    };
    eventually(PATIENCE, gone).expect("real servers that have drained are removed");
    drop(svcproxy);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn drain_timeout_cuts_connections() {
    let lab = Lab::new("end", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST], "", ""));
    let _svcproxy = lab.follow_with(&["--drain-timeout=4"]);
    let mut lasting = Lasting::open(&lab, SHOP);
    lab.write("shop.yaml", &shop(&[], "", ""));
    let gone = || match lab.ipvsadm()[..] {
        [] => Ok(()),
        _ => Err("virtual servers are left"),
    };
    eventually(PATIENCE, gone).unwrap();
    for (connection, ..) in &mut lasting.connections {
        assert!(connection.ask().is_err());
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn datagrams_of_a_removed_endpoint_move_on() {
    let lab = Lab::new("datagrams", SHOP_UDP);
    lab.write("shop.yaml", &shop(&[FIRST], "", ""));
    let _svcproxy = lab.follow();
    let mut flows = Vec::new();
    for port in SHOP_UDP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            let to = client(port.protocol, port.vip()).timeout(Duration::from_secs(1));
            let mut flow = to.connect(from).unwrap();
            assert_eq!(flow.ask().unwrap().backend, "10.244.1.10:8080");
            flows.push((flow, port, from.name()));
        }
    }
    // From one endpoint to another, also after a time without endpoints.
    for endpoints in [&[SECOND][..], &[], &[THIRD]] {
        has(&lab, endpoints);
        for (flow, port, from) in &mut flows {
            let mut moved = || match (flow.ask(), endpoints) {
                (Ok(answer), [one]) if answer.backend == format!("{one}:8080") => Ok(()),
                (Err(_), []) => Ok(()),
                (other, _) => Err(other),
            };
            eventually(Duration::from_secs(10), &mut moved)
                .unwrap_or_else(|other| panic!("{port:?} from {from}: {other:?}"));
        }
    }
}
