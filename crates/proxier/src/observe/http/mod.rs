//! A small HTTP server, on a thread of its own.

pub(crate) mod listen;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, sync};

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};
use tokio::task;
use tokio::time::{sleep, timeout};

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
/// How long to wait before an address that was taken is tried again, as in kube-proxy.
const RETRY: Duration = Duration::from_secs(5);

/// Answers a request for a path, whatever its method.
pub(crate) type Answer = Arc<dyn Fn(&str) -> Response<String> + Send + Sync>;

/// A place that is served. When it is dropped, connections to it end after their last answer.
pub(crate) type Lease = watch::Sender<()>;

/// What is served at an address, for as long as its [`Lease`] is held.
#[derive(Clone)]
struct Site {
    answer: Answer,
    lease: watch::Receiver<()>,
}

/// The thread that answers. It ends with this.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Handle,
    /// `None` only while it ends.
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Open(SocketAddr, TcpListener, Site),
    /// Open this, for what the words say, as soon as the address is free.
    OpenLater(SocketAddr, &'static str, Site),
    /// Close these, and say so.
    Close(Vec<SocketAddr>, sync::mpsc::Sender<()>),
}

/// A client, and what it asks for.
type Arrival = (TcpStream, Site);

impl Server {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let (commands, received) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(serve(received)))?;
        Ok(Self {
            runtime: handle,
            commands: Some(commands),
            thread: Some(thread),
        })
    }

    /// Whether its thread is gone, which it should not be.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Answers on a listener that does not block.
    pub(crate) fn open(
        &self,
        address: SocketAddr,
        listener: std::net::TcpListener,
        answer: Answer,
    ) -> io::Result<Lease> {
        let _guard = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let (lease, site) = site(answer);
        self.command(Command::Open(address, listener, site));
        Ok(lease)
    }

    /// Answers at an address, or, if something else has it, as soon as it is free; that and
    /// what is missing until then is logged.
    pub(crate) fn open_later(
        &self,
        address: SocketAddr,
        what: &'static str,
        answer: Answer,
    ) -> Lease {
        let (lease, site) = site(answer);
        self.command(Command::OpenLater(address, what, site));
        lease
    }

    /// Closes listeners. They are closed when this returns, so that their ports can be taken.
    pub(crate) fn close(&self, addresses: Vec<SocketAddr>) {
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

fn site(answer: Answer) -> (Lease, Site) {
    let (lease, receiver) = watch::channel(());
    let site = Site {
        answer,
        lease: receiver,
    };
    (lease, site)
}

/// Carries out commands and serves clients, until there can be no more commands.
async fn serve(mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut listeners = HashMap::new();
    let mut connections = VecDeque::new();
    let (arrive, mut arrivals) = mpsc::channel(1);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Open(address, listener, site)) => {
                    let accepting = accept(listener, site, arrive.clone());
                    listeners.insert(address, task::spawn(accepting));
                }
                Some(Command::OpenLater(address, what, site)) => {
                    let arrive = arrive.clone();
                    let opening = async move {
                        accept(listen_later(address, what).await, site, arrive).await;
                    };
                    listeners.insert(address, task::spawn(opening));
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
            Some((stream, site)) = arrivals.recv() => {
                make_room(&mut connections);
                connections.push_back(task::spawn(answer_all(stream, site)));
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

/// Listens on an address as soon as it can be had.
async fn listen_later(address: SocketAddr, what: &str) -> TcpListener {
    let mut is_late = false;
    loop {
        match listen::listen(address).and_then(TcpListener::from_std) {
            Ok(listener) => {
                if is_late {
                    tracing::info!("{what}: served at {address} from now on");
                }
                return listener;
            }
            Err(error) if is_late => tracing::debug!("{what}: {address}: {error}"),
            Err(error) => tracing::warn!(
                "{what}: cannot listen on {address}: {error}; trying again every {RETRY:?}"
            ),
        }
        is_late = true;
        sleep(RETRY).await;
    }
}

async fn accept(listener: TcpListener, site: Site, arrive: mpsc::Sender<Arrival>) {
    loop {
        match listener.accept().await {
            // Nobody waits for the arrival only when the server ends.
            Ok((stream, _)) => {
                let _ = arrive.send((stream, site.clone())).await;
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Answers a client's requests, one after another, for as long as the lease is held.
async fn answer_all(stream: TcpStream, site: Site) {
    let Site { answer, mut lease } = site;
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_headers(HEADERS)
        .max_buf_size(REQUEST_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let gone = async { while lease.changed().await.is_ok() {} };
    tokio::select! {
        // What goes wrong with a client is its own concern.
        _ = connection.as_mut() => {}
        () = gone => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// An answer of a type, which clients are not to guess.
pub(crate) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
