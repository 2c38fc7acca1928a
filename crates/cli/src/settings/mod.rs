//! Follows changes of the `--config` file, whose settings are compared as they are in effect.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proxier::desired::Config;
use proxier::reconcile::{Intervals, Settings};
use proxier::source::watch::{Watch, WatchError};

use crate::args::{
    self, Cli, ConntrackArgs, KubeProxyArgs, LogArgs, Mode, MonitorArgs, NodeArgs, Periods,
    SourceArgs,
};
use crate::component_config::{self, Note};
use crate::logging::chain;
use crate::node;

/// Shortest health timeout: kube-proxy's, which is twice its default syncPeriod.
const LEAST_HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a change may be pending before the proxy counts as unhealthy: as in kube-proxy, twice
/// the time between full syncs.
pub(crate) fn health_timeout(audit_interval: Duration) -> Duration {
    LEAST_HEALTH_TIMEOUT.max(audit_interval.saturating_mul(2))
}

/// The intervals of the loop.
pub(crate) fn intervals(periods: Periods) -> Intervals {
    let mut intervals = Intervals::default();
    intervals.audit = periods.audit;
    intervals.min_sync = periods.min_sync;
    intervals
}

/// Sets the OOM score adjustment of this process.
pub(crate) fn set_oom_score(score: Option<i16>) {
    let write = |score: i16| fs::write("/proc/self/oom_score_adj", score.to_string());
    if let Some(Err(error)) = score.map(write) {
        tracing::warn!("oom_score_adj stays as it is: {error}");
    }
}

/// Follows the file as long as the watch lives. Calls `apply` with the new settings.
pub(crate) fn follow(
    file: &Path,
    cli: &Cli,
    node_name: &Arc<str>,
    mut apply: impl FnMut(Cli, Settings) + Send + 'static,
) -> Result<Watch, WatchError> {
    let mut reload = Reload::new(cli, node_name);
    let mut last = None;
    let path = file.to_owned();
    let read = move || {
        let text = fs::read(&path).map_err(|error| error.kind());
        if last.as_ref() == Some(&text) {
            return;
        }
        last = Some(text);
        let mut cli = args::parse();
        let loaded = component_config::ingest(&mut cli);
        let loaded = loaded.map(|notes| (cli, notes)).map_err(Into::into);
        if let Some((cli, settings)) = reload.ingest(loaded, node::config) {
            apply(cli, settings);
        }
    };
    Watch::start("configuration", vec![file.to_owned()], |_| false, read)
}

/// The names of the settings that need a restart.
pub(crate) fn taking_a_restart(cli: &Cli) -> impl Iterator<Item = &'static str> {
    let all = fields(cli, cli.run.mode()).into_iter();
    all.filter(|field| field.wants_restart)
        .map(|field| field.name)
}

/// The last valid settings.
struct Reload {
    in_effect: Vec<Field>,
    mode: Mode,
    node_name: Arc<str>,
    /// None before the first reading, whose notes were logged at the start.
    notes: Option<Vec<Note>>,
    /// Why the current file is not used.
    error: Option<String>,
}

impl Reload {
    fn new(cli: &Cli, node_name: &Arc<str>) -> Self {
        Self {
            in_effect: fields(cli, cli.run.mode()),
            mode: cli.run.mode(),
            node_name: Arc::clone(node_name),
            notes: None,
            error: None,
        }
    }

    /// Processes a reading of the file, and logs what changed. None if there is nothing to apply.
    fn ingest(
        &mut self,
        loaded: anyhow::Result<(Cli, Vec<Note>)>,
        config: impl FnOnce(&args::NodeArgs) -> anyhow::Result<Config>,
    ) -> Option<(Cli, Settings)> {
        let checked = loaded.and_then(|(cli, notes)| Ok((config(&cli.run.node)?, cli, notes)));
        let (mut config, cli, notes) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                let error = chain(error.as_ref());
                if self.error.as_ref() != Some(&error) {
                    tracing::error!("{error}; the previous settings stay in effect");
                }
                self.error = Some(error);
                return None;
            }
        };
        if self.error.take().is_some() {
            tracing::info!("the configuration file is valid again");
        }
        if let Some(before) = self.notes.replace(notes.clone()) {
            let new = notes.iter().filter(|note| !before.contains(note));
            new.for_each(Note::log);
        }
        let mut is_changed = false;
        for (before, now) in self.in_effect.iter_mut().zip(fields(&cli, self.mode)) {
            let (name, old, new) = (now.name, &before.value, &now.value);
            if old == new {
                continue;
            }
            if now.wants_restart {
                tracing::warn!("{name}: {old} stays in effect; {new} needs a restart");
            } else {
                tracing::info!("{name}: changed from {old} to {new}");
                is_changed = true;
                *before = now;
            }
        }
        // The source filters by the node name, so it cannot change.
        config.node_name = Arc::clone(&self.node_name);
        let intervals = intervals(cli.run.node.sync.periods(self.mode));
        is_changed.then(|| (cli, Settings::new(Arc::new(config), intervals)))
    }
}

/// A setting under its name in `KubeProxyConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: &'static str,
    /// The value as text.
    value: String,
    /// Whether a change needs a restart.
    wants_restart: bool,
}

fn live(name: &'static str, value: impl Display) -> Field {
    Field {
        name,
        value: value.to_string(),
        wants_restart: false,
    }
}

fn at_start(name: &'static str, value: impl Display) -> Field {
    Field {
        wants_restart: true,
        ..live(name, value)
    }
}

/// All settings, always in the same order, without those that exist on the command line only.
/// `mode` is the mode in effect, which may differ from the current file.
fn fields(cli: &Cli, mode: Mode) -> Vec<Field> {
    let NodeArgs {
        monitor,
        kube_proxy,
        source,
        node_name,
        strict_arp,
        detect_local_mode,
        cluster_cidrs,
        pod_bridge_interface,
        pod_interface_name_prefix,
        masquerade_all,
        masquerade_bit,
        nodeport_addresses,
        exclude_cidrs,
        ipvs_scheduler,
        ipvs_tcp_timeout,
        ipvs_tcpfin_timeout,
        ipvs_udp_timeout,
        sync: _,
        node_ips: _,
        zone: _,
        mark_mask: _,
        service_cidrs: _,
        deny_external_ips: _,
        deny_endpoints: _,
        drain_timeout: _,
        listen: _,
    } = &cli.run.node;
    let Periods { audit, min_sync } = cli.run.node.sync.periods(mode);
    let KubeProxyArgs {
        bind_address,
        oom_score_adj,
        conntrack,
        ..
    } = kube_proxy;
    let ConntrackArgs {
        max_per_core,
        min,
        tcp_established,
        tcp_close_wait,
        tcp_be_liberal,
        udp,
        udp_stream,
    } = conntrack;
    let MonitorArgs {
        metrics_bind_address,
        healthz_bind_address,
        page: _,
        service_metrics: _,
        service_metrics_limit: _,
    } = monitor;
    let SourceArgs {
        kubeconfig,
        kube_api_content_type,
        manifests: _,
        master: _,
        timeout: _,
    } = source;
    let LogArgs {
        log_format,
        verbosity,
    } = &cli.log;
    let kubeconfig = kubeconfig.as_ref().map(|path| path.display());
    let timeout = |timeout: &crate::args::Timeout| optional(timeout.0.map(|s| format!("{s}s")));
    vec![
        at_start("mode", cli.run.mode().name()),
        at_start("hostnameOverride", optional(node_name.as_ref())),
        at_start("clientConnection.kubeconfig", optional(kubeconfig)),
        at_start(
            "clientConnection.contentType",
            kube_api_content_type.media_type(),
        ),
        at_start("healthzBindAddress", optional(healthz_bind_address.0)),
        at_start("metricsBindAddress", optional(metrics_bind_address.0)),
        at_start("logging.format", format_args!("{log_format:?}")),
        at_start("logging.verbosity", optional(*verbosity)),
        live("bindAddress", optional(*bind_address)),
        live("clusterCIDR", list(cluster_cidrs)),
        live("detectLocalMode", format_args!("{detect_local_mode:?}")),
        live(
            "detectLocal.bridgeInterface",
            optional(pod_bridge_interface.as_ref()),
        ),
        live(
            "detectLocal.interfaceNamePrefix",
            optional(pod_interface_name_prefix.as_ref()),
        ),
        live("nodePortAddresses", format_args!("{nodeport_addresses:?}")),
        live("masqueradeAll", masquerade_all),
        live("masqueradeBit", masquerade_bit),
        live("syncPeriod", format_args!("{audit:?}")),
        live("minSyncPeriod", format_args!("{min_sync:?}")),
        live("oomScoreAdj", optional(*oom_score_adj)),
        live("ipvs.scheduler", ipvs_scheduler),
        live("ipvs.strictARP", strict_arp),
        live("ipvs.excludeCIDRs", list(exclude_cidrs)),
        live("ipvs.tcpTimeout", timeout(ipvs_tcp_timeout)),
        live("ipvs.tcpFinTimeout", timeout(ipvs_tcpfin_timeout)),
        live("ipvs.udpTimeout", timeout(ipvs_udp_timeout)),
        live("conntrack.maxPerCore", optional(*max_per_core)),
        live("conntrack.min", optional(*min)),
        live(
            "conntrack.tcpEstablishedTimeout",
            optional(*tcp_established),
        ),
        live("conntrack.tcpCloseWaitTimeout", optional(*tcp_close_wait)),
        live("conntrack.tcpBeLiberal", tcp_be_liberal),
        live("conntrack.udpTimeout", optional(*udp)),
        live("conntrack.udpStreamTimeout", optional(*udp_stream)),
    ]
}

fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<_> = values.iter().map(ToString::to_string).collect();
    optional((!values.is_empty()).then(|| values.join(",")))
}
