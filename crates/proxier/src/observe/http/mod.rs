//! A small HTTP server on hyper, with limits on connections, memory and time.

mod connections;
pub(crate) mod listen;

use std::convert::Infallible;
use std::future::Future;
use std::io;
#[cfg(feature = "metrics")]
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{self, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use crate::Runtime;
use connections::Connections;

/// How long a client may take to send a request, and keep a connection idle.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may take without reading any of its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Maximum age of a connection, which ends after its next answer. Otherwise a client that reads one
/// byte at a time could stay forever.
const LIFETIME: Duration = Duration::from_secs(600);
/// The size of the read buffer, and so of the longest header.
const REQUEST_SIZE: usize = 16 * 1024;
const HEADERS: usize = 64;
/// How long current answers may take after the server began to stop.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait if the process has no free file descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait before retrying an address in use, as in kube-proxy.
#[cfg(feature = "metrics")]
const RETRY: Duration = Duration::from_secs(5);

/// An answer. Clients can share the body of a page that is ready.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// A future answer.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers a request for a path and its query, for any method; the second argument is the header
/// `Host`, if it is text.
pub(crate) type Answer = Arc<dyn Fn(&Uri, Option<&str>) -> Answering + Send + Sync>;

/// Serves any number of addresses. They share one limit of connections.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Runtime,
    connections: Arc<Connections>,
}

/// A served address. Dropping it closes the listener: the port is free when the drop returns. Its
/// connections end after their current answer.
#[derive(Debug)]
pub(crate) struct Site {
    accepting: JoinHandle<()>,
    /// Disconnected when the listener is closed.
    closed: mpsc::Receiver<()>,
    _lease: watch::Sender<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
        // The limit matters only if all threads of the runtime are blocked.
        let _ = self.closed.recv_timeout(GRACE);
    }
}

/// What a task that accepts connections owns. Its fields are dropped in this order, also if the task
/// ends before it begins: the listener is closed when `_open` reports it.
struct Listening<F> {
    listener: Pin<Box<F>>,
    _open: mpsc::Sender<()>,
}

impl Server {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            connections: Arc::default(),
        }
    }

    /// Serves a non-blocking listener.
    pub(crate) fn open(&self, listener: std::net::TcpListener, answer: Answer) -> io::Result<Site> {
        let _guard = self.runtime.handle()?.enter();
        let listener = TcpListener::from_std(listener)?;
        self.serve(std::future::ready(listener), answer)
    }

    /// Serves an address, or, if it is in use, as soon as it is free. Meanwhile a warning in the
    /// log names the address and `what` is not served.
    #[cfg(feature = "metrics")]
    pub(crate) fn open_later(
        &self,
        address: SocketAddr,
        what: &'static str,
        answer: Answer,
    ) -> io::Result<Site> {
        // The first try runs here, in the caller's network namespace.
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
        let listening = Listening {
            listener: Box::pin(listener),
            _open: open,
        };
        let accepting = self.runtime.handle()?.spawn(async move {
            // The whole of it, not the field alone.
            let mut listening = listening;
            let listener = listening.listener.as_mut().await;
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
    /// Waits a short time for current answers.
    fn drop(&mut self) {
        self.connections.wait_until_none(GRACE);
    }
}

/// Listens on an address as soon as it is free.
#[cfg(feature = "metrics")]
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
            // No file descriptor is free, or the client has already closed the connection.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Answers a client's requests, one after another, while the lease is held.
async fn answer_all(
    stream: TcpStream,
    answer: Answer,
    mut lease: watch::Receiver<()>,
    requests: connections::Requests,
) {
    let service = service_fn(|request: Request<Incoming>| {
        requests.count();
        let host = request.headers().get(HOST);
        let answering = answer(request.uri(), host.and_then(|host| host.to_str().ok()));
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
        // An error on one connection affects no other.
        _ = connection.as_mut() => return,
        () = leaves => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(REQUEST_PATIENCE, connection).await;
}

/// An answer with a content type that clients must not guess.
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

/// An answer that is ready.
pub(crate) fn ready(response: Response) -> Answering {
    Box::pin(std::future::ready(response))
}
