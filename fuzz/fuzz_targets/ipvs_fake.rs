//! Sequences of changes on the fake kernel, compared with a model of two maps.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use ipvs::*;
use libfuzzer_sys::fuzz_target;

/// The expected virtual servers and their real servers.
type Model = BTreeMap<VirtualServerKey, (VirtualServer, BTreeMap<RealServerKey, RealServer>)>;

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let mut model = Model::new();
    let mut client = FakeKernel::new().client().unwrap();
    while let Ok(changes) = batch(&mut u) {
        let expected: Vec<_> = changes
            .iter()
            .map(|change| expect(&mut model, change))
            .collect();
        let outcomes = client.apply(&changes);
        let kinds = outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(|e| e.kind().clone()));
        assert!(kinds.eq(expected));
        compare(&mut client, &model);
        if u.is_empty() {
            break;
        }
    }
});

fn batch(u: &mut Unstructured) -> Result<Vec<Change>> {
    let count = u.int_in_range(1..=20)?;
    (0..count).map(|_| change(u)).collect()
}

/// Few names, so that changes collide.
fn change(u: &mut Unstructured) -> Result<Change> {
    let keys = [
        VirtualServerKey::tcp(([10, 96, 0, 1], 80).into()),
        VirtualServerKey::udp(([10, 96, 0, 1], 80).into()),
        VirtualServerKey::tcp(([10, 96, 0, 1], 0).into()),
        VirtualServerKey::firewall_mark(std::num::NonZeroU32::MIN, Family::V4),
    ];
    let virtual_server = *u.choose(&keys)?;
    let real_key = RealServerKey::new([10, 244, 0, u.int_in_range(0..=3)?].into(), 80);
    let schedulers = [
        Scheduler::RoundRobin,
        Scheduler::SourceHash,
        "nosuch".parse().unwrap(),
    ];
    let mut server = VirtualServer::new(virtual_server).with_scheduler(*u.choose(&schedulers)?);
    if u.arbitrary()? {
        server = server.with_persistence(Persistence::new(u.int_in_range(0..=2)?));
    }
    let lower = u.int_in_range(0..=2)?;
    let real_server = RealServer::new(real_key)
        .with_weight(u.arbitrary()?)
        .with_thresholds(lower, u.int_in_range(0..=2)?);
    Ok(match u.int_in_range(0..=12)? {
        0 | 1 => Change::AddVirtualServer(server),
        2 => Change::UpdateVirtualServer(server),
        3 => Change::DeleteVirtualServer(virtual_server),
        4..=6 => Change::AddRealServer {
            virtual_server,
            real_server,
        },
        7 | 8 => Change::UpdateRealServer {
            virtual_server,
            real_server,
        },
        9 | 10 => Change::DeleteRealServer {
            virtual_server,
            real_server: real_key,
        },
        11 => Change::ZeroStatistics(Some(virtual_server)),
        _ => Change::Flush,
    })
}

fn expect(model: &mut Model, change: &Change) -> std::result::Result<(), ErrorKind> {
    match change {
        Change::AddVirtualServer(server) => {
            valid(server)?;
            if model.contains_key(&server.key) {
                return Err(ErrorKind::AlreadyExists);
            }
            known(server)?;
            model.insert(server.key, (*server, BTreeMap::new()));
        }
        Change::UpdateVirtualServer(server) => {
            valid(server)?;
            let entry = model.get_mut(&server.key).ok_or(ErrorKind::NotFound)?;
            known(server)?;
            entry.0 = *server;
        }
        Change::DeleteVirtualServer(key) => {
            model.remove(key).ok_or(ErrorKind::NotFound)?;
        }
        Change::AddRealServer {
            virtual_server,
            real_server,
        } => {
            let (_, real_servers) = model.get_mut(virtual_server).ok_or(ErrorKind::NotFound)?;
            in_range(real_server)?;
            if real_servers.contains_key(&real_server.key) {
                return Err(ErrorKind::AlreadyExists);
            }
            real_servers.insert(real_server.key, *real_server);
        }
        Change::UpdateRealServer {
            virtual_server,
            real_server,
        } => {
            let (_, real_servers) = model.get_mut(virtual_server).ok_or(ErrorKind::NotFound)?;
            in_range(real_server)?;
            let entry = real_servers.get_mut(&real_server.key);
            *entry.ok_or(ErrorKind::NotFound)? = *real_server;
        }
        Change::DeleteRealServer {
            virtual_server,
            real_server,
        } => {
            let (_, real_servers) = model.get_mut(virtual_server).ok_or(ErrorKind::NotFound)?;
            real_servers
                .remove(real_server)
                .ok_or(ErrorKind::NotFound)?;
        }
        Change::ZeroStatistics(Some(key)) if !model.contains_key(key) => {
            return Err(ErrorKind::NotFound);
        }
        Change::Flush => model.clear(),
        _ => {}
    }
    Ok(())
}

fn valid(server: &VirtualServer) -> std::result::Result<(), ErrorKind> {
    let any_port = server
        .key
        .address()
        .is_some_and(|address| address.port() == 0);
    match server.persistence {
        None if any_port => Err(ErrorKind::Invalid(Invalid::PortZero)),
        Some(Persistence { timeout: 0, .. }) => {
            Err(ErrorKind::Invalid(Invalid::PersistenceTimeout))
        }
        _ => Ok(()),
    }
}

fn known(server: &VirtualServer) -> std::result::Result<(), ErrorKind> {
    match server.scheduler {
        Scheduler::Other(_) => Err(ErrorKind::UnknownScheduler),
        _ => Ok(()),
    }
}

fn in_range(server: &RealServer) -> std::result::Result<(), ErrorKind> {
    let heavy = server.weight > i32::MAX as u32;
    match heavy || server.lower_threshold > server.upper_threshold {
        true => Err(ErrorKind::OutOfRange),
        false => Ok(()),
    }
}

fn compare(client: &mut FakeClient, model: &Model) {
    let entries = client.virtual_servers().unwrap();
    let listed = entries.iter().map(|entry| entry.server);
    assert!(listed.eq(model.values().map(|(server, _)| *server)));
    for (key, (_, expected)) in model {
        let entries = client.real_servers(key).unwrap();
        let listed: BTreeMap<_, _> = entries.iter().map(|e| (e.server.key, e.server)).collect();
        assert_eq!(listed.len(), entries.len());
        assert_eq!(listed, *expected);
    }
}
