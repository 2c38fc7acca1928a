//! Flags that choose the source of Services, and flags for the intervals of syncs and audits.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use proxier::source::kube::Encoding;

use super::Mode;
use super::node::NODE;
use crate::kube_proxy::GoDuration;

/// kube-proxy's default in iptables mode (`defaults.go`); its IPVS mode has 0.
const IPTABLES_MIN_SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Manifests, or an API server.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// Files or directories of YAML or JSON manifests, or - for standard input: Service,
    /// EndpointSlice, Endpoints, Pod, Node [default: read the API server]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,

    /// Kubeconfig file; its current context names the API server and the credentials [default: the
    /// service account of this pod]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// URL of the API server, instead of the kubeconfig's; it must be reachable without a service
    /// proxy
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,

    /// Encoding in which to request objects from the API server: application/vnd.kubernetes.protobuf
    /// or application/json, which costs the server more
    #[arg(
        long,
        value_name = "TYPE",
        default_value = Encoding::Protobuf.media_type(),
        value_parser = content_type
    )]
    pub(crate) kube_api_content_type: Encoding,

    /// How long --once, and a command that reads the API server once, wait for it (30s, 5m); 0
    /// waits without limit
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = not_negative)]
    pub(crate) timeout: Duration,
}

impl SourceArgs {
    /// Whether the command line names a source.
    pub(crate) fn is_given(&self) -> bool {
        !self.manifests.is_empty() || self.kubeconfig.is_some() || self.master.is_some()
    }
}

/// The periods. kube-proxy has some of them once per mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(crate) struct SyncArgs {
    /// Time between audits, which compare the node with the desired state [default: 1m, or the
    /// mode's syncPeriod in --config]; shorten it if other software changes svcproxy's rules
    #[arg(long, value_name = "DURATION", value_parser = positive, help_heading = NODE)]
    pub(crate) audit_interval: Option<Duration>,

    /// Time between audits in mode ipvs
    #[arg(long, value_name = "DURATION", value_parser = positive, hide = true)]
    pub(crate) ipvs_sync_period: Option<Duration>,

    /// Time between audits in mode iptables
    #[arg(long, value_name = "DURATION", value_parser = positive, hide = true)]
    pub(crate) iptables_sync_period: Option<Duration>,

    /// Shortest time between syncs in mode ipvs [default: 0s]; raise it if endpoints change all the
    /// time and syncs take too much CPU
    #[arg(long, value_name = "DURATION", value_parser = not_negative, help_heading = NODE)]
    pub(crate) ipvs_min_sync_period: Option<Duration>,

    /// Shortest time between syncs in mode iptables [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = not_negative, help_heading = NODE)]
    pub(crate) iptables_min_sync_period: Option<Duration>,

    /// As kube-proxy has it: in the configuration file only.
    #[arg(skip)]
    pub(crate) nftables_sync_period: Option<Duration>,

    /// As kube-proxy has it: in the configuration file only.
    #[arg(skip)]
    pub(crate) nftables_min_sync_period: Option<Duration>,
}

/// The periods of the mode in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Periods {
    /// Time between audits.
    pub(crate) audit: Duration,
    /// Shortest time between syncs of changes.
    pub(crate) min_sync: Duration,
}

impl SyncArgs {
    pub(crate) fn periods(&self, mode: Mode) -> Periods {
        let (sync, min_sync, default_min_sync) = match mode {
            Mode::Ipvs => (
                self.ipvs_sync_period,
                self.ipvs_min_sync_period,
                Duration::ZERO,
            ),
            Mode::Iptables => (
                self.iptables_sync_period,
                self.iptables_min_sync_period,
                IPTABLES_MIN_SYNC_PERIOD,
            ),
            Mode::Nftables => (
                self.nftables_sync_period,
                self.nftables_min_sync_period,
                Duration::ZERO,
            ),
            // kube-proxy's settings have no section for it.
            Mode::Userspace => (None, None, Duration::ZERO),
        };
        Periods {
            audit: self
                .audit_interval
                .or(sync)
                .unwrap_or(Duration::from_secs(60)),
            min_sync: min_sync.unwrap_or(default_min_sync),
        }
    }
}

pub(super) fn positive(text: &str) -> Result<Duration, String> {
    let duration = not_negative(text)?;
    let duration = Some(duration).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "must be more than 0".to_owned())
}

/// The encoding with this media type; the default if the text is empty, as in kube-proxy
/// (`defaults.go`).
pub(crate) fn content_type(text: &str) -> Result<Encoding, String> {
    if text.is_empty() {
        return Ok(Encoding::default());
    }
    let encoding = Encoding::of_media_type(text);
    let known = [Encoding::Protobuf, Encoding::Json].map(Encoding::media_type);
    encoding.ok_or_else(|| format!("{text:?} must be {}", known.join(" or ")))
}

/// Reads a duration as Go does; zero is valid.
pub(super) fn not_negative(text: &str) -> Result<Duration, String> {
    let duration: GoDuration = text.parse().map_err(|error| format!("{error}"))?;
    let duration = duration.duration();
    duration.ok_or_else(|| "must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_its_own_periods_and_the_audit_interval_wins() {
        let secs = Duration::from_secs;
        let args = SyncArgs {
            audit_interval: None,
            ipvs_sync_period: Some(secs(5)),
            ipvs_min_sync_period: Some(secs(2)),
            iptables_sync_period: Some(secs(7)),
            iptables_min_sync_period: Some(secs(3)),
            nftables_sync_period: Some(secs(8)),
            nftables_min_sync_period: Some(secs(4)),
        };
        let periods = |args: SyncArgs, mode| {
            let Periods { audit, min_sync } = args.periods(mode);
            (audit.as_secs(), min_sync.as_secs())
        };
        assert_eq!(periods(args, Mode::Ipvs), (5, 2));
        assert_eq!(periods(args, Mode::Iptables), (7, 3));
        assert_eq!(periods(args, Mode::Nftables), (8, 4));
        let audit_interval = Some(secs(9));
        let given = SyncArgs {
            audit_interval,
            ..args
        };
        assert_eq!(periods(given, Mode::Ipvs), (9, 2));
        assert_eq!(periods(SyncArgs::default(), Mode::Ipvs), (60, 0));
        assert_eq!(periods(SyncArgs::default(), Mode::Iptables), (60, 1));
        assert_eq!(periods(SyncArgs::default(), Mode::Nftables), (60, 0));
        assert_eq!(periods(args, Mode::Userspace), (60, 0));
    }
}
