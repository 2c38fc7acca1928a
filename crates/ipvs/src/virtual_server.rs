//! The configuration of a virtual server.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::ops::BitOr;
use std::str::FromStr;

use crate::{
    Family, Invalid, ParseError, PersistenceEngine, Protocol, Scheduler, VirtualServerKey,
};

/// The configuration of a virtual server, as in `ipvsadm -A`.
///
/// ```
/// use ipvs::{Persistence, Scheduler, VirtualServer, VirtualServerKey};
///
/// let web = VirtualServer::new(VirtualServerKey::tcp("10.96.0.10:80".parse()?))
///     .with_scheduler(Scheduler::WeightedRoundRobin)
///     .with_persistence(Persistence::new(10_800));
/// assert_eq!(
///     ipvs::ipvsadm::virtual_server(&web).to_string(),
///     "-A -t 10.96.0.10:80 -s wrr -p 10800",
/// );
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct VirtualServer {
    /// Its key.
    pub key: VirtualServerKey,
    /// How the real server for a new connection is chosen.
    #[cfg_attr(feature = "serde", serde(default = "default_scheduler"))]
    pub scheduler: Scheduler,
    /// One-packet scheduling and flags of the scheduler.
    #[cfg_attr(feature = "serde", serde(default))]
    pub flags: Flags,
    /// Whether and for how long a client stays with its real server.
    #[cfg_attr(feature = "serde", serde(default))]
    pub persistence: Option<Persistence>,
    /// Identifies a client by more than its address.
    #[cfg_attr(feature = "serde", serde(default))]
    pub engine: Option<PersistenceEngine>,
    /// A number of the caller's choice by which to recognise the virtual server; 0 for none.
    ///
    /// It is stored as the persistence timeout, which the kernel keeps but does not use without
    /// persistence (`ip_vs_add_service`, `ip_vs_sched_persist`). So a virtual server with
    /// persistence cannot have one. ipvsadm does not show it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub tag: u16,
}

#[cfg(feature = "serde")]
fn default_scheduler() -> Scheduler {
    Scheduler::RoundRobin
}

impl VirtualServer {
    /// A virtual server with scheduler `rr`, no flags and no persistence.
    pub const fn new(key: VirtualServerKey) -> Self {
        Self {
            key,
            scheduler: Scheduler::RoundRobin,
            flags: Flags::NONE,
            persistence: None,
            engine: None,
            tag: 0,
        }
    }

    /// Sets the scheduler.
    #[must_use]
    pub const fn with_scheduler(self, scheduler: Scheduler) -> Self {
        Self { scheduler, ..self }
    }

    /// Sets the flags to exactly these.
    #[must_use]
    pub const fn with_flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }

    /// Sets persistence.
    #[must_use]
    pub const fn with_persistence(self, persistence: Persistence) -> Self {
        Self {
            persistence: Some(persistence),
            ..self
        }
    }

    /// Sets the persistence engine.
    #[must_use]
    pub const fn with_engine(self, engine: PersistenceEngine) -> Self {
        Self {
            engine: Some(engine),
            ..self
        }
    }

    /// Sets the [tag](Self::tag).
    #[must_use]
    pub const fn with_tag(self, tag: u16) -> Self {
        Self { tag, ..self }
    }

    /// Rejects what the kernel would accept but not do.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if let VirtualServerKey::Address { protocol, port, .. } = self.key {
            if ![Protocol::Tcp, Protocol::Udp, Protocol::Sctp].contains(&protocol) {
                return Err(Invalid::Protocol);
            }
            if port == 0 && self.persistence.is_none() {
                return Err(Invalid::PortZero);
            }
        }
        match self.persistence {
            None => Ok(()),
            Some(_) if self.tag != 0 => Err(Invalid::Tag),
            Some(persistence) => persistence.check(self.key.family()),
        }
    }
}

/// Flags of a virtual server.
///
/// Without persistence, which is [`VirtualServer::persistence`], and without the flag `HASHED`, which
/// the kernel sets itself. Unknown bits are kept.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Schedule each packet by itself. UDP only: no effect on TCP and SCTP.
    pub const ONE_PACKET: Self = Self(0x04);
    /// The scheduler's first flag.
    pub const SCHEDULER_1: Self = Self(0x08);
    /// The scheduler's second flag.
    pub const SCHEDULER_2: Self = Self(0x10);
    /// The scheduler's third flag.
    pub const SCHEDULER_3: Self = Self(0x20);
    /// For [`Scheduler::SourceHash`]: use another server if the chosen one is not available.
    pub const SH_FALLBACK: Self = Self::SCHEDULER_1;
    /// For [`Scheduler::SourceHash`]: hash the source port too.
    pub const SH_PORT: Self = Self::SCHEDULER_2;
    /// For [`Scheduler::MaglevHash`]: use another server if the chosen one is not available.
    pub const MH_FALLBACK: Self = Self::SCHEDULER_1;
    /// For [`Scheduler::MaglevHash`]: hash the source port too.
    pub const MH_PORT: Self = Self::SCHEDULER_2;

    /// `PERSISTENT` and `HASHED`.
    const NOT_FLAGS: u32 = 0x03;

    /// The kernel's bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The flags with these bits, without `PERSISTENT` and `HASHED`.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & !Self::NOT_FLAGS)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#x})", self.0)
    }
}

/// Persistence: a client stays with its real server for some time.
///
/// Compared by effect: a netmask of all ones is the same as none, and the kernel reports it as
/// none.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Persistence {
    /// Seconds after a client's last connection: 1 to [`Persistence::MAX_TIMEOUT`].
    pub timeout: u32,
    /// The clients that count as one; `None`: each address is a client.
    #[cfg_attr(feature = "serde", serde(default))]
    pub netmask: Option<Netmask>,
}

impl PartialEq for Persistence {
    fn eq(&self, other: &Self) -> bool {
        self.in_effect() == other.in_effect()
    }
}

impl Eq for Persistence {}

impl Hash for Persistence {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.in_effect().hash(state);
    }
}

impl Persistence {
    /// The longest timeout in seconds, 31 days, as in ipvsadm. The kernel multiplies it by its
    /// tick rate without checking for overflow (`ip_vs_add_service`).
    pub const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

    /// Persistence by client address, for `timeout` seconds.
    pub const fn new(timeout: u32) -> Self {
        Self {
            timeout,
            netmask: None,
        }
    }

    /// Counts all clients of one network as one.
    #[must_use]
    pub const fn with_netmask(self, netmask: Netmask) -> Self {
        Self {
            netmask: Some(netmask),
            ..self
        }
    }

    fn in_effect(self) -> (u32, Option<Netmask>) {
        (self.timeout, self.netmask.and_then(Netmask::unless_host))
    }

    fn check(self, family: Family) -> Result<(), Invalid> {
        if self.timeout == 0 || self.timeout > Self::MAX_TIMEOUT {
            return Err(Invalid::PersistenceTimeout);
        }
        match (self.netmask, family) {
            (None, _) => Ok(()),
            (Some(Netmask::V4(mask)), Family::V4) if !mask.is_unspecified() => Ok(()),
            (Some(Netmask::V6(1..=128)), Family::V6) => Ok(()),
            _ => Err(Invalid::Netmask),
        }
    }
}

/// The clients that persistence counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Netmask {
    /// The mask of an IPv4 virtual server; not 0.0.0.0.
    V4(Ipv4Addr),
    /// The prefix length of an IPv6 virtual server: 1 to 128.
    V6(u8),
}

/// `255.255.255.0` for IPv4, `64` for IPv6, as in ipvsadm.
impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(mask) => mask.fmt(f),
            Self::V6(length) => length.fmt(f),
        }
    }
}

impl FromStr for Netmask {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let v6 = || text.parse().map(Self::V6);
        let parsed = text.parse().map(Self::V4).or_else(|_| v6());
        parsed.map_err(|_| ParseError::new("netmask", text))
    }
}

impl Netmask {
    /// The mask with this prefix length.
    ///
    /// `None` above the family's 32 or 128, and for 0: all clients would count as one, which the
    /// kernel rejects for IPv6 and confuses with no netmask for IPv4.
    pub const fn from_prefix(family: Family, length: u8) -> Option<Self> {
        match (family, length) {
            (Family::V4, 1..=32) => Some(Self::V4(Ipv4Addr::from_bits(
                u32::MAX << (32 - length as u32),
            ))),
            (Family::V6, 1..=128) => Some(Self::V6(length)),
            _ => None,
        }
    }

    /// The mask, or `None` if every address is a client.
    pub(crate) fn unless_host(self) -> Option<Self> {
        let host = match self {
            Self::V4(mask) => mask == Ipv4Addr::BROADCAST,
            Self::V6(length) => length == 128,
        };
        if host { None } else { Some(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(key: &str) -> VirtualServer {
        VirtualServer::new(key.parse().unwrap())
    }

    #[test]
    fn check_rejects_what_the_kernel_accepts_in_silence() {
        let day = Persistence::new(86_400);
        let v4 = server("tcp 10.0.0.1:80");
        let v6 = server("tcp [fd00::1]:80");
        assert_eq!(v4.check(), Ok(()));
        assert_eq!(server("0 10.0.0.1:80").check(), Err(Invalid::Protocol));
        assert_eq!(server("99 10.0.0.1:80").check(), Err(Invalid::Protocol));
        assert_eq!(server("tcp 10.0.0.1:0").check(), Err(Invalid::PortZero));
        assert_eq!(
            server("tcp 10.0.0.1:0").with_persistence(day).check(),
            Ok(())
        );
        assert_eq!(server("fwmark 1 ipv4").check(), Ok(()));
        assert_eq!(v4.with_tag(7).check(), Ok(()));
        let tagged = v4.with_tag(7).with_persistence(day);
        assert_eq!(tagged.check(), Err(Invalid::Tag));
        for timeout in [0, Persistence::MAX_TIMEOUT + 1] {
            let server = v4.with_persistence(Persistence::new(timeout));
            assert_eq!(server.check(), Err(Invalid::PersistenceTimeout));
        }
        let zero = day.with_netmask(Netmask::V4(Ipv4Addr::UNSPECIFIED));
        assert_eq!(v4.with_persistence(zero).check(), Err(Invalid::Netmask));
        let v6_mask = day.with_netmask(Netmask::V6(64));
        assert_eq!(v4.with_persistence(v6_mask).check(), Err(Invalid::Netmask));
        assert_eq!(v6.with_persistence(v6_mask).check(), Ok(()));
        for length in [0, 129] {
            let persistence = day.with_netmask(Netmask::V6(length));
            assert_eq!(
                v6.with_persistence(persistence).check(),
                Err(Invalid::Netmask)
            );
        }
    }

    #[test]
    fn netmask_from_prefix() {
        let v4 = |length| Netmask::from_prefix(Family::V4, length);
        assert_eq!(v4(24), Some(Netmask::V4(Ipv4Addr::new(255, 255, 255, 0))));
        assert_eq!(v4(32), Some(Netmask::V4(Ipv4Addr::BROADCAST)));
        assert_eq!((v4(0), v4(33)), (None, None));
        assert_eq!(Netmask::from_prefix(Family::V6, 64), Some(Netmask::V6(64)));
        assert_eq!(Netmask::from_prefix(Family::V6, 0), None);
    }

    #[test]
    fn flags_exclude_persistent_and_hashed() {
        assert_eq!(
            Flags::from_bits(0x1f),
            Flags::ONE_PACKET | Flags::SH_FALLBACK | Flags::SH_PORT
        );
        assert_eq!(Flags::from_bits(0x8000_0002).bits(), 0x8000_0000);
    }

    #[test]
    fn is_small() {
        assert!(
            size_of::<VirtualServer>() <= 88,
            "{}",
            size_of::<VirtualServer>()
        );
    }
}
