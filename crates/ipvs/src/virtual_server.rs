//! The configuration of a virtual server.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::BitOr;

use crate::{Family, Invalid, PersistenceEngine, Protocol, Scheduler, VirtualServerKey};

/// The configuration of a virtual server: what `ipvsadm -A` sets.
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
pub struct VirtualServer {
    /// What names it.
    pub key: VirtualServerKey,
    /// How the real server of a new connection is chosen.
    pub scheduler: Scheduler,
    /// One-packet scheduling and the scheduler's own flags.
    pub flags: Flags,
    /// Whether, and how long, a client stays with its real server.
    pub persistence: Option<Persistence>,
    /// What recognises a client, where its address does not do.
    pub engine: Option<PersistenceEngine>,
    /// A number of one's own, to know the virtual server again by; 0 for none. The kernel keeps it
    /// and makes nothing of it: it is the time that persistence would last, where there is none
    /// (`ip_vs_add_service`, `ip_vs_sched_persist`). ipvsadm does not show it. With persistence
    /// there is no room for one.
    pub tag: u16,
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

    /// With this scheduler.
    #[must_use]
    pub const fn with_scheduler(self, scheduler: Scheduler) -> Self {
        Self { scheduler, ..self }
    }

    /// With exactly these flags.
    #[must_use]
    pub const fn with_flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }

    /// With persistence.
    #[must_use]
    pub const fn with_persistence(self, persistence: Persistence) -> Self {
        Self {
            persistence: Some(persistence),
            ..self
        }
    }

    /// With a persistence engine.
    #[must_use]
    pub const fn with_engine(self, engine: PersistenceEngine) -> Self {
        Self {
            engine: Some(engine),
            ..self
        }
    }

    /// With a [tag](Self::tag).
    #[must_use]
    pub const fn with_tag(self, tag: u16) -> Self {
        Self { tag, ..self }
    }

    /// Refuses what the kernel would take without complaint and then not carry out.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if let VirtualServerKey::Address { protocol, port, .. } = self.key {
            if matches!(protocol, Protocol::Other(_)) {
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
/// Persistence is not among them, it is [`VirtualServer::persistence`]; neither is the flag by
/// which the kernel says that the virtual server is in its table. Bits this crate has no name
/// for are kept.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Each packet is scheduled by itself. For UDP; without effect on TCP and SCTP.
    pub const ONE_PACKET: Self = Self(0x04);
    /// The scheduler's first flag.
    pub const SCHEDULER_1: Self = Self(0x08);
    /// The scheduler's second flag.
    pub const SCHEDULER_2: Self = Self(0x10);
    /// The scheduler's third flag.
    pub const SCHEDULER_3: Self = Self(0x20);
    /// For [`Scheduler::SourceHash`]: another server if the chosen one is not available.
    pub const SH_FALLBACK: Self = Self::SCHEDULER_1;
    /// For [`Scheduler::SourceHash`]: hash the source port too.
    pub const SH_PORT: Self = Self::SCHEDULER_2;
    /// For [`Scheduler::MaglevHash`]: another server if the chosen one is not available.
    pub const MH_FALLBACK: Self = Self::SCHEDULER_1;
    /// For [`Scheduler::MaglevHash`]: hash the source port too.
    pub const MH_PORT: Self = Self::SCHEDULER_2;

    /// Bits that say something else than a flag: persistent, in the table.
    const NOT_FLAGS: u32 = 0x03;

    /// The bits, as the kernel has them.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The flags among these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & !Self::NOT_FLAGS)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none is set.
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

/// Persistence: how long, and how finely told apart, clients stay with their real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Persistence {
    /// Seconds after a client's last connection: 1 to [`Persistence::MAX_TIMEOUT`].
    pub timeout: u32,
    /// Which clients count as one; `None`: each address for itself.
    pub netmask: Option<Netmask>,
}

impl Persistence {
    /// The longest timeout in seconds, 31 days, as in ipvsadm: the kernel multiplies by its
    /// clock rate without a check.
    pub const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

    /// Persistence by client address, for this many seconds.
    pub const fn new(timeout: u32) -> Self {
        Self {
            timeout,
            netmask: None,
        }
    }

    /// With clients of one network counted as one.
    #[must_use]
    pub const fn with_netmask(self, netmask: Netmask) -> Self {
        Self {
            netmask: Some(netmask),
            ..self
        }
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

/// Which clients persistence counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Netmask {
    /// The mask of an IPv4 virtual server; not 0.0.0.0.
    V4(Ipv4Addr),
    /// The prefix length of an IPv6 virtual server: 1 to 128.
    V6(u8),
}

impl Netmask {
    /// The mask with this prefix length; `None` above the family's 32 or 128, and for 0, which
    /// would count all clients as one and which the kernel refuses (IPv6) or confuses (IPv4).
    pub const fn from_prefix(family: Family, length: u8) -> Option<Self> {
        match (family, length) {
            (Family::V4, 1..=32) => Some(Self::V4(Ipv4Addr::from_bits(
                u32::MAX << (32 - length as u32),
            ))),
            (Family::V6, 1..=128) => Some(Self::V6(length)),
            _ => None,
        }
    }

    /// The mask, or `None` if it tells every address apart.
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
    fn check_refuses_what_the_kernel_takes_in_silence() {
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
    fn flags_leave_out_what_is_no_flag() {
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
