//! Answering, on a thread of its own.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, sync};

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};
use tokio::task;
use tokio::time::{sleep, timeout};

use crate::desired::HealthCheck;

/// How many connections there may be. One more, and the oldest is cut: a load balancer's has its
/// answer by then.
const CONNECTIONS: usize = 256;
/// How long a client may take to send a request, and leave a connection unused.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most of a request that is read at once, and so the longest header.
const REQUEST_SIZE: usize = 16 * 1024;
const HEADERS: usize = 64;
/// How long answers that have begun may take once the server is to end.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait when the process has no file descriptor left for a connection.
const PAUSE: Duration = Duration::from_millis(100);

const ENDPOINT_WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The thread that answers. It ends with this.
#[derive(Debug)]
pub(super) struct Server {
    runtime: Handle,
    /// `None` only while it ends.
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Open(SocketAddr, TcpListener, watch::Receiver<HealthCheck>),
    /// Close these, and say so.
    Close(Vec<SocketAddr>, sync::mpsc::Sender<()>),
}

/// A client, and what it asks for.
type Arrival = (TcpStream, watch::Receiver<HealthCheck>);

impl Server {
    pub(super) fn start(healthy: watch::Receiver<bool>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let (commands, received) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("service-health".to_owned())
            .spawn(move || runtime.block_on(serve(received, &healthy)))?;
        Ok(Self {
            runtime: handle,
            commands: Some(commands),
            thread: Some(thread),
        })
    }

    /// Whether its thread is gone, which it should not be.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Answers on a listener that does not block, until the check's sender is dropped.
    pub(super) fn open(
        &self,
        address: SocketAddr,
        listener: std::net::TcpListener,
        check: watch::Receiver<HealthCheck>,
    ) -> io::Result<()> {
        let _guard = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        self.command(Command::Open(address, listener, check));
        Ok(())
    }

    /// Closes listeners. They are closed when this returns, so that their ports can be taken.
    pub(super) fn close(&self, addresses: Vec<SocketAddr>) {
        let (closed, wait) = sync::mpsc::channel();
        self.command(Command::Close(addresses, closed));
        // An error is the end of the thread, and of its sockets.
        let _ = wait.recv();
    }

    /// A thread that is gone is noticed by [`Server::has_ended`].
    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries out commands and serves clients, until there can be no more commands.
async fn serve(mut commands: mpsc::UnboundedReceiver<Command>, healthy: &watch::Receiver<bool>) {
    let mut listeners = HashMap::new();
    let mut connections = VecDeque::new();
    let (arrive, mut arrivals) = mpsc::channel(1);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Open(address, listener, check)) => {
                    let accepting = accept(listener, check, arrive.clone());
                    listeners.insert(address, task::spawn(accepting));
                }
                Some(Command::Close(addresses, closed)) => {
                    for address in addresses {
                        if let Some(listener) = listeners.remove(&address) {
                            end(listener).await;
                        }
                    }
                    let _ = closed.send(());
                }
                None => break,
            },
            Some((stream, check)) = arrivals.recv() => {
                make_room(&mut connections);
                connections.push_back(task::spawn(answer_all(stream, check, healthy.clone())));
            }
        }
    }
    for (_, listener) in listeners {
        end(listener).await;
    }
    let finished = async {
        for connection in connections {
            let _ = connection.await;
        }
    };
    let _ = timeout(GRACE, finished).await;
}

/// Ends a task; what it owned is dropped by then.
async fn end(task: task::JoinHandle<()>) {
    task.abort();
    let _ = task.await;
}

fn make_room(connections: &mut VecDeque<task::JoinHandle<()>>) {
    if connections.len() < CONNECTIONS {
        return;
    }
    connections.retain(|connection| !connection.is_finished());
    if connections.len() >= CONNECTIONS
        && let Some(oldest) = connections.pop_front()
    {
        oldest.abort();
    }
}

async fn accept(
    listener: TcpListener,
    check: watch::Receiver<HealthCheck>,
    arrive: mpsc::Sender<Arrival>,
) {
    loop {
        match listener.accept().await {
            // Nobody waits for the arrival only when the server ends.
            Ok((stream, _)) => {
                let _ = arrive.send((stream, check.clone())).await;
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Answers a client's requests, one after another, for as long as there is a check.
async fn answer_all(
    stream: TcpStream,
    check: watch::Receiver<HealthCheck>,
    healthy: watch::Receiver<bool>,
) {
    let mut changes = check.clone();
    let service = service_fn(|_| {
        let response = answer(&check.borrow(), *healthy.borrow());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_headers(HEADERS)
        .max_buf_size(REQUEST_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let gone = async { while changes.changed().await.is_ok() {} };
    tokio::select! {
        // What goes wrong with a client is its own concern.
        _ = connection.as_mut() => {}
        () = gone => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// kube-proxy's answer, byte for byte but for the date. Names are such that they need no quoting.
fn answer(check: &HealthCheck, healthy: bool) -> Response<String> {
    let (namespace, name) = (check.service.namespace(), check.service.name());
    let endpoints = check.local_endpoints;
    let mut response = Response::new(format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    ));
    if endpoints == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ENDPOINT_WEIGHT, HeaderValue::from(endpoints));
    response
}
