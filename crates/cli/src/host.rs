//! The conditions of the host: what other programs on it do to Service traffic.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proxier::desired::{DesiredState, FrontendKind};
use proxier::host::{Concern, Host, Role, judge};
use proxier::notice::Notice;

use crate::args::Mode;

/// Observes the host in the loop. It starts no programs.
pub(crate) struct HostWatch {
    proc_sys: PathBuf,
    open: Option<Host>,
}

impl HostWatch {
    pub(crate) fn new(proc_sys: &Path) -> Self {
        Self {
            proc_sys: proc_sys.to_owned(),
            open: None,
        }
    }

    /// The conditions now. With `has_taken_over`, nothing of an earlier kube-proxy is left.
    pub(crate) fn conditions(
        &mut self,
        mode: Mode,
        desired: &DesiredState,
        has_taken_over: bool,
    ) -> Vec<Notice> {
        let host = match self
            .open
            .take()
            .map_or_else(|| Host::open(&self.proc_sys), Ok)
        {
            Ok(host) => self.open.insert(host),
            Err(error) => {
                tracing::debug!("cannot observe the host: {error}");
                return Vec::new();
            }
        };
        let facts = host.facts();
        for unknown in &facts.unknown {
            tracing::debug!("cannot observe {unknown}");
        }
        let of_kind = |kinds: &'static [FrontendKind]| {
            let frontends = desired.frontends();
            frontends.filter(move |frontend| kinds.contains(&frontend.kind))
        };
        // Most hosts have no dummy device whose addresses must be looked up.
        let vips = LazyCell::new(|| {
            let frontends = of_kind(&[FrontendKind::ClusterIp]);
            frontends
                .map(|frontend| frontend.key.address)
                .collect::<HashSet<_>>()
        });
        let is_vip = |address: IpAddr| vips.contains(&address);
        let mut role = Role::new(mode.probed(), desired.config());
        role.captures = of_kind(&[FrontendKind::LoadBalancer, FrontendKind::ExternalIp])
            .next()
            .is_some();
        role.is_vip = &is_vip;
        role.has_taken_over = has_taken_over;
        let concerns = judge(&facts, &role);
        concerns.iter().filter_map(Concern::condition).collect()
    }
}
