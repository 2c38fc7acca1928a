//! Packets without a Service are rejected at once, and the node's own listeners are not affected.

use std::net::{IpAddr, SocketAddr};

use testbed::{AskError, Backend, Family, Host, Protocol, ping};

use crate::lab::{Lab, client};
use crate::ports;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A port on which the node itself listens, on all its addresses.
const NODE_PORT: u16 = 2222;

fn vip(family: Family) -> IpAddr {
    ports::DUAL_STACK
        .iter()
        .find(|port| port.family() == family)
        .unwrap()
        .vip()
        .ip()
}

/// An unused address in the Service CIDR.
fn unused(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 100, 7, 7].into(),
        Family::V6 => "fd00:10:96::7777".parse().unwrap(),
    }
}

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name, ports::DUAL_STACK);
    lab.use_example("dual-stack.yaml");
    lab
}

fn everyone(lab: &Lab) -> [&Host; 3] {
    [lab.probe(), lab.node(), lab.client()]
}

fn is_refused(from: &Host, protocol: Protocol, address: SocketAddr) {
    assert_eq!(
        client(protocol, address).ask(from),
        Err(AskError::Refused),
        "{protocol:?} {address} from {}",
        from.name()
    );
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn unused_ports_and_addresses() {
    let lab = lab("unused");
    lab.once();
    for family in FAMILIES {
        for address in [vip(family), unused(family)] {
            for from in everyone(&lab) {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    is_refused(from, protocol, (address, 81).into());
                }
            }
        }
        // The Service's port, over another protocol.
        is_refused(lab.probe(), Protocol::Udp, (vip(family), 80).into());
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ports_on_which_the_node_listens() {
    let lab = lab("listens");
    let everywhere = ["0.0.0.0", "::"].map(|address| address.parse::<IpAddr>().unwrap());
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let mut listeners = Vec::new();
    for address in everywhere {
        for protocol in protocols {
            let address = SocketAddr::from((address, NODE_PORT));
            listeners.push(Backend::start(lab.node(), protocol, address, "node").unwrap());
        }
    }
    lab.once();
    for family in FAMILIES {
        for from in everyone(&lab) {
            for address in [vip(family), unused(family)] {
                for protocol in protocols {
                    is_refused(from, protocol, (address, NODE_PORT).into());
                }
            }
            for protocol in protocols {
                let own = SocketAddr::from((lab.node().address(family), NODE_PORT));
                let answer = client(protocol, own).ask(from);
                assert_eq!(
                    answer.unwrap().backend,
                    "node",
                    "{own} from {}",
                    from.name()
                );
            }
        }
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ping_is_answered() {
    let lab = lab("ping");
    lab.once();
    for family in FAMILIES {
        for from in everyone(&lab) {
            for address in [vip(family), unused(family)] {
                let answer = ping(from, address);
                assert_eq!(answer, Ok(()), "{address} from {}", from.name());
            }
        }
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn services_without_endpoints() {
    let lab = lab("nobody");
    lab.write(
        "nobody.yaml",
        r"
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  clusterIPs: [10.96.0.99, 'fd00:10:96::99']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: tcp, port: 80}
  - {name: udp, port: 80, protocol: UDP}
",
    );
    lab.once();
    let vips = ["10.96.0.99:80", "[fd00:10:96::99]:80"].map(|vip| vip.parse().unwrap());
    for vip in vips {
        for from in everyone(&lab) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                is_refused(from, protocol, vip);
            }
        }
    }
    // Other Services still answer; a Service without its last endpoint is refused, too.
    let port = &ports::DUAL_STACK[0];
    lab.ask(lab.probe(), port).unwrap();
    lab.edit(
        "dual-stack.yaml",
        "addresses: [10.244.",
        "conditions: {ready: false}\n  addresses: [10.244.",
    );
    lab.once();
    for from in everyone(&lab) {
        is_refused(from, port.protocol, port.vip());
    }
    lab.ask(lab.probe(), &ports::DUAL_STACK[1]).unwrap();
}
