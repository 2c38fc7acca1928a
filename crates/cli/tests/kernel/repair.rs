//! What another program undoes is repaired at once, not by the next audit.

use serde_json::Value;
use testbed::eventually;

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE};

/// No test takes as long.
pub(crate) const NO_AUDITS: &str = "--audit-interval=1h";

fn repairs(log: &[Value]) -> usize {
    let is_repair = |event: &&Value| event["message"] == "repaired drift";
    log.iter().filter(is_repair).count()
}

/// Undoes something on the node, and waits until it is as it was.
pub(crate) fn is_undone(lab: &Lab, svcproxy: &Follower, undo: &str, state: impl Fn() -> String) {
    let (whole, before) = (state(), repairs(&svcproxy.log()));
    lab.node().run(["sh", "-c", undo]).unwrap();
    let is_repaired = || {
        let (now, repairs) = (state(), repairs(&svcproxy.log()));
        let is_repaired = now == whole && repairs > before;
        is_repaired.then_some(()).ok_or((now, repairs))
    };
    if let Err((now, _)) = eventually(PATIENCE, is_repaired) {
        let log = svcproxy.log();
        panic!("{undo}: not repaired:\n{now}\nwas\n{whole}\n{log:#?}");
    }
}
