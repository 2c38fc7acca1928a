//! A small HTTP server on hyper: bounded in connections, in memory and in time.

mod connections;
pub(crate) mod listen;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{self, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use crate::Runtime;
use connections::Connections;

/// How long a client may take to send a request, and leave a connection unused.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may read nothing of its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// After so long a connection ends behind its next answer: a client that reads a byte now and then
/// does not stay for ever.
const LIFETIME: Duration = Duration::from_secs(600);
/// The most of a request that is read at once, and so the longest header.
const REQUEST_SIZE: usize = 16 * 1024;
const HEADERS: usize = 64;
/// How long answers that have begun may take once the server ends.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait when the process has no file descriptor left for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait before an address that was taken is tried again, as in kube-proxy.
const RETRY: Duration = Duration::from_secs(5);

/// An answer. Its body can be shared, so that many clients that do not read it cost one copy.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// An answer to come.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers a request for a path, whatever its method.
pub(crate) type Answer = Arc<dyn Fn(&str) -> Answering + Send + Sync>;

/// Serves any number of addresses. All of them share one bound on connections.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Runtime,
    connections: Arc<Connections>,
}

/// An address that is served. Dropping it closes the listener, so that the port can be taken by
/// the time the drop returns; its connections end behind the answer that they are at.
#[derive(Debug)]
pub(crate) struct Site {
    accepting: JoinHandle<()>,
    /// Disconnected once the listener is closed.
    closed: mpsc::Receiver<()>,
    _lease: watch::Sender<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
        // The bound is for a runtime all of whose threads are blocked.
        let _ = self.closed.recv_timeout(GRACE);
    }
}

impl Server {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            connections: Arc::default(),
        }
    }

    /// Answers on a listener that does not block.
    pub(crate) fn open(&self, listener: std::net::TcpListener, answer: Answer) -> io::Result<Site> {
        let _guard = self.runtime.handle()?.enter();
        let listener = TcpListener::from_std(listener)?;
        self.serve(std::future::ready(listener), answer)
    }

    /// Answers at an address, or, if something else has it, as soon as it is free. Until then a
    /// warning of the log names the address and `what` is missing there.
    pub(crate) fn open_later(
        &self,
        address: SocketAddr,
        what: &'static str,
        answer: Answer,
    ) -> io::Result<Site> {
        // The first try is made here, in the network namespace of the caller.
        let first = listen::listen(address);
        self.serve(listen_later(first, address, what), answer)
    }

    fn serve(
        &self,
        listener: impl Future<Output = TcpListener> + Send + 'static,
        answer: Answer,
    ) -> io::Result<Site> {
        let (lease, left) = watch::channel(());
        let (open, closed) = mpsc::channel::<()>();
        let connections = Arc::clone(&self.connections);
        let accepting = self.runtime.handle()?.spawn(async move {
            // Dropped last, behind the listener.
            let _open = open;
            let listener = listener.await;
            accept(&listener, &answer, &left, &connections).await;
        });
        Ok(Site {
            accepting,
            closed,
            _lease: lease,
        })
    }
}

impl Drop for Server {
    /// Waits a moment for answers that have begun.
    fn drop(&mut self) {
        self.connections.wait_until_none(GRACE);
    }
}

/// Listens on an address as soon as it can be had.
async fn listen_later(
    mut listener: io::Result<std::net::TcpListener>,
    address: SocketAddr,
    what: &'static str,
) -> TcpListener {
    let mut is_late = false;
    loop {
        match listener.and_then(TcpListener::from_std) {
            Ok(listener) => {
                if is_late {
                    tracing::info!("{what}: serving at {address} now");
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
        listener = listen::listen(address);
    }
}

async fn accept(
    listener: &TcpListener,
    answer: &Answer,
    lease: &watch::Receiver<()>,
    connections: &Arc<Connections>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (answer, lease) = (Arc::clone(answer), lease.clone());
                connections.admit(peer.ip(), |requests| {
                    task::spawn(answer_all(stream, answer, lease, requests))
                });
            }
            // No file descriptor is left, or the client has gone again.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Answers a client's requests, one after another, for as long as the lease is held.
async fn answer_all(
    stream: TcpStream,
    answer: Answer,
    mut lease: watch::Receiver<()>,
    requests: connections::Requests,
) {
    let service = service_fn(|request: Request<Incoming>| {
        requests.count();
        let answering = answer(request.uri().path());
        async { Ok::<_, Infallible>(answering.await) }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(ANSWER_PATIENCE));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_PATIENCE)
        .max_headers(HEADERS)
        .max_buf_size(REQUEST_SIZE)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut connection = pin!(connection);
    let leaves = async { while lease.changed().await.is_ok() {} };
    tokio::select! {
        // What goes wrong with a client concerns nobody else.
        _ = connection.as_mut() => return,
        () = leaves => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(REQUEST_PATIENCE, connection).await;
}

/// An answer of a type, which clients are not to guess.
pub(crate) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer that is there already.
pub(crate) fn ready(response: Response) -> Answering {
    Box::pin(std::future::ready(response))
}
