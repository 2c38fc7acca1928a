//! Where svcproxy behaves otherwise than kube-proxy, by mode.

use super::report::{Finding, Kind};

/// A difference in behaviour.
struct Behaviour {
    /// kube-proxy's modes that it concerns; empty means all.
    from: &'static [&'static str],
    /// svcproxy's modes; empty means all.
    to: &'static [&'static str],
    subject: &'static str,
    message: &'static str,
}

const ALL: &[Behaviour] = &[
    Behaviour {
        from: &["ipvs"],
        to: &[],
        subject: "load-balancer and external IPs",
        message: "are not added to the node: only packets to the Service's port are captured, and \
                  other ports of the address reach its owner",
    },
    Behaviour {
        from: &["ipvs"],
        to: &[],
        subject: "externalTrafficPolicy Local",
        message: "clients in the cluster reach all endpoints of a load-balancer IP, not only those \
                  on their node",
    },
    Behaviour {
        from: &["ipvs"],
        to: &["ipvs"],
        subject: "removed endpoints",
        message: "their connections end after --drain-timeout (30 s); kube-proxy lets them go on. \
                  Raise it for long-lived connections",
    },
    Behaviour {
        from: &["iptables", "nftables", "userspace"],
        to: &["ipvs"],
        subject: "choice of the endpoint",
        message: "by the scheduler (rr, --ipvs-scheduler) instead of at random",
    },
    Behaviour {
        from: &["iptables", "nftables", "userspace"],
        to: &["ipvs"],
        subject: "removed endpoints",
        message: "their TCP connections end after --drain-timeout (30 s); connection tracking, which \
                  kube-proxy relies on, lets them go on. Raise it for long-lived connections",
    },
    Behaviour {
        from: &[],
        to: &["ipvs"],
        subject: "session affinity of node ports",
        message: "is by a hash of the client (mh) instead of a list with a timeout",
    },
    Behaviour {
        from: &["ipvs"],
        to: &["iptables", "nftables"],
        subject: "schedulers",
        message: "have no effect: the endpoint of each connection is chosen at random, by weight",
    },
    Behaviour {
        from: &["ipvs"],
        to: &["iptables", "nftables"],
        subject: "ping",
        message: "virtual IPs do not answer to it in this mode",
    },
    Behaviour {
        from: &["iptables"],
        to: &[],
        subject: "node ports at 127.0.0.1",
        message: "are never served; kube-proxy serves them unless iptables.localhostNodePorts is \
                  false",
    },
    Behaviour {
        from: &[],
        to: &[],
        subject: "loadBalancerSourceRanges",
        message: "ranges of one address family also block the other family",
    },
    Behaviour {
        from: &[],
        to: &[],
        subject: "externalIPs in a Service CIDR",
        message: "are rejected, unless they are the Service's own cluster IP",
    },
];

/// The differences between kube-proxy in one mode and svcproxy in another.
pub(super) fn differences(from: &str, to: &str) -> impl Iterator<Item = Finding> {
    let is_of = |modes: &[&str], mode: &str| modes.is_empty() || modes.contains(&mode);
    let of_both = ALL
        .iter()
        .filter(move |one| is_of(one.from, from) && is_of(one.to, to));
    of_both.map(|one| Finding::new(Kind::Differs, one.subject, one.message))
}
