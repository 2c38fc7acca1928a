//! Open connections while svcproxy stops, is killed and starts.

use std::fmt::Write;
use std::fs;

use testbed::{Protocol, eventually};

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, sorted};
use crate::ports::{self, WEB};
use crate::shop::Lasting;

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name, &[WEB]);
    lab.use_example("web.yaml");
    lab
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_survive_a_restart() {
    let lab = lab("restart");
    let svcproxy = lab.follow();
    let mut lasting = Lasting::open(&lab, &[WEB]);
    let svcproxy = lasting.through(|lab| {
        svcproxy.terminate();
        lab.follow()
    });
    is_unchanged(&svcproxy);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_survive_a_kill() {
    let lab = lab("kill");
    let svcproxy = lab.follow();
    let mut lasting = Lasting::open(&lab, &[WEB]);
    lasting.through(|_| svcproxy.kill());
    // The data plane needs no svcproxy.
    lasting.through(|_| ());
    let svcproxy = lasting.through(Lab::follow);
    is_unchanged(&svcproxy);
}

/// Checks that the first sync changed nothing.
fn is_unchanged(svcproxy: &Follower) {
    let sync = svcproxy.wait("a sync", |event| event["message"] == "synced");
    for count in [
        "steps",
        "ipvs_changes",
        "transactions",
        "elements",
        "routes",
        "sysctls",
    ] {
        assert_eq!(sync[count], 0, "{count}: {sync}");
    }
}

/// Enough for a kill to arrive while they are being created.
const SERVICES: usize = 120;
const PORTS: usize = 20;

#[test]
#[ignore = "kernel: needs IPVS"]
fn kill_in_the_middle_of_a_big_change_converges() {
    let lab = lab("killed");
    lab.once();
    let mut lasting = Lasting::open(&lab, &[WEB]);
    lab.write("many.yaml", &many());
    let expected = 1 + SERVICES * PORTS;
    let made = lasting.through(|lab| {
        let svcproxy = Follower::start(&mut lab.once_command());
        let some = || match virtual_servers(lab) {
            0 | 1 => Err("none was made"),
            _ => Ok(()),
        };
        eventually(PATIENCE, some).unwrap();
        svcproxy.kill();
        virtual_servers(lab)
    });
    assert!(
        (2..expected).contains(&made),
        "{made} of {expected} were made"
    );
    lasting.through(comes_in_line);

    // The same for their removal.
    lab.remove("many.yaml");
    let left = lasting.through(|lab| {
        let svcproxy = Follower::start(&mut lab.once_command());
        let fewer = || match virtual_servers(lab) {
            all if all == expected => Err("none was removed"),
            _ => Ok(()),
        };
        eventually(PATIENCE, fewer).unwrap();
        svcproxy.kill();
        virtual_servers(lab)
    });
    // It may be complete before it is observed.
    assert!(
        (1..expected).contains(&left),
        "{left} of {expected} were left"
    );
    lasting.through(comes_in_line);
    assert_eq!(lab.ipvsadm().len(), 4);
}

/// Starts svcproxy again. Dumps of such a large table can miss entries while virtual servers of
/// other namespaces change; then a second sync is necessary.
fn comes_in_line(lab: &Lab) {
    let svcproxy = lab.follow();
    lab.converges();
    let planned = sorted(&lab.plan(&["-o=ipvsadm"]));
    let is_planned = || {
        if lab.ipvsadm() == planned {
            Ok(())
        } else {
            Err("not as planned")
        }
    };
    eventually(PATIENCE, is_planned).unwrap();
    svcproxy.terminate();
}

/// Services without traffic.
fn many() -> String {
    let mut text = String::new();
    for service in 1..=SERVICES {
        let ports: String = (1..=PORTS)
            .map(|port| format!("{{name: p{port}, port: {port}}}, "))
            .collect();
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: many-{service}}}
spec: {{clusterIP: 10.97.0.{service}, ports: [{ports}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many-{service}, labels: {{kubernetes.io/service-name: many-{service}}}}}
addressType: IPv4
ports: [{ports}]
endpoints: [{{addresses: [10.245.1.{service}]}}, {{addresses: [10.245.2.{service}]}}]
"
        )
        .unwrap();
    }
    text
}

/// The number of virtual servers, or a few less: `/proc/net/ip_vs` skips some if other namespaces
/// have virtual servers, too.
fn virtual_servers(lab: &Lab) -> usize {
    let table = lab
        .node()
        .enter(|| fs::read_to_string("/proc/thread-self/net/ip_vs"))
        .unwrap();
    table.lines().filter(|line| line.starts_with("TCP")).count()
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_survive_scaling() {
    let lab = lab("scaling");
    let [.., last] = WEB.backends().collect::<Vec<_>>()[..] else {
        panic!()
    };
    let last_line = format!("- addresses: [{}]\n", last.ip());
    let text = fs::read_to_string(lab.manifests().join("web.yaml")).unwrap();
    let (most, _) = text.split_once(&last_line).unwrap();
    lab.write("web.yaml", most);
    let svcproxy = lab.follow();
    // None of them has the backend that will be added and removed.
    let mut lasting = Lasting::open(&lab, &[WEB]);
    lasting.through(|lab| {
        lab.write("web.yaml", &text);
        svcproxy.wait("the new endpoint", |event| event["ipvs_changes"] == 1);
        lab.converges();
    });
    let answers: Vec<_> = (0..3)
        .map(|_| lab.ask(lab.probe(), &WEB).unwrap().backend)
        .collect();
    assert!(answers.contains(&last.to_string()), "{answers:?}");
    let mut on_last: Vec<_> = (0..3)
        .map(|_| lab.connect(lab.probe(), &WEB))
        .filter_map(|mut connection| {
            (connection.ask().unwrap().backend == last.to_string()).then_some(connection)
        })
        .collect();
    assert_eq!(on_last.len(), 1);
    lasting.through(|lab| {
        lab.write("web.yaml", most);
        lab.converges();
    });
    for _ in 0..4 {
        assert_ne!(
            lab.ask(lab.probe(), &WEB).unwrap().backend,
            last.to_string()
        );
    }
    drop(on_last.pop());
    svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_over_every_protocol_survive_a_restart() {
    let lab = Lab::new("restart-six", ports::IPV6);
    lab.write("echo.yaml", ports::IPV6_MANIFEST);
    lab.once();
    let mut connections: Vec<_> = ports::IPV6
        .iter()
        .map(|port| {
            let mut connection = lab.connect(lab.client(), port);
            let backend = connection.ask().unwrap().backend;
            (connection, backend)
        })
        .collect();
    assert!(
        ports::IPV6
            .iter()
            .any(|port| port.protocol == Protocol::Sctp)
    );
    lab.once();
    for (connection, backend) in &mut connections {
        assert_eq!(connection.ask().unwrap().backend, *backend);
    }
}
