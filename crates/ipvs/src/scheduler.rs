//! Schedulers and persistence engines, each a kernel module with a name.

use std::fmt;
use std::str::FromStr;

use crate::{Name, ParseError};

/// How a virtual server chooses the real server of a new connection.
///
/// Each is a kernel module `ip_vs_NAME`, loaded when first used; a kernel built without it
/// answers with [`ErrorKind::UnknownScheduler`](crate::ErrorKind::UnknownScheduler). Better load
/// it beforehand: see [what may surprise](crate#what-the-kernel-does-that-may-surprise).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheduler {
    /// `rr`: each real server in turn.
    RoundRobin,
    /// `wrr`: in turn, in proportion to the weights.
    WeightedRoundRobin,
    /// `lc`: fewest connections.
    LeastConnection,
    /// `wlc`: fewest connections for its weight. ipvsadm's default.
    WeightedLeastConnection,
    /// `lblc`: by destination address, the least loaded at first sight.
    LocalityBasedLeastConnection,
    /// `lblcr`: as `lblc`, with a set of servers for each destination address.
    LocalityBasedLeastConnectionWithReplication,
    /// `dh`: hash of the destination address.
    DestinationHash,
    /// `sh`: hash of the source address; see [`Flags::SH_PORT`](crate::Flags::SH_PORT).
    SourceHash,
    /// `mh`: Maglev consistent hash of the source address. Linux 4.18.
    MaglevHash,
    /// `sed`: shortest expected delay.
    ShortestExpectedDelay,
    /// `nq`: an idle server if there is one, else as `sed`.
    NeverQueue,
    /// `fo`: the server of the highest weight that is available.
    WeightedFailover,
    /// `ovf`: the server of the highest weight until it has as many connections as its weight.
    WeightedOverflow,
    /// `twos`: the less loaded of two chosen at random by weight. Linux 5.12.
    RandomTwosChoice,
    /// `none`: no scheduler; a virtual server that only holds what the sync daemon or a
    /// persistence engine tells it.
    NoScheduler,
    /// A scheduler this crate does not know, by name. Made by [`FromStr`].
    Other(Name<15>),
}

const SCHEDULERS: [(Scheduler, &str); 15] = [
    (Scheduler::RoundRobin, "rr"),
    (Scheduler::WeightedRoundRobin, "wrr"),
    (Scheduler::LeastConnection, "lc"),
    (Scheduler::WeightedLeastConnection, "wlc"),
    (Scheduler::LocalityBasedLeastConnection, "lblc"),
    (
        Scheduler::LocalityBasedLeastConnectionWithReplication,
        "lblcr",
    ),
    (Scheduler::DestinationHash, "dh"),
    (Scheduler::SourceHash, "sh"),
    (Scheduler::MaglevHash, "mh"),
    (Scheduler::ShortestExpectedDelay, "sed"),
    (Scheduler::NeverQueue, "nq"),
    (Scheduler::WeightedFailover, "fo"),
    (Scheduler::WeightedOverflow, "ovf"),
    (Scheduler::RandomTwosChoice, "twos"),
    (Scheduler::NoScheduler, "none"),
];

impl Scheduler {
    /// Every scheduler this crate knows by name.
    pub fn known() -> impl Iterator<Item = Self> {
        SCHEDULERS.iter().map(|&(scheduler, _)| scheduler)
    }

    /// The kernel's name.
    pub fn as_str(&self) -> &str {
        if let Self::Other(name) = self {
            return name.as_str();
        }
        let known = SCHEDULERS.iter().find(|(scheduler, _)| scheduler == self);
        known.map_or("", |&(_, name)| name)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Any name of 1 to 15 bytes; an unknown one becomes [`Scheduler::Other`].
impl FromStr for Scheduler {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match SCHEDULERS.iter().find(|&&(_, name)| name == text) {
            Some(&(scheduler, _)) => Ok(scheduler),
            None => Name::new("scheduler name", text).map(Self::Other),
        }
    }
}

/// A module that recognises a client by more than its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PersistenceEngine {
    /// `sip`: by the Call-ID of a SIP message. UDP.
    Sip,
    /// An engine this crate does not know, by name. Made by [`FromStr`].
    Other(Name<16>),
}

impl PersistenceEngine {
    /// The kernel's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sip => "sip",
            Self::Other(name) => name.as_str(),
        }
    }
}

impl fmt::Display for PersistenceEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PersistenceEngine {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "sip" => Ok(Self::Sip),
            other => Name::new("persistence engine name", other).map(Self::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for scheduler in Scheduler::known() {
            assert_eq!(scheduler.as_str().parse(), Ok(scheduler));
            assert!(!scheduler.as_str().is_empty());
        }
        let other: Scheduler = "fifteen-letters".parse().unwrap();
        assert!(matches!(other, Scheduler::Other(_)));
        assert_eq!(other.to_string(), "fifteen-letters");
        assert!("sixteen-letters!".parse::<Scheduler>().is_err());
        assert!("".parse::<Scheduler>().is_err());
    }
}
