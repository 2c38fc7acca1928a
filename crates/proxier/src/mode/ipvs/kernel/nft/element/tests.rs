use proptest::prelude::*;

use super::*;
use crate::mode::ipvs::rules::split_range;

fn read_back(element: &Element, comment: Option<&str>) -> Vec<(Element, Comment)> {
    let mut w = Writer::default();
    put_element(&mut w, element, comment);
    let parts = parts(w.bytes()).unwrap();
    match set_of(element) {
        set if is_network_set(set) => networks(parts, set),
        set => parts
            .iter()
            .map(|part| part.element(set).unwrap())
            .collect(),
    }
}

fn parts(list: &[u8]) -> Result<Vec<Part<'_>>, Malformed> {
    let elements = Attributes::parse(list)?.iter().map(|element| {
        assert_eq!(element.kind, NFTA_LIST_ELEM);
        Part::parse(element.attributes()?)
    });
    elements.filter_map(Result::transpose).collect()
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from),
    ]
}

fn frontend() -> impl Strategy<Value = FrontendKey> {
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let unspecified = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let address = prop_oneof![address(), prop::sample::select(unspecified.to_vec())];
    let port = any::<NonZeroU16>();
    (prop::sample::select(protocol.to_vec()), address, port).prop_map(
        |(protocol, address, port)| FrontendKey {
            protocol,
            address,
            port,
        },
    )
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128u8).prop_map(|(address, length)| {
        let max = IpNet::from(address).max_prefix_len();
        IpNet::new(address, length.min(max)).unwrap().trunc()
    })
}

fn element() -> impl Strategy<Value = Element> {
    let of_frontend: [fn(FrontendKey) -> Element; 5] = [
        Element::VirtualServer,
        Element::NoEndpoints,
        Element::Restricted,
        |key| Element::Dropped(key, Audience::All),
        |key| Element::Dropped(key, Audience::External),
    ];
    let range = (frontend(), network()).prop_map(|(key, range)| {
        let one = IpNet::from(key.address);
        let same = one.max_prefix_len() == range.max_prefix_len();
        // Of a length that the rules look up.
        let part = split_range(if same { range } else { one }).next();
        Element::SourceRange(key, part.unwrap())
    });
    let purposes = [Purpose::Capture, Purpose::NodePort, Purpose::External];
    let purpose = prop::sample::select(purposes.to_vec());
    let mark = (frontend(), purpose, any::<NonZeroU32>()).prop_map(|(key, purpose, mark)| {
        let key = match purpose {
            Purpose::NodePort => FrontendKey::node_port(key.protocol, key.family(), key.port),
            _ => key,
        };
        Element::Mark { key, purpose, mark }
    });
    prop_oneof![
        (frontend(), prop::sample::select(of_frontend.to_vec())).prop_map(|(key, of)| of(key)),
        range,
        mark,
        address().prop_map(Element::Hairpin),
        address().prop_map(Element::CapturedAddress),
        network().prop_map(Element::ServiceCidr),
        network().prop_map(Element::NodePortAddresses),
    ]
}

proptest! {
    #[test]
    fn decoding_reverses_encoding(element in element(), comment in "[^\0]{0,63}") {
        prop_assert!(is_valid_comment(&comment));
        let comment = Comment::Some(comment.into());
        let read = read_back(&element, comment.as_deref());
        prop_assert_eq!(read, vec![(element, comment)]);
        prop_assert_eq!(read_back(&element, None), vec![(element, None)]);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let read = Attributes::parse(&bytes).and_then(Part::parse);
        let parts: Vec<_> = read
            .ok()
            .flatten()
            .into_iter()
            .chain([Part {
                key: &bytes,
                data: Some(&bytes),
                is_end: false,
                user_data: &bytes,
            }])
            .collect();
        for set in Set::ALL {
            for part in &parts {
                let _ = part.element(*set);
            }
            let _ = networks(parts.clone(), *set);
        }
    }
}

#[test]
fn adjacent_networks_are_separate() {
    let cidrs = [
        "10.0.0.0/32",
        "10.0.0.1/32",
        "10.0.0.2/31",
        "255.255.255.254/31",
    ];
    let cidrs = cidrs.map(|cidr| Element::ServiceCidr(cidr.parse().unwrap()));
    let mut w = Writer::default();
    cidrs
        .iter()
        .rev()
        .for_each(|cidr| put_element(&mut w, cidr, None));
    let read = networks(parts(w.bytes()).unwrap(), Set::ServiceCidrs(Family::V4));
    assert_eq!(
        read.into_iter().map(|(cidr, _)| cidr).collect::<Vec<_>>(),
        cidrs
    );
}

#[test]
fn ranges_that_are_no_networks_are_left_out() {
    let to = |end: Option<[u8; 4]>| {
        move |network: &IpNet| address_after(*network) == end.map(IpAddr::from)
    };
    let from = |start: [u8; 4], end| network_from(start.into(), to(end));
    assert_eq!(from([10, 0, 0, 1], Some([10, 0, 0, 4])), None);
    assert_eq!(from([10, 0, 0, 0], None), None);
    assert_eq!(from([0; 4], None), Some("0.0.0.0/0".parse().unwrap()));
}

#[test]
fn comments_that_do_not_fit_are_rejected() {
    assert!(is_valid_comment(&"x".repeat(MAX_COMMENT)));
    assert!(!is_valid_comment(&"x".repeat(MAX_COMMENT + 1)));
    assert!(!is_valid_comment("web\0"));
}
