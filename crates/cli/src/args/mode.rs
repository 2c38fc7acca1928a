//! Flags that say which data plane serves.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use proxier::mode::probe;

/// The data plane, and what to do where it cannot run.
#[derive(Debug, Args)]
pub(crate) struct ModeArgs {
    /// Data plane [default: ipvs, or what --config says]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    /// What to do where mode ipvs cannot run; svcproxy check tells whether it can
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Fallback::Auto)]
    pub(crate) fallback: Fallback,

    /// Where sysctls are: in a container, /proc/sys is read-only, and the node's is mounted
    /// elsewhere
    #[arg(long, value_name = "DIRECTORY", default_value = "/proc/sys")]
    pub(crate) proc_sys: PathBuf,
}

/// The data planes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The kernel's IPVS
    Ipvs,
    /// iptables, nft or legacy, whichever this node uses
    Iptables,
}

impl Mode {
    /// As kube-proxy spells it.
    pub(crate) const fn name(self) -> &'static str {
        self.probed().as_str()
    }

    pub(crate) const fn probed(self) -> probe::Mode {
        match self {
            Self::Ipvs => probe::Mode::Ipvs,
            Self::Iptables => probe::Mode::Iptables,
        }
    }
}

/// What to do where mode ipvs cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fallback {
    /// Fail, and say what to load or install
    Never,
    /// Serve by iptables, with a warning, until a restart finds that mode ipvs can run
    Auto,
    /// The same, and switch to IPVS once it can run, without a restart
    AutoUpgrade,
}
