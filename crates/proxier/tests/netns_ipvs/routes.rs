//! svcproxy's routes and foreign routes.

use super::*;

#[test]
#[ignore = "netns: needs root"]
fn foreign_routes_are_not_replaced() {
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
        let mut kernel = kernel();
        // Before the kernel's own, which stays: kube-proxy's device has virtual IPs.
        let single = route("192.0.2.1/32", "192.0.2.2");
        succeed(&mut kernel, [Step::AddRoute(single)]);
        let local = || namespace.run(["ip", "route", "show", "table", "local", "192.0.2.1"]);
        assert_eq!(local().unwrap().lines().count(), 2);
        succeed(&mut kernel, [Step::DeleteRoute(single)]);
        assert_eq!(local().unwrap().lines().count(), 1);

        // svcproxy's own route: a new source replaces the old one.
        for (prefix, old, new) in [
            ("10.96.0.0/12", "192.0.2.1", "192.0.2.2"),
            ("fd00:10:96::/112", "fd00::1", "fd00::2"),
        ] {
            let (old, new) = (route(prefix, old), route(prefix, new));
            succeed(&mut kernel, [Step::AddRoute(old)]);
            let twice = apply(&mut kernel, [Step::AddRoute(old)]);
            assert_eq!(errnos(&twice), [(0, Some(17))]);
            succeed(&mut kernel, [Step::AddRoute(new)]);
            assert_eq!(kernel.observe().unwrap().routes, BTreeSet::from([new]));
            let gone = apply(&mut kernel, [Step::DeleteRoute(old)]);
            assert_eq!(errnos(&gone), [(0, Some(3))]);
            assert_eq!(kernel.observe().unwrap().routes, BTreeSet::from([new]));
            succeed(&mut kernel, [Step::DeleteRoute(new)]);
        }
        // The node does not have this address.
        let report = apply(
            &mut kernel,
            [Step::AddRoute(route("10.96.0.0/12", "198.51.100.1"))],
        );
        assert_eq!(errnos(&report), [(0, Some(22))]);
        let mixed = apply(&mut kernel, [Step::AddRoute(route("10.96.0.0/12", "::1"))]);
        assert!(matches!(mixed.failures[0].error, NodeError::Route { .. }));
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

/// Where the kernel takes packets of this node to an address.
fn kind_of(namespace: &Namespace, address: &str) -> String {
    let got = namespace.run(["ip", "route", "get", address]);
    got.map_or_else(
        |error| error.to_string(),
        |got| got.split(' ').next().unwrap().to_owned(),
    )
}

#[test]
#[ignore = "netns: needs root"]
fn a_route_before_svcproxys_is_seen_named_and_passed() {
    for (source, prefix, vip, foreign, name) in [
        (
            "192.0.2.1",
            "10.96.0.0/12",
            "10.96.0.10",
            "route prepend blackhole 10.96.0.0/12 table local",
            "blackhole 10.96.0.0/12 proto boot metric 0",
        ),
        (
            "fd00::1",
            "fd00:10:96::/112",
            "fd00:10:96::10",
            // As an older svcproxy's would be, behind the foreign one.
            "route add blackhole fd00:10:96::/112 table local metric 7",
            "blackhole fd00:10:96::/112 dev lo proto boot metric 7",
        ),
    ] {
        let namespace = namespace();
        let length = if source.contains(':') {
            "128 nodad"
        } else {
            "32"
        };
        let address = format!("addr add {source}/{length} dev lo");
        namespace.ip(&[&address]).unwrap();
        namespace.enter(|| {
            let mut kernel = kernel();
            let own = route(prefix, source);
            succeed(&mut kernel, [Step::AddRoute(own)]);
            assert_eq!(kernel.observe().unwrap().obstacles, BTreeSet::new());
            assert_eq!(kind_of(&namespace, vip), "local");
            if own.prefix.addr().is_ipv6() {
                let move_back = [
                    format!("route del local {prefix} dev lo table local proto 73"),
                    format!("route add local {prefix} dev lo src {source} table local proto 73"),
                ];
                namespace
                    .ip(&move_back.each_ref().map(String::as_str))
                    .unwrap();
            }
            namespace.ip(&[foreign]).unwrap();
            assert_ne!(kind_of(&namespace, vip), "local");

            let seen = kernel.observe().unwrap();
            let obstacle = Obstacle {
                prefix: own.prefix,
                by: name.to_owned(),
                can_be_passed: true,
            };
            assert_eq!(seen.obstacles, BTreeSet::from([obstacle]));
            assert_eq!(seen.routes, BTreeSet::from([own]));
            succeed(&mut kernel, [Step::AddRoute(own)]);
            assert_eq!(kind_of(&namespace, vip), "local");
            let seen = kernel.observe().unwrap();
            assert_eq!(seen.obstacles, BTreeSet::new());
            // The same if svcproxy's has gone meanwhile.
            succeed(&mut kernel, [Step::DeleteRoute(own)]);
            assert_eq!(kernel.observe().unwrap().routes, BTreeSet::new());
            succeed(&mut kernel, [Step::AddRoute(own)]);
            assert_eq!(kind_of(&namespace, vip), "local");
            let twice = apply(&mut kernel, [Step::AddRoute(own)]);
            assert_eq!(errnos(&twice), [(0, Some(17))]);
            succeed(&mut kernel, [Step::DeleteRoute(own)]);
            assert_ne!(kind_of(&namespace, vip), "local");
        });
    }
}

#[test]
#[ignore = "netns: needs root"]
fn what_cannot_be_passed_is_named() {
    let namespace = namespace();
    let setup = [
        "addr add 192.0.2.1/32 dev lo",
        "addr add fd00::1/128 dev lo nodad",
    ];
    namespace.ip(&setup).unwrap();
    let (v4, v6) = ("10.96.0.0/12", "fd00:10:96::/112");
    namespace.enter(|| {
        let mut kernel = kernel();
        let own = route(v4, "192.0.2.1");
        succeed(&mut kernel, [Step::AddRoute(own)]);
        let mut seen_with = |line: &str, undo: &str| {
            namespace.ip(&[line]).unwrap();
            let obstacles = kernel.observe().unwrap().obstacles;
            namespace.ip(&[undo]).unwrap();
            let obstacles = obstacles.into_iter();
            let all: Vec<_> = obstacles
                .map(|o| (o.prefix == own.prefix, o.by, o.can_be_passed))
                .collect();
            all
        };
        let part = "10.97.0.0/16 table local";
        assert_eq!(
            seen_with(
                &format!("route add prohibit {part} metric 5"),
                &format!("route del {part} metric 5")
            ),
            [(
                true,
                "prohibit 10.97.0.0/16 proto boot metric 5".to_owned(),
                false
            )]
        );
        // Of table local, but of no packet's interest.
        assert_eq!(
            seen_with(
                "addr add 10.98.0.1/24 dev lo",
                "addr del 10.98.0.1/24 dev lo"
            ),
            []
        );
        // A rule that comes before the one of table local.
        let rule = "to 10.96.0.0/12 priority 0 blackhole";
        let seen = seen_with(&format!("rule add {rule}"), &format!("rule del {rule}"));
        let by_rule = |(is_prefix, by, can_be_passed): &(bool, String, bool)| {
            *is_prefix && by.starts_with("a routing rule") && !can_be_passed
        };
        // Depending on the order of rules of one priority the new one may be second.
        assert!(seen.iter().all(by_rule), "{seen:?}");

        // IPv6 has no place before the lowest metric.
        let first = format!("route add unreachable {v6} table local metric 1");
        namespace.ip(&[&first]).unwrap();
        let refused = apply(&mut kernel, [Step::AddRoute(route(v6, "fd00::1"))]);
        assert_eq!(errnos(&refused), [(0, Some(17))]);
        let error = refused.failures[0].error.to_string();
        let name = format!("\"unreachable {v6} dev lo proto boot metric 1\"");
        assert!(error.contains(&name), "{error}");
    });
}

#[test]
#[ignore = "netns: needs root"]
fn policy_routes_are_complete_or_absent() {
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
        let mut kernel = kernel();
        let observed = |kernel: &mut IpvsKernel<_>| kernel.observe().unwrap().policy_routes;
        let (v4, v6) = (policy(Family::V4), policy(Family::V6));
        let other = PolicyRoute { mark: 0x10, ..v6 };
        let add = Step::AddPolicyRoute;
        let delete = Step::DeletePolicyRoute;
        assert_eq!(observed(&mut kernel), BTreeSet::new());
        succeed(&mut kernel, [add(v4)]);
        for policy in [v4, v6] {
            let (ip, prefix) = match policy.family {
                Family::V4 => ("-4", "default"),
                Family::V6 => ("-6", "::/0"),
            };
            if policy == v6 {
                succeed(&mut kernel, [add(v6)]);
            }
            let whole = everything();
            assert_eq!(errnos(&apply(&mut kernel, [add(policy)])), [(0, Some(17))]);
            for part in [
                format!("rule del priority 73 protocol {ROUTE_PROTOCOL}"),
                format!("rule del priority 72 protocol {ROUTE_PROTOCOL}"),
                format!("route del local {prefix} dev lo table 73"),
            ] {
                let part: Vec<_> = part.split(' ').collect();
                listed(ip, &part);
                assert!(!observed(&mut kernel).contains(&policy), "{part:?}");
                succeed(&mut kernel, [add(policy)]);
                assert_eq!(everything(), whole, "{part:?}");
            }
        }
        assert_eq!(observed(&mut kernel), BTreeSet::from([v4, v6]));
        // The route stays for the other mark.
        succeed(&mut kernel, [add(other), delete(v6)]);
        assert_eq!(observed(&mut kernel), BTreeSet::from([v4, other]));
        let gone = apply(&mut kernel, [delete(v6)]);
        assert_eq!(errnos(&gone), [(0, Some(2))]);
        succeed(&mut kernel, [delete(v4), delete(other)]);
        assert_eq!(everything(), before);

        // Leftovers of a kill.
        succeed(&mut kernel, [add(v4), add(v6)]);
        listed("-4", &["rule", "del", "priority", "73", "protocol", "73"]);
        listed(
            "-6",
            &["route", "del", "local", "::/0", "dev", "lo", "table", "73"],
        );
        let _ = cleanup(&mut kernel).unwrap();
        assert_eq!(everything(), before);
    });
}
