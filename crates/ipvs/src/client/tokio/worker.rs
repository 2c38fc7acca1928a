//! The thread that owns the blocking client, and its queue.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use ::tokio::sync::oneshot;

use crate::client::{Client, Transport};
use crate::{Error, Object, Operation, Result};

/// The most calls that wait at once. Each belongs to a future that somebody holds, so this only
/// stops a program that creates futures without end while the kernel does not answer.
const MAX_QUEUED: usize = 65_536;

/// Why a call has no result.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// It never ran.
    NotStarted,
    /// It ran, or still runs; its result is not known.
    Unfinished,
}

type Job<T> = Box<dyn FnOnce(&mut Client<T>) + Send>;

/// What a call comes to: its result, or the panic of its work.
type Finished<R> = std::result::Result<R, Box<dyn Any + Send>>;

struct Queue<T> {
    /// By ticket, so that the first is the oldest and one that is given up is found at once.
    jobs: BTreeMap<u64, Job<T>>,
    next_ticket: u64,
    /// The thread that serves the queue. An earlier one ends after the call it hangs in.
    thread: u64,
    /// Threads that have not ended.
    threads: usize,
    /// No handle is left.
    closed: bool,
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    wake: Condvar,
}

impl<T> Shared<T> {
    /// Jobs run and are dropped without the lock, so a panic cannot leave the queue half changed.
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a call that has not started. Says whether there was one.
    fn remove(&self, ticket: u64) -> bool {
        let job = self.queue().jobs.remove(&ticket);
        job.is_some()
    }

    /// Makes the calling thread the one that serves the queue, and ends the present one's service.
    fn take_over(&self) -> u64 {
        let mut queue = self.queue();
        queue.thread += 1;
        let thread = queue.thread;
        drop(queue);
        self.wake.notify_all();
        thread
    }

    /// Waits for the next job; `None` when no handle is left or another thread has taken over.
    fn next(&self, thread: u64) -> Option<Job<T>> {
        let mut queue = self.queue();
        loop {
            if queue.closed || queue.thread != thread {
                return None;
            }
            if let Some((_, job)) = queue.jobs.pop_first() {
                return Some(job);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The handles' side of the thread. When it is dropped, the thread ends.
pub(super) struct Worker<T> {
    shared: Arc<Shared<T>>,
    /// A second transport, to open more: the first one may hang with its thread.
    template: Mutex<Option<T>>,
}

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queued", &self.shared.queue().jobs.len())
            .finish()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
    }
}

impl<T: Transport + Send + 'static> Worker<T> {
    /// Starts the thread, which opens the client.
    pub(super) async fn start(
        open: impl FnOnce() -> Result<Client<T>> + Send + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: BTreeMap::new(),
                next_ticket: 0,
                thread: 0,
                threads: 0,
                closed: false,
            }),
            wake: Condvar::new(),
        });
        let worker = Self {
            shared,
            template: Mutex::new(None),
        };
        let template = worker.serve(open).await?;
        *worker.template() = template;
        Ok(worker)
    }

    /// Starts another thread with a new connection, and leaves the present one to the call that it
    /// hangs in.
    pub(super) async fn replace(&self) -> Result<()> {
        let transport = match &*self.template() {
            Some(template) => template.reopen().map_err(failed)?,
            None => return Err(failed(io::ErrorKind::Unsupported.into())),
        };
        self.serve(move || Client::with_transport(transport))
            .await?;
        Ok(())
    }

    /// Starts a thread that opens a client and takes the queue over. Returns a second transport.
    async fn serve(
        &self,
        open: impl FnOnce() -> Result<Client<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        let (report, opened) = oneshot::channel();
        let running = Running::new(&self.shared)?;
        let run = move || {
            let shared = &running.0;
            let mut client = match open() {
                Ok(client) => client,
                Err(error) => return drop(report.send(Err(error))),
            };
            // If the caller gave up, the present thread stays in place.
            if report.send(Ok(client.second_transport())).is_err() {
                return;
            }
            let thread = shared.take_over();
            while let Some(job) = shared.next(thread) {
                job(&mut client);
            }
        };
        let thread = thread::Builder::new().name("ipvs".into());
        thread.spawn(run).map_err(failed)?;
        let died = |_| failed(io::Error::other("the client's thread panicked"));
        opened.await.map_err(died)?
    }

    fn template(&self) -> MutexGuard<'_, Option<T>> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread from its start to its end, counted.
struct Running<T>(Arc<Shared<T>>);

impl<T> Running<T> {
    /// At most one besides the serving thread: they would pile up on a kernel that stays stuck.
    fn new(shared: &Arc<Shared<T>>) -> Result<Self> {
        let mut queue = shared.queue();
        if queue.threads >= 2 {
            return Err(failed(io::ErrorKind::ResourceBusy.into()));
        }
        queue.threads += 1;
        Ok(Self(Arc::clone(shared)))
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.queue().threads -= 1;
    }
}

fn failed(source: io::Error) -> Error {
    Error::from_io(Operation::Open, Object::Table, source)
}

impl<T> Worker<T> {
    /// Queues a call behind all others. It is queued on return, so the order of calls is the
    /// order of this function's.
    pub(super) fn submit<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Client<T>) -> R + Send + 'static,
    ) -> std::result::Result<Call<T, R>, Lost> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move |client: &mut Client<T>| {
            // The client works after a panic: sequence numbers distinguish late replies.
            let finished = catch_unwind(AssertUnwindSafe(|| work(client)));
            drop(reply.send(finished));
        });
        let mut queue = self.shared.queue();
        if queue.jobs.len() >= MAX_QUEUED {
            return Err(Lost::NotStarted);
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.jobs.insert(ticket, job);
        drop(queue);
        self.shared.wake.notify_one();
        let shared = Arc::clone(&self.shared);
        Ok(Call {
            shared,
            ticket,
            result: Some(result),
        })
    }
}

/// A call in the queue or on the thread. Dropping it removes it from the queue.
pub(super) struct Call<T, R> {
    shared: Arc<Shared<T>>,
    ticket: u64,
    /// `None` once the result has been taken.
    result: Option<oneshot::Receiver<Finished<R>>>,
}

impl<T, R> Call<T, R> {
    /// Waits for the result. Can be dropped and called again.
    pub(super) async fn result(&mut self) -> std::result::Result<R, Lost> {
        let Some(result) = &mut self.result else {
            return Err(Lost::Unfinished);
        };
        let finished = result.await;
        self.result = None;
        settle(finished.map_err(|_| Lost::Unfinished)?)
    }

    /// Takes the result if it is there, or gives the call up.
    pub(super) fn give_up(mut self) -> std::result::Result<R, Lost> {
        if self.shared.remove(self.ticket) {
            return Err(Lost::NotStarted);
        }
        let mut result = self.result.take().ok_or(Lost::Unfinished)?;
        settle(result.try_recv().map_err(|_| Lost::Unfinished)?)
    }
}

impl<T, R> Drop for Call<T, R> {
    fn drop(&mut self) {
        if self.result.is_some() {
            self.shared.remove(self.ticket);
        }
    }
}

fn settle<R>(finished: Finished<R>) -> std::result::Result<R, Lost> {
    finished.map_err(|panic| resume_unwind(panic))
}
