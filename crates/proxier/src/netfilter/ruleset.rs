//! All sets and chains of the table.

use std::fmt;

use ipnet::IpNet;
use ipvs::Family;

use super::{
    Chain, ChainKind, Fingerprint, Hook, HookPoint, Rule, Set, Statement, TransportProtocol,
};

/// The table's name; its family is `inet`.
pub const TABLE: &str = "svcproxy";

/// The mark bit of connections that are to be masqueraded, the one kube-proxy uses. It is on a
/// packet only between the node's input and its way out.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// Before NF_IP_PRI_NAT_SRC - 2, 98, where IPVS is; after the host's firewall.
const INPUT_PRIORITY: i32 = 20;
/// Just before NF_IP_PRI_NAT_DST, -100, behind which IPVS is.
const OUTPUT_PRIORITY: i32 = -110;
/// NF_IP_PRI_NAT_DST.
const DESTINATION_NAT: i32 = -100;
/// NF_IP_PRI_NAT_SRC.
const SOURCE_NAT: i32 = 100;

/// The rules of a node, which are the same whatever its Services.
///
/// ```
/// use proxier::netfilter::Ruleset;
///
/// let ruleset = Ruleset::new(vec!["10.244.0.0/16".parse()?]);
/// assert!(ruleset.to_string().starts_with("table inet svcproxy {"));
/// assert_ne!(ruleset.fingerprint(), Ruleset::new(vec![]).fingerprint());
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Sorted and without doubles.
    cluster_cidrs: Vec<IpNet>,
    masquerade_mark: u32,
}

impl Ruleset {
    /// The rules for these pod networks, whose order does not matter.
    pub fn new(cluster_cidrs: Vec<IpNet>) -> Self {
        let mut cluster_cidrs: Vec<_> = cluster_cidrs.iter().map(IpNet::trunc).collect();
        cluster_cidrs.sort_unstable();
        cluster_cidrs.dedup();
        Self {
            cluster_cidrs,
            masquerade_mark: MASQUERADE_MARK,
        }
    }

    /// Tells this ruleset from others.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.to_string())
    }

    /// The chains. Each comes before those that send packets to it.
    pub fn chains(&self) -> Vec<Chain> {
        use ChainKind::{Filter, Nat};
        use HookPoint::{Input, Output, Postrouting, Prerouting};
        vec![
            chain("refused", refused()),
            base_chain(
                "filter-input",
                Filter,
                Input,
                INPUT_PRIORITY,
                both(refuse_in),
            ),
            base_chain(
                "filter-output",
                Filter,
                Output,
                OUTPUT_PRIORITY,
                both(refuse_out),
            ),
            base_chain(
                "nat-prerouting",
                Nat,
                Prerouting,
                DESTINATION_NAT,
                self.mark(),
            ),
            base_chain("nat-output", Nat, Output, DESTINATION_NAT, self.mark()),
            base_chain(
                "nat-postrouting",
                Nat,
                Postrouting,
                SOURCE_NAT,
                self.masquerade(),
            ),
        ]
    }

    /// Marks connections to virtual servers from outside of the cluster.
    fn mark(&self) -> Vec<Rule> {
        both(|family| {
            let is_ours = |network: &&IpNet| Family::of(&network.addr()) == family;
            let inside = self.cluster_cidrs.iter().filter(is_ours);
            // Nothing is outside of a network that is everything.
            let everything = inside.clone().any(|network| network.prefix_len() == 0);
            let mut rule: Vec<_> = inside
                .map(|network| Statement::SourceNotIn(*network))
                .collect();
            if rule.is_empty() || everything {
                return Vec::new();
            }
            rule.push(Statement::In(Set::VirtualServers(family)));
            rule.push(Statement::SetMark(self.masquerade_mark));
            vec![Rule(rule)]
        })
    }

    fn masquerade(&self) -> Vec<Rule> {
        let marked = Rule(vec![
            Statement::HasMark(self.masquerade_mark),
            Statement::ClearMark(self.masquerade_mark),
            Statement::Masquerade,
        ]);
        let hairpin = |family| {
            let to_itself = Statement::In(Set::Hairpin(family));
            vec![Rule(vec![to_itself, Statement::Masquerade])]
        };
        [vec![marked], both(hairpin)].concat()
    }
}

/// What `nft -f` takes. Given an existing table it adds to it.
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
    kind: ChainKind,
    point: HookPoint,
    priority: i32,
    rules: Vec<Rule>,
) -> Chain {
    let hook = Some(Hook {
        kind,
        point,
        priority,
    });
    Chain { name, hook, rules }
}

fn both(rules: impl Fn(Family) -> Vec<Rule>) -> Vec<Rule> {
    [rules(Family::V4), rules(Family::V6)].concat()
}

fn refuse_in(family: Family) -> Vec<Rule> {
    use Statement::{Goto, In, New, NotProtocol, Return};
    let icmp = match family {
        Family::V4 => TransportProtocol::Icmp,
        Family::V6 => TransportProtocol::Icmpv6,
    };
    let (no_endpoints, cidrs) = (In(Set::NoEndpoints(family)), In(Set::ServiceCidrs(family)));
    vec![
        Rule(vec![New, no_endpoints, Goto("refused")]),
        Rule(vec![In(Set::VirtualServers(family)), Return]),
        Rule(vec![no_endpoints, Goto("refused")]),
        Rule(vec![cidrs, NotProtocol(icmp), Goto("refused")]),
    ]
}

/// What IPVS would take before it gets to the input. All else is refused there, where the sender
/// gets the same errors as anyone: here send(2) would fail with EPERM, whatever the rule answers.
fn refuse_out(family: Family) -> Vec<Rule> {
    use Statement::{Goto, In, New};
    vec![Rule(vec![
        New,
        In(Set::NoEndpoints(family)),
        In(Set::VirtualServers(family)),
        Goto("refused"),
    ])]
}

fn refused() -> Vec<Rule> {
    let tcp = Statement::Protocol(TransportProtocol::Tcp);
    vec![
        Rule(vec![tcp, Statement::ResetTcp]),
        Rule(vec![Statement::RejectPort]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(cidrs: &[&str]) -> Ruleset {
        Ruleset::new(cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect())
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
    fn order_and_host_bits_of_cidrs_do_not_matter() {
        let one = ruleset(&["10.1.2.3/16", "fd00::/8", "10.1.0.0/16"]);
        assert_eq!(one, ruleset(&["fd00::/8", "10.1.0.0/16"]));
    }

    #[test]
    fn nothing_is_outside_of_everything() {
        assert!(
            !ruleset(&["0.0.0.0/0", "10.0.0.0/8"])
                .to_string()
                .contains("ip saddr !=")
        );
    }

    #[test]
    fn fingerprint_does_not_change_by_itself() {
        // If this fails, running nodes get their rules anew: harmless, but not by accident.
        insta::assert_snapshot!(ruleset(&["10.244.0.0/16"]).fingerprint());
    }

    #[test]
    fn sets_have_their_own_names() {
        for set in Set::ALL {
            assert_eq!(Set::from_name(set.name()), Some(set));
        }
        assert_eq!(Set::from_name("virtual-servers"), None);
    }
}
