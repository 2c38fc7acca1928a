//! What goes wrong with an API server.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kube::core::Status;

use super::follower::EventError;

/// Why there is no way to ask the API server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error("not in a pod with a service account, and no kubeconfig or server is given")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The server's URL is none.
    #[error("{url:?} is not the URL of an API server")]
    Server {
        /// What was given.
        url: String,
        /// What is wrong with it.
        source: http::uri::InvalidUri,
    },
    /// A certificate, a key or another credential cannot be used.
    #[error("the credentials for the API server cannot be used")]
    Credentials(#[source] Box<kube::Error>),
    /// The token is in a file that cannot be read.
    #[error("cannot read the token in {}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The file of the token is empty, as one is that is being written. Without a token the server
    /// would take us for anyone.
    #[error("there is no token in {}", .0.display())]
    NoToken(PathBuf),
    /// The server is behind a proxy.
    #[error("the API server is to be reached through a proxy, which is not supported")]
    Proxy,
}

/// Why a list or a watch has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<kube::Error>),
    #[error("the request cannot be made")]
    Request(#[source] kube::core::request::Error),
    /// An answer that is none, or an error within one.
    #[error("the API server says: {code} {message}")]
    Refused {
        code: u16,
        message: String,
        /// How long the server asks to be left alone.
        retry_after: Option<Duration>,
    },
    #[error("nothing was heard of the API server for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the API server sent only {bytes} bytes in {} s", .time.as_secs_f32())]
    Slow { bytes: usize, time: Duration },
    #[error("{_0} is longer than {_1} bytes")]
    TooLong(&'static str, usize),
    #[error("the answer was cut off")]
    Cut(#[source] Box<kube::Error>),
    #[error("the answer is not what the API promises")]
    Garbled(#[source] serde_json::Error),
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the watch ended before all objects there are had come")]
    Unfinished,
    #[error("the watch ended as soon as it had begun")]
    Short,
}

impl Failure {
    /// Of an error that the server sends in the place of objects.
    pub(super) fn of(status: Status, retry_after: Option<Duration>) -> Self {
        let asked = status
            .details
            .map_or(0, |details| details.retry_after_seconds);
        let asked = (asked > 0).then(|| Duration::from_secs(asked.into()));
        Self::Refused {
            code: status.code,
            message: status.message,
            retry_after: retry_after.or(asked),
        }
    }
}
