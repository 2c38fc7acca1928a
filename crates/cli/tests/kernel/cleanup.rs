//! `status` and `cleanup`; state of other programs, and changes by other programs.

use serde_json::Value;
use testbed::eventually;

use crate::lab::{Lab, PATIENCE, run_logged, sorted, succeed};
use crate::ports::{self, WEB};

const FOREIGN: &str = "-A -t 10.96.0.200:80 -s wrr\n-a -t 10.96.0.200:80 -r 10.244.9.9:80 -m -w 3";

/// Total number of connections of the Service `web`.
fn connections_of_web(status: &Value) -> u64 {
    let services = status["services"].as_array().unwrap();
    let web = services
        .iter()
        .find(|s| s["service"] == "default/web")
        .unwrap();
    let servers = web["vips"][0]["realServers"].as_array().unwrap();
    servers
        .iter()
        .map(|server| server["totalConnections"].as_u64().unwrap())
        .sum()
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn status_shows_what_the_node_serves() {
    let lab = Lab::new("status", &[&[WEB], ports::DUAL_STACK].concat());
    lab.use_all_examples();
    lab.write(
        "nobody.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {clusterIP: 10.96.0.99, ports: [{port: 80}]}",
    );
    lab.once();
    let mut open = lab.connect(lab.probe(), &WEB);
    let backend = open.ask().unwrap().backend;
    for _ in 0..2 {
        lab.ask(lab.probe(), &WEB).unwrap();
    }
    // The kernel sums its counters up every two seconds.
    let status = eventually(PATIENCE, || {
        let status = succeed(&mut lab.svcproxy(&["status", "-o=json"]));
        let status: Value = serde_json::from_str(&status).unwrap();
        match connections_of_web(&status) {
            3.. => Ok(status),
            _ => Err(status),
        }
    })
    .unwrap();
    let names: Vec<_> = status["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["service"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "default/api",
            "default/cart",
            "default/db",
            "default/gateway",
            "default/kubernetes",
            "default/nobody",
            "default/store",
            "default/web",
            "kube-system/kube-dns"
        ]
    );
    let totals = &status["totals"];
    assert_eq!(totals["services"], 9);
    assert_eq!(totals["vipPorts"], 14);
    assert_eq!(totals["realServers"], 26, "{totals}");
    assert_eq!(totals["activeConnections"], 1, "{totals}");

    let service = |name| {
        status["services"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["service"] == name)
            .unwrap()
    };
    let vips = &service("default/nobody")["vips"];
    assert_eq!(
        (&vips[0]["address"], &vips[0]["realServers"]),
        (&"10.96.0.99".into(), &Value::Array(vec![]))
    );
    let vip = &service("default/web")["vips"][0];
    assert_eq!(
        (&vip["address"], &vip["port"], &vip["scheduler"]),
        (&"10.96.0.80".into(), &80.into(), &"rr".into())
    );
    let cart = &service("default/cart")["vips"][0];
    assert_eq!(cart["persistenceSeconds"], 600);
    let servers = vip["realServers"].as_array().unwrap();
    for server in servers {
        let address = format!("{}:{}", server["address"].as_str().unwrap(), server["port"]);
        assert_eq!(
            server["activeConnections"],
            u8::from(address == backend),
            "{server}"
        );
        assert_eq!(server["totalConnections"], 1, "{server}");
    }

    let summary = succeed(&mut lab.svcproxy(&["status"]));
    for line in [
        "running     no: this is what the kernel has",
        "mode        ipvs",
        "serves      9 Services, 14 VIP ports, 26 real servers",
        "draining    0 real servers",
    ] {
        assert!(summary.lines().any(|one| one == line), "{summary}");
    }
    assert!(summary.contains("\nconnections 1 active, "), "{summary}");
    let text = succeed(&mut lab.svcproxy(&["status", "--services"]));
    for part in [
        "default/web\n  tcp 10.96.0.80:80 (http) rr\n",
        "-> 10.244.2.10:8080",
        "no endpoints: refused",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn cleanup_removes_svcproxys_state_and_nothing_else() {
    let lab = Lab::new("cleanup", &[]);
    let node = lab.node();
    // Nothing to remove is no failure.
    assert_eq!(
        run_logged(&mut lab.svcproxy(&["cleanup", "--log-format=json"])).1,
        0
    );

    node.run_with_input(["ipvsadm", "-R"], FOREIGN).unwrap();
    node.run_with_input(
        ["nft", "-f", "-"],
        "table inet other {\n set s {\n type ipv4_addr\n elements = { 10.96.0.80 }\n }\n}\n",
    )
    .unwrap();
    node.ip(&[
        "route add local 10.96.0.250 dev lo",
        "route add local 198.51.100.0/24 dev lo proto 42",
        "address add 10.96.0.251/32 dev lo",
    ])
    .unwrap();
    let rest = || {
        [
            "ip route show table all",
            "ip -6 route show table all",
            "ip address",
            "nft list ruleset",
            "ipvsadm -Sn",
        ]
        .map(|command| node.run(command.split(' ')).unwrap())
    };
    let before = rest();

    lab.use_all_examples();
    lab.write(
        "stray.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: stray}\nspec: {clusterIP: 192.0.2.80, ports: [{port: 80}]}",
    );
    lab.once();
    let foreign = sorted(FOREIGN);
    assert!(
        foreign.iter().all(|line| lab.ipvsadm().contains(line)),
        "{:?}",
        lab.ipvsadm()
    );
    assert_ne!(rest(), before);
    assert_eq!(lab.steps(), [""; 0]);
    // A dry run names what cleanup removes, and changes nothing.
    let there = rest();
    let dry = succeed(&mut lab.svcproxy(&["cleanup", "--dry-run", "-o=json"]));
    assert_eq!(rest(), there);
    let dry: Value = serde_json::from_str(&dry).unwrap();
    let text = succeed(&mut lab.svcproxy(&["cleanup", "--dry-run"]));
    assert!(
        text.contains("delete virtual server tcp 10.96.0.80:80\n"),
        "{text}"
    );
    assert!(
        text.ends_with(" to remove; nothing was changed\n"),
        "{text}"
    );

    let done = succeed(&mut lab.svcproxy(&["cleanup", "-o=json"]));
    assert_eq!(rest(), before);
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["removed"], dry["removed"]);
    assert!(done["removed"].as_array().unwrap().len() > 10, "{done}");
    assert_eq!(
        (&done["dryRun"], &dry["dryRun"]),
        (&false.into(), &true.into())
    );
    let again = succeed(&mut lab.svcproxy(&["cleanup", "--dry-run"]));
    assert_eq!(again, "0 to remove; nothing was changed\n");
    let status = succeed(&mut lab.svcproxy(&["status"]));
    assert!(status.contains("\nserves      0 Services, "), "{status}");
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn steps_against_the_kernel_are_those_that_are_needed() {
    let lab = Lab::new("against", &[WEB]);
    lab.use_example("web.yaml");
    let ipvs = |steps: &[String]| {
        steps
            .iter()
            .filter(|step| step.contains("10.96.0.80:80"))
            .count()
    };
    let before = lab.steps();
    // The element, the virtual server, its real servers.
    assert_eq!(ipvs(&before), 5, "{before:?}");
    assert!(
        before
            .iter()
            .any(|step| step == "set sysctl net.ipv4.vs.conntrack = 1"),
        "{before:?}"
    );
    assert!(
        before
            .iter()
            .any(|step| step == "install packet-filter rules"),
        "{before:?}"
    );
    assert!(
        before
            .iter()
            .any(|step| step.starts_with("add route local 10.96.0.0/12 dev lo src")),
        "{before:?}"
    );
    // Planning changes nothing.
    assert_eq!(lab.steps(), before);
    lab.once();
    assert_eq!(lab.plan(&["--against=kernel"]), "nothing to do\n");

    // Another program flushes IPVS.
    lab.node().run(["ipvsadm", "-C"]).unwrap();
    let steps = lab.steps();
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(ipvs(&steps), 4, "{steps:?}");
    lab.once();
    assert_eq!(lab.steps(), [""; 0]);
    lab.ask(lab.probe(), &WEB).unwrap();

    // Another program deletes the table, the routes and a real server, adds one, and resets a
    // sysctl.
    lab.node()
        .run(["nft", "delete", "table", "inet", "svcproxy"])
        .unwrap();
    lab.node()
        .ip(&["route del local 10.96.0.0/12 dev lo table local"])
        .unwrap();
    let real_server = |action, server| {
        lab.node()
            .run(["ipvsadm", action, "-t", "10.96.0.80:80", "-r", server])
            .unwrap()
    };
    real_server("-d", "10.244.1.10:8080");
    real_server("-a", "10.244.9.9:8080");
    lab.node().sysctl("net/ipv4/vs/conntrack", "0").unwrap();
    lab.once();
    assert_eq!(lab.steps(), [""; 0]);
    assert_eq!(lab.ipvsadm(), sorted(&lab.plan(&["-o=ipvsadm"])));
    for from in [lab.probe(), lab.node(), lab.client()] {
        lab.ask(from, &WEB).unwrap();
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn without_privileges_the_error_says_what_is_needed() {
    let lab = Lab::new("nobody", &[]);
    lab.use_example("web.yaml");
    for command in ["status", "cleanup"] {
        let mut setpriv = lab.node().command("setpriv");
        setpriv
            .args(["--bounding-set=-all", "--inh-caps=-all"])
            .args([env!("CARGO_BIN_EXE_svcproxy"), command, "--log-format=json"]);
        let (log, code) = run_logged(&mut setpriv);
        let text = log[0]["message"].as_str().unwrap();
        assert_eq!(code, 1, "{log:?}");
        assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn running_svcproxy_repairs_what_others_destroyed() {
    let lab = Lab::new("repair", &[WEB]);
    lab.use_example("web.yaml");
    let svcproxy = lab.follow();
    lab.node().run(["ipvsadm", "-C"]).unwrap();
    lab.ask(lab.probe(), &WEB).unwrap_err();
    // Repaired by the audit, once a minute.
    let repaired = || lab.ask(lab.probe(), &WEB);
    eventually(3 * PATIENCE, repaired).unwrap();
    lab.converges();
    svcproxy.terminate();
}
