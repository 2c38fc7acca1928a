//! Posts notices as Kubernetes Events.
//!
//! Not with kube-runtime's recorder (5.0): it merges all Events of one object and reason within six
//! minutes, so the second of two rejected addresses would never be seen. Repetitions are limited
//! before they reach this module.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::backoff::{Backoff, Timing};
use super::client::{ApiClients, Ask};
use super::error::Failure;
use super::wire::Answer;
use crate::escaped::Chain;
use crate::model::Uid;
use crate::notice::{Notice, Subject};

/// Maximum number of queued Events. More are dropped.
const WAITING: usize = 256;
/// Maximum number of tries per Event, as in client-go's recorder (`maxTriesPerEvent`).
const TRIES: u32 = 12;
/// The `reportingController`.
const REPORTER: &str = "svcproxy";
/// The `action`, which an Event must have.
const ACTION: &str = "Proxying";
/// Maximum length of `reportingInstance` (kubernetes `pkg/apis/core/validation/events.go`).
const LONGEST_INSTANCE: usize = 128;
/// Maximum length of an object's name in the name of an Event, which must be a DNS subdomain.
const LONGEST_NAME: usize = 220;
/// The namespace of Events about objects without one, as for the kubelet's Events.
const DEFAULT_NAMESPACE: &str = "default";

/// A queue of Events: notices go into the sender, and the [source](super::KubeSource) posts them
/// from the other end.
///
/// Sending never blocks: while the server is slow or unreachable, Events are queued, and those
/// beyond the limit are dropped.
pub fn event_queue() -> (EventSender, EventQueue) {
    let (queue, waiting) = mpsc::channel(WAITING);
    let left_out = Arc::default();
    let sender = EventSender {
        queue,
        left_out: Arc::clone(&left_out),
    };
    (sender, EventQueue { waiting, left_out })
}

/// The sending end of the queue.
#[derive(Debug, Clone)]
pub struct EventSender {
    queue: Sender<Posting>,
    left_out: Arc<AtomicU64>,
}

/// The posting end of the queue.
#[derive(Debug)]
pub struct EventQueue {
    waiting: Receiver<Posting>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Posting {
    notice: Notice,
    uid: Option<Uid>,
    time: Timestamp,
}

impl EventSender {
    /// Queues a notice as an Event. `uid` is the Service's: without it, `kubectl describe` does not
    /// find the Event.
    pub fn post(&self, notice: Notice, uid: Option<Uid>) {
        let posting = Posting {
            notice,
            uid,
            time: Timestamp::now(),
        };
        if self.queue.try_send(posting).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An Event, and the URL path that creates it.
struct Event {
    path: String,
    body: Value,
}

/// Posts the Events of a queue.
pub(super) struct Poster<'a> {
    pub(super) clients: &'a ApiClients,
    pub(super) timing: &'a Timing,
    pub(super) node: &'a str,
    pub(super) queue: EventQueue,
}

impl Poster<'_> {
    /// Ends when all senders are gone.
    pub(super) async fn run(mut self) {
        let mut last_name = 0;
        let mut is_refused = false;
        while let Some(posting) = self.queue.waiting.recv().await {
            // Each Event has its own name, which stays the same in retries.
            last_name = posting.time.as_nanosecond().max(last_name + 1);
            let event = posting.event(self.node, last_name);
            let posted = self.post(&event).await;
            if let Err(failure) = &posted {
                let error = Chain(failure);
                if is_refused {
                    tracing::debug!(%error, "cannot post an Event");
                } else {
                    tracing::warn!(%error, "cannot post an Event; others may fail too");
                }
            }
            is_refused = posted.is_err();
            let left_out = self.queue.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                tracing::warn!("{left_out} Events dropped: the queue is full");
            }
        }
    }

    async fn post(&self, event: &Event) -> Result<(), Failure> {
        let mut backoff = Backoff::new(self.timing);
        let mut tries = 1;
        loop {
            let failure = match self.try_to_post(event).await {
                // 409 means that an earlier try succeeded but its answer was lost.
                Ok(()) | Err(Failure::Refused { code: 409, .. }) => return Ok(()),
                Err(failure) => failure,
            };
            let asked = match &failure {
                Failure::Refused { code: 401, .. } => {
                    self.clients.forget();
                    None
                }
                Failure::Refused {
                    code: 429 | 500..,
                    retry_after,
                    ..
                } => *retry_after,
                Failure::Refused { .. } | Failure::NotAUrl(_) => return Err(failure),
                _ => None,
            };
            if tries == TRIES {
                return Err(failure);
            }
            tries += 1;
            let pause = backoff.pause(self.timing, false, asked, Instant::now());
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_to_post(&self, event: &Event) -> Result<(), Failure> {
        let ask = Ask::post(event.path.clone(), event.body.to_string().into_bytes());
        let client = self.clients.get().await?;
        let answer = Answer::to(ask, &client, self.timing.answer).await?;
        answer.short(self.timing.answer).await.map(drop)
    }
}

impl Posting {
    /// The Event, as the kubelet and kube-proxy create it: in the Service's namespace; and a Node
    /// is identified by its name only.
    fn event(&self, node: &str, name: i128) -> Event {
        let Self { notice, uid, time } = self;
        let (kind, namespace, object, uid) = match &notice.about {
            Subject::Service(name) => {
                let uid = uid.map(|uid| uid.to_string());
                ("Service", Some(name.namespace()), name.name(), uid)
            }
            Subject::Node => ("Node", None, node, Some(node.to_owned())),
        };
        let kind_of_event = if notice.reason.is_warning() {
            "Warning"
        } else {
            "Normal"
        };
        let namespace_of_event = namespace.unwrap_or(DEFAULT_NAMESPACE);
        let instance = format!("{REPORTER}-{node}");
        Event {
            path: format!("/apis/events.k8s.io/v1/namespaces/{namespace_of_event}/events"),
            body: json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {
                    "name": format!("{}.{name:x}", cut(object, LONGEST_NAME)),
                    "namespace": namespace_of_event,
                },
                "action": ACTION,
                "eventTime": format!("{time:.6}"),
                "note": notice.text(),
                "reason": notice.reason.to_string(),
                "regarding": {
                    "apiVersion": "v1",
                    "kind": kind,
                    "name": object,
                    "namespace": namespace,
                    "uid": uid,
                },
                "reportingController": REPORTER,
                "reportingInstance": cut(&instance, LONGEST_INSTANCE),
                "type": kind_of_event,
            }),
        }
    }
}

/// The beginning of a name, without a trailing separator.
fn cut(name: &str, longest: usize) -> &str {
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = end.take_while(|end| *end <= longest).last();
    let text = name.get(..end.unwrap_or_default()).unwrap_or_default();
    text.trim_end_matches(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::Reason;

    #[test]
    fn long_names_of_nodes_leave_valid_events() {
        let node = format!("{}.{}", "a".repeat(127), "b".repeat(125));
        let posting = Posting {
            notice: Notice::of_node(Reason::IpvsAvailable, "x"),
            uid: None,
            time: Timestamp::UNIX_EPOCH,
        };
        let event = posting.event(&node, i128::from(i64::MAX));
        let name = event.body["metadata"]["name"].as_str().unwrap();
        assert!(
            crate::model::check_subdomain("name", name).is_ok(),
            "{name}"
        );
        let instance = event.body["reportingInstance"].as_str().unwrap();
        assert!(instance.len() <= LONGEST_INSTANCE, "{instance}");
        assert_eq!(event.body["regarding"]["name"], node);
        assert_eq!(event.body["type"], "Normal");
        assert_eq!(event.body["eventTime"], "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_full_queue_does_not_block() {
        let (sender, mut queue) = event_queue();
        let notice = Notice::of_node(Reason::ModeFallback, "x");
        (0..WAITING + 5).for_each(|_| sender.post(notice.clone(), None));
        assert_eq!(queue.left_out.load(Ordering::Relaxed), 5);
        let waiting = std::iter::from_fn(|| queue.waiting.try_recv().ok()).count();
        assert_eq!(waiting, WAITING);
    }
}
