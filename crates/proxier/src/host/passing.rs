//! Which rules of other programs drop a certain packet, as far as their conditions can be evaluated.

use std::fmt;
use std::net::IpAddr;

use ipvs::{Family, Protocol};
use netlink::filter::{Condition, Field, Hook, Rule, Side, TableFamily, Verdict, Within, number};
use netlink::uapi::{
    IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPS_DST_NAT, NF_CT_STATE_ESTABLISHED, NF_CT_STATE_NEW,
    NFPROTO_IPV4, NFPROTO_IPV6,
};

use super::Filter;
use super::firewall::{DEPTH, describe};
use crate::mode::iptables::is_passage;

/// How the names of svcproxy's own chains in iptables begin.
const OWN_CHAINS: &str = "SVCP";

/// A packet at a hook. What is `None` is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passing {
    /// The hook.
    pub hook: Hook,
    /// The first and the last priority of the chains that see it like this.
    pub priorities: [i32; 2],
    /// The source.
    pub source: Option<IpAddr>,
    /// The destination.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The source port.
    pub source_port: Option<u16>,
    /// The destination port.
    pub destination_port: Option<u16>,
    /// Where it arrived; empty for a packet of the node itself.
    pub inbound: Option<String>,
    /// Where it leaves; empty if it does not, or not yet.
    pub outbound: Option<String>,
    /// Whether it answers another packet.
    pub is_answer: bool,
    /// Whether connection tracking translates its destination, or that of what it answers.
    pub is_translated: bool,
    /// The bits of its mark that are set. Those of other programs count as not set.
    pub mark: u32,
}

/// A rule or a policy of another program that drops a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstruction {
    /// The chain at the hook.
    pub chain: String,
    /// The rule, as its program lists it; `None` for the policy of the chain.
    pub rule: Option<String>,
    /// Whether the sender gets an error.
    pub rejects: bool,
    /// Whether it surely drops the packet. If not, conditions before it or of its own are not known
    /// here.
    pub is_certain: bool,
}

impl fmt::Display for Obstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = match (self.is_certain, self.rejects) {
            (true, false) => "drops",
            (true, true) => "rejects",
            (false, false) => "may drop",
            (false, true) => "may reject",
        };
        let chain = &self.chain;
        match &self.rule {
            Some(rule) => write!(f, "{chain} {does} it: {rule}"),
            None => write!(f, "{chain} {does} it: its policy is to drop"),
        }
    }
}

/// What drops a packet, in the order of the hook's chains. Chains behind one that surely drops it are
/// not reached.
pub(super) fn obstructions<'a>(
    filters: &'a [Filter],
    passing: &Passing,
) -> Vec<(&'a Filter, Obstruction)> {
    let mut reached: Vec<_> = filters.iter().filter(|of| passing.reaches(of)).collect();
    reached.sort_by_key(|filter| filter.chain.priority);
    let mut all = Vec::new();
    for filter in reached {
        let found = filter.obstructions(passing);
        let is_lost = found.iter().any(|of| of.is_certain);
        all.extend(found.into_iter().map(|of| (filter, of)));
        if is_lost {
            break;
        }
    }
    all
}

/// The end of a walk through a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The packet is accepted or dropped.
    Decided,
    /// The caller of the chain, or the policy, decides.
    Open,
}

struct Walk<'a> {
    filter: &'a Filter,
    passing: &'a Passing,
    found: Vec<Obstruction>,
    /// Whether no rule before may have accepted the packet.
    is_certain: bool,
}

impl Filter {
    fn obstructions(&self, passing: &Passing) -> Vec<Obstruction> {
        let mut walk = Walk {
            filter: self,
            passing,
            found: Vec::new(),
            is_certain: true,
        };
        let end = walk.through(&self.chain.name, true, DEPTH);
        if end == End::Open && self.chain.drops {
            walk.add(None, false, true);
        }
        walk.found
    }
}

impl Walk<'_> {
    fn add(&mut self, rule: Option<String>, rejects: bool, is_met: bool) {
        let obstruction = Obstruction {
            chain: describe(self.filter),
            rule,
            rejects,
            is_certain: is_met && self.is_certain,
        };
        self.found.push(obstruction);
    }

    /// `is_reached`: whether a packet that nothing has decided surely comes here.
    fn through(&mut self, chain: &str, is_reached: bool, depth: usize) -> End {
        let mut is_reached = is_reached;
        let Some(deeper) = depth.checked_sub(1) else {
            return End::Open;
        };
        let filter = self.filter;
        let rules = filter.rules.get(chain).map(Vec::as_slice);
        for (place, rule) in rules.unwrap_or_default().iter().enumerate() {
            let Some(is_met) = self.passing.meets(rule) else {
                continue;
            };
            let is_sure = is_reached && is_met;
            let end = match &rule.verdict {
                Verdict::Continue => continue,
                Verdict::Accept => End::Decided,
                Verdict::Drop | Verdict::Reject => {
                    let text = rule_text(chain, place, rule);
                    self.add(Some(text), rule.verdict == Verdict::Reject, is_sure);
                    match is_met {
                        true if is_reached => return End::Decided,
                        true => return End::Open,
                        false => continue,
                    }
                }
                Verdict::Return => End::Open,
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let end = self.called(to, rule, is_sure, deeper);
                    match (end, &rule.verdict) {
                        (End::Decided, _) => End::Decided,
                        (End::Open, Verdict::Goto(_)) => End::Open,
                        (End::Open, _) => continue,
                    }
                }
            };
            match (is_met, end) {
                (true, End::Decided) if !is_reached => {
                    self.is_certain = false;
                    return End::Open;
                }
                (true, end) => return end,
                // It may have been accepted, or left this chain.
                (false, End::Decided) => self.is_certain = false,
                (false, End::Open) => is_reached = false,
            }
        }
        End::Open
    }

    fn called(&mut self, to: &str, rule: &Rule, is_sure: bool, depth: usize) -> End {
        if is_passage(to) {
            return End::Decided;
        }
        if to.starts_with(OWN_CHAINS) {
            return End::Open;
        }
        // A target of iptables that is no chain, such as LOG, decides nothing.
        let is_listed = self.filter.rules.contains_key(to) || rule.text.is_some();
        if !is_listed {
            self.add(
                Some(format!("chain {to}, which is too deep to read")),
                false,
                false,
            );
        }
        self.through(to, is_sure, depth)
    }
}

fn rule_text(chain: &str, place: usize, rule: &Rule) -> String {
    match rule.handle {
        Some(handle) => format!("rule of chain {chain}, handle {handle}: {rule}"),
        None => format!("rule {} of chain {chain}: {rule}", place.saturating_add(1)),
    }
}

impl Passing {
    fn reaches(&self, filter: &Filter) -> bool {
        let [first, last] = self.priorities;
        let chain = &filter.chain;
        let family = match chain.family {
            TableFamily::Inet => None,
            TableFamily::V4 => Some(Family::V4),
            TableFamily::V6 => Some(Family::V6),
        };
        chain.hook == self.hook
            && (first..=last).contains(&chain.priority)
            && family.is_none_or(|family| family == Family::of(&self.destination))
    }

    /// Whether it surely meets a rule; `None` if it surely does not.
    fn meets(&self, rule: &Rule) -> Option<bool> {
        let mut is_sure = true;
        for condition in &rule.conditions {
            match self.is_true(condition) {
                Some(true) => {}
                Some(false) => return None,
                None => is_sure = false,
            }
        }
        Some(is_sure)
    }

    /// `None` if it is not known.
    fn is_true(&self, condition: &Condition) -> Option<bool> {
        match condition {
            Condition::State(states) => {
                let state = match self.is_answer {
                    true => NF_CT_STATE_ESTABLISHED,
                    false => NF_CT_STATE_NEW,
                };
                Some(states & state != 0)
            }
            Condition::Status(bits) if *bits == IPS_DST_NAT => Some(self.is_translated),
            Condition::Status(bits) if self.is_translated && bits & IPS_DST_NAT != 0 => Some(true),
            Condition::Status(_) => None,
            Condition::Mark { mask, value } => Some(self.mark & mask == *value),
            Condition::Field(within) => self.is_within(within),
            Condition::Interface(interface) => {
                let name = match interface.side {
                    Side::In => self.inbound.as_ref(),
                    Side::Out => self.outbound.as_ref(),
                };
                name.map(|name| !name.is_empty() && interface.holds(name))
            }
            Condition::Other => None,
        }
    }

    fn is_within(&self, within: &Within) -> Option<bool> {
        let is_v6 = self.destination.is_ipv6();
        let value = match within.field {
            Field::Family => u128::from(if is_v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }),
            Field::Source | Field::Destination if within.is_v6 != is_v6 => return Some(false),
            Field::Source => number(self.source?),
            Field::Destination => number(self.destination),
            Field::Protocol => u128::from(match self.protocol {
                Protocol::Tcp => IPPROTO_TCP,
                Protocol::Udp => IPPROTO_UDP,
                _ => IPPROTO_SCTP,
            }),
            Field::SourcePort => self.source_port?.into(),
            Field::DestinationPort => self.destination_port?.into(),
        };
        Some(within.holds(value))
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved;
    use super::*;

    /// A packet that is forwarded from a pod to an endpoint.
    fn forwarded() -> Passing {
        Passing {
            hook: Hook::Forward,
            priorities: [i32::MIN, i32::MAX],
            source: Some([10, 244, 1, 7].into()),
            destination: [10, 244, 2, 1].into(),
            protocol: Protocol::Tcp,
            source_port: None,
            destination_port: Some(8080),
            inbound: Some("veth7".to_owned()),
            outbound: Some("eth0".to_owned()),
            is_answer: false,
            is_translated: true,
            mark: 0,
        }
    }

    /// What rules of table filter do to a packet: `drops: RULE`, `may drop: RULE`, or nothing.
    fn what(rules: &str, passing: &Passing) -> Vec<(bool, String)> {
        let saved = format!("*filter\n:FORWARD ACCEPT [0:0]\n:SUB - [0:0]\n{rules}\nCOMMIT\n");
        let (filters, _) = saved::filters(&saved, Family::V4);
        let found = obstructions(&filters, passing).into_iter();
        found
            .map(|(_, of)| (of.is_certain, of.rule.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn a_rule_drops_what_meets_its_conditions() {
        let packet = forwarded();
        for conditions in [
            "",
            "-d 10.0.0.0/8",
            "-s 10.244.1.7/32",
            "! -d 192.0.2.0/24",
            "-p tcp",
            "-p tcp -m tcp --dport 8080",
            "-p tcp -m tcp --dport 8000:9000",
            "-p tcp -m multiport --dports 80,8080",
            "-m iprange --dst-range 10.244.2.0-10.244.2.9",
            "-i veth+ -o eth0",
            "-m conntrack --ctstate NEW",
            "-m conntrack --ctstatus DNAT",
            "-m comment --comment \"a word -j ACCEPT\"",
        ] {
            let rule = format!("{conditions} -j DROP").trim_start().to_owned();
            let expected = vec![(true, format!("rule 1 of chain FORWARD: {rule}"))];
            assert_eq!(what(&format!("-A FORWARD {rule}"), &packet), expected);
        }
        for conditions in [
            "-d 10.0.0.0/24",
            "-s 10.244.1.8/32",
            "! -d 10.244.0.0/16",
            "-p udp",
            "-p icmp",
            "-p tcp -m tcp --dport 80",
            "-p tcp -m multiport --dports 80,443",
            "! -i veth+",
            "-o eth1",
            "-m conntrack --ctstate INVALID",
            "-m mark --mark 0x8000/0x8000",
            "-m limit --limit 5/min -p udp",
        ] {
            let rule = format!("-A FORWARD {conditions} -j DROP");
            assert_eq!(what(&rule, &packet), [], "{rule}");
        }
        for conditions in [
            "-m physdev --physdev-is-bridged",
            "-m limit --limit 5/min",
            "-p tcp -m tcp --sport 1000:2000",
            "-m conntrack ! --ctstate NEW",
        ] {
            let found = what(&format!("-A FORWARD {conditions} -j REJECT"), &packet);
            assert!(
                matches!(&found[..], [(false, _)]),
                "{conditions}: {found:?}"
            );
        }
    }

    #[test]
    fn rules_before_decide() {
        let packet = forwarded();
        let certainties = |rules: &str| {
            let found = what(rules, &packet).into_iter();
            found.map(|(is_certain, _)| is_certain).collect::<Vec<_>>()
        };
        let (accept, drop) = ("-A FORWARD -p tcp -j ACCEPT\n", "-A FORWARD -j DROP\n");
        assert_eq!(certainties(&format!("{accept}{drop}")), [false; 0]);
        assert_eq!(certainties(&format!("{drop}{accept}")), [true]);
        let maybe = "-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n";
        assert_eq!(certainties(&format!("{maybe}{drop}")), [false]);
        let passage = "-A FORWARD -j SVCPASS-FORWARD\n";
        assert_eq!(certainties(&format!("{passage}{drop}")), [false; 0]);
        // Of two that surely drop, only the first one is reached.
        assert_eq!(certainties(&format!("{drop}{drop}")), [true]);
        // Through another chain, which is left before its end.
        let jump = "-A FORWARD -j SUB\n";
        let left = format!("{jump}-A SUB -p tcp -j RETURN\n-A SUB -j DROP\n");
        assert_eq!(certainties(&left), [false; 0]);
        let maybe = "-A SUB -m physdev --physdev-is-bridged -j RETURN\n-A SUB -j DROP\n";
        assert_eq!(certainties(&format!("{jump}{maybe}")), [false]);
        assert_eq!(
            certainties(&format!("{jump}-A SUB -j DROP\n{drop}")),
            [true]
        );
        let other = "-A FORWARD -p udp -j SUB\n-A SUB -j DROP\n";
        assert_eq!(certainties(other), [false; 0]);
        let unsure = "-A FORWARD -m physdev --physdev-is-bridged -j SUB\n-A SUB -j ACCEPT\n";
        assert_eq!(certainties(&format!("{unsure}{drop}")), [false]);
    }

    #[test]
    fn chains_at_other_places_do_not_see_the_packet() {
        let rules = "-A FORWARD -j DROP";
        let input = Passing {
            hook: Hook::Input,
            ..forwarded()
        };
        let early = Passing {
            priorities: [i32::MIN, -1],
            ..forwarded()
        };
        let v6 = Passing {
            source: None,
            destination: "fd00::1".parse().unwrap(),
            ..forwarded()
        };
        for passing in [input, early, v6] {
            assert_eq!(what(rules, &passing), [], "{passing:?}");
        }
    }
}
