//! Tests of the zone and of answers, without sockets.

use std::num::NonZeroU16;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::answer::{Outcome, Rules, Transport, UDP_LIMIT, answer};
use super::name::reverse_zones;
use super::zone::Zone;
use crate::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, ObjectName, PortName,
    Protocol, Service, ServicePort, Unproxied,
};
use crate::store::{Change, Store};

fn name(name: &str) -> ObjectName {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ObjectName::new(namespace, name).unwrap()
}

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn port(name: &str) -> PortName {
    PortName::new(name).unwrap()
}

/// A Service with these cluster IPs, and the port https.
fn service(of: &str, addresses: &[&str]) -> Service {
    let mut service = Service::new(name(of));
    service.cluster_ips = addresses.iter().map(|text| text.parse().unwrap()).collect();
    service.ports = [ServicePort::new(port("https"), Protocol::Tcp, number(443))].into();
    service
}

fn headless(of: &str, publish_not_ready_addresses: bool) -> Service {
    let mut service = service(of, &[]);
    service.unproxied = Some(Box::new(Unproxied::Headless {
        publish_not_ready_addresses,
    }));
    service
}

fn external(of: &str, target: &str) -> Service {
    let mut service = service(of, &[]);
    service.unproxied = Some(Box::new(Unproxied::ExternalName(target.into())));
    service
}

/// A slice with endpoints `[!]ADDRESS[=HOSTNAME]`, where `!` means that it is not ready.
fn slice(slice: &str, of: &str, endpoints: &[&str]) -> EndpointSlice {
    let family = match endpoints.iter().any(|text| text.contains(':')) {
        true => Family::V6,
        false => Family::V4,
    };
    let mut slice = EndpointSlice::new(name(slice), name(of), family);
    slice.ports = [EndpointPort::new(port("https"), Protocol::Tcp, number(443))].into();
    let mut names = Vec::new();
    let endpoint = |text: &&str| {
        let (address, name) = text.split_once('=').unwrap_or((text, ""));
        let ready = !address.starts_with('!');
        let address = address.trim_start_matches('!').parse().unwrap();
        if !name.is_empty() {
            names.push((address, name.into()));
        }
        let mut endpoint = Endpoint::new(address);
        endpoint.conditions = EndpointConditions::new(Some(ready), None, None);
        endpoint
    };
    slice.endpoints = endpoints.iter().map(endpoint).collect();
    names.sort();
    slice.hostnames = names.into();
    slice
}

fn zone(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Zone {
    let mut zone = Zone::default();
    zone.apply(&Change::ServicesReplaced(services));
    zone.apply(&Change::EndpointSlicesReplaced(slices));
    zone
}

fn rules(forwards: bool) -> Rules {
    Rules {
        domain: "cluster.local".parse().unwrap(),
        nameservers: vec!["10.96.0.10".parse().unwrap()],
        reverse: reverse_zones(&["10.96.0.0/12".parse().unwrap()]),
        forwards,
        serial: 100,
    }
}

fn query(of: &str, of_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(of).unwrap(), of_type));
    message
}

/// The decoded answer to a message.
fn answered(zone: &Zone, message: &Message, transport: Transport) -> Message {
    let bytes = message.to_vec().unwrap();
    match answer(zone, &rules(false), &bytes, transport) {
        Outcome::Answer(bytes, code) => {
            let message = Message::from_vec(&bytes).unwrap();
            // hickory decodes 16 as the other meaning of that number.
            assert_eq!(u16::from(message.metadata.response_code), u16::from(code));
            message
        }
        other => panic!("{other:?}"),
    }
}

fn asked(zone: &Zone, of: &str, of_type: RecordType) -> Message {
    answered(zone, &query(of, of_type), Transport::Udp)
}

/// Code and answers, one a line, sorted; then the owner of the SOA record of a negative answer.
fn text(message: &Message) -> String {
    let mut lines: Vec<_> = message.answers.iter().map(|one| one.to_string()).collect();
    lines.sort();
    lines.insert(0, message.metadata.response_code.to_string());
    let authorities = message.authorities.iter();
    lines.extend(authorities.map(|soa| format!("{} {}", soa.record_type(), soa.name)));
    lines.join("\n")
}

fn shown(zone: &Zone, of: &str, of_type: RecordType) -> String {
    text(&asked(zone, of, of_type))
}

const NO_NAME: &str = "Non-Existent Domain\nSOA cluster.local.";
const NO_DATA: &str = "No Error\nSOA cluster.local.";

#[test]
fn a_name_is_absent_or_has_no_record_of_the_type() {
    let services = vec![
        service("shop/web", &["10.96.0.1"]),
        headless("shop/store", false),
        headless("shop/empty", false),
        external("shop/bank", "www.example.com"),
        service("shop/none", &[]),
    ];
    let zone = zone(
        services,
        vec![slice("shop/s", "shop/store", &["10.0.0.1=a"])],
    );
    let of = |name: &str, of_type| {
        let name = match name {
            "" => "cluster.local.".to_owned(),
            name => format!("{name}.cluster.local."),
        };
        shown(&zone, &name, of_type)
    };
    for name in [
        "",
        "svc",
        "pod",
        "dns",
        "shop.svc",
        "shop.pod",
        "_tcp.web.shop.svc",
        "_https._tcp.web.shop.svc",
        "_tcp.store.shop.svc",
        "dns-version",
    ] {
        assert_eq!(of(name, RecordType::A), NO_DATA, "{name}");
    }
    for (name, of_type) in [
        ("web.shop.svc", RecordType::AAAA),
        ("web.shop.svc", RecordType::SRV),
        ("store.shop.svc", RecordType::TXT),
        ("a.store.shop.svc", RecordType::AAAA),
        ("10-0-0-1.shop.pod", RecordType::AAAA),
    ] {
        assert_eq!(of(name, of_type), NO_DATA, "{name}");
    }
    for name in [
        "x",
        "10.0.0.1.shop.pod",
        "10.0-0-1.shop.pod",
        "other.svc",
        "other.pod",
        "x.dns",
        "web.svc",
        "x.shop.svc",
        "x.web.shop.svc",
        "none.shop.svc",
        "empty.shop.svc",
        "_tcp.empty.shop.svc",
        "_udp.web.shop.svc",
        "_http._tcp.web.shop.svc",
        "_tcp.bank.shop.svc",
        "x.a.store.shop.svc",
        "10-0-0-1.store.shop.svc",
        "1-2-3.shop.pod",
        "10-0-0-1.other.pod",
    ] {
        assert_eq!(of(name, RecordType::A), NO_NAME, "{name}");
    }
}

#[test]
fn a_zone_that_is_not_listed_yet_fails_and_other_names_are_refused() {
    let mut zone = Zone::default();
    zone.apply(&Change::ServicesReplaced(vec![service(
        "web",
        &["10.96.0.1"],
    )]));
    let web = "web.default.svc.cluster.local.";
    assert_eq!(shown(&zone, web, RecordType::A), "Server Failure");
    let reverse = "9.0.0.10.in-addr.arpa.";
    assert_eq!(shown(&zone, reverse, RecordType::PTR), "Server Failure");
    // Another server would say that an address of the cluster has no name.
    let relayed = query(reverse, RecordType::PTR).to_vec().unwrap();
    let outcome = answer(&zone, &rules(true), &relayed, Transport::Udp);
    let failed = matches!(outcome, Outcome::Answer(_, ResponseCode::ServFail));
    assert!(failed, "{outcome:?}");
    let known = "1.0.96.10.in-addr.arpa.";
    assert_eq!(shown(&zone, known, RecordType::PTR), "Server Failure");
    assert_eq!(
        shown(&zone, "www.example.com.", RecordType::A),
        "Query Refused"
    );
    zone.apply(&Change::EndpointSlicesReplaced(vec![]));
    assert!(shown(&zone, web, RecordType::A).ends_with("IN A 10.96.0.1"));
    assert_eq!(shown(&zone, reverse, RecordType::PTR), "Query Refused");
}

#[test]
fn names_of_other_domains_are_for_an_upstream_server_if_recursion_is_desired() {
    let zone = zone(vec![external("bank", "www.example.com")], vec![]);
    let outcome = |name: &str, recursion| {
        let mut message = query(name, RecordType::A);
        message.metadata.recursion_desired = recursion;
        let bytes = message.to_vec().unwrap();
        match answer(&zone, &rules(true), &bytes, Transport::Udp) {
            Outcome::Answer(_, code) => code.to_string(),
            Outcome::Relay(_) => "relay".to_owned(),
            Outcome::Follow(_, query) => format!("follow {}", query.name()),
            Outcome::Ignore => "ignore".to_owned(),
        }
    };
    assert_eq!(outcome("www.example.com.", true), "relay");
    assert_eq!(outcome("www.example.com.", false), "Query Refused");
    assert_eq!(outcome("9.0.0.10.in-addr.arpa.", true), "relay");
    let bank = "bank.default.svc.cluster.local.";
    assert_eq!(outcome(bank, true), "follow www.example.com.");
    assert_eq!(outcome(bank, false), "No Error");
    // Names of the domain never leave it.
    assert_eq!(
        outcome("x.default.svc.cluster.local.", true),
        "Non-Existent Domain"
    );
}

#[test]
fn external_names_of_the_domain_are_followed_but_not_in_circles() {
    let target = |name: &str| format!("{name}.default.svc.cluster.local");
    let services = vec![
        service("web", &["10.96.0.1"]),
        external("alias", &target("web")),
        external("dead", &target("nothing")),
        external("a", &target("b")),
        external("b", &target("a")),
    ];
    let zone = zone(services, vec![]);
    let of = |name: &str| {
        let message = asked(&zone, &format!("{}.", target(name)), RecordType::A);
        let answers = message.answers.iter();
        let types: Vec<_> = answers.map(|one| one.record_type().to_string()).collect();
        format!("{} {}", message.metadata.response_code, types.join(" "))
    };
    assert_eq!(of("alias"), "No Error CNAME A");
    assert_eq!(of("dead"), "Non-Existent Domain CNAME");
    assert_eq!(of("a"), "Server Failure ");
}

#[test]
fn endpoints_that_are_not_ready_are_left_out_unless_published() {
    let endpoints = ["10.0.0.1=a", "!10.0.0.2=b"];
    let slices = vec![
        slice("1", "strict", &endpoints),
        slice("2", "all", &endpoints),
    ];
    let zone = zone(
        vec![headless("strict", false), headless("all", true)],
        slices,
    );
    let count = |name: &str| {
        let name = format!("{name}.default.svc.cluster.local.");
        asked(&zone, &name, RecordType::A).answers.len()
    };
    assert_eq!((count("strict"), count("all")), (1, 2));
    assert_eq!((count("b.strict"), count("b.all")), (0, 1));
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let slices = vec![
        slice("1", "a", &["10.0.0.1"]),
        slice("2", "a", &["10.0.0.1"]),
    ];
    let zone = zone(vec![headless("a", false)], slices);
    let of = "a.default.svc.cluster.local.";
    assert_eq!(asked(&zone, of, RecordType::A).answers.len(), 1);
    let of = format!("_https._tcp.{of}");
    let answer = asked(&zone, &of, RecordType::SRV);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (1, 1));
}

/// Pods on the node's network share its address.
#[test]
fn two_hosts_with_one_address_have_a_name_each() {
    let slices = vec![slice("1", "a", &["10.0.0.1=x", "10.0.0.1=y"])];
    let zone = zone(vec![headless("a", false)], slices);
    let of = "a.default.svc.cluster.local.";
    for host in ["x", "y"] {
        let answer = shown(&zone, &format!("{host}.{of}"), RecordType::A);
        assert!(answer.ends_with("IN A 10.0.0.1"), "{answer}");
    }
    let count = |of: &str, of_type| asked(&zone, of, of_type).answers.len();
    assert_eq!(count(of, RecordType::A), 1);
    assert_eq!(count(&format!("_https._tcp.{of}"), RecordType::SRV), 2);
    assert_eq!(count("1.0.0.10.in-addr.arpa.", RecordType::PTR), 2);
}

/// RFC 3225, section 3.
#[test]
fn an_answer_repeats_whether_the_client_takes_signatures() {
    let zone = zone(vec![service("web", &["10.96.0.1"])], vec![]);
    for wanted in [false, true] {
        let mut message = query("web.default.svc.cluster.local.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_dnssec_ok(wanted);
        message.set_edns(edns);
        let answer = answered(&zone, &message, Transport::Udp);
        assert_eq!(answer.edns.unwrap().flags().dnssec_ok, wanted);
    }
}

#[test]
fn a_server_that_has_stopped_serves_no_address() {
    let runtime = crate::Runtime::start().unwrap();
    let address = ([127, 0, 0, 1], testbed::reserve_port().unwrap()).into();
    let dns = super::Dns::start(&runtime, super::Config::new([address])).unwrap();
    let state = dns.watch_state();
    let served = || match state().addresses.get(&address) {
        Some(None) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    testbed::eventually(std::time::Duration::from_secs(10), served).unwrap();
    drop(dns);
    assert_eq!(
        state().addresses[&address].as_deref(),
        Some("the server has stopped")
    );
}

/// Addresses of the Service CIDRs without a Service have no name, and this server knows that.
#[test]
fn the_server_is_authoritative_for_the_reverse_zones_of_the_service_cidrs() {
    let mut zone = zone(vec![service("web", &["10.96.0.1"])], vec![]);
    let look = |zone: &Zone, of: &str, of_type| {
        let answer = asked(zone, of, of_type);
        let soa = answer.authorities.first();
        let owner = soa.map(|soa| soa.name.to_string()).unwrap_or_default();
        let flag = answer.metadata.authoritative;
        (
            answer.metadata.response_code,
            flag,
            owner,
            answer.answers.len(),
        )
    };
    use ResponseCode::{NXDomain, NoError, Refused};
    let ptr = |zone: &Zone, of: &str| look(zone, of, RecordType::PTR);
    let origin = || "96.10.in-addr.arpa.".to_owned();
    let none = String::new;
    assert_eq!(
        ptr(&zone, "1.0.96.10.in-addr.arpa."),
        (NoError, true, none(), 1)
    );
    assert_eq!(
        ptr(&zone, "2.0.96.10.in-addr.arpa."),
        (NXDomain, true, origin(), 0)
    );
    assert_eq!(
        ptr(&zone, "x.0.96.10.IN-ADDR.arpa."),
        (NXDomain, true, origin(), 0)
    );
    assert_eq!(
        ptr(&zone, "1.1.0.96.10.in-addr.arpa."),
        (NXDomain, true, origin(), 0)
    );
    // There may be names below a network.
    assert_eq!(
        ptr(&zone, "0.96.10.in-addr.arpa."),
        (NoError, true, origin(), 0)
    );
    assert_eq!(
        ptr(&zone, "96.10.in-addr.arpa."),
        (NoError, true, origin(), 0)
    );
    let apex = |of_type| look(&zone, "96.10.in-addr.arpa.", of_type);
    assert_eq!(apex(RecordType::SOA), (NoError, true, none(), 1));
    assert_eq!(apex(RecordType::NS), (NoError, true, none(), 1));
    let other = look(&zone, "1.0.96.10.in-addr.arpa.", RecordType::A);
    assert_eq!(other, (NoError, true, origin(), 0));
    // Everything else is someone else's.
    assert_eq!(
        ptr(&zone, "1.0.128.10.in-addr.arpa."),
        (Refused, false, none(), 0)
    );
    assert_eq!(ptr(&zone, "10.in-addr.arpa."), (Refused, false, none(), 0));
    let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa.", "0.".repeat(23));
    assert_eq!(ptr(&zone, &v6), (Refused, false, none(), 0));
    // The API server knows more.
    zone.apply(&Change::ServiceCidrsReplaced(vec![
        "2001:db8::/32".parse().unwrap(),
    ]));
    let origin = "8.b.d.0.1.0.0.2.ip6.arpa.".to_owned();
    assert_eq!(ptr(&zone, &v6), (NXDomain, true, origin, 0));
    // Nothing is known to be absent before Services are listed.
    let empty = ptr(&Zone::default(), "2.0.96.10.in-addr.arpa.").0;
    assert_eq!(empty, ResponseCode::ServFail);
}

#[test]
fn an_address_leads_back_to_every_service_that_has_it() {
    let services = vec![
        headless("a", false),
        headless("b", false),
        service("c", &["10.0.0.1"]),
    ];
    let slices = vec![
        slice("1", "a", &["10.0.0.1"]),
        slice("2", "b", &["10.0.0.1=x"]),
    ];
    let mut zone = zone(services, slices);
    let names = |zone: &Zone| {
        let answer = asked(zone, "1.0.0.10.in-addr.arpa.", RecordType::PTR);
        answer.answers.len()
    };
    assert_eq!(names(&zone), 3);
    zone.apply(&Change::ServiceDeleted(name("a")));
    assert_eq!(names(&zone), 2);
    let soa = "No Error\nSOA 1.0.0.10.in-addr.arpa.";
    assert_eq!(shown(&zone, "1.0.0.10.in-addr.arpa.", RecordType::A), soa);
}

#[test]
fn the_number_of_a_query_chooses_the_first_address() {
    let zone = zone(
        vec![headless("a", false)],
        vec![slice("1", "a", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])],
    );
    let first = |id| {
        let mut message = query("a.default.svc.cluster.local.", RecordType::A);
        message.metadata.id = id;
        let answer = answered(&zone, &message, Transport::Udp);
        assert_eq!(answer.answers.len(), 3);
        answer.answers[0].data.to_string()
    };
    assert_eq!([0, 1, 5].map(first), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
}

/// A headless Service with this many endpoints.
fn crowd(count: u16) -> Zone {
    let addresses = (0..count).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1));
    let addresses: Vec<_> = addresses.collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    zone(
        vec![headless("a", false)],
        vec![slice("1", "a", &addresses)],
    )
}

#[test]
fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let of = "a.default.svc.cluster.local.";
    let outcome = |zone: &Zone, payload: Option<u16>, of: &str, of_type, transport| {
        let mut message = query(of, of_type);
        message.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let answer = answered(zone, &message, transport);
        assert_eq!(answer.edns.is_some(), payload.is_some());
        (answer.answers.len(), answer.metadata.truncation)
    };
    let a = |zone: &Zone, payload, transport| outcome(zone, payload, of, RecordType::A, transport);
    let (udp, tcp) = (Transport::Udp, Transport::Tcp);
    let some = crowd(25);
    assert_eq!(a(&some, None, udp), (25, false));
    let some = crowd(40);
    assert_eq!(a(&some, None, udp), (0, true));
    assert_eq!(a(&some, Some(512), udp), (0, true));
    assert_eq!(a(&some, Some(1232), udp), (40, false));
    let many = crowd(100);
    // A client may accept more than this server sends.
    assert_eq!(a(&many, Some(4096), udp), (0, true));
    assert_eq!(a(&many, Some(4096), tcp), (100, false));
    assert_eq!(a(&many, None, tcp), (100, false));
    let srv = format!("_https._tcp.{of}");
    let srv = |payload, transport| outcome(&some, payload, &srv, RecordType::SRV, transport);
    assert_eq!(srv(Some(1232), udp), (0, true));
    assert_eq!(srv(Some(1232), tcp), (40, false));
    // Additional records are left out before anything is truncated.
    let few = crowd(7);
    let of = "_https._tcp.a.default.svc.cluster.local.";
    assert_eq!(outcome(&few, None, of, RecordType::SRV, udp), (7, false));
}

#[test]
fn more_endpoints_than_any_message_holds_are_cut_over_tcp() {
    let zone = crowd(10_000);
    let message = query("a.default.svc.cluster.local.", RecordType::A);
    let answer = answered(&zone, &message, Transport::Tcp);
    assert!(answer.metadata.truncation);
    assert!(
        (1_500..=4_096).contains(&answer.answers.len()),
        "{}",
        answer.answers.len()
    );
}

#[test]
fn other_operations_classes_and_transfers_are_refused() {
    let zone = zone(vec![service("web", &["10.96.0.1"])], vec![]);
    let web = "web.default.svc.cluster.local.";
    let mut notify = query(web, RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    let code = |message: &Message| {
        answered(&zone, message, Transport::Udp)
            .metadata
            .response_code
    };
    assert_eq!(code(&notify), ResponseCode::NotImp);
    assert_eq!(
        code(&query("cluster.local.", RecordType::AXFR)),
        ResponseCode::Refused
    );
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut two = query(web, RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut future = query(web, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    let answer = answered(&zone, &future, Transport::Udp);
    assert_eq!(answer.answers.len(), 0);
    assert_eq!(answer.edns.map(|edns| edns.rcode_high()), Some(1));
    let any = asked(&zone, web, RecordType::ANY);
    assert!(matches!(any.answers[0].data, RData::HINFO(_)), "{any:?}");
}

#[test]
fn answers_are_not_answered() {
    let zone = zone(vec![], vec![]);
    let mut message = query("cluster.local.", RecordType::SOA);
    message.metadata.message_type = hickory_proto::op::MessageType::Response;
    let bytes = message.to_vec().unwrap();
    let outcome = answer(&zone, &rules(true), &bytes, Transport::Udp);
    assert!(matches!(outcome, Outcome::Ignore), "{outcome:?}");
}

#[test]
fn the_serial_number_grows_with_each_change_of_a_record() {
    let mut zone = zone(vec![service("web", &["10.96.0.1"])], vec![]);
    let serial = |zone: &Zone| {
        let answer = asked(zone, "cluster.local.", RecordType::SOA);
        match &answer.answers[0].data {
            RData::SOA(soa) => soa.serial,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(serial(&zone), 101);
    zone.apply(&Change::ServiceApplied(service("web", &["10.96.0.1"])));
    // Slices of a Service with a cluster IP have no names.
    zone.apply(&Change::EndpointSliceApplied(slice(
        "1",
        "web",
        &["10.0.0.1"],
    )));
    assert_eq!(serial(&zone), 101);
    zone.apply(&Change::ServiceApplied(service("web", &["10.96.0.2"])));
    assert_eq!(serial(&zone), 102);
}

/// One change of a Service or a slice with one of few names, also in lists.
fn any_change() -> impl Strategy<Value = Change> {
    let of = || select(vec!["a", "b", "shop/a"]);
    let endpoints = || {
        let known = select(vec![
            "10.0.0.1",
            "10.0.0.1=x",
            "10.0.0.2=x",
            "!10.0.0.3",
            "fd00::1",
            "fd00::2=y",
        ]);
        vec(known, 0..4)
    };
    let any_service = || {
        (of(), 0..5_u8).prop_map(|(of, kind)| match kind {
            0 => service(of, &["10.96.0.1"]),
            1 => service(of, &["10.96.0.2", "fd00::96"]),
            2 => headless(of, false),
            3 => headless(of, true),
            _ => external(of, "www.example.com"),
        })
    };
    let any_slice = move || {
        let slices = select(vec!["s", "t", "shop/s"]);
        (slices, of(), endpoints()).prop_map(|(name, of, all)| slice(name, of, &all))
    };
    let distinct = |services: Vec<Service>| {
        let named = services
            .into_iter()
            .map(|service| (service.name.clone(), service));
        named
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_values()
            .collect()
    };
    let distinct_slices = |slices: Vec<EndpointSlice>| {
        let named = slices.into_iter().map(|slice| (slice.name.clone(), slice));
        named
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_values()
            .collect()
    };
    prop_oneof![
        4 => any_service().prop_map(Change::ServiceApplied),
        2 => of().prop_map(|of| Change::ServiceDeleted(name(of))),
        4 => any_slice().prop_map(Change::EndpointSliceApplied),
        2 => select(vec!["s", "t", "shop/s"])
            .prop_map(|of| Change::EndpointSliceDeleted(name(of))),
        1 => vec(any_service(), 0..4)
            .prop_map(move |all| Change::ServicesReplaced(distinct(all))),
        1 => vec(any_slice(), 0..4)
            .prop_map(move |all| Change::EndpointSlicesReplaced(distinct_slices(all))),
    ]
}

proptest! {
    #[test]
    fn a_zone_that_follows_changes_equals_one_from_scratch(
        changes in vec(any_change(), 0..40),
    ) {
        let lists = [Change::ServicesReplaced(vec![]), Change::EndpointSlicesReplaced(vec![])];
        let (mut followed, mut store) = (Zone::default(), Store::default());
        for change in lists.into_iter().chain(changes) {
            followed.apply(&change);
            store.apply(change);
            let services = store.services().map(|view| view.service.clone()).collect();
            let slices = store.all_slices().cloned().collect();
            let fresh = zone(services, slices);
            prop_assert_eq!(followed.content(), fresh.content());
        }
    }

    #[test]
    fn arbitrary_bytes_have_an_answer_within_the_limit_or_none(
        bytes in vec(any::<u8>(), 0..600),
        forwards: bool,
    ) {
        sound(&bytes, forwards);
    }

    #[test]
    fn damaged_queries_have_an_answer_within_the_limit_or_none(
        of in select(vec![
            "a.default.svc.cluster.local.",
            "_https._tcp.a.default.svc.cluster.local.",
            "bank.default.svc.cluster.local.",
            "1.0.1.10.in-addr.arpa.",
            "www.example.com.",
        ]),
        of_type in any::<u16>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        whole: bool,
        edns in proptest::option::of(any::<u16>()),
    ) {
        let mut message = query(of, RecordType::from(of_type));
        message.edns = edns.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let mut bytes = message.to_vec().unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        sound(&bytes, true);
        sound(&bytes, false);
    }
}

fn sound(bytes: &[u8], forwards: bool) {
    use std::sync::LazyLock;
    static ZONE: LazyLock<Zone> = LazyLock::new(|| {
        let mut zone = crowd(300);
        zone.apply(&Change::ServiceApplied(external("bank", "www.example.com")));
        zone
    });
    for (transport, limit) in [(Transport::Udp, UDP_LIMIT), (Transport::Tcp, u16::MAX)] {
        let sent = match answer(&ZONE, &rules(forwards), bytes, transport) {
            Outcome::Answer(sent, _) => sent,
            Outcome::Relay(draft) | Outcome::Follow(draft, _) => {
                assert!(forwards);
                draft.fail().0
            }
            Outcome::Ignore => {
                assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0);
                continue;
            }
        };
        assert!(sent.len() <= usize::from(limit), "{}", sent.len());
        assert!(sent[..2] == bytes[..2] && sent[2] & 0x80 != 0);
    }
}

/// A change of one endpoint costs the same in a small zone and in a large one.
#[test]
fn a_change_costs_work_for_its_service_alone() {
    let cost = |count: u32| {
        let address = |n: u32| format!("10.{}.{}.{}", 100 + n / 62_500, n / 250 % 250, n % 250 + 1);
        let services = (0..count).map(|n| match n % 2 {
            0 => service(&format!("s{n}"), &[&address(n)]),
            _ => headless(&format!("s{n}"), false),
        });
        let slices = (0..count).map(|n| {
            let of = format!("s{n}");
            slice(&of, &of, &[&address(n)])
        });
        let mut zone = zone(services.collect(), slices.collect());
        let endpoints = [&*address(7), "10.0.0.1=x"];
        let changes = [
            Change::EndpointSliceApplied(slice("s7", "s7", &endpoints)),
            Change::ServiceApplied(service("s8", &["10.99.0.8"])),
            Change::ServiceDeleted(name("s9")),
        ];
        // Once before, so that no table grows in between.
        for change in &changes {
            zone.apply(change);
        }
        zone.apply(&Change::EndpointSliceApplied(slice(
            "s7",
            "s7",
            &[&address(7)],
        )));
        zone.apply(&Change::ServiceApplied(service("s8", &[&address(8)])));
        zone.apply(&Change::ServiceApplied(headless("s9", false)));
        let measured = allocation_counter::measure(|| {
            for change in &changes {
                zone.apply(change);
            }
        });
        measured.count_total
    };
    let (small, large) = (cost(100), cost(10_000));
    assert!(
        small > 0 && large <= small + 4,
        "{small} and {large} allocations"
    );
}
