//! The table: all sets, and all chains with their rules; and its fingerprint, which identifies it
//! across versions of svcproxy.
#![cfg_attr(
    not(feature = "ipvs"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::fmt;

use ipvs::Family;

use super::hooks::{self, ANSWER, Names, REFUSED};
use super::parts::{self, Parts};
use super::pods::Pods;
use super::{Chain, ChainKind, Hook, HookPoint, Rule, Set};
use crate::desired::{Config, DesiredState, Marks};
use crate::hash::fnv1a;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "svcproxy";

/// Before connection tracking, and before other chains, which would make the kernel route a packet
/// with a changed mark again.
const FIRST: i32 = -500;
/// After NF_IP_PRI_NAT_DST (-100), so that packets that other rules have translated go their way:
/// those of kube-proxy or iptables mode, before svcproxy removes them.
const CAPTURE: i32 = -90;
/// After NF_IP_PRI_NAT_DST, -100, as [`CAPTURE`], and before NF_IP_PRI_NAT_DST + 2, -98, where IPVS
/// takes requests.
const OUTPUT: i32 = -99;
/// NF_IP_PRI_NAT_DST.
const DESTINATION_NAT: i32 = -100;
/// Before NF_IP_PRI_NAT_SRC - 2, 98, where IPVS is; after the host's firewall.
pub(crate) const INPUT: i32 = 20;
/// Before NF_IP_PRI_FILTER, 0, where iptables filters.
pub(crate) const ADMIT: i32 = -10;
/// After IPVS, before NF_IP_PRI_NAT_SRC, 100.
const ANSWERS: i32 = 99;
/// NF_IP_PRI_NAT_SRC.
const SOURCE_NAT: i32 = 100;

/// The rules of a node. They depend on its settings, and on which [`Parts`] something needs.
///
/// ```
/// use proxier::desired::Config;
/// use proxier::mode::ipvs::rules::Ruleset;
///
/// let mut config = Config::new("node-a", vec![]);
/// let ruleset = Ruleset::new(&config);
/// assert!(ruleset.to_string().starts_with("table inet svcproxy {"));
/// config.cluster_cidrs = vec!["10.244.0.0/16".parse()?];
/// assert_ne!(ruleset.fingerprint(), Ruleset::new(&config).fingerprint());
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pods: Pods,
    masquerade_all: bool,
    marks: Marks,
    parts: Parts,
    is_retired: bool,
}

impl Ruleset {
    /// The rules that a node needs. `is_filtered` tells whether a filter of another program sees the
    /// packets that the node receives.
    pub fn needed(desired: &DesiredState, is_filtered: bool) -> Self {
        Self::new(desired.config()).with_parts(Parts::needed(desired, is_filtered))
    }

    /// These rules, with only these parts.
    #[must_use]
    pub fn with_parts(self, parts: Parts) -> Self {
        Self { parts, ..self }
    }

    /// All rules for these settings.
    pub fn new(config: &Config) -> Self {
        Self {
            pods: Pods::of(config),
            masquerade_all: config.masquerade_all,
            marks: config.marks,
            parts: Parts::ALL,
            is_retired: false,
        }
    }

    /// The rules of a node on which another data plane is in effect: new connections pass, and
    /// existing ones stay on IPVS.
    pub fn retired(config: &Config) -> Self {
        Self {
            is_retired: true,
            ..Self::new(config)
        }
    }

    /// The rules with this fingerprint, if they are for these settings: with any parts, in effect
    /// or retired.
    pub fn with_fingerprint(config: &Config, fingerprint: Fingerprint) -> Option<Self> {
        let parts = (0_u8..32).map(|choice| Parts {
            capture: choice & 1 != 0,
            marks: choice & 2 != 0,
            refusal: choice & 4 != 0,
            ranges: choice & 8 != 0,
            admission: choice & 16 != 0,
        });
        let both = [Self::new(config), Self::retired(config)];
        let mut all = parts.flat_map(|parts| both.clone().map(|rules| rules.with_parts(parts)));
        all.find(|rules| rules.fingerprint() == fingerprint)
    }

    /// Whether another data plane is in effect, and these rules only serve existing connections.
    pub const fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// Identifies this ruleset.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.to_string())
    }

    /// The names of the chains at hooks.
    pub fn base_chain_names(&self) -> Vec<&'static str> {
        let chains = self.chains().into_iter();
        let hooked = chains.filter(|chain| chain.hook.is_some());
        hooked.map(|chain| chain.name).collect()
    }

    /// The chains. Each jump target comes before the chains that jump to it.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let mut chains = vec![chain(REFUSED, hooks::refused())];
        chains.extend(self.family_chains(Family::V4));
        chains.extend(self.family_chains(Family::V6));
        chains.push(chain(ANSWER, hooks::answer(self.parts)));
        let base_chains = self.base_chains().into_iter();
        chains.extend(base_chains.filter(|chain| self.parts.have(chain.name)));
        if self.is_retired {
            let hooked = chains.iter_mut().filter(|chain| chain.hook.is_some());
            hooked.for_each(|chain| chain.rules.insert(0, hooks::new_passes()));
        }
        chains
    }

    fn family_chains(&self, family: Family) -> [Chain; 13] {
        let (names, pods, marks) = (Names::of(family), &self.pods, self.marks);
        let parts = self.parts;
        [
            chain(names.restricted, hooks::restricted(family)),
            chain(names.unserved, hooks::unserved(family)),
            chain(names.capture, hooks::capture_packets(family, marks)),
            chain(names.admit_node_port, hooks::admit_node_port(family, marks)),
            chain(names.admit, hooks::admit_packets(family, marks)),
            chain(names.new_in, hooks::new_in(family, parts)),
            chain(names.virtual_server, hooks::virtual_server(pods, family)),
            chain(names.node_port, hooks::node_port(pods, family)),
            chain(names.input, hooks::input(family, parts)),
            chain(names.new_out, hooks::new_out(family)),
            chain(names.node_port_out, hooks::node_port_out(family)),
            chain(names.output, hooks::output(family)),
            chain(names.answer_from, hooks::answer_from(family)),
        ]
    }

    fn base_chains(&self) -> [Chain; 10] {
        use ChainKind::{Filter, Nat};
        use HookPoint::{Input, Output, Postrouting, Prerouting};
        let Self {
            pods,
            masquerade_all: all,
            marks,
            ..
        } = self;
        let (marks, all) = (*marks, *all);
        let before_dnat = hooks::nat_prerouting(pods, marks, all);
        let output_dnat = hooks::nat_output(pods, marks, all);
        [
            base_chain(
                parts::CAPTURE,
                (Filter, Prerouting, CAPTURE),
                hooks::capture(),
            ),
            base_chain(parts::ADMIT, (Filter, Input, ADMIT), hooks::admit(marks)),
            base_chain(
                "filter-input",
                (Filter, Input, INPUT),
                hooks::filter_input(marks, self.parts),
            ),
            base_chain(
                parts::AFTER_IPVS,
                (Filter, Output, FIRST),
                hooks::after_ipvs(marks),
            ),
            base_chain(
                parts::FILTER_OUTPUT,
                (Filter, Output, OUTPUT),
                hooks::filter_output(),
            ),
            base_chain(
                "nat-prerouting",
                (Nat, Prerouting, DESTINATION_NAT),
                before_dnat,
            ),
            base_chain("nat-output", (Nat, Output, DESTINATION_NAT), output_dnat),
            base_chain("answers-in", (Filter, Input, ANSWERS), hooks::answers_in()),
            base_chain(
                "answers-out",
                (Filter, Postrouting, ANSWERS),
                hooks::answers_out(),
            ),
            base_chain(
                "nat-postrouting",
                (Nat, Postrouting, SOURCE_NAT),
                hooks::nat_postrouting(marks),
            ),
        ]
    }
}

/// The input for `nft -f`, which adds it to an existing table.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for set in Set::ALL {
            set.declare(f)?;
            writeln!(f)?;
        }
        for (index, chain) in self.chains().iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{chain}")?;
        }
        writeln!(f, "}}")
    }
}

fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    let hook = None;
    Chain { name, hook, rules }
}

fn base_chain(
    name: &'static str,
    (kind, point, priority): (ChainKind, HookPoint, i32),
    rules: Vec<Rule>,
) -> Chain {
    let hook = Some(Hook {
        kind,
        point,
        priority,
    });
    Chain { name, hook, rules }
}

/// The identity of a [`Ruleset`], which is in the user data of each of its rules.
///
/// It consists of the 64-bit FNV-1a hash of the ruleset's text, and the version of its encoding,
/// which the text does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: u8,
    hash: u64,
}

/// Increase it when the encoding of the same text changes.
const VERSION: u8 = 1;

impl Fingerprint {
    pub(crate) fn of(text: &str) -> Self {
        Self {
            version: VERSION,
            hash: fnv1a(text.bytes()),
        }
    }

    /// The bytes: the version, then the hash in big-endian order.
    pub(crate) fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [self.version; 9];
        if let Some((_, hash)) = bytes.split_first_mut() {
            hash.copy_from_slice(&self.hash.to_be_bytes());
        }
        bytes
    }

    /// The fingerprint with these bytes; `None` unless there are nine.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&version, hash) = bytes.split_first()?;
        let hash = u64::from_be_bytes(hash.try_into().ok()?);
        Some(Self { version, hash })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.version, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::PodInterfaces;

    fn config(cidrs: &[&str]) -> Config {
        let mut config = Config::new("n", vec![]);
        config.cluster_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        config
    }

    fn ruleset(cidrs: &[&str]) -> Ruleset {
        Ruleset::new(&config(cidrs))
    }

    #[test]
    fn without_cluster_cidrs() {
        insta::assert_snapshot!(ruleset(&[]));
    }

    #[test]
    fn with_cluster_cidrs_of_both_families() {
        insta::assert_snapshot!(ruleset(&[
            "10.244.0.0/16",
            "10.128.0.0/11",
            "fd00:10:244::/56"
        ]));
    }

    #[test]
    fn retired_rules_let_new_connections_pass() {
        let (config, passes) = (config(&["10.244.0.0/16"]), hooks::new_passes());
        let [retired, new] = [Ruleset::retired(&config), Ruleset::new(&config)];
        assert_ne!(retired.fingerprint(), new.fingerprint());
        for (mut retired, new) in retired.chains().into_iter().zip(new.chains()) {
            if retired.hook.is_some() {
                assert_eq!(retired.rules.remove(0), passes);
            }
            assert_eq!(retired, new);
        }
    }

    #[test]
    fn without_parts() {
        let none = Parts {
            capture: false,
            marks: false,
            refusal: false,
            ranges: false,
            admission: false,
        };
        let ruleset = ruleset(&["10.244.0.0/16"]).with_parts(none);
        let chains = ruleset.chains();
        let hooked = chains.iter().filter(|chain| chain.hook.is_some());
        let rules = hooked.map(ToString::to_string).collect::<String>();
        insta::assert_snapshot!(rules);
    }

    #[test]
    fn rules_are_found_by_their_fingerprint() {
        let config = config(&["10.244.0.0/16"]);
        let parts = Parts {
            capture: true,
            marks: false,
            refusal: true,
            ranges: false,
            admission: false,
        };
        let retired = Ruleset::retired(&config);
        for rules in [Ruleset::new(&config).with_parts(parts), retired] {
            let found = Ruleset::with_fingerprint(&config, rules.fingerprint());
            // Different parts can make the same rules.
            assert_eq!(found.unwrap().chains(), rules.chains());
        }
        let other = ruleset(&["10.0.0.0/8"]).fingerprint();
        assert_eq!(Ruleset::with_fingerprint(&config, other), None);
    }

    #[test]
    fn order_and_host_bits_of_cidrs_do_not_matter() {
        let one = ruleset(&["10.1.2.3/16", "fd00::/8", "10.1.0.0/16"]);
        assert_eq!(one, ruleset(&["fd00::/8", "10.1.0.0/16"]));
    }

    /// The rules that contain a word.
    fn rules(config: &Config, word: &str) -> Vec<String> {
        let text = Ruleset::new(config).to_string();
        let lines = text.lines().filter(|line| line.contains(word));
        lines.map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn nothing_is_outside_of_everything() {
        let config = config(&["0.0.0.0/0", "10.0.0.0/8"]);
        assert_eq!(rules(&config, "ip saddr != 10"), Vec::<String>::new());
        assert_eq!(rules(&config, "map @external-v4"), Vec::<String>::new());
        assert_eq!(rules(&config, "map @external-v6").len(), 1);
    }

    #[test]
    fn pods_by_interface() {
        let key = "ip daddr . meta l4proto . th dport";
        let masquerade = format!("{key} @virtual-servers-v4 meta mark set meta mark | 0x00004000");
        let mut config = config(&["10.244.0.0/16"]);
        let name = "cni0".parse().unwrap();
        for (interfaces, text) in [
            (PodInterfaces::Named(name), "iifname != \"cni0\""),
            (PodInterfaces::Prefixed(name), "iifname != \"cni0*\""),
        ] {
            config.pod_interfaces = Some(interfaces);
            assert_eq!(
                rules(&config, "map @external-v4"),
                [format!(
                    "iif != \"lo\" {text} meta mark set {key} map @external-v4"
                )]
            );
            // The node's own packets are masqueraded too: they arrive on no interface.
            assert_eq!(
                rules(&config, &masquerade),
                [format!("{text} {masquerade}"), masquerade.clone()]
            );
            assert_eq!(rules(&config, "ip saddr != 10"), Vec::<String>::new());
        }
    }

    #[test]
    fn everything_to_virtual_servers_is_masqueraded_on_request() {
        let mut config = config(&["10.244.0.0/16"]);
        config.masquerade_all = true;
        let bit = "meta mark set meta mark | 0x00004000";
        assert_eq!(
            rules(&config, bit),
            [4, 6, 4, 6].map(|family| {
                let ip = if family == 4 { "ip" } else { "ip6" };
                let key = format!("{ip} daddr . meta l4proto . th dport");
                format!("{key} @virtual-servers-v{family} {bit}")
            })
        );
    }

    #[test]
    fn fingerprint_does_not_change_by_itself() {
        // If this fails, running nodes get their rules replaced: harmless, but it should be on
        // purpose.
        insta::assert_snapshot!(ruleset(&["10.244.0.0/16"]).fingerprint());
    }

    #[test]
    fn sets_have_their_own_names() {
        for set in Set::ALL {
            assert_eq!(Set::from_name(set.name()), Some(*set));
        }
        assert_eq!(Set::from_name("virtual-servers"), None);
    }

    #[test]
    fn survives_its_bytes() {
        let fingerprint = Fingerprint::of("table inet svcproxy");
        let bytes = fingerprint.to_bytes();
        assert_eq!(Fingerprint::from_bytes(&bytes), Some(fingerprint));
        assert_eq!(Fingerprint::from_bytes(&bytes[..8]), None);
        assert_eq!(Fingerprint::from_bytes(&[]), None);
    }
}
