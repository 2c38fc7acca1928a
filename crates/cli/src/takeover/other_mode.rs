//! Removes the state of svcproxy's other modes.

use std::time::Instant;

use proxier::desired::Config;
use proxier::mode::iptables::IptablesKernel;
use proxier::mode::ipvs;
use proxier::mode::ipvs::plan::Plan;
use proxier::mode::ipvs::{
    Cleanup, IpvsKernel, IpvsRemains, Kernel, Replacement, Retiring, hand_over,
};
use proxier::mode::nftables::NftablesKernel;
use proxier::mode::userspace;
use proxier::mode::{ApplyReport, NodeError};
use proxier::takeover::NewProxy;

use crate::args::Mode;
use crate::logging::chain;
use crate::passage;
use crate::takeover::{EarlierProxy, Removal};

/// Removes the state of the modes that are not in effect. Mode userspace leaves only routes, which are
/// those of mode ipvs too.
pub(crate) fn earlier_proxies(
    in_effect: Mode,
    config: &Config,
) -> impl Iterator<Item = Box<dyn EarlierProxy>> {
    let others = [Mode::Ipvs, Mode::Iptables, Mode::Nftables].into_iter();
    let others = others.filter(move |mode| *mode != in_effect);
    others.map(move |mode| -> Box<dyn EarlierProxy> {
        match mode {
            Mode::Ipvs => Box::new(OfIpvsMode {
                config: config.clone(),
                in_effect,
                retiring: None,
            }),
            Mode::Iptables => Box::new(OfIptablesMode),
            _ => Box::new(OfNftablesMode { in_effect }),
        }
    })
}

/// Removes the rules in iptables' filter, unless the mode in effect needs them.
fn remove_passage(in_effect: Mode) -> Result<(), NodeError> {
    match in_effect {
        Mode::Iptables | Mode::Userspace => passage::remove().map(drop),
        Mode::Ipvs | Mode::Nftables => Ok(()),
    }
}

/// The kernel with what IPVS mode left, with or without IPVS in the kernel. Does not make the
/// kernel load IPVS.
pub(crate) fn open_ipvs() -> Result<Box<dyn Kernel>, NodeError> {
    if ipvs::is_loaded() {
        Ok(Box::new(IpvsKernel::open()?))
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

    fn remove(&mut self, _: &NewProxy<'_>) -> Result<Removal, NodeError> {
        let chains = IptablesKernel::remove_all()?;
        Ok(Removal {
            removed: (chains > 0).then(|| format!("{chains} chains")),
            ..Removal::default()
        })
    }
}

/// The rules act on new connections only, and connection tracking keeps translating existing ones.
/// So the tables are removed at once.
struct OfNftablesMode {
    in_effect: Mode,
}

impl EarlierProxy for OfNftablesMode {
    fn name(&self) -> &'static str {
        "svcproxy's mode nftables"
    }

    fn remove(&mut self, _: &NewProxy<'_>) -> Result<Removal, NodeError> {
        let tables = match NftablesKernel::open() {
            Err(error) if is_without_netfilter(&error) => 0,
            opened => opened?.remove_all()?,
        };
        if tables > 0 {
            remove_passage(self.in_effect)?;
        }
        Ok(Removal {
            removed: (tables > 0).then(|| format!("{tables} nftables tables")),
            ..Removal::default()
        })
    }
}

/// New connections bypass IPVS at once; IPVS's state is removed when the last connection has ended.
struct OfIpvsMode {
    config: Config,
    in_effect: Mode,
    retiring: Option<(Box<dyn Kernel>, Retiring)>,
}

impl EarlierProxy for OfIpvsMode {
    fn name(&self) -> &'static str {
        "svcproxy's mode ipvs"
    }

    fn remove(&mut self, _: &NewProxy<'_>) -> Result<Removal, NodeError> {
        if self.retiring.is_some() {
            return self.look();
        }
        let mut kernel = match open_ipvs() {
            Err(error) if is_without_netfilter(&error) => return self.without_netfilter(),
            opened => opened?,
        };
        if self.in_effect == Mode::Userspace {
            // IPVS would see new connections before the proxy does.
            let removed = hand_over(&mut *kernel)?;
            remove_passage(self.in_effect)?;
            return Ok(outcome(&removed));
        }
        let replacement = Replacement::Translation(&self.config);
        let timeout = self.config.drain_timeout;
        let begun = Retiring::begin(&mut *kernel, replacement, timeout, Instant::now());
        let (mut retiring, begun) = begun?;
        if !begun.applied.failures.is_empty() {
            return Ok(outcome(&begun));
        }
        if let Some(cleanup) = retiring.finish(&mut *kernel, Instant::now())? {
            remove_passage(self.in_effect)?;
            return Ok(outcome(&cleanup));
        }
        let by = self.in_effect.name();
        tracing::info!("existing connections stay on IPVS, new ones use {by}");
        self.retiring = Some((kernel, retiring));
        Ok(Removal::draining())
    }

    fn look(&mut self) -> Result<Removal, NodeError> {
        let Some((mut kernel, mut retiring)) = self.retiring.take() else {
            return Ok(Removal::default());
        };
        match retiring.finish(&mut *kernel, Instant::now()) {
            // The drain goes on, and ends when it would have ended.
            Err(error) => {
                self.retiring = Some((kernel, retiring));
                Err(error)
            }
            Ok(None) => {
                self.retiring = Some((kernel, retiring));
                Ok(Removal::draining())
            }
            Ok(Some(cleanup)) => {
                tracing::info!("removed IPVS rules: connections drained, or drain timeout reached");
                remove_passage(self.in_effect)?;
                Ok(outcome(&cleanup))
            }
        }
    }
}

impl OfIpvsMode {
    /// Mode ipvs cannot have run here, but mode userspace may have left its routes.
    fn without_netfilter(&self) -> Result<Removal, NodeError> {
        if self.in_effect == Mode::Userspace {
            return Ok(Removal::default());
        }
        let routes = userspace::remove_routes()?.len();
        Ok(Removal {
            removed: (routes > 0).then(|| format!("{routes} routes")),
            ..Removal::default()
        })
    }
}

/// Without nfnetlink in the kernel, as in a sandbox that is none, no other mode than userspace can have
/// run here, and no kube-proxy. A kernel that lacks nftables alone counts as one without tables.
pub(crate) fn is_without_netfilter(error: &NodeError) -> bool {
    const EPROTONOSUPPORT: i32 = 93;
    matches!(error, NodeError::PacketFilter { .. }) && error.errno() == Some(EPROTONOSUPPORT)
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
