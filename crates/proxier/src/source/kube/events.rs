//! Notices as Kubernetes Events.
//!
//! Not kube-runtime's recorder: it (5.0) takes all Events of one object and reason within six
//! minutes for one that repeats itself, so that of two refused addresses the second is never seen.
//! What repeats itself is held back before it comes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::backoff::{Backoff, Timing};
use super::client::{Ask, Clients};
use super::error::Failure;
use super::wire::Answer;
use crate::escaped::Chain;
use crate::model::Uid;
use crate::notice::{Notice, Subject};

/// Events that wait for the server. What comes beyond them is left out.
const WAITING: usize = 256;
/// How often one is tried, as by client-go's recorder (`maxTriesPerEvent`).
const TRIES: u32 = 12;
/// Who posts them.
const REPORTER: &str = "svcproxy";
/// What was being done when there was something to tell: an Event must say.
const ACTION: &str = "Proxying";
/// Longest `reportingInstance` (kubernetes `pkg/apis/core/validation/events.go`).
const LONGEST_INSTANCE: usize = 128;
/// Longest name of an object in an Event's own, which is to be a DNS subdomain.
const LONGEST_NAME: usize = 220;
/// Where Events of what has no namespace are, as those of the kubelet.
const DEFAULT_NAMESPACE: &str = "default";

/// A queue of what is to be posted as Events: one end for those who have something to tell, the
/// other for the [source](super::KubeSource) that posts it.
///
/// Posting never waits: while the server is slow or away, some Events wait, and what comes beyond
/// them is left out.
pub fn event_queue() -> (EventSender, EventQueue) {
    let (queue, waiting) = mpsc::channel(WAITING);
    let left_out = Arc::default();
    let sender = EventSender {
        queue,
        left_out: Arc::clone(&left_out),
    };
    (sender, EventQueue { waiting, left_out })
}

/// The end for those who have something to tell.
#[derive(Debug, Clone)]
pub struct EventSender {
    queue: Sender<Posting>,
    left_out: Arc<AtomicU64>,
}

/// The end from which Events are posted.
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
    /// Has a notice posted as an Event. `uid` is that of the Service it is about: without it,
    /// `kubectl describe` does not find the Event.
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

/// An Event, and where it is created.
struct Event {
    path: String,
    body: Value,
}

/// Posts what comes out of a queue.
pub(super) struct Poster<'a> {
    pub(super) clients: &'a Clients,
    pub(super) timing: &'a Timing,
    pub(super) node: &'a str,
    pub(super) queue: EventQueue,
}

impl Poster<'_> {
    /// Ends when nobody can have anything to tell any more.
    pub(super) async fn run(mut self) {
        let mut last_name = 0;
        let mut is_refused = false;
        while let Some(posting) = self.queue.waiting.recv().await {
            // Each has its own name, which stays the same if it must be sent again.
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
                tracing::warn!("{left_out} Events are not posted: too many wait");
            }
        }
    }

    async fn post(&self, event: &Event) -> Result<(), Failure> {
        let mut backoff = Backoff::new(self.timing);
        let mut tries = 1;
        loop {
            let failure = match self.try_to_post(event).await {
                // The answer to an earlier try was lost.
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
            let pause = backoff.pause(self.timing, asked, Instant::now());
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
    /// As the kubelet's and kube-proxy's are: a Service's lies in its namespace, and a Node is meant
    /// by its name alone.
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

/// The beginning of a name, and no separator at its end.
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
    fn a_queue_that_is_full_holds_nobody_up() {
        let (sender, mut queue) = event_queue();
        let notice = Notice::of_node(Reason::ModeFallback, "x");
        (0..WAITING + 5).for_each(|_| sender.post(notice.clone(), None));
        assert_eq!(queue.left_out.load(Ordering::Relaxed), 5);
        let waiting = std::iter::from_fn(|| queue.waiting.try_recv().ok()).count();
        assert_eq!(waiting, WAITING);
    }
}
