//! What a look at all real servers finds, the same on an in-memory kernel and on a real one.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use ipvs::{
    Change, Client, Family, Forwarding, RealServer, Transport, Tunnel, VirtualServer,
    VirtualServerKey,
};
use proxier::mode::ipvs::Kernel;
use proxier::mode::ipvs::plan::NodeState;

fn real_server(place: &str) -> RealServer {
    RealServer::new(place.parse().unwrap())
}

fn table() -> Vec<(VirtualServerKey, Vec<RealServer>)> {
    let mark = |family| VirtualServerKey::firewall_mark(NonZeroU32::new(0x1_2000).unwrap(), family);
    let tunnel = Forwarding::Tunnel(Tunnel::Ipip);
    vec![
        (
            "tcp 10.96.0.80:80".parse().unwrap(),
            vec![
                real_server("10.244.1.1:8080"),
                real_server("10.244.2.1:8080").with_weight(7),
            ],
        ),
        (
            "udp [fd00:10:96::50]:53".parse().unwrap(),
            vec![real_server("[fd00:10:244::1]:53")],
        ),
        (
            "tcp 10.96.0.81:80".parse().unwrap(),
            vec![
                real_server("10.244.1.1:80").with_forwarding(tunnel),
                real_server("10.244.1.2:80").with_forwarding(Forwarding::DirectRouting),
            ],
        ),
        (
            mark(Family::V4),
            vec![real_server("10.244.1.1:8080").with_weight(0)],
        ),
        (mark(Family::V6), vec![real_server("[fd00:10:244::1]:8080")]),
        ("sctp 10.96.0.80:80".parse().unwrap(), vec![]),
    ]
}

fn looks_right(backend: &mut impl Kernel, known: &NodeState) -> BTreeSet<VirtualServerKey> {
    let (mut right, mut begins) = (BTreeSet::new(), true);
    loop {
        let glance = backend.glance(known, begins).unwrap();
        right.extend(glance.right);
        if glance.is_last {
            return right;
        }
        begins = false;
    }
}

/// Makes changes as another program would, and checks which of them a look finds.
pub(crate) fn finds_changes<T: Transport>(backend: &mut impl Kernel, client: &mut Client<T>) {
    let table = table();
    for (key, real_servers) in &table {
        client
            .add_virtual_server(&VirtualServer::new(*key))
            .unwrap();
        for real_server in real_servers {
            client.add_real_server(key, real_server).unwrap();
        }
    }
    let known = backend.observe().unwrap();
    let all: BTreeSet<_> = table.iter().map(|(key, _)| *key).collect();
    assert_eq!(looks_right(backend, &known), all);
    for (key, real_servers) in &table {
        let virtual_server = *key;
        let without = BTreeSet::from_iter(all.iter().copied().filter(|other| other != key));
        let mut finds = |change: Change, back: Change, expected: &BTreeSet<_>| {
            client.change(change).unwrap();
            assert_eq!(looks_right(backend, &known), *expected, "{change:?}");
            client.change(back).unwrap();
            assert_eq!(looks_right(backend, &known), all, "{back:?}");
        };
        let update = |real_server| Change::UpdateRealServer {
            virtual_server,
            real_server,
        };
        let add = |real_server: RealServer| Change::AddRealServer {
            virtual_server,
            real_server,
        };
        let delete = |real_server: RealServer| Change::DeleteRealServer {
            virtual_server,
            real_server: real_server.key,
        };
        for old in real_servers {
            finds(update(old.with_weight(9)), update(*old), &without);
            let direct = match old.forwarding {
                Forwarding::DirectRouting => Forwarding::Masquerade,
                _ => Forwarding::DirectRouting,
            };
            finds(update(old.with_forwarding(direct)), update(*old), &without);
            finds(delete(*old), add(*old), &without);
            // The look does not show thresholds.
            finds(update(old.with_thresholds(5, 9)), update(*old), &all);
        }
        let more = match virtual_server.family() {
            Family::V4 => real_server("10.244.9.9:9"),
            Family::V6 => real_server("[fd00:10:244::9]:9"),
        };
        finds(add(more), delete(more), &without);
    }
    // A virtual server that is not known, and one that is gone.
    let other: VirtualServerKey = "tcp 10.96.0.99:80".parse().unwrap();
    client
        .add_virtual_server(&VirtualServer::new(other))
        .unwrap();
    let gone = table.first().unwrap().0;
    client.change(Change::DeleteVirtualServer(gone)).unwrap();
    let left: BTreeSet<_> = all.into_iter().filter(|key| *key != gone).collect();
    assert_eq!(looks_right(backend, &known), left);
}
