//! Observes the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use futures_util::TryStreamExt;
use ipvs::Family;
use netlink::filter::{self, BaseChain, Detail, Hook, Rule, Verdict};
use netlink::{Socket, ipset};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::{Facts, Filter, Interface, InterfaceKind, NEARLY_FULL, Trace, saved};
use crate::mode::iptables::Flavour;
use crate::mode::iptables::kernel::{has_legacy_tables, save};
use crate::mode::ipvs::kernel::rtnetlink::{Rtnetlink, io_error};
use crate::mode::ipvs::rules::TABLE;
use crate::takeover::device;
use crate::takeover::leftovers::{DEVICE, NFTABLES_TABLE};

/// At most so many chains of one filter are read: at every audit, and to follow one packet.
const CHAINS: [usize; 2] = [64, 4096];

/// The chain to which only kube-proxy's rules jump. The kubelet makes others.
const KUBE_SERVICES: &str = "KUBE-SERVICES";
/// A chain and a device of kube-router's service proxy, and a part of the names of its sets.
const KUBE_ROUTER_CHAIN: &str = "KUBE-ROUTER-SERVICES";
const KUBE_ROUTER_DEVICE: &str = "kube-dummy-if";
const KUBE_ROUTER_SET: &str = "kube-router-svip";
const CILIUM_DEVICE: &str = "cilium_host";
/// Maps that Cilium makes only if it serves node ports.
const CILIUM_MAPS: [&str; 2] = [
    "/sys/fs/bpf/tc/globals/cilium_nodeport_neigh4",
    "/sys/fs/bpf/tc/globals/cilium_nodeport_neigh6",
];

/// Reads what else is on the host, over netlink and from `/proc`. Starts no programs and changes
/// nothing.
#[derive(Debug)]
pub struct Host {
    netfilter: Socket,
    pub(super) netlink: Rtnetlink,
    proc_sys: PathBuf,
}

impl Host {
    /// Opens the sockets, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// Those of socket(2).
    pub fn open(proc_sys: &Path) -> io::Result<Self> {
        Ok(Self {
            netfilter: Socket::open()?,
            netlink: Rtnetlink::open()?,
            proc_sys: proc_sys.to_owned(),
        })
    }

    /// The facts that are cheap to read. What cannot be read is [`unknown`](Facts::unknown).
    pub fn facts(&mut self) -> Facts {
        self.read(Detail::Outline)
    }

    /// All facts, with all rules of other programs' filters. It starts programs.
    pub fn facts_in_full(&mut self) -> Facts {
        let mut facts = self.read(Detail::Whole);
        self.ask(&mut facts, Detail::Whole);
        facts
    }

    fn read(&mut self, detail: Detail) -> Facts {
        let mut facts = Facts {
            src_valid_mark: self.number("net/ipv4/conf/all/src_valid_mark") == Some(1),
            bridged: ["iptables", "ip6tables"].map(|program| {
                let calls = self.number(&format!("net/bridge/bridge-nf-call-{program}"));
                calls.map(|calls| calls != 0)
            }),
            nearly_full: self.nearly_full(),
            ..Facts::default()
        };
        let mut traces = BTreeSet::new();
        if has_process("kube-proxy") {
            traces.insert(Trace::KubeProxyProcess);
        }
        if CILIUM_MAPS.iter().any(|path| Path::new(path).exists()) {
            traces.insert(Trace::CiliumReplacement);
        }
        match self.filters(&mut traces, detail) {
            Ok(filters) => facts.filters = filters,
            Err(error) => facts
                .unknown
                .push(format!("the filters of nftables: {error}")),
        }
        match self.interfaces() {
            Ok(interfaces) => facts.interfaces = interfaces,
            Err(error) => facts
                .unknown
                .push(format!("the network interfaces: {error}")),
        }
        for interface in &facts.interfaces {
            traces.extend(match interface.name.as_str() {
                DEVICE => Some(Trace::KubeProxyRules),
                KUBE_ROUTER_DEVICE => Some(Trace::KubeRouter),
                CILIUM_DEVICE => Some(Trace::Cilium),
                _ => None,
            });
        }
        let sets = ipset::names(&mut self.netfilter).unwrap_or_default();
        if sets.iter().any(|name| name.contains(KUBE_ROUTER_SET)) {
            traces.insert(Trace::KubeRouter);
        }
        facts.traces = traces.into_iter().collect();
        facts
    }

    /// Adds what only programs tell: the filters of legacy iptables, and how many rules each
    /// iptables has.
    pub fn ask_programs(&mut self, facts: &mut Facts) {
        self.ask(facts, Detail::Outline);
    }

    fn ask(&mut self, facts: &mut Facts, detail: Detail) {
        let mut rules = [0, 0];
        for family in [Family::V4, Family::V6] {
            let flavours = [Flavour::Nft, Flavour::Legacy];
            for (flavour, rules) in flavours.into_iter().zip(&mut rules) {
                // iptables-legacy-save would create the tables.
                let is_there = flavour != Flavour::Legacy || has_legacy_tables(family);
                // Without the program, a node has hardly any rules of this kind.
                let Some(installed) = flavour.or_plain().ok().filter(|_| is_there) else {
                    continue;
                };
                let text = match save(installed, family) {
                    Ok(text) => text,
                    Err(error) => {
                        let error = format!("the rules of {flavour}, {family}: {error}");
                        facts.unknown.push(error);
                        continue;
                    }
                };
                let (mut filters, count) = saved::filters(&text, family);
                for filter in &mut filters {
                    filter.is_legacy = flavour == Flavour::Legacy;
                }
                *rules += count;
                if flavour == Flavour::Nft && detail == Detail::Whole {
                    // The program knows the conditions of iptables' own matches, too.
                    let is_listed = |of: &Filter| {
                        let mut listed = filters.iter().map(|listed| &listed.chain);
                        listed.any(|listed| is_same_table(listed, &of.chain))
                    };
                    facts.filters.retain(|of| !is_listed(of));
                    facts.filters.extend(filters);
                } else if flavour == Flavour::Legacy {
                    facts.filters.extend(filters);
                    if text.contains(&format!("\n:{KUBE_SERVICES} ")) {
                        facts.traces.push(Trace::KubeProxyRules);
                    }
                }
            }
        }
        facts.rules = Some(rules);
    }

    fn nearly_full(&self) -> Option<u64> {
        let count = self.number("net/netfilter/nf_conntrack_count")?;
        let most = self.number("net/netfilter/nf_conntrack_max")?;
        let is_full = count.saturating_mul(100) >= most.saturating_mul(NEARLY_FULL);
        (most > 0 && is_full).then_some(most)
    }

    pub(super) fn number(&self, sysctl: &str) -> Option<u64> {
        let text = fs::read_to_string(self.proc_sys.join(sysctl)).ok()?;
        text.trim().parse().ok()
    }

    /// The filters of other programs, and traces of service proxies among the chains.
    fn filters(&mut self, traces: &mut BTreeSet<Trace>, detail: Detail) -> io::Result<Vec<Filter>> {
        let see = |table: &str, name: &str| {
            if name == KUBE_SERVICES || table == NFTABLES_TABLE {
                traces.insert(Trace::KubeProxyRules);
            } else if name == KUBE_ROUTER_CHAIN {
                traces.insert(Trace::KubeRouter);
            }
        };
        let chains = filter::base_chains(&mut self.netfilter, see)?;
        let is_asked = |chain: &BaseChain| {
            let is_of_others = ![TABLE, NFTABLES_TABLE].contains(&&*chain.table);
            let is_judged = matches!(chain.hook, Hook::Input | Hook::Forward);
            is_of_others && (is_judged || detail == Detail::Whole)
        };
        let chains = chains.into_iter().filter(is_asked);
        chains.map(|chain| self.filter(chain, detail)).collect()
    }

    /// Reads a filter: the chains that packets reach whatever they are, or all.
    fn filter(&mut self, base: BaseChain, detail: Detail) -> io::Result<Filter> {
        let is_whole = detail == Detail::Whole;
        let [few, many] = CHAINS;
        let most = if is_whole { many } else { few };
        let mut rules = BTreeMap::<String, Vec<Rule>>::new();
        let mut unread = vec![base.name.clone()];
        while let Some(chain) = unread.pop() {
            if rules.len() >= most || rules.contains_key(&chain) {
                continue;
            }
            let netfilter = &mut self.netfilter;
            let read = filter::rules(netfilter, base.family, &base.table, &chain, detail)?;
            let next = read.iter().filter_map(|rule| match &rule.verdict {
                Verdict::Jump(to) | Verdict::Goto(to)
                    if is_whole || rule.concerns_all_packets() =>
                {
                    Some(to.clone())
                }
                _ => None,
            });
            unread.extend(next);
            rules.insert(chain, read);
        }
        Ok(Filter::new(base, rules))
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let links: Vec<_> = self.netlink.read(|handle| async move {
            let listed = handle.link().get().execute();
            listed.try_collect().await.map_err(io_error)
        })?;
        let addresses = device::all_addresses(&mut self.netlink)?;
        let is_strict_everywhere = self.is_strict("all");
        let interfaces = links.iter().filter_map(|link| {
            let name = name(link)?;
            let of_it = addresses.iter();
            let of_it = of_it.filter(|(index, _)| *index == link.header.index);
            let kind = kind(link);
            let is_uplink = kind == InterfaceKind::Uplink;
            Some(Interface {
                name: name.to_owned(),
                addresses: of_it.map(|(_, address)| *address).collect(),
                kind,
                is_strict: is_uplink && self.is_strict_with(is_strict_everywhere, name),
            })
        });
        Ok(interfaces.collect())
    }

    /// The kernel uses the larger one of an interface's value and that of `all`; 2 is loose.
    fn is_strict_with(&self, everywhere: Option<u64>, name: &str) -> bool {
        everywhere.max(self.is_strict(name)) == Some(1)
    }

    fn is_strict(&self, name: &str) -> Option<u64> {
        // A name may contain dots, but no slash.
        self.number(&format!("net/ipv4/conf/{name}/rp_filter"))
    }
}

/// Whether two chains are in one table.
fn is_same_table(one: &BaseChain, other: &BaseChain) -> bool {
    one.family == other.family && one.table == other.table
}

pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn kind(link: &LinkMessage) -> InterfaceKind {
    if link.header.flags.contains(LinkFlags::Loopback) {
        return InterfaceKind::Other;
    }
    let infos = link
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    let kind = infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        None | Some(InfoKind::Vlan | InfoKind::Bond | InfoKind::Team) => InterfaceKind::Uplink,
        Some(InfoKind::Bridge) => InterfaceKind::Bridge,
        Some(InfoKind::Dummy) => InterfaceKind::Dummy,
        Some(_) => InterfaceKind::Other,
    }
}

/// Whether a process of this name is in the network namespace of this thread. A container without
/// `hostPID` sees only its own processes.
fn has_process(name: &str) -> bool {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes = processes.map(|entry| entry.path());
    processes.any(|process| {
        let is_it = fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm.trim() == name);
        is_it && fs::read_link(process.join("ns/net")).ok() == own
    })
}
