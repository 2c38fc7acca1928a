//! Removes the state of svcproxy's other mode.

use std::time::Instant;

use proxier::desired::Config;
use proxier::mode::iptables::IptablesBackend;
use proxier::mode::ipvs;
use proxier::mode::ipvs::plan::Plan;
use proxier::mode::ipvs::{Backend, Cleanup, IpvsBackend, IpvsRemains, Replacement, Retiring};
use proxier::mode::{ApplyReport, BackendError};
use proxier::takeover::NewProxy;

use crate::args::Mode;
use crate::logging::chain;
use crate::passage;
use crate::takeover::{EarlierProxy, Removal};

/// Removes the state of the mode that is not in effect.
pub(crate) fn earlier_proxy(in_effect: Mode, config: &Config) -> Box<dyn EarlierProxy> {
    match in_effect {
        Mode::Ipvs => Box::new(OfIptablesMode),
        Mode::Iptables => Box::new(OfIpvsMode {
            config: config.clone(),
            retiring: None,
        }),
    }
}

/// The backend for what IPVS mode left, with or without IPVS in the kernel. Does not make the
/// kernel load IPVS.
pub(crate) fn open_ipvs() -> Result<Box<dyn Backend>, BackendError> {
    if ipvs::is_loaded() {
        Ok(Box::new(IpvsBackend::open()?))
    } else {
        Ok(Box::new(IpvsRemains::open()?))
    }
}

/// The iptables rules act on new connections only, and connection tracking keeps translating
/// existing ones. So the rules are removed at once.
struct OfIptablesMode;

impl EarlierProxy for OfIptablesMode {
    fn name(&self) -> &'static str {
        "svcproxy's mode iptables"
    }

    fn remove(&mut self, _: &NewProxy<'_>) -> Result<Removal, BackendError> {
        let chains = IptablesBackend::remove_all()?;
        Ok(Removal {
            removed: (chains > 0).then(|| format!("{chains} chains")),
            ..Removal::default()
        })
    }
}

/// New connections bypass IPVS at once; IPVS's state is removed when the last connection has ended.
struct OfIpvsMode {
    config: Config,
    retiring: Option<(Box<dyn Backend>, Retiring)>,
}

impl EarlierProxy for OfIpvsMode {
    fn name(&self) -> &'static str {
        "svcproxy's mode ipvs"
    }

    fn remove(&mut self, _: &NewProxy<'_>) -> Result<Removal, BackendError> {
        if self.retiring.is_some() {
            return self.look();
        }
        let mut backend = match open_ipvs() {
            Err(error) if is_without_nftables(&error) => return Ok(Removal::default()),
            opened => opened?,
        };
        let replacement = Replacement::Iptables(&self.config);
        let timeout = self.config.drain_timeout;
        let begun = Retiring::begin(&mut *backend, replacement, timeout, Instant::now());
        let (mut retiring, begun) = match begun {
            Err(error) if is_without_nftables(&error) => return Ok(Removal::default()),
            begun => begun?,
        };
        if !begun.applied.failures.is_empty() {
            return Ok(outcome(&begun));
        }
        if let Some(cleanup) = retiring.finish(&mut *backend, Instant::now())? {
            passage::remove()?;
            return Ok(outcome(&cleanup));
        }
        tracing::info!("existing connections stay on IPVS, new ones use iptables");
        self.retiring = Some((backend, retiring));
        Ok(Removal::draining())
    }

    fn look(&mut self) -> Result<Removal, BackendError> {
        let Some((mut backend, mut retiring)) = self.retiring.take() else {
            return Ok(Removal::default());
        };
        match retiring.finish(&mut *backend, Instant::now())? {
            None => {
                self.retiring = Some((backend, retiring));
                Ok(Removal::draining())
            }
            Some(cleanup) => {
                tracing::info!("removed IPVS rules: connections drained, or drain timeout reached");
                passage::remove()?;
                Ok(outcome(&cleanup))
            }
        }
    }
}

/// Without nftables in the kernel, IPVS mode cannot have run here.
fn is_without_nftables(error: &BackendError) -> bool {
    const EINVAL: i32 = 22;
    const EPROTONOSUPPORT: i32 = 93;
    matches!(error, BackendError::PacketFilter { .. })
        && [Some(EINVAL), Some(EPROTONOSUPPORT)].contains(&error.errno())
}

fn outcome(Cleanup { plan, applied, .. }: &Cleanup) -> Removal {
    let steps = plan.steps().len() - applied.failures.len();
    let removed = (steps > 0).then(|| format!("{steps} virtual servers and routes"));
    Removal {
        removed,
        left: left(plan, applied),
        ..Removal::default()
    }
}

fn left(plan: &Plan, applied: &ApplyReport) -> Vec<String> {
    let failures = applied.failures.iter();
    let failures = failures.map(|failure| {
        let step = plan.steps().get(failure.step);
        let step = step.map(ToString::to_string).unwrap_or_default();
        format!("{step}: {}", chain(&failure.error))
    });
    failures.collect()
}
