//! Flags that choose the mode.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use proxier::mode::probe;

/// The mode, and what to do if it cannot run.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModeArgs {
    /// Data plane [default: ipvs, or the mode in --config]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    /// What to do if mode ipvs cannot run on this node; 'svcproxy check' prints whether it can
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Fallback::Auto)]
    pub(crate) fallback: Fallback,

    /// Modes to try, in this order, if mode ipvs cannot run; nftables,iptables prefers nftables
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        default_value = "iptables,nftables",
        value_parser = fallback_mode()
    )]
    pub(crate) fallback_modes: Vec<Mode>,

    /// Directory of the sysctls; change it in a container whose /proc/sys is read-only, and mount
    /// the node's /proc/sys there
    #[arg(long, value_name = "DIRECTORY", default_value = "/proc/sys")]
    pub(crate) proc_sys: PathBuf,
}

impl ModeArgs {
    /// The modes to fall back to, in order; none if that is forbidden.
    pub(crate) fn fallbacks(&self) -> &[Mode] {
        match self.fallback {
            Fallback::Never => &[],
            Fallback::Auto | Fallback::AutoUpgrade => &self.fallback_modes,
        }
    }
}

/// A mode other than ipvs, the only one that svcproxy falls back from.
fn fallback_mode() -> impl TypedValueParser<Value = Mode> {
    let all = Mode::value_variants().iter();
    let others = all.filter(|mode| **mode != Mode::Ipvs);
    PossibleValuesParser::new(others.filter_map(ValueEnum::to_possible_value))
        .try_map(|name| Mode::from_str(&name, false))
}

/// The modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The kernel's IPVS
    Ipvs,
    /// iptables, nft or legacy, whichever this node uses
    Iptables,
    /// nftables: constant rules, and Services as elements of sets
    Nftables,
    /// svcproxy itself passes connections on; needs neither IPVS nor a packet filter
    Userspace,
}

impl Mode {
    /// The name, as kube-proxy spells it.
    pub(crate) const fn name(self) -> &'static str {
        self.probed().as_str()
    }

    /// The mode of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = Self::value_variants().iter();
        all.copied().find(|mode| mode.name() == name)
    }

    pub(crate) const fn probed(self) -> probe::Mode {
        match self {
            Self::Ipvs => probe::Mode::Ipvs,
            Self::Iptables => probe::Mode::Iptables,
            Self::Nftables => probe::Mode::Nftables,
            Self::Userspace => probe::Mode::Userspace,
        }
    }
}

/// What to do if mode ipvs cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fallback {
    /// Fail, and print what to load or install
    Never,
    /// Use iptables, or else nftables, with a warning, until a restart finds that mode ipvs can run
    Auto,
    /// Use iptables, or else nftables, and switch to IPVS without a restart once it can run
    AutoUpgrade,
}
