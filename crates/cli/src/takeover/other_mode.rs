//! Removes the state of svcproxy's other mode.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proxier::desired::Config;
use proxier::mode::iptables::IptablesBackend;
use proxier::mode::ipvs;
use proxier::mode::ipvs::plan::Plan;
use proxier::mode::ipvs::{Backend, Cleanup, IpvsBackend, IpvsRemains, Retiring};
use proxier::mode::{ApplyReport, BackendError};
use proxier::takeover::Successor;

use crate::args::Mode;
use crate::commands::chain;
use crate::takeover::{Outcome, Predecessor};

/// How often to check for connections that IPVS still has.
const LOOK: Duration = Duration::from_secs(1);

/// Removes the state of the mode that is not in effect.
pub(crate) fn predecessor(in_force: Mode, config: &Config) -> Box<dyn Predecessor> {
    match in_force {
        Mode::Ipvs => Box::new(OfIptablesMode),
        Mode::Iptables => Box::new(OfIpvsMode {
            config: config.clone(),
            draining: None,
        }),
    }
}

/// The backend for what IPVS mode left, with or without IPVS in the kernel. Does not make the
/// kernel load IPVS.
pub(crate) fn ipvs_mode() -> Result<Box<dyn Backend + Send>, BackendError> {
    if ipvs::is_loaded() {
        Ok(Box::new(IpvsBackend::open()?))
    } else {
        Ok(Box::new(IpvsRemains::open()?))
    }
}

/// The iptables rules act on new connections only, and connection tracking keeps translating
/// existing ones. So the rules are removed at once.
struct OfIptablesMode;

impl Predecessor for OfIptablesMode {
    fn name(&self) -> &'static str {
        "svcproxy's mode iptables"
    }

    fn remove(&mut self, _: &Successor<'_>) -> Result<Outcome, BackendError> {
        let chains = IptablesBackend::remove_all()?;
        Ok(Outcome {
            removed: (chains > 0).then(|| format!("{chains} chains")),
            ..Outcome::default()
        })
    }
}

/// New connections bypass IPVS at once; IPVS's state is removed when the last connection has ended.
struct OfIpvsMode {
    config: Config,
    draining: Option<Draining>,
}

impl Predecessor for OfIpvsMode {
    fn name(&self) -> &'static str {
        "svcproxy's mode ipvs"
    }

    fn remove(&mut self, _: &Successor<'_>) -> Result<Outcome, BackendError> {
        if let Some(draining) = self.draining.take_if(|draining| draining.has_ended()) {
            return draining.join().map(|cleanup| outcome(&cleanup));
        }
        if self.draining.is_none() {
            let mut backend = match ipvs_mode() {
                Err(error) if is_without_nftables(&error) => return Ok(Outcome::default()),
                opened => opened?,
            };
            let begun = Retiring::begin(&mut *backend, &self.config, Instant::now());
            let (mut retiring, begun) = match begun {
                Err(error) if is_without_nftables(&error) => return Ok(Outcome::default()),
                begun => begun?,
            };
            if !begun.applied.failures.is_empty() {
                return Ok(outcome(&begun));
            }
            if let Some(cleanup) = retiring.finish(&mut *backend, Instant::now())? {
                return Ok(outcome(&cleanup));
            }
            tracing::info!("connections that IPVS has go on; new ones are iptables'");
            self.draining = Some(Draining::start(backend, retiring));
        }
        Ok(Outcome {
            goes_on: true,
            ..Outcome::default()
        })
    }
}

/// Without nftables in the kernel, IPVS mode cannot have run here.
fn is_without_nftables(error: &BackendError) -> bool {
    const EINVAL: i32 = 22;
    const EPROTONOSUPPORT: i32 = 93;
    matches!(error, BackendError::PacketFilter { .. })
        && [Some(EINVAL), Some(EPROTONOSUPPORT)].contains(&error.errno())
}

fn outcome(Cleanup { plan, applied, .. }: &Cleanup) -> Outcome {
    let steps = plan.steps().len() - applied.failures.len();
    let removed = (steps > 0).then(|| format!("{steps} virtual servers and routes"));
    Outcome {
        removed,
        left: left(plan, applied),
        ..Outcome::default()
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

/// A thread that waits until connections have ended. It stops when this is dropped; the next start
/// continues.
struct Draining {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<Cleanup, BackendError>>>,
}

impl Draining {
    fn start(mut backend: Box<dyn Backend + Send>, mut retiring: Retiring) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            loop {
                match stopped.recv_timeout(LOOK) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return Err(BackendError::NotTried),
                }
                if let Some(cleanup) = retiring.finish(&mut *backend, Instant::now())? {
                    tracing::info!("IPVS has no connections left, or no time; it is removed");
                    return Ok(cleanup);
                }
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn join(mut self) -> Result<Cleanup, BackendError> {
        let joined = self.thread.take().map(JoinHandle::join);
        // The thread does not panic.
        joined
            .and_then(Result::ok)
            .unwrap_or(Err(BackendError::NotTried))
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
