//! Chooses the mode, and falls back if the requested one cannot run.

use std::path::{Path, PathBuf};

use proxier::desired::Config;
use proxier::mode::probe::{self, Probe};
use proxier::mode::{iptables, ipvs, nftables, userspace};
use proxier::notice::{Notice, Reason};
use proxier::observe::health;

use crate::args::{Fallback, Mode, ModeArgs};
use crate::notices::Notices;

/// Probes what a mode needs.
pub(crate) fn probe(mode: Mode, config: &Config, proc_sys: &Path) -> Probe {
    match mode {
        Mode::Ipvs => ipvs::probe(config, proc_sys),
        Mode::Iptables => iptables::probe(config, proc_sys),
        Mode::Nftables => nftables::probe(config, proc_sys),
        Mode::Userspace => userspace::probe(),
    }
}

/// The chosen mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) in_effect: Mode,
    pub(crate) wanted: Mode,
    /// What the requested mode lacks, if another one was chosen.
    missing: Option<String>,
}

impl Choice {
    fn as_wanted(mode: Mode) -> Self {
        Self {
            in_effect: mode,
            wanted: mode,
            missing: None,
        }
    }

    /// Probes the node, and logs the findings. Falls back if that is allowed and possible.
    pub(crate) fn make(args: &ModeArgs, wanted: Mode, config: &Config) -> anyhow::Result<Self> {
        if wanted != Mode::Ipvs {
            return Ok(Self::as_wanted(wanted));
        }
        let found = ipvs::probe(config, &args.proc_sys);
        log(&found);
        if found.can_run(wanted.probed()) {
            return Ok(Self::as_wanted(wanted));
        }
        let missing = causes(&found, wanted);
        anyhow::ensure!(
            !found.is_undecided(wanted.probed()),
            "mode {} cannot run on this node now: {missing}. svcproxy falls back only if the node \
             lacks something, not if it is forbidden, busy or broken",
            wanted.name()
        );
        let wanted_name = wanted.name();
        anyhow::ensure!(
            args.fallback != Fallback::Never,
            "mode {wanted_name} cannot run on this node: {missing}"
        );
        let mut reasons = format!("mode {wanted_name} cannot run on this node: {missing}");
        for in_effect in args.fallbacks().iter().copied() {
            let found = probe(in_effect, config, &args.proc_sys);
            log(&found);
            if found.can_run(in_effect.probed()) {
                return Ok(Self {
                    in_effect,
                    wanted,
                    missing: Some(missing),
                });
            }
            let (other, causes) = (in_effect.name(), causes(&found, in_effect));
            reasons += &format!("; and neither can mode {other}: {causes}");
        }
        anyhow::bail!(reasons)
    }

    /// Warns of a fallback.
    pub(crate) fn report(&self, notices: &Notices) {
        if let Some(missing) = &self.missing {
            let (in_effect, wanted) = (self.in_effect.name(), self.wanted.name());
            let message = format!("mode {wanted} cannot run, using mode {in_effect}: {missing}");
            notices.send(&Notice::of_node(Reason::ModeFallback, message));
        }
    }

    /// The field `fallback` of the proxy's health.
    pub(crate) fn fallback(&self) -> Option<health::Fallback> {
        let reason = self.missing.clone()?;
        let (in_effect, wanted) = (self.in_effect.name(), self.wanted.name());
        Some(health::Fallback {
            in_effect,
            wanted,
            reason,
        })
    }

    /// The choice after the switch to the requested mode.
    pub(crate) fn upgraded(&self) -> Self {
        Self::as_wanted(self.wanted)
    }
}

fn log(probe: &Probe) {
    for finding in &probe.findings {
        tracing::info!("{finding}");
    }
}

fn causes(probe: &Probe, mode: Mode) -> String {
    let causes = probe.in_the_way_of(mode.probed());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join("; ")
}

/// During a fallback, checks regularly whether IPVS mode can run now.
#[derive(Debug)]
pub(crate) struct Lookout {
    proc_sys: PathBuf,
    switches: bool,
    is_reported: bool,
}

impl Lookout {
    /// None if the requested mode is in effect.
    pub(crate) fn new(args: &ModeArgs, choice: &Choice) -> Option<Self> {
        choice.missing.as_ref().map(|_| Self {
            proc_sys: args.proc_sys.clone(),
            switches: args.fallback == Fallback::AutoUpgrade,
            is_reported: false,
        })
    }

    /// Checks, and reports once that IPVS can run. Returns whether to switch now. Loads no module:
    /// as long as the kernel has no IPVS, it sends no request to it.
    pub(crate) fn look(&mut self, config: &Config, notices: &Notices) -> bool {
        let can_run =
            ipvs::is_loaded() && ipvs::probe(config, &self.proc_sys).can_run(probe::Mode::Ipvs);
        if can_run && !self.is_reported {
            let then = if self.switches {
                "svcproxy switches to it"
            } else {
                "restart svcproxy to switch to it (--fallback=auto-upgrade switches without a \
                 restart)"
            };
            let message = format!("mode ipvs can run now: {then}");
            notices.send(&Notice::of_node(Reason::IpvsAvailable, message));
        }
        self.is_reported = can_run;
        can_run && self.switches
    }
}
