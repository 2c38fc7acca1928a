//! IPVS, nftables, routes and sysctls of the process's network namespace.

pub(crate) mod nft;
mod proc;
mod routes;
pub(crate) mod rtnetlink;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;

use ipvs::{Client, RealServer, RealServerKey, Socket, Statistics, Transport, VirtualServerKey};

use super::Kernel;
use super::shared::{self, carry_out};
use crate::mode::conntrack::ConntrackSocket;
use crate::mode::ipvs::glance::Glance;
use crate::mode::ipvs::plan::{NodeState, Part, Plan, Step};
use crate::mode::ipvs::rules::Ruleset;
use crate::mode::proc_sys::Sysctls;
use crate::mode::{ApplyReport, NodeError};
use nft::Nft;
use proc::Listing;
#[cfg(not(feature = "userspace"))]
use routes::Routes;
#[cfg(feature = "userspace")]
pub(crate) use routes::Routes;

pub use routes::ROUTE_PROTOCOL;
#[cfg(feature = "userspace")]
pub(crate) use watch::is_route_or_rule_in_question;
pub use watch::{Watching, watch};

/// The parts of the kernel that IPVS mode uses: IPVS, nftables, routes, sysctls, connection tracking.
///
/// It works in the network namespace of the thread that opened it, except for sysctls, which are
/// those of the calling thread.
///
/// ```no_run
/// use proxier::mode::ipvs::{IpvsKernel, Kernel};
///
/// let mut kernel = IpvsKernel::open()?;
/// let node = kernel.observe()?;
/// println!("{} virtual servers", node.virtual_servers.len());
/// # Ok::<(), proxier::mode::NodeError>(())
/// ```
#[derive(Debug)]
pub struct IpvsKernel<T = Socket> {
    ipvs: Client<T>,
    around: Around,
    /// The look under way.
    listing: Option<Listing>,
}

/// The kernel with what IPVS mode left on a node whose kernel has no IPVS any more: nftables rules
/// and routes.
///
/// It sends no request to IPVS, so the kernel does not load it.
#[derive(Debug)]
pub struct IpvsRemains(Around);

/// Everything except IPVS.
#[derive(Debug)]
struct Around {
    nft: Nft,
    routes: Routes,
    conntrack: ConntrackSocket,
    sysctls: Sysctls,
}

impl Around {
    fn open() -> Result<Self, NodeError> {
        Ok(Self {
            nft: Nft::open()?,
            routes: Routes::open()?,
            conntrack: ConntrackSocket::open()?,
            sysctls: Sysctls::default(),
        })
    }

    fn observe(&mut self) -> Result<NodeState, NodeError> {
        let (ruleset, elements) = self.nft.observe()?;
        let (routes, obstacles) = self.routes.observe()?;
        Ok(NodeState {
            sysctls: self.sysctls.observe()?,
            ruleset,
            is_filtered: self.nft.observe_filters()?,
            elements,
            routes,
            obstacles,
            policy_routes: self.routes.observe_policy()?,
            ..NodeState::default()
        })
    }

    fn apply(&mut self, part: Part, steps: &[Step], first: usize, report: &mut ApplyReport) {
        match part {
            Part::Sysctls => {
                for (step, place) in steps.iter().zip(first..) {
                    if let Step::SetSysctl(sysctl, value) = *step {
                        self.sysctls.set(sysctl, value, place, report);
                    }
                }
            }
            Part::PacketFilter => self.nft.apply(steps, first, report),
            Part::Routes => self.routes.apply(steps, first, report),
            Part::Conntrack => {
                let flows = steps.iter().enumerate().filter_map(|(n, step)| match step {
                    Step::DeleteFlows(flows) => Some((first + n, *flows)),
                    _ => None,
                });
                self.conntrack.delete_flows(flows, report);
            }
            Part::Ipvs => {}
        }
    }

    fn remove_ruleset(&mut self) -> Result<(), NodeError> {
        self.routes.remove_halves()?;
        self.nft.remove_table()
    }
}

impl IpvsKernel {
    /// Opens all sockets, and changes nothing. The kernel loads its module `ip_vs` if necessary.
    ///
    /// # Errors
    ///
    /// [`NodeError::Ipvs`] of kind [`Unsupported`](ipvs::ErrorKind::Unsupported) if the
    /// kernel has no IPVS; lack of privileges.
    pub fn open() -> Result<Self, NodeError> {
        Self::with_client(Client::open()?)
    }
}

impl<T: Transport> IpvsKernel<T> {
    /// The kernel with the caller's IPVS client; nftables, routes and sysctls are those of the
    /// thread's network namespace.
    ///
    /// # Errors
    ///
    /// Lack of nftables or of privileges.
    pub fn with_client(ipvs: Client<T>) -> Result<Self, NodeError> {
        let around = Around::open()?;
        Ok(Self {
            ipvs,
            around,
            listing: None,
        })
    }

    /// Uses the sysctls below `proc_sys` instead of `/proc/sys`, which is read-only in containers
    /// and cannot be mounted over.
    pub fn proc_sys(mut self, proc_sys: impl Into<PathBuf>) -> Self {
        self.around.sysctls = Sysctls(proc_sys.into());
        self
    }

    /// The IPVS client, for requests that are not part of a plan: statistics, timeouts.
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

/// Lets the kernel validate rules without committing them.
pub(crate) fn check_ruleset(ruleset: &Ruleset) -> Result<(), NodeError> {
    Nft::open()?.check(ruleset)
}

/// Checks that routes, and then routing rules, can be listed.
pub(crate) fn check_routes() -> (Result<(), NodeError>, Result<(), NodeError>) {
    match Routes::open() {
        Ok(mut routes) => (
            routes.observe().map(drop),
            routes.observe_policy().map(drop),
        ),
        Err(error) => (Err(error), Err(NodeError::NotTried)),
    }
}

impl IpvsRemains {
    /// Opens all sockets, and changes nothing.
    ///
    /// # Errors
    ///
    /// Lack of nftables or of privileges.
    pub fn open() -> Result<Self, NodeError> {
        Around::open().map(Self)
    }
}

impl<T: Transport> Kernel for IpvsKernel<T> {
    fn outline(&mut self) -> Result<NodeState, NodeError> {
        Ok(NodeState {
            timeouts: self.ipvs.timeouts()?.timeouts,
            virtual_servers: shared::outline(&mut self.ipvs)?,
            ..self.around.observe()?
        })
    }

    fn real_servers(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<Option<Vec<RealServer>>, NodeError> {
        Ok(shared::real_servers(&mut self.ipvs, virtual_server)?)
    }

    fn glance(&mut self, known: &NodeState, begins: bool) -> Option<Glance> {
        if begins {
            self.listing = Listing::open().ok();
        }
        let glance = self.listing.as_mut()?.glance(&known.virtual_servers).ok();
        if glance.as_ref().is_none_or(|glance| glance.is_last) {
            self.listing = None;
        }
        glance
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        carry_out(plan, |part, steps, first, report| match part {
            Part::Ipvs => self.apply_ipvs(steps, first, report),
            part => self.around.apply(part, steps, first, report),
        })
    }

    fn connections(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, NodeError> {
        Ok(shared::connections(&mut self.ipvs, virtual_server)?)
    }

    fn statistics(&mut self) -> Result<Vec<(VirtualServerKey, Statistics)>, NodeError> {
        Ok(shared::statistics(&mut self.ipvs)?)
    }

    fn remove_ruleset(&mut self) -> Result<(), NodeError> {
        self.around.remove_ruleset()
    }
}

/// Without IPVS there are no virtual servers.
impl Kernel for IpvsRemains {
    fn outline(&mut self) -> Result<NodeState, NodeError> {
        self.0.observe()
    }

    fn real_servers(&mut self, _: &VirtualServerKey) -> Result<Option<Vec<RealServer>>, NodeError> {
        Ok(None)
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        carry_out(plan, |part, steps, first, report| {
            self.0.apply(part, steps, first, report);
        })
    }

    fn connections(
        &mut self,
        _: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, NodeError> {
        Ok(HashMap::new())
    }

    fn remove_ruleset(&mut self) -> Result<(), NodeError> {
        self.0.remove_ruleset()
    }
}
