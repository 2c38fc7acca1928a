//! Questions of HTTP clients about Services, which only the loop can answer: the Services belong to
//! it.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Monitor, lock};

/// Limit of questions that wait for the loop.
const MOST: usize = 8;

/// How long a question waits. A full sync of many Services may take longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The questions that wait for the loop.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<Vec<Question>>);

#[derive(Debug)]
struct Question {
    about: String,
    answer: oneshot::Sender<Option<String>>,
}

/// Too many others wait, the loop is busy, or there is no loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered;

impl Monitor {
    /// Asks the loop. `None` if there is nothing about this.
    pub(super) async fn ask(&self, about: String) -> Result<Option<String>, Unanswered> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = lock(&self.0.questions.0);
            // Those of clients that no longer wait.
            waiting.retain(|question| !question.answer.is_closed());
            if waiting.len() >= MOST {
                return Err(Unanswered);
            }
            waiting.push(Question { about, answer });
        }
        if !self.ask_loop() {
            return Err(Unanswered);
        }
        let answered = timeout(PATIENCE, answered).await;
        answered.ok().and_then(Result::ok).ok_or(Unanswered)
    }

    /// Answers the questions that wait for the loop. Call it after [`observed`](Self::observed). Each
    /// is the rest of a path after `/services/`, or what a [site](super::Pages::with_site)
    /// [asks](super::Request::ask); and the answer a JSON document, or `None` if nothing is known by
    /// that name.
    pub fn answer(&self, mut answer: impl FnMut(&str) -> Option<String>) {
        let waiting = std::mem::take(&mut *lock(&self.0.questions.0));
        for question in waiting {
            if !question.answer.is_closed() {
                // A client that has gone needs no answer.
                let _ = question.answer.send(answer(&question.about));
            }
        }
    }
}
