//! IPVS, nftables, routes and sysctls of the network namespace that the process is in.

mod nft;
mod routes;
mod sysctl;

use ipvs::{Client, Socket, Transport};

use super::{ApplyReport, Backend, BackendError, virtual_servers};
use crate::plan::{NodeState, Plan, Step};
use nft::Nft;
use routes::Routes;

pub use routes::ROUTE_PROTOCOL;

/// The data plane over IPVS.
///
/// It works in the network namespace of the thread that opened it, but for sysctls, which are
/// those of the calling thread.
///
/// ```no_run
/// use proxier::backend::{Backend, IpvsBackend};
///
/// let mut backend = IpvsBackend::open()?;
/// let node = backend.observe()?;
/// println!("{} virtual servers", node.virtual_servers.len());
/// # Ok::<(), proxier::backend::BackendError>(())
/// ```
#[derive(Debug)]
pub struct IpvsBackend<T = Socket> {
    ipvs: Client<T>,
    nft: Nft,
    routes: Routes,
}

impl IpvsBackend {
    /// Opens everything it needs, and changes nothing. The kernel loads its module `ip_vs` if it
    /// has to.
    ///
    /// # Errors
    ///
    /// [`BackendError::Ipvs`] of kind [`Unsupported`](ipvs::ErrorKind::Unsupported) if the
    /// kernel has no IPVS; lack of privileges.
    pub fn open() -> Result<Self, BackendError> {
        Self::with_client(Client::open()?)
    }
}

impl<T: Transport> IpvsBackend<T> {
    /// A backend with an IPVS client of the caller's; nftables, routes and sysctls are those of
    /// the thread's network namespace.
    ///
    /// # Errors
    ///
    /// Lack of nftables or of privileges.
    pub fn with_client(ipvs: Client<T>) -> Result<Self, BackendError> {
        Ok(Self {
            ipvs,
            nft: Nft::open()?,
            routes: Routes::open()?,
        })
    }

    /// Its IPVS client, for what is not part of a plan: statistics, timeouts.
    pub fn ipvs(&mut self) -> &mut Client<T> {
        &mut self.ipvs
    }

    fn apply_ipvs(&mut self, steps: &[Step], first: usize, report: &mut ApplyReport) {
        let changes = steps.iter().filter_map(|step| match step {
            Step::Ipvs(change) => Some(change),
            _ => None,
        });
        let before = self.ipvs.counters().changes;
        let outcomes = self.ipvs.apply(changes);
        report.counts.ipvs_changes += self.ipvs.counters().changes - before;
        for (outcome, place) in outcomes.into_iter().zip(first..) {
            if let Err(error) = outcome {
                report.fail(place, error);
            }
        }
    }
}

/// The part of the kernel a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Sysctls,
    PacketFilter,
    Routes,
    Ipvs,
}

impl Part {
    fn of(step: &Step) -> Self {
        match step {
            Step::SetSysctl(_) => Self::Sysctls,
            Step::InstallRuleset(_) | Step::AddElement(..) | Step::DeleteElement(_) => {
                Self::PacketFilter
            }
            Step::AddRoute(_) | Step::DeleteRoute(_) => Self::Routes,
            Step::Ipvs(_) => Self::Ipvs,
        }
    }
}

impl<T: Transport> Backend for IpvsBackend<T> {
    fn observe(&mut self) -> Result<NodeState, BackendError> {
        let (ruleset, elements) = self.nft.observe()?;
        Ok(NodeState {
            sysctls: sysctl::observe()?,
            ruleset,
            elements,
            routes: self.routes.observe()?,
            virtual_servers: virtual_servers::observe(&mut self.ipvs)?,
        })
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        let mut report = ApplyReport::default();
        let mut first = 0;
        // Steps for one part go out together.
        for steps in plan.steps().chunk_by(|a, b| Part::of(a) == Part::of(b)) {
            match steps.first().map(Part::of) {
                Some(Part::Sysctls) => sysctl::apply(steps, first, &mut report),
                Some(Part::PacketFilter) => self.nft.apply(steps, first, &mut report),
                Some(Part::Routes) => self.routes.apply(steps, first, &mut report),
                Some(Part::Ipvs) => self.apply_ipvs(steps, first, &mut report),
                None => {}
            }
            first += steps.len();
        }
        report.failures.sort_by_key(|failure| failure.step);
        report
    }

    fn remove_ruleset(&mut self) -> Result<(), BackendError> {
        self.nft.remove_table()
    }
}
