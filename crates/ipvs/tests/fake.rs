//! The fake kernel: the conformance checks, and the faults that only a fake can have.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod conformance;

use conformance::{conformance, key, real};
use ipvs::*;

fn on_fake(check: fn(&mut FakeClient) -> Result<()>) {
    check(&mut FakeKernel::new().client().unwrap()).unwrap();
}

conformance!(on_fake);

#[test]
fn without_ipvs_says_what_to_load() {
    let error = FakeKernel::without_ipvs().client().unwrap_err();
    assert!(error.is_unsupported());
    assert!(error.to_string().contains("modprobe ip_vs"));
}

#[test]
fn a_fault_hits_its_request_alone() {
    let kernel = FakeKernel::new();
    let mut client = kernel.client().unwrap();
    let keys = ["tcp 10.0.0.1:1", "tcp 10.0.0.1:2", "tcp 10.0.0.1:3"].map(key);
    kernel.fail_request(2, 12);
    let outcomes = client.apply(keys.map(|key| Change::AddVirtualServer(VirtualServer::new(key))));
    let failures: Vec<_> = outcomes
        .failures()
        .map(|(place, error)| (place, error.errno()))
        .collect();
    assert_eq!(failures, [(1, Some(12))]);
    kernel.fail_request(1, 1);
    assert!(
        client
            .virtual_servers()
            .is_err_and(|error| error.is_permission_denied())
    );
    assert_eq!(client.virtual_servers().unwrap().len(), 2);
}

#[test]
fn a_lost_reply_leaves_outcomes_unknown_never_wrong() {
    let kernel = FakeKernel::new();
    let mut client = kernel.client().unwrap();
    let web = VirtualServer::new(key("tcp 10.0.0.1:80"));
    kernel.lose_reply(2);
    let add = Change::AddVirtualServer(web);
    let outcomes = client.apply([add, add, add]);
    for outcome in outcomes {
        assert!(outcome.is_err_and(|error| error.is_outcome_unknown()));
    }
    client
        .add_real_server(&web.key, &real("10.1.0.1:80"))
        .unwrap();
}

#[test]
fn an_interrupted_listing_is_repeated_a_limited_number_of_times() {
    let kernel = FakeKernel::new();
    let mut client = kernel.client().unwrap();
    client
        .add_virtual_server(&VirtualServer::new(key("tcp 10.0.0.1:80")))
        .unwrap();
    kernel.interrupt_listings(3);
    let before = client.counters().reads;
    assert_eq!(client.virtual_servers().unwrap().len(), 1);
    assert_eq!(client.counters().reads - before, 4);
    kernel.interrupt_listings(100);
    let error = client.virtual_servers().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Interrupted);
}

#[test]
fn a_reloaded_module_is_found_again() {
    let kernel = FakeKernel::new();
    let mut client = kernel.client().unwrap();
    let web = VirtualServer::new(key("tcp 10.0.0.1:80"));
    client.add_virtual_server(&web).unwrap();
    kernel.reload();
    assert_eq!(client.virtual_servers().unwrap(), []);
    kernel.reload();
    let changes = [Change::AddVirtualServer(web), Change::AddVirtualServer(web)];
    let outcomes = client.apply(changes);
    let failed: Vec<_> = outcomes.failures().map(|(place, _)| place).collect();
    assert_eq!(failed, [1]);
    assert_eq!(client.virtual_servers().unwrap().len(), 1);
}

#[test]
fn statistics_and_connections_can_be_given() {
    let kernel = FakeKernel::new();
    let mut client = kernel.client().unwrap();
    let (web, one) = (key("tcp 10.0.0.1:80"), real("10.1.0.1:80"));
    client.add_virtual_server(&VirtualServer::new(web)).unwrap();
    client.add_real_server(&web, &one).unwrap();
    let connections = Connections::new(3, 2, 1);
    kernel.set_connections(&web, &one.key, connections);
    let mut stats = Statistics::default();
    stats.connections = u64::MAX;
    kernel.set_statistics(&web, stats);
    assert_eq!(
        client.real_servers(&web).unwrap()[0].connections,
        Some(connections)
    );
    assert_eq!(client.virtual_server(&web).unwrap().stats, Some(stats));
    client.zero_statistics(None).unwrap();
    assert_eq!(
        client.virtual_server(&web).unwrap().stats,
        Some(Statistics::default())
    );
}

#[test]
fn a_listing_that_finds_the_socket_busy_opens_another() {
    let kernel = FakeKernel::new();
    let mut client = kernel.client().unwrap();
    let web = VirtualServer::new(key("tcp 10.0.0.1:80"));
    client.add_virtual_server(&web).unwrap();
    kernel.fail_request(1, 16); // EBUSY
    assert_eq!(client.virtual_servers().unwrap().len(), 1);
    // Once for each listing, and other requests keep the error.
    kernel.fail_request(1, 16);
    kernel.fail_request(2, 16);
    assert_eq!(client.virtual_servers().unwrap_err().errno(), Some(16));
    kernel.fail_request(1, 16);
    assert_eq!(client.flush().unwrap_err().errno(), Some(16));
    client.reopen().unwrap();
    assert_eq!(client.virtual_servers().unwrap().len(), 1);
}
