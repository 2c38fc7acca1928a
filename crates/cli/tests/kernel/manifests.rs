//! Manifests that change while svcproxy runs, with and without errors.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use testbed::{AskError, eventually};

use crate::lab::{Lab, PATIENCE, client, run_logged, succeed};
use crate::ports::{self, WEB};

fn message(event: &Value) -> &str {
    event["message"].as_str().unwrap_or_default()
}

/// Waits until exactly these of the web Service's backends answer.
fn answered_by(lab: &Lab, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|&backend| backend.to_owned()).collect();
    let attempt = || {
        let ask = |_| lab.ask(lab.probe(), &WEB).map(|answer| answer.backend);
        let answers: Result<BTreeSet<_>, _> = (0..2 * WEB.backends().len()).map(ask).collect();
        if answers.as_ref() == Ok(&expected) {
            Ok(())
        } else {
            Err(answers)
        }
    };
    eventually(PATIENCE, attempt).unwrap();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn edits_are_followed_except_invalid_ones() {
    let lab = Lab::new("edits", &[&[WEB], ports::API_SERVER].concat());
    lab.use_example("web.yaml");
    lab.use_example("api-server.yaml");
    let svcproxy = lab.follow();
    let all = ["10.244.1.10:8080", "10.244.1.11:8080", "10.244.2.10:8080"];
    answered_by(&lab, &all);

    lab.edit(
        "web.yaml",
        "[10.244.1.11]\n  nodeName: node-a\n  conditions: {ready: true",
        "[10.244.1.11]\n  nodeName: node-a\n  conditions: {ready: false",
    );
    answered_by(&lab, &[all[0], all[2]]);

    // An invalid edit: reported with file, document and field; the last good state stays in effect.
    let good = fs::read_to_string(lab.manifests().join("web.yaml")).unwrap();
    lab.undisturbed(lab.probe(), &WEB, || {
        lab.edit("web.yaml", "port: 80\n", "port: 70000\n");
        let error = svcproxy.wait("an error", |event| event["level"] == "ERROR");
        let text = message(&error);
        for part in [
            "web.yaml: document 1 (line ",
            "Service default/web: spec.ports[0].port: 70000",
        ] {
            assert!(text.contains(part), "{text}");
        }
        lab.write("web.yaml", &good.replace("endpoints:", "endpoints: ["));
        svcproxy.wait("another error", |event| {
            event["level"] == "ERROR" && message(event).contains("web.yaml: document 2")
        });
        // Other files are followed meanwhile.
        lab.edit("api-server.yaml", "port: 443", "port: 444");
        let moved = || {
            client(
                ports::API_SERVER[0].protocol,
                "10.96.0.1:444".parse().unwrap(),
            )
            .ask(lab.probe())
        };
        eventually(PATIENCE, moved).unwrap();
    });
    answered_by(&lab, &[all[0], all[2]]);

    // A valid edit is applied again.
    lab.use_example("web.yaml");
    answered_by(&lab, &all);
    lab.converges();

    // Written in place and removed, as people do it.
    let old = fs::read_to_string(lab.manifests().join("web.yaml")).unwrap();
    fs::write(
        lab.manifests().join("web.yaml"),
        old.replace("[10.244.2.10]", "[10.244.1.10]"),
    )
    .unwrap();
    answered_by(&lab, &all[..2]);
    lab.remove("web.yaml");
    let refused = || match lab.ask(lab.probe(), &WEB) {
        Err(AskError::Refused) => Ok(()),
        other => Err(other),
    };
    eventually(PATIENCE, refused).unwrap();
    lab.ask(lab.probe(), &ports::API_SERVER[0]).unwrap_err();
    svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn one_change_sends_only_its_own_steps() {
    let lab = Lab::new("one-change", &[]);
    lab.use_all_examples();
    let svcproxy = lab.follow();
    lab.edit("dns.yaml", "[10.244.2.2]", "[10.244.2.9]");
    let sync = svcproxy.wait("a second sync", |event| {
        event["message"] == "synced" && event["full"] == false
    });
    // Two TCP ports and a UDP one: each gets the new real server and loses the old one.
    let counts = [
        "ipvs_changes",
        "transactions",
        "elements",
        "routes",
        "sysctls",
    ];
    let counts = counts.map(|count| sync[count].as_u64().unwrap());
    assert_eq!(counts, [6, 0, 0, 0, 0], "{sync}");
    lab.converges();
    assert_eq!(svcproxy.syncs(), 2);
    svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn malformed_manifests_do_not_affect_others() {
    let every = [
        &[WEB][..],
        ports::API_SERVER,
        ports::DNS,
        ports::DUAL_STACK,
        ports::ENDPOINTS_BY_HAND,
        ports::MULTI_PORT,
    ]
    .concat();
    let lab = Lab::new("malformed", &every);
    lab.use_all_examples();
    for (name, text, _) in MALFORMED {
        lab.write(name, text);
    }
    let (log, code) = run_logged(&mut lab.once_command());
    assert_eq!(code, 2, "{log:#?}");
    for (name, _, place) in MALFORMED {
        let reported = |event: &Value| {
            event["level"] == "ERROR"
                && message(event).contains(name)
                && message(event).contains(place)
                && !message(event).contains('\n')
        };
        assert!(log.iter().any(reported), "{name} {place}: {log:#?}");
    }
    for port in &every {
        let answers: BTreeSet<_> = port
            .backends()
            .map(|_| lab.ask(lab.probe(), port).unwrap().backend)
            .collect();
        let expected = port.backends().map(|backend| backend.to_string()).collect();
        assert_eq!(answers, expected, "{port:?}");
    }
    // An unreadable file may contain any object, so nothing is changed.
    lab.write(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x\n",
    );
    let (log, code) = run_logged(&mut lab.once_command());
    assert_ne!(code, 0, "{log:#?}");
    let names = |event: &Value| message(event).contains("broken.yaml");
    assert!(log.iter().any(names), "{log:#?}");
    lab.remove("broken.yaml");
    // Without the malformed manifests, the state is the same.
    for (name, ..) in MALFORMED {
        lab.remove(name);
    }
    assert_eq!(lab.steps(), [""; 0]);
}

/// File, content, and the expected message.
const MALFORMED: [(&str, &str, &str); 8] = [
    (
        "zero.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x0}\nspec: {clusterIP: 10.96.5.1, ports: [{port: 0}]}",
        "Service default/x0: spec.ports[0].port",
    ),
    (
        "much.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x1}\nspec: {clusterIP: 10.96.5.2, ports: [{port: 70000}]}",
        "Service default/x1: spec.ports[0].port",
    ),
    (
        "loopback.yaml",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x2, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 1}]\nendpoints: [{addresses: [127.0.0.1]}]",
        "EndpointSlice default/x2: endpoints[0].addresses[0]",
    ),
    (
        "link-local.yaml",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x3, labels: {kubernetes.io/service-name: api}}\naddressType: IPv6\nports: [{name: http, port: 1}]\nendpoints: [{addresses: ['fe80::1']}]",
        "EndpointSlice default/x3: endpoints[0].addresses[0]",
    ),
    (
        // After the example in the order of files.
        "zz-same-address.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x4}\nspec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}",
        "Service default/x4: spec.ports[0].port",
    ),
    (
        "unnamed.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x5}\nspec: {clusterIP: 10.96.5.5, ports: [{port: 80}, {port: 81}]}",
        "Service default/x5: spec.ports[0].name",
    ),
    (
        "newline.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: \"x6\\ny\"}\nspec: {clusterIP: 10.96.5.6, ports: [{port: 80}]}",
        "metadata.name",
    ),
    (
        "quote.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: 'x7\"'}\nspec: {clusterIP: 10.96.5.7, ports: [{port: 80}]}",
        "metadata.name",
    ),
];

#[test]
#[ignore = "kernel: needs IPVS"]
fn cluster_ip_outside_of_the_service_cidrs() {
    let lab = Lab::new("stray", &[WEB]);
    lab.use_example("web.yaml");
    lab.edit("web.yaml", "clusterIP: 10.96.0.80", "clusterIP: 192.0.2.80");
    lab.once();
    // The client outside has routes to the Service CIDRs only.
    let to_vip = format!("route add 192.0.2.80 via {}", lab.node().v4);
    lab.client().ip(&[to_vip]).unwrap();
    for from in [lab.probe(), lab.node(), lab.client()] {
        let ask = |port| client(WEB.protocol, ([192, 0, 2, 80], port).into()).ask(from);
        let answers: Result<BTreeSet<_>, _> = (0..3)
            .map(|_| ask(80).map(|answer| answer.backend))
            .collect();
        assert_eq!(answers.unwrap().len(), 3, "from {}", from.name());
        assert_eq!(ask(81), Err(AskError::Refused), "from {}", from.name());
    }
    let route = || {
        let routes = ["ip", "route", "show", "table", "local", "192.0.2.80"];
        lab.node().run(routes).unwrap()
    };
    assert!(route().contains("proto 73"), "{}", route());
    lab.remove("web.yaml");
    lab.once();
    assert_eq!(route(), "");
    assert_eq!(lab.steps(), [""; 0]);
    succeed(&mut lab.svcproxy(&["status"]));
}
