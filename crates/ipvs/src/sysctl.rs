//! The sysctls `net.ipv4.vs.*`, and the kernel version that each needs.
//!
//! Each network namespace has its own values. As listed in `vs_vars` of `ip_vs_ctl.c`, in the
//! schedulers `lblc` and `lblcr`, and in `Documentation/networking/ipvs-sysctl.rst` of Linux.

use std::{fmt, fs, io};

/// One sysctl.
///
/// ```no_run
/// use ipvs::sysctl;
///
/// sysctl::CONNTRACK.write("1")?;
/// assert_eq!(sysctl::CONNTRACK.read()?, "1");
/// for sysctl in sysctl::ALL {
///     println!("{sysctl} ({}): {}", sysctl.values, sysctl.purpose);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Sysctl {
    /// The name without its prefix: `conntrack`.
    pub name: &'static str,
    /// The first Linux version with it; `None`: before 4.19, the oldest that this crate supports.
    pub since: Option<(u16, u16)>,
    /// The valid values, and the default where the kernel has a constant one.
    pub values: &'static str,
    /// What it controls.
    pub purpose: &'static str,
}

impl Sysctl {
    /// The sysctl with this name, with or without its prefix `net.ipv4.vs.`.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let name = name.strip_prefix("net.ipv4.vs.").unwrap_or(name);
        ALL.iter().find(|sysctl| sysctl.name == name)
    }

    /// The file: `/proc/sys/net/ipv4/vs/conntrack`.
    pub fn path(&self) -> String {
        format!("/proc/sys/net/ipv4/vs/{}", self.name)
    }

    /// Reads the value in the calling thread's network namespace. For another one, see
    /// [`in_namespace`](crate::in_namespace).
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if the module `ip_vs` is not loaded, or this kernel does not
    /// have the sysctl.
    pub fn read(&self) -> io::Result<String> {
        let text = fs::read_to_string(self.path()).map_err(|error| self.error("read", &error))?;
        Ok(text.trim_end().to_owned())
    }

    /// Sets the value in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`io::ErrorKind::InvalidInput`] for a value that the kernel
    /// rejects.
    pub fn write(&self, value: &str) -> io::Result<()> {
        fs::write(self.path(), value).map_err(|error| self.error("set", &error))
    }

    fn error(&self, operation: &str, error: &io::Error) -> io::Error {
        let advice = match (error.kind(), self.since) {
            (io::ErrorKind::NotFound, Some((major, minor))) => {
                format!(" (needs Linux {major}.{minor} and the module ip_vs)")
            }
            (io::ErrorKind::NotFound, None) => " (needs the module ip_vs)".to_owned(),
            _ => String::new(),
        };
        io::Error::new(error.kind(), format!("{operation} {self}: {error}{advice}"))
    }
}

/// `net.ipv4.vs.conntrack`.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.ipv4.vs.{}", self.name)
    }
}

macro_rules! sysctls {
    ($($constant:ident $name:literal $since:expr, $values:literal, $purpose:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $purpose, ".")]
            pub const $constant: Sysctl = Sysctl {
                name: $name,
                since: $since,
                values: $values,
                purpose: $purpose,
            };
        )*
        /// All that this crate knows, by name.
        pub const ALL: &[Sysctl] = &[$($constant),*];
    };
}

sysctls! {
    AM_DROPRATE "am_droprate" None, "integer, default 10", "the drop rate of drop_packet in mode 3";
    AMEMTHRESH "amemthresh" None, "pages, default 1024",
        "the available memory below which the automatic defence modes start";
    BACKUP_ONLY "backup_only" None, "0 or 1, default 0",
        "forward nothing while a backup sync daemon runs";
    CACHE_BYPASS "cache_bypass" None, "0 or 1, default 0",
        "send packets to their own destination if no real server is available";
    CONN_LFACTOR "conn_lfactor" Some((7, 1)), "-8 to 8, default -4",
        "the load factor of the connection table: 2^value connections a bucket";
    CONN_MAX "conn_max" Some((7, 2)), "0 to 2^30 (2^24 on 32-bit machines), which is the default",
        "the largest number of connections in the network namespace";
    CONN_REUSE_MODE "conn_reuse_mode" None, "bit mask, default 1",
        "what to do with a new connection that reuses a port";
    CONNTRACK "conntrack" None, "0 or 1, default 0",
        "keep connection tracking entries for IPVS connections";
    DEBUG_LEVEL "debug_level" None, "0 to 12, default 0",
        "the detail of log messages, in kernels built with CONFIG_IP_VS_DEBUG";
    DROP_ENTRY "drop_entry" None, "0 (off), 1 or 2 (automatic), 3 (on), default 0",
        "drop half-open connections at random";
    DROP_PACKET "drop_packet" None, "0 (off), 1 or 2 (automatic), 3 (on), default 0",
        "drop a share of the packets";
    EST_CPULIST "est_cpulist" Some((6, 2)), "CPU list",
        "the CPUs on which statistics are estimated";
    EST_NICE "est_nice" Some((6, 2)), "-20 to 19, default 0",
        "the nice value of the threads that estimate statistics";
    EXPIRE_NODEST_CONN "expire_nodest_conn" None, "0 or 1, default 0",
        "end a connection at once when its real server has been deleted";
    EXPIRE_QUIESCENT_TEMPLATE "expire_quiescent_template" None, "0 or 1, default 0",
        "end persistence to a real server whose weight is 0";
    IGNORE_TUNNELED "ignore_tunneled" None, "0 or 1, default 0",
        "leave packets of unknown protocols alone, to avoid loops of tunnels";
    LBLC_EXPIRATION "lblc_expiration" None, "seconds, default 86400",
        "how long scheduler lblc keeps an unused destination address; needs the module ip_vs_lblc";
    LBLCR_EXPIRATION "lblcr_expiration" None, "seconds, default 86400",
        "how long scheduler lblcr keeps an unused destination address; needs the module ip_vs_lblcr";
    NAT_ICMP_SEND "nat_icmp_send" None, "0 or 1, default 0",
        "answer a real server's packet of an unknown connection with ICMP unreachable";
    PMTU_DISC "pmtu_disc" None, "0 or 1, default 1",
        "reject packets that exceed the path MTU and must not be fragmented";
    RUN_ESTIMATION "run_estimation" Some((5, 16)), "0 or 1, default 1",
        "estimate statistics; without it counters and rates stand still";
    SCHEDULE_ICMP "schedule_icmp" None, "0 or 1, default 0",
        "schedule ICMP errors that belong to no connection";
    SECURE_TCP "secure_tcp" None, "0 (off), 1 or 2 (automatic), 3 (on), default 0",
        "use a stricter TCP state table";
    SLOPPY_SCTP "sloppy_sctp" None, "0 or 1, default 0",
        "create SCTP connections from any packet, for directors that take over";
    SLOPPY_TCP "sloppy_tcp" None, "0 or 1, default 0",
        "create TCP connections from any packet, for directors that take over";
    SNAT_REROUTE "snat_reroute" None, "0 or 1, default 1",
        "route replies again after their source address was rewritten";
    SVC_LFACTOR "svc_lfactor" Some((7, 1)), "-8 to 8, default -3",
        "the load factor of the virtual server table: 2^value virtual servers a bucket";
    SYNC_PERSIST_MODE "sync_persist_mode" None, "0 or 1, default 0",
        "synchronise only the templates of persistent connections";
    SYNC_PORTS "sync_ports" None, "1 to 64, a power of two, default 1",
        "the number of threads and UDP ports of a sync daemon";
    SYNC_QLEN_MAX "sync_qlen_max" None, "messages, default 1/32 of the memory pages",
        "the limit of queued sync messages";
    SYNC_REFRESH_PERIOD "sync_refresh_period" None, "seconds, default 0",
        "the change of a connection's timer that makes a new sync message";
    SYNC_RETRIES "sync_retries" None, "0 to 3, default 0", "how often a sync message is repeated";
    SYNC_SOCK_SIZE "sync_sock_size" None, "bytes, default 0 (the system's)",
        "the socket buffer of a sync daemon";
    SYNC_THRESHOLD "sync_threshold" None, "two integers, default 3 50",
        "after how many packets, and how often, a connection is synchronised";
    SYNC_VERSION "sync_version" None, "0 or 1, default 1", "the version of the sync protocol";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_by_name() {
        for sysctl in ALL {
            assert_eq!(Sysctl::by_name(sysctl.name), Some(sysctl));
            assert_eq!(Sysctl::by_name(&sysctl.to_string()), Some(sysctl));
        }
        assert_eq!(Sysctl::by_name("net.ipv4.ip_forward"), None);
        assert!(ALL.is_sorted_by_key(|sysctl| sysctl.name));
    }

    #[test]
    fn an_error_says_what_is_missing() {
        let error = CONN_LFACTOR.error("read", &io::ErrorKind::NotFound.into());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "read net.ipv4.vs.conn_lfactor: entity not found (needs Linux 7.1 and the module ip_vs)"
        );
    }
}
