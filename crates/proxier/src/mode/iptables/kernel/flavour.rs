//! Finds out which iptables a node uses.

use std::fmt;

use ipvs::Family;
use netlink::{Socket, nftables};

use super::program::{Program, Verb};
use crate::mode::NodeError;
use crate::mode::iptables::Rules;
use crate::mode::proc_sys::legacy_tables;

/// One of the two iptables. Neither sees the other's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flavour {
    /// Over nftables: `iptables-nft`.
    Nft,
    /// Over the kernel's older `ip_tables`: `iptables-legacy`.
    Legacy,
    /// The only installed one, under the name `iptables`.
    Plain,
}

/// Chains that the kubelet creates to show which iptables the node uses (KEP-3178).
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The rules in one of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Traces {
    is_hinted: bool,
    has_ours: bool,
    rules: usize,
}

impl Flavour {
    /// The iptables that the node uses: the one with the kubelet's hint, else the one with
    /// svcproxy's rules, else the one with more rules, else the distribution's choice. On a tie nft
    /// takes precedence over legacy. kubernetes-sigs/iptables-wrappers does the same except for
    /// svcproxy's rules; without a hint its version 3 chooses nft (pkg/xtables/detect.go), and
    /// version 2 counts rules.
    ///
    /// # Errors
    ///
    /// If none is installed, or it cannot be run.
    pub fn find() -> Result<Self, NodeError> {
        if !has_nftables() && Self::Legacy.version().is_ok() {
            return Ok(Self::Legacy);
        }
        let (Some(nft), Some(legacy)) = (Self::Nft.traces()?, Self::Legacy.traces()?) else {
            return Self::of_distribution();
        };
        Self::choose(nft, legacy).map_or_else(Self::of_distribution, Ok)
    }

    fn choose(nft: Traces, legacy: Traces) -> Option<Self> {
        let rank = |traces: Traces| (traces.is_hinted, traces.has_ours, traces.rules);
        if (nft, legacy) == Default::default() {
            return None;
        }
        Some(if rank(nft) >= rank(legacy) {
            Self::Nft
        } else {
            Self::Legacy
        })
    }

    /// The version that its programs print: `iptables v1.8.9 (nf_tables)`.
    pub(crate) fn version(self) -> Result<String, NodeError> {
        let version = Program::new(self, Family::V4, Verb::Version).run(&"")?;
        Ok(version.trim().to_owned())
    }

    /// Whether its tables are nftables tables.
    ///
    /// # Errors
    ///
    /// If its program cannot be run, and only the version shows the flavour.
    pub(crate) fn is_nft(self) -> Result<bool, NodeError> {
        match self {
            Self::Nft => Ok(true),
            Self::Legacy => Ok(false),
            Self::Plain => Ok(self.version()?.contains(Self::Nft.version_word())),
        }
    }

    /// The flavour behind the name `iptables`.
    fn of_distribution() -> Result<Self, NodeError> {
        let version = Self::Plain.version()?;
        let named = [Self::Nft, Self::Legacy].into_iter();
        let mut named = named.filter(|flavour| version.contains(flavour.version_word()));
        let named = named.find(|flavour| flavour.version().is_ok());
        Ok(named.unwrap_or(Self::Plain))
    }

    /// The same flavour, under a name that is installed: [`Plain`](Self::Plain) if `iptables` is
    /// this flavour and nothing else is installed.
    ///
    /// # Errors
    ///
    /// If it is not installed.
    #[cfg(feature = "ipvs")]
    pub(crate) fn or_plain(self) -> Result<Self, NodeError> {
        let Err(missing) = self.version() else {
            return Ok(self);
        };
        match Self::Plain.version() {
            Ok(version) if version.contains(self.version_word()) => Ok(Self::Plain),
            _ => Err(missing),
        }
    }

    /// The word for it in the version.
    const fn version_word(self) -> &'static str {
        match self {
            Self::Nft => "(nf_tables)",
            Self::Legacy => "(legacy)",
            Self::Plain => "",
        }
    }

    /// The flavours with rules of svcproxy.
    pub(crate) fn with_rules() -> Result<Vec<Self>, NodeError> {
        let mut found = Vec::new();
        for flavour in [Self::Nft, Self::Legacy, Self::Plain] {
            // If one of the others is installed, `iptables` is the same program.
            let is_needed = flavour != Self::Plain || found.is_empty();
            let traces = if is_needed { flavour.traces()? } else { None };
            if traces.is_some_and(|traces| traces.has_ours) {
                found.push(flavour);
            }
        }
        Ok(found)
    }

    /// `None` if it is not installed.
    fn traces(self) -> Result<Option<Traces>, NodeError> {
        let mut traces = Traces::default();
        for family in FAMILIES
            .into_iter()
            .filter(|family| super::kernel_speaks(*family))
        {
            if !self.can_have_rules(family) {
                continue;
            }
            let saved = match Program::new(self, family, Verb::Save).run(&"") {
                Ok(saved) => saved,
                Err(NodeError::Program { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            traces.add(&saved);
        }
        Ok(Some(traces))
    }

    /// Whether the kernel may have rules of it. Otherwise iptables-legacy-save would create the tables,
    /// and iptables-nft-save would fail.
    fn can_have_rules(self, family: Family) -> bool {
        match self {
            Self::Legacy => has_legacy_tables(family),
            Self::Nft => has_nftables(),
            Self::Plain => has_nftables() || self.is_nft().is_ok_and(|is_nft| !is_nft),
        }
    }

    pub(crate) const fn infix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
            Self::Plain => "",
        }
    }
}

impl Traces {
    fn add(&mut self, saved: &str) {
        let mut declared = saved.lines().filter_map(|line| line.strip_prefix(':'));
        let names = declared.by_ref().filter_map(|line| line.split(' ').next());
        self.is_hinted |= names.into_iter().any(|name| HINTS.contains(&name));
        self.has_ours |= !Rules::parse(saved).is_empty();
        self.rules += saved.lines().filter(|line| line.starts_with("-A ")).count();
    }
}

/// Whether the kernel has the nftables that iptables-nft needs. If it cannot be asked, the program's
/// error gives the reason.
fn has_nftables() -> bool {
    const EPROTONOSUPPORT: i32 = 93;
    match Socket::open().and_then(|mut socket| nftables::exists(&mut socket)) {
        Err(error) => error.raw_os_error() != Some(EPROTONOSUPPORT),
        Ok(exists) => exists,
    }
}

/// Whether the kernel has tables of legacy iptables for a family.
pub(crate) fn has_legacy_tables(family: Family) -> bool {
    legacy_tables(family).is_ok_and(|names| !names.is_empty())
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables{}", self.infix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(saved: &str) -> Traces {
        let mut traces = Traces::default();
        traces.add(saved);
        traces
    }

    #[test]
    fn the_one_that_the_node_uses_is_found() {
        let none = Traces::default();
        let few = traces("*nat\n-A PREROUTING -j DOCKER\nCOMMIT\n");
        let many = traces("*filter\n-A INPUT -j A\n-A INPUT -j B\nCOMMIT\n");
        let own = traces("*nat\n:SVCPROXY-VIPS - [0:0]\nCOMMIT\n");
        let hint = traces("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n");
        let canary = traces("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n");
        let (nft, legacy) = (Some(Flavour::Nft), Some(Flavour::Legacy));
        for (in_nft, in_legacy, expected) in [
            (none, none, None),
            (few, none, nft),
            (none, few, legacy),
            (few, many, legacy),
            (few, few, nft),
            (own, many, nft),
            (own, hint, legacy),
            (hint, many, nft),
            (hint, hint, nft),
            (canary, many, nft),
            (many, canary, legacy),
            (own, own, nft),
        ] {
            assert_eq!(
                Flavour::choose(in_nft, in_legacy),
                expected,
                "{in_nft:?} {in_legacy:?}"
            );
        }
    }
}
