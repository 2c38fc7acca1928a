//! Elements of every kind.

use super::*;

/// Elements of every set, as steps and as input for nft.
pub(crate) fn elements() -> (Vec<Step>, String) {
    let v4 = elements_of(
        Family::V4,
        ["10.96.0.1", "203.0.113.7", "10.244.1.7"],
        ["10.96.0.0/12", "192.0.2.7/32", "0.0.0.0/0"],
        ["192.0.2.0/24", "198.51.100.7/32"],
        [
            "14 . 80 . 192.0.2.0",
            "6 . 80 . 198.51.100.7",
            "164 . 5000 . 0.0.0.0",
        ],
    );
    let v6 = elements_of(
        Family::V6,
        ["fd00:10:96::1", "2001:db8:1::7", "fd00:10:244::7"],
        ["fd00:10:96::/112", "2001:db8::7/128", "::/0"],
        ["2001:db8:2::/48", "2001:db8:5::7/128"],
        [
            "86 . 80 . 2001:db8:2::",
            "6 . 80 . 2001:db8:5::7",
            "4 . 5000 . ::",
        ],
    );
    ([v4.0, v6.0].concat(), v4.1 + &v6.1)
}

fn elements_of(
    family: Family,
    [vip, external, pod]: [&str; 3],
    [service_cidr, stray, everywhere]: [&str; 3],
    [many, one]: [&str; 2],
    // Protocol, port and address in the keys of these, and of everywhere.
    [key_of_many, key_of_one, key_of_all]: [&str; 3],
) -> (Vec<Step>, String) {
    use Protocol::{Sctp, Tcp, Udp};
    let (web, dns) = (key(Tcp, vip, 443), key(Udp, vip, 53));
    let (lb, sctp) = (key(Tcp, external, 80), key(Sctp, external, 5000));
    let (http, game) = (node_port(Tcp, family, 30080), node_port(Udp, family, 30053));
    let named = |element, name: &str| Step::AddElement(element, Some(name.into()));
    let steps = vec![
        add(cidr(service_cidr)),
        add(cidr(stray)),
        add(Element::NodePortAddresses(everywhere.parse().unwrap())),
        named(Element::VirtualServer(web), "default/kubernetes:https"),
        named(Element::NoEndpoints(dns), "kube-system/dns"),
        named(Element::NoEndpoints(game), "default/game"),
        add(Element::Hairpin(pod.parse().unwrap())),
        add(Element::Restricted(lb)),
        named(range(lb, many), "default/web:http"),
        // Sorted, as nft adds them; the kernel keeps the order.
        add(range(sctp, everywhere)),
        add(range(lb, one)),
        add(Element::Dropped(web, Audience::All)),
        add(Element::Dropped(lb, Audience::External)),
        add(Element::Dropped(game, Audience::External)),
        named(mark(lb, Purpose::Capture, 0x6000), "default/web:http"),
        add(mark(sctp, Purpose::Capture, 0x2000)),
        named(
            mark(http, Purpose::NodePort, 0x0001_6000),
            "default/web:http",
        ),
        add(mark(sctp, Purpose::External, 0xfffe_2000)),
        add(mark(http, Purpose::External, 0x0002_2000)),
        add(Element::CapturedAddress(external.parse().unwrap())),
    ];
    let v = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let add = |set: &str, elements: &str| {
        format!("add element inet svcproxy {set}-{v} {{ {elements} }}\n")
    };
    let text = [
        add("service-cidrs", &format!("{service_cidr}, {stray}")),
        add("node-port-addresses", everywhere),
        add(
            "virtual-servers",
            &format!("{vip} . tcp . 443 comment \"default/kubernetes:https\""),
        ),
        add(
            "no-endpoints",
            &format!("{vip} . udp . 53 comment \"kube-system/dns\""),
        ),
        add(
            "no-endpoints-node-ports",
            "udp . 30053 comment \"default/game\"",
        ),
        add("hairpin", &format!("{pod} . {pod}")),
        add("restricted", &format!("{external} . tcp . 80")),
        add(
            "source-networks",
            &format!("{external} . {key_of_many} comment \"default/web:http\""),
        ),
        add("source-networks", &format!("{external} . {key_of_one}")),
        add("source-networks", &format!("{external} . {key_of_all}")),
        add("dropped", &format!("{vip} . tcp . 443")),
        add("dropped-external", &format!("{external} . tcp . 80")),
        add("dropped-external-node-ports", "udp . 30053"),
        add(
            "captured",
            &format!("{external} . tcp . 80 comment \"default/web:http\" : 0x6000"),
        ),
        add("captured", &format!("{external} . sctp . 5000 : 0x2000")),
        add(
            "node-ports",
            "tcp . 30080 comment \"default/web:http\" : 0x16000",
        ),
        add(
            "external",
            &format!("{external} . sctp . 5000 : 0xfffe2000"),
        ),
        add("external-node-ports", "tcp . 30080 : 0x22000"),
        add("captured-addresses", external),
    ];
    (steps, text.concat())
}
