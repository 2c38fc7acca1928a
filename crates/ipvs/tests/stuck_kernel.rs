//! A kernel that does not answer costs one thread, however many calls are given up. Alone in its
//! process: it counts threads.

#![allow(clippy::unwrap_used)]

mod gate;

use std::fs;
use std::future::{Future, poll_fn};
use std::task::Poll;

use gate::Gate;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_stuck_kernel_costs_one_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let before = threads();
        let gate = Gate::new();
        let client = gate.client().await;
        gate.close();
        // One is sent before it is given up; the others are given up while it hangs.
        let mut sent = Box::pin(client.flush());
        poll_fn(|context| Poll::Ready(sent.as_mut().poll(context).is_ready())).await;
        gate.wait_until_entered();
        drop(sent);
        for _ in 0..600 {
            let mut call = Box::pin(client.flush());
            poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
        }
        assert_eq!(threads(), before + 1);
        // The one thread of the pool is free.
        assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7);
        // Of the calls given up only the one that hangs was sent.
        gate.open();
        assert_eq!(client.counters().await.unwrap().changes, 1);
    });
}
