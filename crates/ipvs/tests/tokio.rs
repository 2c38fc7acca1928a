//! The client for tokio on the fake kernel: order, cancellation, time limits.

#![allow(clippy::unwrap_used, clippy::panic)]

mod gate;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use gate::Gate;
use ipvs::*;

fn server(port: u16) -> VirtualServer {
    VirtualServer::new(VirtualServerKey::tcp(([10, 96, 0, 1], port).into()))
}

fn weighted(weight: u32) -> RealServer {
    RealServer::new("10.244.0.1:80".parse().unwrap()).with_weight(weight)
}

async fn client() -> AsyncClient<FakeSocket> {
    let client = FakeKernel::new().client().unwrap();
    AsyncClient::new(client).await.unwrap()
}

/// A client with one real server, and its virtual server's key.
async fn client_with_server() -> (AsyncClient<FakeSocket>, VirtualServerKey) {
    let (client, key) = (client().await, server(1).key);
    client.add_virtual_server(&server(1)).await.unwrap();
    client.add_real_server(&key, &weighted(0)).await.unwrap();
    (client, key)
}

/// Polls once; the future is not finished by that.
async fn poll_once(future: &mut (impl Future + Unpin)) {
    poll_fn(|context| Poll::Ready(pin!(&mut *future).poll(context).is_ready())).await;
}

async fn weight(client: &AsyncClient<FakeSocket>, key: &VirtualServerKey) -> u32 {
    let entries = client.real_servers(key).await.unwrap();
    entries.first().unwrap().server.weight
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_one_connection() {
    let client = client().await;
    let tasks: Vec<_> = (1..=50)
        .map(|port| {
            let client = client.clone();
            tokio::spawn(async move { client.add_virtual_server(&server(port)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(client.virtual_servers().await.unwrap().len(), 50);
    assert_eq!(client.counters().await.unwrap().changes, 50);
    let missing = client.virtual_server(&server(99).key).await;
    assert!(missing.is_err_and(|error| error.is_not_found()));
}

#[tokio::test]
async fn a_batch_has_its_outcomes() {
    let client = client().await;
    let add = Change::AddVirtualServer(server(1));
    let outcomes = client.apply(vec![add, add]).await;
    let failed: Vec<_> = outcomes.failures().map(|(place, _)| place).collect();
    assert_eq!(failed, [1]);
}

/// A call that is given up never overtakes one that is awaited after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_call_awaited_decides() {
    let (client, key) = client_with_server().await;
    for round in 1..3000 {
        let change = |weight| Change::UpdateRealServer {
            virtual_server: key,
            real_server: weighted(weight),
        };
        let mut given_up = Box::pin(client.change(change(1)));
        poll_once(&mut given_up).await;
        drop(given_up);
        client.change(change(round + 1)).await.unwrap();
        assert_eq!(weight(&client, &key).await, round + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn joined_calls_run_in_the_order_of_their_first_poll() {
    let (client, key) = client_with_server().await;
    for round in 1..1000 {
        let (first, second, third) = (weighted(1), weighted(2), weighted(round));
        let (first, second, third) = tokio::join!(
            client.update_real_server(&key, &first),
            client.update_real_server(&key, &second),
            client.update_real_server(&key, &third),
        );
        first.and(second).and(third).unwrap();
        assert_eq!(weight(&client, &key).await, round);
    }
}

#[tokio::test]
async fn a_started_call_finishes_without_its_future() {
    let client = client().await;
    let (go, wait) = mpsc::channel::<()>();
    let (report, reported) = mpsc::channel();
    let (started, has_started) = tokio::sync::oneshot::channel();
    let mut call = Box::pin(client.with(move |client| {
        started.send(()).unwrap();
        wait.recv().unwrap();
        report.send(client.add_virtual_server(&server(1))).unwrap();
        Ok(())
    }));
    poll_once(&mut call).await;
    has_started.await.unwrap();
    drop(call);
    go.send(()).unwrap();
    assert_eq!(client.virtual_servers().await.unwrap().len(), 1);
    reported.recv().unwrap().unwrap();
}

#[tokio::test]
async fn a_queued_call_that_is_dropped_never_runs() {
    let gate = Gate::new();
    let client = gate.client().await;
    gate.close();
    let mut running = Box::pin(client.flush());
    poll_once(&mut running).await;
    let mut queued: Vec<_> = (1..=100)
        .map(|port| Box::pin(client.change(Change::AddVirtualServer(server(port)))))
        .collect();
    for call in &mut queued {
        poll_once(call).await;
    }
    // One in the middle stays.
    let kept = queued.remove(49);
    drop(queued);
    gate.open();
    running.await.unwrap();
    kept.await.unwrap();
    let listed = client.virtual_servers().await.unwrap();
    let keys: Vec<_> = listed.iter().map(|entry| entry.server.key).collect();
    assert_eq!(keys, [server(50).key]);
}

/// Virtual time: it passes when nothing but the kernel is left to wait for.
#[tokio::test(start_paused = true)]
async fn a_time_limit_says_whether_the_call_has_started() {
    let gate = Gate::new();
    let client = gate.client().await;
    gate.close();
    let limited = client.clone().with_time_limit(Duration::from_secs(5));
    // The first one is in the kernel.
    let mut running = Box::pin(client.flush());
    poll_once(&mut running).await;
    gate.wait_until_entered();
    let error = limited.add_virtual_server(&server(1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotStarted);
    assert!(!error.is_outcome_unknown());
    assert_eq!(
        error.to_string(),
        "add virtual server tcp 10.96.0.1:1: not started: earlier calls to the kernel have not \
         finished"
    );
    let outcomes = limited
        .apply(vec![Change::Flush, Change::AddVirtualServer(server(1))])
        .await;
    let kinds: Vec<_> = outcomes.failures().map(|(_, e)| e.kind().clone()).collect();
    assert_eq!(kinds, [ErrorKind::NotStarted, ErrorKind::NotStarted]);
    gate.open();
    running.await.unwrap();
    assert_eq!(client.virtual_servers().await.unwrap(), []);

    gate.close();
    let add = server(2);
    let mut add = Box::pin(limited.add_virtual_server(&add));
    poll_once(&mut add).await;
    gate.wait_until_entered();
    let error = add.await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::TimedOut);
    assert!(error.is_outcome_unknown());
    // It is made before what comes next.
    gate.open();
    assert_eq!(client.virtual_servers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_hung_connection_can_be_replaced() {
    let gate = Gate::new();
    let client = gate.client().await;
    gate.close();
    let mut hung = Box::pin(client.flush());
    poll_once(&mut hung).await;
    gate.wait_until_entered();
    let added = server(1);
    let mut queued = Box::pin(client.add_virtual_server(&added));
    poll_once(&mut queued).await;
    // What the new connection sends passes; the hung call stays.
    gate.open_for_new();
    client.reopen().await.unwrap();
    queued.await.unwrap();
    assert_eq!(client.virtual_servers().await.unwrap().len(), 1);
    // No second one while the first thread hangs.
    let error = client.reopen().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        (error.kind(), source.as_str()),
        (&ErrorKind::Io, "resource busy")
    );
    gate.open();
    hung.await.unwrap();
    assert_eq!(client.virtual_servers().await.unwrap(), []);
}

#[tokio::test]
async fn a_panic_is_its_callers() {
    let client = client().await;
    let other = client.clone();
    let panicked = tokio::spawn(async move {
        let work = |_: &mut FakeClient| -> Result<()> { panic!("of the test") };
        other.with(work).await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    client.add_virtual_server(&server(1)).await.unwrap();
}
