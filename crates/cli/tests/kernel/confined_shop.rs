//! A shop that a confined svcproxy serves.

use std::fs;

use testbed::eventually;

use crate::follower::{Follower, PATIENCE};
use crate::lab::Lab;
use crate::ports::{SHOP, SHOP_UDP};
use crate::shop::{FIRST, SECOND, THIRD, shop};

/// Starts, serves, follows changes and ends, with a filter that the kernel has really installed.
pub(crate) fn is_served(mode: &str) {
    let ports = [SHOP, SHOP_UDP].concat();
    let lab = Lab::new(&format!("conf-{mode}"), &ports);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND], "", ""));
    let mut command = lab.svcproxy(&["--log-format=json", &format!("--mode={mode}")]);
    let svcproxy = Follower::start_confined(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    let status = fs::read_to_string(format!("/proc/{}/status", svcproxy.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let everyone_is_served = || {
        for port in &ports {
            for from in [lab.probe(), lab.node(), lab.client()] {
                eventually(PATIENCE, || lab.ask(from, port))
                    .unwrap_or_else(|error| panic!("{port:?} from {}: {error}", from.name()));
            }
        }
    };
    everyone_is_served();
    lab.write("shop.yaml", &shop(&[SECOND, THIRD], "", ""));
    let synced = svcproxy.syncs();
    lab.write("shop.yaml", &shop(&[THIRD], "", ""));
    eventually(PATIENCE, || match svcproxy.syncs() > synced {
        true => Ok(()),
        false => Err("no sync"),
    })
    .unwrap();
    everyone_is_served();
    for event in svcproxy.log() {
        let text = event.to_string();
        assert!(!text.contains("not permitted"), "{text}");
    }
    svcproxy.terminate();
}
