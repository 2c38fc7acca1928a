//! The client for tokio, on the fake kernel.

#![allow(clippy::unwrap_used)]

use ipvs::*;

fn server(port: u16) -> VirtualServer {
    VirtualServer::new(VirtualServerKey::tcp(([10, 96, 0, 1], port).into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_one_client() {
    let kernel = FakeKernel::new();
    let client = AsyncClient::new(kernel.client().unwrap());
    let tasks: Vec<_> = (1..=50)
        .map(|port| {
            let client = client.clone();
            tokio::spawn(async move { client.change(Change::AddVirtualServer(server(port))).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(client.virtual_servers().await.unwrap().len(), 50);
    assert_eq!(client.counters().await.changes, 50);
    let missing = client.virtual_server(server(99).key).await;
    assert!(missing.is_err_and(|error| error.is_not_found()));
}

#[tokio::test]
async fn a_batch_has_its_outcomes() {
    let client = AsyncClient::new(FakeKernel::new().client().unwrap());
    let add = Change::AddVirtualServer(server(1));
    let outcomes = client.apply(vec![add, add]).await;
    let failed: Vec<_> = outcomes.failures().map(|(place, _)| place).collect();
    assert_eq!(failed, [1]);
}

#[tokio::test]
async fn what_has_begun_is_carried_out_without_its_future() {
    let client = AsyncClient::new(FakeKernel::new().client().unwrap());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (report, reported) = std::sync::mpsc::channel();
    let mut future = Box::pin(client.with(move |client| {
        wait.recv().unwrap();
        report.send(client.add_virtual_server(&server(1))).unwrap();
    }));
    // Polled once, it has begun; then it is dropped.
    std::future::poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(future);
    go.send(()).unwrap();
    reported.recv().unwrap().unwrap();
    assert_eq!(client.virtual_servers().await.unwrap().len(), 1);
}
