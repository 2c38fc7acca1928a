//! Entrances for fuzz targets: the answers to any request, without a connection.
//!
//! Not part of the API: it changes without notice.

use std::io;

use http_body_util::BodyExt;
use hyper::Uri;
use tokio::runtime::{Builder, Runtime};

use super::{Monitor, Pages, server};
use crate::observe::http::Answer;

/// Both servers of a monitor.
pub struct Answers {
    runtime: Runtime,
    metrics: Answer,
    health: Answer,
}

/// An answer.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Answered {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Answers {
    /// The servers with these pages.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn new(monitor: &Monitor, pages: Pages) -> io::Result<Self> {
        Ok(Self {
            runtime: Builder::new_current_thread().enable_time().build()?,
            metrics: server::metrics(monitor.clone(), pages),
            health: server::health(monitor.clone()),
        })
    }

    /// The answer to a request. `None` if hyper would not accept it.
    pub fn answer(&self, of_health: bool, target: &str, host: Option<&str>) -> Option<Answered> {
        let uri: Uri = target.parse().ok()?;
        let answer = if of_health {
            &self.health
        } else {
            &self.metrics
        };
        let response = self.runtime.block_on(async { answer(&uri, host).await });
        let (head, body) = response.into_parts();
        let body = self.runtime.block_on(body.collect()).ok()?;
        let headers = head.headers.iter();
        Some(Answered {
            status: head.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect(),
            body: body.to_bytes().to_vec(),
        })
    }
}
