//! Schedulers and persistence engines: kernel modules with a name.

use std::fmt;
use std::str::FromStr;

use crate::{Name, ParseError};

/// How a virtual server chooses the real server for a new connection.
///
/// Each is a kernel module `ip_vs_NAME`, loaded on first use. A kernel built without it replies
/// with [`ErrorKind::UnknownScheduler`](crate::ErrorKind::UnknownScheduler). Load the modules
/// beforehand: see [kernel behaviour to know](crate#kernel-behaviour-to-know).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheduler {
    /// `rr`: each real server in turn.
    RoundRobin,
    /// `wrr`: in turn, in proportion to the weights.
    WeightedRoundRobin,
    /// `lc`: fewest connections.
    LeastConnection,
    /// `wlc`: fewest connections in proportion to the weight. ipvsadm's default.
    WeightedLeastConnection,
    /// `lblc`: by destination address; a new address gets the least loaded real server.
    LocalityBasedLeastConnection,
    /// `lblcr`: like `lblc`, with a set of real servers for each destination address.
    LocalityBasedLeastConnectionWithReplication,
    /// `dh`: hash of the destination address.
    DestinationHash,
    /// `sh`: hash of the source address; see [`Flags::SH_PORT`](crate::Flags::SH_PORT).
    SourceHash,
    /// `mh`: Maglev consistent hash of the source address. Linux 4.18.
    MaglevHash,
    /// `sed`: shortest expected delay.
    ShortestExpectedDelay,
    /// `nq`: an idle real server if there is one, otherwise like `sed`.
    NeverQueue,
    /// `fo`: the available real server with the highest weight.
    WeightedFailover,
    /// `ovf`: the real server with the highest weight, until it has as many connections as its
    /// weight.
    WeightedOverflow,
    /// `twos`: the less loaded of two chosen at random by weight. Linux 5.12.
    RandomTwosChoice,
    /// `none`: no scheduler, for virtual servers that get their connections from a sync daemon.
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

    /// A name from the kernel; `None` if it is empty or too long.
    pub(crate) fn from_bytes(name: &[u8]) -> Option<Self> {
        let mut known = SCHEDULERS.iter();
        match known.find(|(_, known)| known.as_bytes() == name) {
            Some(&(scheduler, _)) => Some(scheduler),
            None => Name::from_bytes(name).map(Self::Other),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Other(name) => name.as_bytes(),
            known => known.as_str().as_bytes(),
        }
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
        match self {
            Self::Other(name) => name.fmt(f),
            known => f.write_str(known.as_str()),
        }
    }
}

/// Any name of 1 to 15 bytes; an unknown one becomes [`Scheduler::Other`].
impl FromStr for Scheduler {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let name: Name<15> = Name::new("scheduler name", text)?;
        let known = Self::from_bytes(name.as_bytes());
        Ok(known.unwrap_or(Self::Other(name)))
    }
}

/// A module that identifies a client by more than its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PersistenceEngine {
    /// `sip`: by the Call-ID of a SIP message. UDP.
    Sip,
    /// An engine this crate does not know, by name. Made by [`FromStr`].
    Other(Name<16>),
}

impl PersistenceEngine {
    /// A name from the kernel; `None` if it is empty or too long.
    pub(crate) fn from_bytes(name: &[u8]) -> Option<Self> {
        match name {
            b"sip" => Some(Self::Sip),
            other => Name::from_bytes(other).map(Self::Other),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sip => b"sip",
            Self::Other(name) => name.as_bytes(),
        }
    }

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
        match self {
            Self::Sip => f.write_str("sip"),
            Self::Other(name) => name.fmt(f),
        }
    }
}

impl FromStr for PersistenceEngine {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let name: Name<16> = Name::new("persistence engine name", text)?;
        let known = Self::from_bytes(name.as_bytes());
        Ok(known.unwrap_or(Self::Other(name)))
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
