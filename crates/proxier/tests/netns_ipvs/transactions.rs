//! Changes of elements: in few transactions, and in spite of failures of others.

use super::*;

#[test]
#[ignore = "netns: needs root"]
fn a_failed_step_does_not_affect_others() {
    const ENOENT: i32 = 2;
    namespace().enter(|| {
        let mut kernel = kernel();
        let missing = Element::Hairpin("10.0.0.9".parse().unwrap());
        let server = |port| Element::VirtualServer(key(Protocol::Tcp, "10.96.0.1", port));

        // Without a table nothing can be added.
        let report = apply(&mut kernel, [add(server(1)), add(server(2))]);
        assert_eq!(errnos(&report), [(0, Some(ENOENT)), (1, Some(ENOENT))]);

        let too_long = Comment::Some("x".repeat(300).into());
        let with_nul = Comment::Some("web\0".into());
        let mut steps = vec![
            install(),
            Step::DeleteElement(missing),
            Step::AddElement(server(1), too_long),
            Step::AddElement(server(2), with_nul),
            add(cidr("10.96.0.0/12")),
            add(cidr("10.97.0.0/16")),
        ];
        steps.extend((3..1003).map(|port| add(server(port))));
        steps.push(Step::DeleteElement(server(2000)));
        let report = apply(&mut kernel, steps);
        let failed: Vec<_> = report.failures.iter().map(|f| f.step).collect();
        assert_eq!(failed, [1, 2, 3, 5, 1006], "{:#?}", report.failures);
        assert_eq!(report.failures[0].error.errno(), Some(ENOENT));

        let node = kernel.observe().unwrap();
        assert_eq!(node.ruleset, Some(ruleset().fingerprint()));
        let mut expected: Elements = (3..1003).map(|p| (server(p), None)).collect();
        expected.insert(cidr("10.96.0.0/12"), None);
        assert_eq!(node.elements, expected);
    });
}

#[test]
#[ignore = "netns: needs root"]
fn a_comment_is_changed_in_one_transaction() {
    namespace().enter(|| {
        let mut kernel = kernel();
        let server = |port| Element::VirtualServer(key(Protocol::Tcp, "10.96.0.1", port));
        let with = |text: &str, port| Step::AddElement(server(port), Some(text.into()));
        succeed(&mut kernel, [install(), with("a/a", 1), with("a/a", 2)]);
        // An existing element stays unchanged.
        succeed(&mut kernel, [with("b/b", 1)]);
        let comment = |kernel: &mut IpvsKernel<_>, port| {
            let elements = kernel.observe().unwrap().elements;
            elements.get(&server(port)).cloned().unwrap()
        };
        assert_eq!(comment(&mut kernel, 1), Some("a/a".into()));
        let delete = |port| Step::DeleteElement(server(port));
        let counts = succeed(
            &mut kernel,
            [delete(1), with("b/b", 1), delete(2), with("c/c", 2)],
        );
        assert_eq!(counts.transactions, 1);
        assert_eq!(comment(&mut kernel, 1), Some("b/b".into()));
        assert_eq!(comment(&mut kernel, 2), Some("c/c".into()));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn marks_and_ranges_are_changed_in_one_transaction() {
    const EEXIST: Option<i32> = Some(17);
    namespace().enter(|| {
        let mut kernel = kernel();
        let at = |port| key(Protocol::Tcp, "203.0.113.7", port);
        let captured = |port, bits| mark(at(port), Purpose::Capture, bits);
        succeed(
            &mut kernel,
            [
                install(),
                add(captured(80, 0x2000)),
                add(range(at(80), "192.0.2.0/24")),
            ],
        );
        // The mark conflicts with an existing element. Ranges do not, whatever they contain: each
        // length of networks is looked up by itself.
        let more = ["192.0.2.7/32", "192.0.2.0/28", "192.0.0.0/16"];
        let ranges = more.map(|network| range(at(80), network));
        let clashes = [captured(80, 0x6000)].into_iter().chain(ranges);
        let report = apply(&mut kernel, clashes.map(add));
        assert_eq!(errnos(&report), [(0, EEXIST)]);
        let elements = kernel.observe().unwrap().elements;
        assert_eq!(elements.source_ranges(&at(80)).count(), 4);
        succeed(&mut kernel, ranges.map(Step::DeleteElement));

        // Enough to fill several transactions, which must end only between addresses.
        let ports = 1000..1200u16;
        let before = |port| {
            let ranges = (0..8u8).map(move |n| range(at(port), &format!("10.{n}.0.0/16")));
            [captured(port, 0x2000)].into_iter().chain(ranges)
        };
        let after = |port| [captured(port, 0x6000), range(at(port), "10.0.0.0/12")];
        succeed(&mut kernel, ports.clone().flat_map(before).map(add));
        let changes = ports.clone().flat_map(|port| {
            let [mark, range] = after(port);
            let mut before = before(port);
            let old = before.next().unwrap();
            [Step::DeleteElement(old), add(mark)]
                .into_iter()
                .chain(before.map(Step::DeleteElement))
                .chain([add(range)])
        });
        let counts = succeed(&mut kernel, changes);
        assert!(counts.transactions > 1, "{counts:?}");
        let elements = kernel.observe().unwrap().elements;
        assert!(
            ports
                .clone()
                .flat_map(after)
                .all(|new| elements.contains(&new))
        );
        assert!(!ports.flat_map(before).any(|old| elements.contains(&old)));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn ten_thousand_services() {
    namespace().enter(|| {
        let mut kernel = kernel();
        succeed(&mut kernel, [install()]);
        let longest = format!("{0}/{0}:{0}", "x".repeat(63));
        let steps: Vec<_> = (0..10_000u32)
            .map(|number| {
                let base = if number % 2 == 0 {
                    "10.96.0.0"
                } else {
                    "fd00:10:96::"
                };
                let address = match base.parse().unwrap() {
                    IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + number).into()),
                    IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(number)).into()),
                };
                let key = FrontendKey {
                    address,
                    ..key(Protocol::Tcp, base, 80)
                };
                let comment = if number % 100 < 2 {
                    longest.clone()
                } else {
                    format!("ns/s{number}")
                };
                Step::AddElement(Element::VirtualServer(key), Some(comment.into()))
            })
            .collect();
        let counts = succeed(&mut kernel, steps.clone());
        assert_eq!(counts.elements, 10_000);
        assert!(counts.transactions < 100, "{:?}", counts);
        // Too many to be printed if they differ.
        assert!(kernel.observe().unwrap().elements == as_elements(&steps));

        // Addresses with one route each, as for VIPs outside of the Service CIDRs.
        let vips = (0..10_000u32).map(|number| {
            let address = IpAddr::from((0xc0a8_0000 + number).to_be_bytes());
            add(Element::ServiceCidr(address.into()))
        });
        succeed(&mut kernel, vips.clone());
        assert_eq!(kernel.observe().unwrap().elements.len(), 20_000);

        let deletes = kernel.observe().unwrap().elements;
        succeed(
            &mut kernel,
            deletes.keys().copied().map(Step::DeleteElement),
        );
        assert!(kernel.observe().unwrap().elements.is_empty());
    });
}
