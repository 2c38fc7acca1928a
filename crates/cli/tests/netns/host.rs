//! What other programs on the host do to Service traffic is named, with the rule that helps.

use serde_json::Value;
use testbed::eventually;

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, succeed};
use crate::refused::manifest;

const DROPS: &str =
    "table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }";

#[test]
#[ignore = "netns: needs root"]
fn what_is_wrong_with_the_host_is_a_condition_until_it_ends() {
    let lab = Lab::new("host", &[]);
    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.2.1"));
    let mut command = lab.svcproxy(&["--mode=iptables", "--log-format=json"]);
    command.args(["--audit-interval=200ms"]);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    let is_named = |event: &Value| event["reason"] == "FirewallInTheWay";
    assert!(
        !svcproxy.log().iter().any(is_named),
        "{:#?}",
        svcproxy.log()
    );

    let nft = |rules: &str| drop(lab.node().run(["nft", rules]).unwrap());
    nft(DROPS);
    let event = svcproxy.wait("a warning", is_named);
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("chain inet filter forward"), "{message}");
    let status = |arguments: &[&str]| succeed(lab.svcproxy(&["status"]).args(arguments));
    let listed = || status(&[]).contains("FirewallInTheWay");
    assert!(listed());

    let check = |arguments: &[&str]| {
        let mut command = lab.svcproxy(&["check", "--mode=iptables"]);
        succeed(command.args(lab.settings()).args(arguments))
    };
    let text = check(&[]);
    let remedy = "nft insert rule inet filter forward ct status dnat accept";
    assert!(text.contains("warning") && text.contains(remedy), "{text}");
    let document: Value = serde_json::from_str(&check(&["-o=json"])).unwrap();
    let rows = document["host"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "firewall").unwrap();
    assert_eq!(row["result"], "warning", "{row}");
    assert!(row["remedy"].as_str().unwrap().contains(remedy), "{row}");
    assert_eq!(document["unknown"], Value::Array(Vec::new()));

    nft(remedy.strip_prefix("nft ").unwrap());
    let over = || if listed() { Err(()) } else { Ok(()) };
    eventually(PATIENCE, over).unwrap();
    let log = svcproxy.terminate();
    assert_eq!(
        log.iter().filter(|event| is_named(event)).count(),
        1,
        "{log:#?}"
    );
}
