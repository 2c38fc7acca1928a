//! A frontend at work: its endpoints, and the clients that it knows.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use tokio::sync::Notify;

use super::super::Served;
use super::super::admission::{Own, Verdict, verdict};
use super::super::affinity::Affinity;
use super::super::choose::Chooser;
use super::super::reach::is_supported;
use super::{ServedEndpoint, ServedFrontend, Shared};
use crate::desired::{Backend, Frontend};
use crate::mode::ipvs::plan::Audience;
use crate::model::{ProxyProtocol, SessionAffinity};
use ipvs::Scheduler;

/// How long an endpoint that refused a connection is the last choice.
const SHUNNED: Duration = Duration::from_secs(5);

/// An endpoint of one frontend. It lasts until its last connection has ended.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// Open connections, or flows.
    pub(super) active: AtomicUsize,
    /// Connections since it was added.
    pub(super) connections: AtomicU64,
    /// When it last failed, in milliseconds of [`Shared::millis`]; 0 if it did not.
    failed: AtomicU64,
    is_cut: AtomicBool,
    cut: Notify,
}

impl Target {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            active: AtomicUsize::new(0),
            connections: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// Ends all connections.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// Waits until connections must end.
    pub(super) async fn is_to_end(&self) {
        let cut = self.cut.notified();
        tokio::pin!(cut);
        // Before the look at the flag, so that no cut is missed between the two.
        cut.as_mut().enable();
        if !self.is_cut.load(Ordering::SeqCst) {
            cut.await;
        }
    }

    /// Makes it the last choice for a while.
    pub(super) fn fail(&self, shared: &Shared) {
        self.failed.store(shared.millis().max(1), Ordering::Relaxed);
    }

    fn is_shunned(&self, now: u64) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        failed != 0 && Duration::from_millis(now.saturating_sub(failed)) < SHUNNED
    }
}

/// A connection to a target, for as long as it is held.
#[derive(Debug)]
pub(super) struct Held(pub(super) Arc<Target>);

impl Held {
    pub(super) fn new(target: Arc<Target>) -> Self {
        target.active.fetch_add(1, Ordering::Relaxed);
        Self(target)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The targets for some clients.
#[derive(Debug)]
struct Pool {
    targets: Vec<Arc<Target>>,
    chooser: Chooser,
}

impl Pool {
    fn new(
        frontend: &Frontend,
        backends: &[Backend],
        targets: &HashMap<SocketAddr, Arc<Target>>,
        first: usize,
    ) -> Self {
        let scheduler = match is_supported(frontend.scheduler) {
            true => frontend.scheduler,
            false => Scheduler::RoundRobin,
        };
        let known = backends.iter().filter_map(|backend| {
            let target = targets.get(&address_of(backend))?;
            Some((Arc::clone(target), backend.weight.get()))
        });
        let (targets, weights): (Vec<_>, Vec<_>) = known
            .map(|(target, weight)| {
                let weighted = (target.address, weight);
                (target, weighted)
            })
            .unzip();
        Self {
            targets,
            chooser: Chooser::new(scheduler, weights, first),
        }
    }
}

impl Pool {
    fn view(&self) -> Vec<ServedEndpoint> {
        let endpoints = self.targets.iter().enumerate();
        let endpoint = |(at, target): (usize, &Arc<Target>)| ServedEndpoint {
            address: target.address,
            weight: self.chooser.weight(at),
            active: target.active.load(Ordering::Relaxed),
            connections: target.connections.load(Ordering::Relaxed),
        };
        endpoints.map(endpoint).collect()
    }
}

pub(super) fn address_of(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port.get())
}

/// What connections that begin now meet.
#[derive(Debug)]
struct Table {
    served: Arc<Served>,
    all: Pool,
    external: Option<Pool>,
}

impl Table {
    fn pool(&self, audience: Audience) -> &Pool {
        match (&self.external, audience) {
            (Some(external), Audience::External) => external,
            _ => &self.all,
        }
    }
}

/// Traffic of a frontend.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) connections: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) packets_in: AtomicU64,
    pub(super) packets_out: AtomicU64,
}

impl Traffic {
    pub(super) fn count(counter: &AtomicU64, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or_default();
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A frontend that is served.
#[derive(Debug)]
pub(super) struct Live {
    table: RwLock<Arc<Table>>,
    affinity: Mutex<Affinity>,
    pub(super) traffic: Traffic,
    /// Open connections, or flows.
    pub(super) active: AtomicUsize,
}

/// An endpoint for a connection, and how the client was admitted.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) held: Held,
    pub(super) affinity: Option<Duration>,
    /// The header that it expects.
    pub(super) header: Option<ProxyProtocol>,
}

impl Live {
    /// A frontend with its targets; `first` is the number of the endpoint that begins.
    pub(super) fn new(
        served: Arc<Served>,
        first: usize,
    ) -> (Self, HashMap<SocketAddr, Arc<Target>>) {
        let mut targets = HashMap::new();
        let table = table(&served, &mut targets, first);
        let live = Self {
            table: RwLock::new(Arc::new(table)),
            affinity: Mutex::default(),
            traffic: Traffic::default(),
            active: AtomicUsize::new(0),
        };
        (live, targets)
    }

    /// Changes endpoints and policies, and returns the targets that are gone.
    pub(super) fn update(
        &self,
        served: Arc<Served>,
        targets: &mut HashMap<SocketAddr, Arc<Target>>,
        first: usize,
    ) -> Vec<Arc<Target>> {
        let former = targets.clone();
        let new = table(&served, targets, first);
        let gone = former.into_iter();
        let gone = gone.filter(|(address, _)| !targets.contains_key(address));
        let gone = gone.map(|(_, target)| target).collect();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        gone
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn served(&self) -> Arc<Served> {
        Arc::clone(&self.table().served)
    }

    /// What it is now; with its listeners, and the reason if it has none.
    pub(super) fn view(
        &self,
        not_served: Option<String>,
        listeners: Vec<SocketAddr>,
    ) -> ServedFrontend {
        let table = self.table();
        ServedFrontend {
            frontend: Arc::clone(&table.served.frontend),
            endpoints: table.all.view(),
            external: table.external.as_ref().map(Pool::view),
            not_served,
            pods: Arc::clone(&table.served.pods),
            listeners,
        }
    }

    /// What happens to a client now.
    pub(super) fn verdict(&self, own: &Own, client: IpAddr) -> Verdict {
        verdict(&self.table().served, own, client)
    }

    /// Chooses an endpoint that was not tried yet. One that failed lately is the last choice.
    pub(super) fn choose(
        &self,
        client: IpAddr,
        audience: Audience,
        tried: &[SocketAddr],
        shared: &Shared,
    ) -> Option<Chosen> {
        let table = self.table();
        let pool = table.pool(audience);
        let affinity = match table.served.frontend.session_affinity {
            SessionAffinity::ClientIp(seconds) => Some(Duration::from_secs(seconds.get().into())),
            SessionAffinity::None => None,
        };
        let is_new = |target: &Target| !tried.contains(&target.address);
        let held = |target: &Arc<Target>| Chosen {
            held: Held::new(Arc::clone(target)),
            affinity,
            header: table.served.frontend.proxy_protocol,
        };
        let now = shared.millis();
        if let Some(timeout) = affinity
            && let Some(kept) = self.affinity().endpoint(client, timeout, Instant::now())
            && let Some(target) = pool.targets.iter().find(|target| target.address == kept)
            && is_new(target)
            && !target.is_shunned(now)
        {
            return Some(held(target));
        }
        let protocol = table.served.frontend.key.protocol;
        let load = |at: usize| {
            let target = pool.targets.get(at);
            target.map_or(0, |target| target.active.load(Ordering::Relaxed))
        };
        let choose = |may_be_shunned: bool| {
            pool.chooser.choose(client, load, |at| {
                let target = pool.targets.get(at);
                target.is_some_and(|target| {
                    is_new(target)
                        && !shared.is_own_listener(protocol, target.address)
                        && (may_be_shunned || !target.is_shunned(now))
                })
            })
        };
        let at = choose(false).or_else(|| choose(true))?;
        pool.targets.get(at).map(held)
    }

    /// Remembers the endpoint of a client.
    pub(super) fn remember(&self, client: IpAddr, chosen: &Chosen, shared: &Shared) {
        if let Some(timeout) = chosen.affinity {
            let pair = (client, chosen.held.0.address);
            let (now, total) = (Instant::now(), &shared.remembered);
            self.affinity().remember(pair, timeout, now, total);
        }
    }

    /// Forgets all clients.
    pub(super) fn forget(&self, shared: &Shared) {
        self.affinity().clear(&shared.remembered);
    }

    fn affinity(&self) -> std::sync::MutexGuard<'_, Affinity> {
        self.affinity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table for these endpoints; `targets` becomes theirs.
fn table(
    served: &Arc<Served>,
    targets: &mut HashMap<SocketAddr, Arc<Target>>,
    first: usize,
) -> Table {
    let frontend = &served.frontend;
    let external = frontend.external.iter().flat_map(|all| all.iter());
    let mut new = HashMap::new();
    for backend in frontend.backends.iter().chain(external) {
        let address = address_of(backend);
        let known = targets.get(&address).map(Arc::clone);
        new.entry(address)
            .or_insert_with(|| known.unwrap_or_else(|| Arc::new(Target::new(address))));
    }
    *targets = new;
    let external = frontend.external.as_ref();
    Table {
        all: Pool::new(frontend, &frontend.backends, targets, first),
        external: external.map(|backends| Pool::new(frontend, backends, targets, first)),
        served: Arc::clone(served),
    }
}
