//! Requests and answers: what stands in them, and how they fail.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use http::{Request, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::Failure;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    pub(super) metadata: ListMetadata,
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Frame<'a> {
    #[serde(rename = "type")]
    pub(super) event: &'a str,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

#[derive(Debug, Deserialize)]
pub(super) struct Bookmark {
    pub(super) metadata: BookmarkMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    pub(super) resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Bookmark {
    /// Whether all objects there were have been sent.
    pub(super) fn ends_list(&self) -> bool {
        let mark = self.metadata.annotations.get("k8s.io/initial-events-end");
        mark.is_some_and(|mark| mark == "true")
    }
}

/// An answer that is coming in.
pub(super) struct Answer {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer holds no end of a line.
    searched: usize,
}

impl Answer {
    /// Asks, and waits for the answer to begin.
    pub(super) async fn to(
        request: Request<Vec<u8>>,
        client: &Client,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let mut request = request.map(Body::from);
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::ACCEPT, json);
        let answer = client.send(request);
        let answer = tokio::time::timeout(patience, answer).await;
        let answer = answer
            .map_err(|_| Failure::Silent(patience))?
            .map_err(|error| Failure::Unreachable(Box::new(error)))?;
        let (head, body) = answer.into_parts();
        let answer = Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        };
        if head.status.is_success() {
            return Ok(answer);
        }
        let retry_after = head.headers.get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = answer.whole(patience).await?;
        // Whatever stands in the way of the server need not know its form.
        let status = serde_json::from_slice::<Status>(&text).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&text);
            Status::failure(text.lines().next().unwrap_or_default(), "")
        });
        let status = status.with_code(head.status.as_u16());
        Err(Failure::of(status, retry_after.map(Duration::from_secs)))
    }

    /// All of it.
    pub(super) async fn whole(mut self, patience: Duration) -> Result<BytesMut, Failure> {
        while self.more(patience).await? {}
        Ok(self.buffer)
    }

    /// The next line; none at the end. What follows the last line's end is half a line.
    pub(super) async fn line(&mut self, patience: Duration) -> Result<Option<BytesMut>, Failure> {
        loop {
            let new = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if !self.more(patience).await? {
                return Ok(None);
            }
        }
    }

    /// Whether there was more.
    async fn more(&mut self, patience: Duration) -> Result<bool, Failure> {
        let frame = tokio::time::timeout(patience, self.body.frame()).await;
        match frame.map_err(|_| Failure::Silent(patience))? {
            None => Ok(false),
            Some(Err(error)) => Err(Failure::Cut(Box::new(error))),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
                Ok(true)
            }
        }
    }
}
