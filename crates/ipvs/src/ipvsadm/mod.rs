//! The rules of ipvsadm(8): what `ipvsadm --save --numeric` prints and `ipvsadm --restore` reads.
//!
//! As in ipvsadm 1.31. `{}` writes exactly what `ipvsadm -Sn` prints, without the line end and
//! without thresholds, which `-S` leaves out. `{:#}` adds them; `ipvsadm -R` accepts them.

mod parse;

use std::fmt;
use std::net::SocketAddr;

pub use parse::{RuleError, parse};

use crate::{
    Change, Family, Flags, Forwarding, Netmask, Protocol, RealServer, Scheduler, SyncDaemon,
    Tunnel, TunnelChecksum, VirtualServer, VirtualServerKey,
};

/// The rule for any change: `-D -t 10.96.0.10:53`, `--set 900 120 300`,
/// `--start-daemon master --mcast-interface eth0 --syncid 7`.
///
/// A rule has no place for a [tag](VirtualServer::tag) and for flags that ipvsadm does not know.
/// [`parse`] reads all rules back.
///
/// ```
/// use ipvs::{Change, ipvsadm};
///
/// let key = "tcp 10.96.0.10:53".parse()?;
/// assert_eq!(ipvsadm::rule(&Change::DeleteVirtualServer(key)).to_string(), "-D -t 10.96.0.10:53");
/// # Ok::<(), ipvs::ParseError>(())
/// ```
pub fn rule(change: &Change) -> impl fmt::Display {
    ChangeRule(*change)
}

/// The rule that adds a virtual server: `-A -t 10.96.0.10:53 -s rr -p 10800`.
///
/// ```
/// use ipvs::{Flags, Scheduler, VirtualServer};
///
/// let server = VirtualServer::new("udp [fd00::10]:53".parse()?).with_flags(Flags::ONE_PACKET);
/// let rule = ipvs::ipvsadm::virtual_server(&server).to_string();
/// assert_eq!(rule, "-A -u [fd00::10]:53 -s rr -o");
/// # Ok::<(), ipvs::ParseError>(())
/// ```
pub fn virtual_server(server: &VirtualServer) -> impl fmt::Display {
    VirtualServerRule(*server)
}

/// The rule that adds a real server: `-a -t 10.96.0.10:53 -r 10.244.0.3:5353 -m -w 1`.
///
/// ```
/// use ipvs::RealServer;
///
/// let key = "tcp 10.96.0.10:53".parse()?;
/// let server = RealServer::new("10.244.0.3:5353".parse()?).with_thresholds(50, 100);
/// let rule = ipvs::ipvsadm::real_server(&key, &server);
/// assert_eq!(rule.to_string(), "-a -t 10.96.0.10:53 -r 10.244.0.3:5353 -m -w 1");
/// assert_eq!(format!("{rule:#}"), format!("{rule} -x 100 -y 50"));
/// # Ok::<(), ipvs::ParseError>(())
/// ```
pub fn real_server(key: &VirtualServerKey, server: &RealServer) -> impl fmt::Display {
    RealServerRule(*key, *server)
}

struct VirtualServerRule(VirtualServer);

struct RealServerRule(VirtualServerKey, RealServer);

struct ChangeRule(Change);

impl fmt::Display for ChangeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Change::AddVirtualServer(server) => write_virtual_server(f, "-A", server),
            Change::UpdateVirtualServer(server) => write_virtual_server(f, "-E", server),
            Change::DeleteVirtualServer(key) => write!(f, "-D {}", Key(key)),
            Change::AddRealServer {
                virtual_server,
                real_server,
            } => write_real_server(f, "-a", virtual_server, real_server),
            Change::UpdateRealServer {
                virtual_server,
                real_server,
            } => write_real_server(f, "-e", virtual_server, real_server),
            Change::DeleteRealServer {
                virtual_server,
                real_server,
            } => write!(f, "-d {} -r {real_server}", Key(virtual_server)),
            Change::ZeroStatistics(None) => f.write_str("-Z"),
            Change::ZeroStatistics(Some(key)) => write!(f, "-Z {}", Key(key)),
            Change::Flush => f.write_str("-C"),
            Change::SetTimeouts(timeouts) => {
                let [tcp, fin, udp] = [timeouts.tcp, timeouts.tcp_fin, timeouts.udp]
                    .map(|seconds| seconds.unwrap_or(0));
                write!(f, "--set {tcp} {fin} {udp}")
            }
            Change::StartSyncDaemon(daemon) => write_sync_daemon(f, daemon),
            Change::StopSyncDaemon(role) => write!(f, "--stop-daemon {role}"),
        }
    }
}

fn write_sync_daemon(f: &mut fmt::Formatter<'_>, daemon: &SyncDaemon) -> fmt::Result {
    let SyncDaemon {
        role,
        interface,
        sync_id,
        max_length,
        group,
        port,
        ttl,
    } = daemon;
    write!(
        f,
        "--start-daemon {role} --mcast-interface {interface} --syncid {sync_id}"
    )?;
    if let Some(bytes) = max_length {
        write!(f, " --sync-maxlen {bytes}")?;
    }
    if let Some(group) = group {
        write!(f, " --mcast-group {group}")?;
    }
    if let Some(port) = port {
        write!(f, " --mcast-port {port}")?;
    }
    if let Some(ttl) = ttl {
        write!(f, " --mcast-ttl {ttl}")?;
    }
    Ok(())
}

impl fmt::Display for VirtualServerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_virtual_server(f, "-A", &self.0)
    }
}

fn write_virtual_server(
    f: &mut fmt::Formatter<'_>,
    command: &str,
    server: &VirtualServer,
) -> fmt::Result {
    let VirtualServer {
        key,
        scheduler,
        flags,
        persistence,
        engine,
        tag: _,
    } = server;
    write!(f, "{command} {} -s {scheduler}", Key(key))?;
    if let Some(persistence) = persistence {
        write!(f, " -p {}", persistence.timeout)?;
        match persistence.netmask.and_then(Netmask::unless_host) {
            Some(Netmask::V4(mask)) => write!(f, " -M {mask}")?,
            Some(Netmask::V6(length)) => write!(f, " -M {length}")?,
            None => {}
        }
    }
    if let Some(engine) = engine {
        write!(f, " --pe {engine}")?;
    }
    if flags.contains(Flags::ONE_PACKET) {
        f.write_str(" -o")?;
    }
    let mut separator = " -b ";
    for name in scheduler_flags(*scheduler, *flags) {
        write!(f, "{separator}{name}")?;
        separator = ",";
    }
    Ok(())
}

/// The names of the scheduler flags that are set, as in the option `-b`.
///
/// ```
/// use ipvs::{Flags, Scheduler};
///
/// let names = ipvs::ipvsadm::scheduler_flags(Scheduler::SourceHash, Flags::SH_PORT);
/// assert!(names.eq(["sh-port"]));
/// ```
pub fn scheduler_flags(scheduler: Scheduler, flags: Flags) -> impl Iterator<Item = &'static str> {
    let names = match scheduler {
        Scheduler::SourceHash => ["sh-fallback", "sh-port", "flag-3"],
        Scheduler::MaglevHash => ["mh-fallback", "mh-port", "flag-3"],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let bits = [Flags::SCHEDULER_1, Flags::SCHEDULER_2, Flags::SCHEDULER_3];
    let set = names.into_iter().zip(bits);
    set.filter(move |&(_, bit)| flags.contains(bit))
        .map(|(name, _)| name)
}

impl fmt::Display for RealServerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_real_server(f, "-a", &self.0, &self.1)
    }
}

fn write_real_server(
    f: &mut fmt::Formatter<'_>,
    command: &str,
    virtual_server: &VirtualServerKey,
    server: &RealServer,
) -> fmt::Result {
    let RealServer {
        key,
        forwarding,
        weight,
        upper_threshold,
        lower_threshold,
    } = *server;
    let method = match forwarding {
        Forwarding::Masquerade => "-m",
        Forwarding::Tunnel(_) => "-i",
        // ipvsadm has no letter for the others, which only the kernel itself uses.
        _ => "-g",
    };
    let virtual_server = Key(virtual_server);
    write!(
        f,
        "{command} {virtual_server} -r {key} {method} -w {weight}"
    )?;
    if let Forwarding::Tunnel(tunnel) = forwarding {
        write_tunnel(f, tunnel)?;
    }
    if f.alternate() && upper_threshold != 0 {
        write!(f, " -x {upper_threshold} -y {lower_threshold}")?;
    }
    Ok(())
}

fn write_tunnel(f: &mut fmt::Formatter<'_>, tunnel: Tunnel) -> fmt::Result {
    let checksum = match tunnel {
        Tunnel::Ipip | Tunnel::Other { .. } => return f.write_str(" --tun-type ipip"),
        Tunnel::Gue { port, checksum } => {
            write!(f, " --tun-type gue --tun-port {port}")?;
            checksum
        }
        Tunnel::Gre { checksum } => {
            f.write_str(" --tun-type gre")?;
            checksum
        }
    };
    f.write_str(match checksum {
        TunnelChecksum::None => " --tun-nocsum",
        TunnelChecksum::Full => " --tun-csum",
        TunnelChecksum::Remote => " --tun-remcsum",
    })
}

/// A virtual server in a rule: `-t 10.96.0.10:53`, `-f 7 -6`.
struct Key<'a>(&'a VirtualServerKey);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            VirtualServerKey::Address {
                protocol,
                address,
                port,
            } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Sctp => "--sctp-service",
                    _ => "-u",
                };
                write!(f, "{option} {}", SocketAddr::new(address, port))
            }
            VirtualServerKey::FirewallMark { mark, family } => {
                write!(f, "-f {mark}")?;
                if family == Family::V6 {
                    f.write_str(" -6")
                } else {
                    Ok(())
                }
            }
        }
    }
}
