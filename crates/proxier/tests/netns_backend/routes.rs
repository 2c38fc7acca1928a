//! Routes, and those of others.

use super::*;

#[test]
#[ignore = "netns: needs root"]
fn routes_of_others_are_not_replaced() {
    let namespace = namespace();
    let lines = [
        "addr add 192.0.2.1/32 dev lo",
        "addr add 192.0.2.2/32 dev lo",
    ];
    namespace.ip(&lines).unwrap();
    namespace
        .ip(&[
            "addr add fd00::1/128 dev lo nodad",
            "addr add fd00::2/128 dev lo nodad",
        ])
        .unwrap();
    namespace.enter(|| {
        let mut backend = backend();
        let of_others = apply(
            &mut backend,
            [Step::AddRoute(route("192.0.2.1/32", "192.0.2.2"))],
        );
        assert_eq!(errnos(&of_others), [(0, Some(17))]);

        // Our own: another source takes the place of the former.
        for (prefix, old, new) in [
            ("10.96.0.0/12", "192.0.2.1", "192.0.2.2"),
            ("fd00:10:96::/112", "fd00::1", "fd00::2"),
        ] {
            let (old, new) = (route(prefix, old), route(prefix, new));
            succeed(&mut backend, [Step::AddRoute(old)]);
            let twice = apply(&mut backend, [Step::AddRoute(old)]);
            assert_eq!(errnos(&twice), [(0, Some(17))]);
            succeed(&mut backend, [Step::AddRoute(new)]);
            assert_eq!(backend.observe().unwrap().routes, BTreeSet::from([new]));
            let gone = apply(&mut backend, [Step::DeleteRoute(old)]);
            assert_eq!(errnos(&gone), [(0, Some(3))]);
            assert_eq!(backend.observe().unwrap().routes, BTreeSet::from([new]));
            succeed(&mut backend, [Step::DeleteRoute(new)]);
        }
        // The node does not have this address.
        let report = apply(
            &mut backend,
            [Step::AddRoute(route("10.96.0.0/12", "198.51.100.1"))],
        );
        assert_eq!(errnos(&report), [(0, Some(22))]);
        let mixed = apply(&mut backend, [Step::AddRoute(route("10.96.0.0/12", "::1"))]);
        assert!(matches!(
            mixed.failures[0].error,
            BackendError::Route { .. }
        ));
    });
    let listed = namespace
        .run([
            "ip",
            "route",
            "show",
            "table",
            "all",
            "proto",
            &ROUTE_PROTOCOL.to_string(),
        ])
        .unwrap();
    assert_eq!(listed, "");
}

#[test]
#[ignore = "netns: needs root"]
fn policy_routes_are_whole_or_not_there() {
    let namespace = namespace();
    let foreign = [
        "rule add fwmark 0x2000/0x2000 lookup 73 priority 73 protocol 42",
        "rule add fwmark 0x8000 lookup 73 priority 73",
        "route add local 203.0.113.0/24 dev lo table 73",
    ];
    namespace.ip(&foreign).unwrap();
    let listed = |family: &str, what: &[&str]| {
        let arguments = ["ip", family].into_iter().chain(what.iter().copied());
        namespace.run(arguments.collect::<Vec<_>>()).unwrap()
    };
    let everything = || {
        ["-4", "-6"].map(|family| {
            let route = listed(family, &["route", "show", "table", "all"]);
            (listed(family, &["rule"]), route)
        })
    };
    let before = everything();
    namespace.enter(|| {
        let mut backend = backend();
        let observed = |backend: &mut IpvsBackend<_>| backend.observe().unwrap().policy_routes;
        let (v4, v6) = (policy(Family::V4), policy(Family::V6));
        let other = PolicyRoute { mark: 0x10, ..v6 };
        let add = Step::AddPolicyRoute;
        let delete = Step::DeletePolicyRoute;
        assert_eq!(observed(&mut backend), BTreeSet::new());
        succeed(&mut backend, [add(v4)]);
        for policy in [v4, v6] {
            let (ip, prefix) = match policy.family {
                Family::V4 => ("-4", "default"),
                Family::V6 => ("-6", "::/0"),
            };
            if policy == v6 {
                succeed(&mut backend, [add(v6)]);
            }
            let whole = everything();
            assert_eq!(errnos(&apply(&mut backend, [add(policy)])), [(0, Some(17))]);
            for part in [
                format!("rule del priority 73 protocol {ROUTE_PROTOCOL}"),
                format!("rule del priority 72 protocol {ROUTE_PROTOCOL}"),
                format!("route del local {prefix} dev lo table 73"),
            ] {
                let part: Vec<_> = part.split(' ').collect();
                listed(ip, &part);
                assert!(!observed(&mut backend).contains(&policy), "{part:?}");
                succeed(&mut backend, [add(policy)]);
                assert_eq!(everything(), whole, "{part:?}");
            }
        }
        assert_eq!(observed(&mut backend), BTreeSet::from([v4, v6]));
        // The route stays for the other mark.
        succeed(&mut backend, [add(other), delete(v6)]);
        assert_eq!(observed(&mut backend), BTreeSet::from([v4, other]));
        let gone = apply(&mut backend, [delete(v6)]);
        assert_eq!(errnos(&gone), [(0, Some(2))]);
        succeed(&mut backend, [delete(v4), delete(other)]);
        assert_eq!(everything(), before);

        // What a kill left.
        succeed(&mut backend, [add(v4), add(v6)]);
        listed("-4", &["rule", "del", "priority", "73", "protocol", "73"]);
        listed(
            "-6",
            &["route", "del", "local", "::/0", "dev", "lo", "table", "73"],
        );
        let _ = cleanup(&mut backend).unwrap();
        assert_eq!(everything(), before);
    });
}
