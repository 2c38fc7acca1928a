//! What the facts mean for Services.

use std::net::IpAddr;

use super::{
    Concern, ConcernKind, Facts, Interface, InterfaceKind, NEARLY_FULL, Role, Trace, firewall,
};
use crate::desired::PodInterfaces;
use crate::takeover::leftovers::DEVICE;

/// Bridges that network plugins make for pods, where neither the pods' networks nor their interfaces
/// are known.
const POD_BRIDGES: [&str; 4] = ["cni0", "cbr0", "kube-bridge", "docker0"];

/// Interfaces named in a message, at most.
const NAMED: usize = 3;

/// What keeps Service traffic from its endpoints on this host.
pub fn judge(facts: &Facts, role: &Role<'_>) -> Vec<Concern> {
    let firewalls = firewall::concerns(&facts.filters, role);
    let others = [
        addresses(role),
        service_proxy(facts, role),
        vip_device(facts, role),
        bridge(facts, role),
        reverse_path(facts, role),
        iptables(facts),
        connection_tracking(facts),
    ];
    firewalls.chain(others.into_iter().flatten()).collect()
}

fn concern(kind: ConcernKind, message: String, remedy: impl Into<String>) -> Concern {
    Concern {
        kind,
        is_note: false,
        message,
        remedy: Some(remedy.into()),
    }
}

fn note(kind: ConcernKind, message: String, remedy: impl Into<String>) -> Concern {
    Concern {
        is_note: true,
        ..concern(kind, message, remedy)
    }
}

/// Without an address of a family, no Service of it is served.
fn addresses(role: &Role<'_>) -> Option<Concern> {
    let message = "this node has no address that other machines can reach, only loopback or link-local \
                   ones: no Service is served";
    role.config.node_ips.is_empty().then(|| {
        concern(
            ConcernKind::Addresses,
            message.to_owned(),
            "Add an address to an interface of this node or to its Node object, or give --node-ip",
        )
    })
}

/// The most certain trace of another service proxy counts.
fn service_proxy(facts: &Facts, role: &Role<'_>) -> Option<Concern> {
    let kind = ConcernKind::ServiceProxy;
    let has = |trace| facts.traces.contains(&trace);
    if has(Trace::KubeProxyProcess) {
        return Some(concern(
            kind,
            "kube-proxy runs on this node: both it and svcproxy change rules for the same Services"
                .to_owned(),
            "Remove kube-proxy's DaemonSet, static pod or systemd unit",
        ));
    }
    if has(Trace::KubeProxyRules) {
        return Some(match role.has_taken_over {
            true => concern(
                kind,
                "kube-proxy's rules have come back since svcproxy removed them: kube-proxy runs on \
                 this node"
                    .to_owned(),
                "Remove kube-proxy's DaemonSet, static pod or systemd unit",
            ),
            false => note(
                kind,
                "kube-proxy has rules, sets or a device on this node".to_owned(),
                "Stop kube-proxy; svcproxy removes what it leaves",
            ),
        });
    }
    if has(Trace::KubeRouter) {
        return Some(concern(
            kind,
            "kube-router serves the same Services on this node".to_owned(),
            "Run kube-router with --run-service-proxy=false, and then once with \
             --cleanup-config",
        ));
    }
    if has(Trace::CiliumReplacement) {
        return Some(concern(
            kind,
            "Cilium replaces kube-proxy on this node: its programs translate packets to Services \
             before svcproxy sees them"
                .to_owned(),
            "Set Cilium's kubeProxyReplacement to false, or do not run svcproxy here",
        ));
    }
    has(Trace::Cilium).then(|| {
        note(
            kind,
            "Cilium runs on this node".to_owned(),
            "Make sure that its kubeProxyReplacement is false",
        )
    })
}

/// A dummy device with virtual IPs: their packets reach a program that listens on the node.
fn vip_device(facts: &Facts, role: &Role<'_>) -> Option<Concern> {
    let is_vip = |ip: &&IpAddr| (role.is_vip)(**ip) || role.config.in_service_cidr(**ip);
    let dummies = of_kind(facts, InterfaceKind::Dummy);
    // kube-proxy's own is a trace of kube-proxy.
    let mut dummies = dummies.filter(|dummy| dummy.name != DEVICE);
    let (name, vip) = dummies.find_map(|dummy| {
        let vip = dummy.addresses.iter().find(is_vip)?;
        Some((&dummy.name, vip))
    })?;
    let remedy = match name.as_str() {
        "nodelocaldns" => format!(
            "Let NodeLocal DNSCache listen on its own address only (-localip without {vip}), and \
             give that one to the kubelet as --cluster-dns; or keep {vip} from svcproxy by \
             --exclude-cidrs={vip}"
        ),
        name => format!(
            "Delete it (ip address del {vip} dev {name}), or keep {vip} from svcproxy by \
             --exclude-cidrs={vip}"
        ),
    };
    let message = format!(
        "device {name} has the address {vip}, which is a Service's: svcproxy and the program behind \
         the device both take its packets"
    );
    Some(concern(ConcernKind::VipDevice, message, remedy))
}

/// Answers from a pod to another one on the same bridge must pass the node's packet filters, or the
/// client gets them from the endpoint's own address.
fn bridge(facts: &Facts, role: &Role<'_>) -> Option<Concern> {
    let pods = &role.config.cluster_cidrs;
    let is_pods = |bridge: &&Interface| match &role.config.pod_interfaces {
        Some(PodInterfaces::Named(name)) => bridge.name == name.as_str(),
        _ if !pods.is_empty() => {
            let mut addresses = bridge.addresses.iter();
            addresses.any(|ip| pods.iter().any(|pods| pods.contains(ip)))
        }
        _ => POD_BRIDGES.contains(&bridge.name.as_str()),
    };
    let bridge = of_kind(facts, InterfaceKind::Bridge).find(is_pods)?;
    let families = [
        ("bridge-nf-call-iptables", true),
        ("bridge-nf-call-ip6tables", false),
    ];
    let families = families.into_iter().zip(&facts.bridged);
    let mut off = families.filter(|((_, is_v4), calls)| {
        let mut addresses = bridge.addresses.iter();
        addresses.any(|ip| ip.is_ipv4() == *is_v4) && **calls != Some(true)
    });
    let ((sysctl, _), calls) = off.next()?;
    let (why, first) = match calls {
        None => (
            "the module br_netfilter is not loaded".to_owned(),
            "modprobe br_netfilter; ",
        ),
        Some(_) => (format!("net.bridge.{sysctl} is 0"), ""),
    };
    Some(concern(
        ConcernKind::Bridge,
        format!(
            "{why}: a pod on bridge {} gets no answer from a Service's endpoint on the same bridge",
            bridge.name
        ),
        format!("Run: {first}sysctl -w net.bridge.{sysctl}=1 (and keep it in /etc/sysctl.d)"),
    ))
}

/// The strict check drops packets of a client that arrive on another interface than the one of the
/// route to the client. This is no question where there is only one.
fn reverse_path(facts: &Facts, role: &Role<'_>) -> Option<Concern> {
    let uplinks: Vec<_> = of_kind(facts, InterfaceKind::Uplink)
        .filter(|uplink| !uplink.addresses.is_empty())
        .collect();
    let strict = uplinks.iter().filter(|uplink| uplink.is_strict);
    let strict: Vec<_> = strict
        .map(|uplink| uplink.name.as_str())
        .take(NAMED)
        .collect();
    if strict.is_empty() || uplinks.len() < 2 {
        return None;
    }
    let by_mark = match facts.src_valid_mark {
        true => " (with src_valid_mark, also by the packet's mark)",
        false => "",
    };
    let message = format!(
        "the reverse path check (rp_filter) is strict on {}{by_mark}: packets to load-balancer and \
         external IPs are dropped if they arrive there from a client whose route leads through \
         another interface",
        strict.join(", "),
    );
    let first = strict.first().copied().unwrap_or_default();
    let remedy = format!(
        "Make it loose (sysctl -w net.ipv4.conf.{first}.rp_filter=2), or route the clients through \
         that interface"
    );
    Some(match role.captures {
        true => concern(ConcernKind::ReversePath, message, remedy),
        false => note(ConcernKind::ReversePath, message, remedy),
    })
}

fn iptables(facts: &Facts) -> Option<Concern> {
    let [nft, legacy] = facts
        .rules
        .filter(|[nft, legacy]| *nft > 0 && *legacy > 0)?;
    Some(concern(
        ConcernKind::Iptables,
        format!(
            "both iptables have rules ({nft} in iptables-nft, {legacy} in iptables-legacy): each \
             filters all packets and shows only its own rules"
        ),
        "Let all programs use one of them (update-alternatives --config iptables), and flush the \
         other one or reboot",
    ))
}

fn connection_tracking(facts: &Facts) -> Option<Concern> {
    let most = facts.nearly_full?;
    Some(concern(
        ConcernKind::ConnectionTracking,
        format!(
            "more than {NEARLY_FULL} % of the {most} entries of connection tracking are used: when all are, the \
             kernel drops new connections"
        ),
        "Raise net.netfilter.nf_conntrack_max (--conntrack-max-per-core, --conntrack-min), or find \
         what opens that many connections (conntrack -L)",
    ))
}

fn of_kind(facts: &Facts, kind: InterfaceKind) -> impl Iterator<Item = &Interface> {
    let interfaces = facts.interfaces.iter();
    interfaces.filter(move |interface| interface.kind == kind)
}
