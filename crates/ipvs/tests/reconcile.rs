//! Plans, add-or-update, the whole table and serde, on the fake kernel.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "shared with the tests of properties")]
mod arbitrary;

use std::collections::BTreeMap;

use arbitrary::{change, real_server, virtual_server};
use ipvs::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn web() -> VirtualServer {
    VirtualServer::new("tcp 10.96.0.1:80".parse().unwrap())
}

fn real(text: &str) -> RealServer {
    RealServer::new(text.parse().unwrap())
}

#[test]
fn a_plan_leaves_what_it_does_not_own() {
    let mut client = FakeKernel::new().client().unwrap();
    let foreign = web().with_tag(1);
    client.add_virtual_server(&foreign).unwrap();
    let mut gone = web().with_tag(7);
    gone.key = "tcp 10.96.0.2:80".parse().unwrap();
    client.add_virtual_server(&gone).unwrap();
    let wanted = [Wanted::new(web().with_tag(7), [real("10.244.0.1:80")])];
    let owned = |entry: &VirtualServerEntry| entry.server.tag == 7;
    let (plan, outcomes) = client.reconcile(&wanted, owned).unwrap();
    assert!(outcomes.all_ok());
    assert_eq!(plan.conflicts(), [foreign.key]);
    assert_eq!(plan.changes(), [Change::DeleteVirtualServer(gone.key)]);
    let listed = client.virtual_servers().unwrap();
    assert_eq!(listed, [client.virtual_server(&foreign.key).unwrap()]);
}

#[test]
fn new_real_servers_come_before_old_ones_go() {
    let mut client = FakeKernel::new().client().unwrap();
    let own = |_: &VirtualServerEntry| true;
    let (old, kept, new) = (
        real("10.1.0.1:80"),
        real("10.1.0.2:80"),
        real("10.1.0.3:80"),
    );
    client
        .reconcile(&[Wanted::new(web(), [old, kept])], own)
        .unwrap()
        .1
        .into_result()
        .unwrap();
    let wanted = [Wanted::new(
        web().with_scheduler(Scheduler::LeastConnection),
        [kept.with_weight(5), new],
    )];
    let plan = client.plan(&wanted, own).unwrap();
    let text: Vec<String> = plan.changes().iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "update virtual server tcp 10.96.0.1:80",
            "update real server 10.1.0.2:80 of tcp 10.96.0.1:80",
            "add real server 10.1.0.3:80 of tcp 10.96.0.1:80",
            "delete real server 10.1.0.1:80 of tcp 10.96.0.1:80",
        ]
    );
}

#[test]
fn add_or_update_does_either() {
    let mut client = FakeKernel::new().client().unwrap();
    for scheduler in [Scheduler::RoundRobin, Scheduler::LeastConnection] {
        let server = web().with_scheduler(scheduler);
        client.add_or_update_virtual_server(&server).unwrap();
        assert_eq!(client.virtual_server(&server.key).unwrap().server, server);
    }
    for weight in [1, 7] {
        let server = real("10.1.0.1:80").with_weight(weight);
        client
            .add_or_update_real_server(&web().key, &server)
            .unwrap();
        let table = client.table().unwrap();
        assert_eq!(table[0].real_servers[0].server, server);
    }
    let missing = "tcp 10.96.0.9:80".parse().unwrap();
    let error = client.add_or_update_real_server(&missing, &real("10.1.0.1:80"));
    assert!(error.unwrap_err().is_not_found());
}

/// What the fake accepts, so that a plan can be carried out.
fn acceptable() -> impl Strategy<Value = Vec<Wanted>> {
    let real_servers = vec((1u8..9, 0u32..3, 0u32..3), 0..5);
    let wanted = (1u16..6, any::<bool>(), 1u32..4, any::<bool>(), real_servers);
    vec(wanted, 0..6).prop_map(|all| {
        let wanted = all
            .into_iter()
            .map(|(port, hash, timeout, persistent, real_servers)| {
                let key = VirtualServerKey::tcp(([10, 96, 0, 1], port).into());
                let mut server = VirtualServer::new(key);
                if hash {
                    server = server.with_scheduler(Scheduler::SourceHash);
                }
                if persistent {
                    let host = Netmask::from_prefix(Family::V4, 32).unwrap();
                    server.persistence = Some(Persistence::new(timeout));
                    // A netmask of all ones is no difference.
                    server.persistence.as_mut().unwrap().netmask = hash.then_some(host);
                }
                let real = real_servers.into_iter().map(|(host, weight, lower)| {
                    RealServer::new(RealServerKey::new([10, 244, 0, host].into(), 80))
                        .with_weight(weight)
                        .with_thresholds(lower, lower + 1)
                });
                Wanted::new(server, real)
            });
        wanted.collect()
    })
}

proptest! {
    #[test]
    fn a_plan_leads_from_any_table_to_any_other(first in acceptable(), second in acceptable()) {
        let mut client = FakeKernel::new().client().unwrap();
        for wanted in [first, second] {
            let (_, outcomes) = client.reconcile(&wanted, |_| true).unwrap();
            prop_assert!(outcomes.all_ok());
            let expected: BTreeMap<_, _> = wanted.iter().map(|wanted| {
                let real: BTreeMap<_, _> =
                    wanted.real_servers.iter().map(|server| (server.key, *server)).collect();
                (wanted.server.key, (wanted.server, real))
            }).collect();
            let listed: BTreeMap<_, _> = client.table().unwrap().into_iter().map(|entry| {
                let server = entry.virtual_server.server;
                let real = entry.real_servers.into_iter().map(|entry| (entry.server.key, entry.server));
                (server.key, (server, real.collect()))
            }).collect();
            prop_assert_eq!(listed, expected);
            prop_assert!(client.plan(&wanted, |_| true).unwrap().is_empty());
        }
    }

    #[test]
    fn any_change_survives_json(change in change()) {
        let json = serde_json::to_string(&change).unwrap();
        prop_assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change, "{}", json);
    }

    #[test]
    fn any_forwarding_is_its_text(server in real_server()) {
        prop_assert_eq!(server.forwarding.to_string().parse(), Ok(server.forwarding));
        if let Forwarding::Tunnel(tunnel) = server.forwarding {
            prop_assert_eq!(tunnel.to_string().parse(), Ok(tunnel));
        }
    }

    /// Without the fields that ipvsadm cannot express or cannot distinguish.
    #[test]
    fn rules_are_parsed_back(server in virtual_server(), real in real_server()) {
        let mut server = server.with_tag(0);
        let ipvsadm = Flags::ONE_PACKET | Flags::SCHEDULER_1 | Flags::SCHEDULER_2 | Flags::SCHEDULER_3;
        server.flags = Flags::from_bits(server.flags.bits() & ipvsadm.bits());
        if let VirtualServerKey::Address { protocol, address, port } = server.key
            && ![Protocol::Tcp, Protocol::Udp, Protocol::Sctp].contains(&protocol)
        {
            server.key = VirtualServerKey::Address { protocol: Protocol::Udp, address, port };
        }
        let change = Change::AddVirtualServer(server);
        let rule = ipvsadm::rule(&change).to_string();
        prop_assert_eq!(ipvsadm::parse(&rule).unwrap(), [change], "{}", rule);

        let mut real = real;
        if !matches!(
            real.forwarding,
            Forwarding::Masquerade | Forwarding::DirectRouting
                | Forwarding::Tunnel(Tunnel::Ipip | Tunnel::Gue { .. } | Tunnel::Gre { .. })
        ) {
            real.forwarding = Forwarding::Masquerade;
        }
        if real.upper_threshold == 0 {
            real.lower_threshold = 0;
        }
        let change = Change::AddRealServer { virtual_server: server.key, real_server: real };
        let rule = format!("{:#}", ipvsadm::rule(&change));
        prop_assert_eq!(ipvsadm::parse(&rule).unwrap(), [change], "{}", rule);
    }

    #[test]
    fn no_text_panics_the_parsers(text in "[-a-zA-Z0-9 .:=\\[\\]\n]{0,60}") {
        let _ = ipvsadm::parse(&text);
        let _ = text.parse::<Status>();
        let _ = text.parse::<Forwarding>();
        let _ = text.parse::<Netmask>();
    }
}

#[test]
fn json_is_short_and_strict() {
    let json = r#"{"server":{"key":"tcp 10.96.0.1:80"},"real_servers":[{"key":"10.1.0.1:80"}]}"#;
    let wanted: Wanted = serde_json::from_str(json).unwrap();
    assert_eq!(wanted, Wanted::new(web(), [real("10.1.0.1:80")]));
    let full = serde_json::to_value(Change::AddRealServer {
        virtual_server: web().key,
        real_server: real("10.1.0.1:80"),
    });
    assert_eq!(
        full.unwrap().to_string(),
        r#"{"AddRealServer":{"real_server":{"forwarding":"masquerade","key":"10.1.0.1:80","lower_threshold":0,"upper_threshold":0,"weight":1},"virtual_server":"tcp 10.96.0.1:80"}}"#
    );
    for bad in [
        r#"{"server":{"key":"tcp 10.96.0.1"}}"#,
        r#"{"server":{"key":"tcp 10.96.0.1:80","schedular":"rr"}}"#,
        r#"{"server":{"key":"tcp 10.96.0.1:80"},"servers":[]}"#,
    ] {
        assert!(serde_json::from_str::<Wanted>(bad).is_err(), "{bad}");
    }
}
