//! Settings that come from the API: from the Node and the ServiceCIDRs.

use std::collections::BTreeSet;

use ipnet::IpNet;
use ipvs::Family;

use super::config::overlap;
use super::{Config, ConfigError};
use crate::model::Node;
use crate::notice::{Notice, Reason};

/// The settings that the Node and the ServiceCIDRs override, if they have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FollowNode {
    /// `node_ips`.
    pub addresses: bool,
    /// `cluster_cidrs`: replaced by the Node's pod CIDRs.
    pub pod_cidrs: bool,
    /// `zone`.
    pub zone: bool,
    /// `service_cidrs`: replaced by the API's ServiceCIDRs.
    pub service_cidrs: bool,
}

impl FollowNode {
    /// Sets whether to follow the Node's addresses.
    #[must_use]
    pub const fn with_addresses(self, addresses: bool) -> Self {
        Self { addresses, ..self }
    }

    /// Sets whether to follow the Node's pod CIDRs.
    #[must_use]
    pub const fn with_pod_cidrs(self, pod_cidrs: bool) -> Self {
        Self { pod_cidrs, ..self }
    }

    /// Sets whether to follow the Node's zone.
    #[must_use]
    pub const fn with_zone(self, zone: bool) -> Self {
        Self { zone, ..self }
    }

    /// Sets whether to follow the API's ServiceCIDRs.
    #[must_use]
    pub const fn with_service_cidrs(self, service_cidrs: bool) -> Self {
        Self {
            service_cidrs,
            ..self
        }
    }
}

impl Config {
    /// These settings, with what they follow of the Node and the API's ServiceCIDRs. The result is
    /// validated. A family in which the node has no address is served
    /// [without](Self::without_address) if the kernel has it and the node has an address of the
    /// other one; otherwise its Service CIDRs are left out. A Service CIDR that also contains other
    /// addresses is not captured as a whole: one from the API, if it contains an address of this
    /// node or a pod network; any, if the node is attached to a network in it.
    ///
    /// If the operator set a Service CIDR of a family in which the Node has no address, the
    /// machine's own address of that family stays in effect.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn following(
        &self,
        node: Option<&Node>,
        service_cidrs: &[IpNet],
    ) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        let follow = config.follow_node;
        if let Some(node) = node {
            if follow.addresses && !node.addresses.is_empty() {
                config.node_ips = node.addresses.to_vec();
                let own = self.node_ips.iter().filter(|ip| {
                    let family = Family::of(ip);
                    let is_named = || speaks(&self.service_cidrs, family);
                    config.node_ip(family).is_none() && !follow.service_cidrs && is_named()
                });
                let own: Vec<_> = own.copied().collect();
                config.node_ips.extend(own);
            }
            if follow.pod_cidrs && !node.pod_cidrs.is_empty() {
                config.cluster_cidrs = node.pod_cidrs.to_vec();
            }
            if follow.zone && node.zone.is_some() {
                config.zone.clone_from(&node.zone);
            }
        }
        config.leave_out(if follow.service_cidrs {
            service_cidrs
        } else {
            &self.service_cidrs
        });
        config.validate()?;
        Ok(config)
    }

    /// These settings before any object of the API is known.
    pub(crate) fn before_api(&self) -> Self {
        let mut config = self.clone();
        let named: &[_] = match self.follow_node.service_cidrs {
            true => &[],
            false => &self.service_cidrs,
        };
        config.leave_out(named);
        config
    }

    /// Keeps the Service CIDRs of families that are served: those of `named`, or of its own if there
    /// are none. The other named ones become `left_out`, which is reported; defaults are not.
    fn leave_out(&mut self, named: &[IpNet]) {
        let has_address = |family: &Family| self.node_ip(*family).is_some();
        let families = [Family::V4, Family::V6].into_iter();
        let mut lacking = families.filter(|family| {
            let is_in_kernel = *family == Family::V4 || self.has_ipv6;
            !has_address(family) && is_in_kernel && speaks(named, *family)
        });
        let mut of_named = named.iter().map(|cidr| Family::of(&cidr.addr()));
        // A node without any address is one whose Node is not known yet.
        let is_known = of_named.any(|family| has_address(&family));
        self.without_address = lacking.next().filter(|_| is_known);
        let is_spoken = |cidr: &IpNet| self.serves(Family::of(&cidr.addr()));
        let (spoken, left_out): (Vec<_>, Vec<_>) = named.iter().copied().partition(is_spoken);
        let own = self.service_cidrs.iter().copied().filter(is_spoken);
        let spoken = match spoken.is_empty() {
            true => own.collect(),
            false => spoken,
        };
        let (shared, whole) = spoken.into_iter().partition(|cidr| self.is_shared(cidr));
        self.service_cidrs = whole;
        self.shared_cidrs = shared;
        self.left_out = left_out;
    }

    /// Captures only the cluster IPs in these Service CIDRs.
    pub(super) fn share(&mut self, cidrs: &BTreeSet<IpNet>) {
        let whole = self.service_cidrs.iter().copied();
        let (shared, whole): (Vec<_>, _) = whole.partition(|cidr| cidrs.contains(cidr));
        self.service_cidrs = whole;
        self.shared_cidrs.extend(shared);
    }

    /// Whether a Service CIDR is known to contain other addresses, too. An operator's own Service
    /// CIDR that contradicts other settings is an error instead: [`validate`](Self::validate).
    fn is_shared(&self, cidr: &IpNet) -> bool {
        let others = self.attached.iter();
        let pods = self.cluster_cidrs.iter();
        let pods = pods.filter(|_| self.follow_node.service_cidrs);
        let mut nodes = self.node_ips.iter();
        others.chain(pods).any(|other| overlap(cidr, other))
            || self.follow_node.service_cidrs && nodes.any(|ip| cidr.contains(ip))
    }

    /// Whether the cluster has this family and the node does not serve it.
    /// [`notices`](Self::notices) reports it.
    pub(crate) fn leaves_out(&self, family: Family) -> bool {
        speaks(&self.left_out, family)
    }

    /// The notices about these settings: one per family that the node does not serve, and one per
    /// Service CIDR that is not captured as a whole, with a remedy.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        let shared = self.shared_cidrs.iter().map(|cidr| {
            let message = format!(
                "Service CIDR {cidr} is not captured as a whole: it holds addresses of this node, \
                 of pods, of endpoints or of a network that the node is attached to. Each cluster IP has a route \
                 of its own, and packets to unused addresses are not rejected. Check the cluster's \
                 Service CIDR, or give it by --service-cidr"
            );
            Notice::of_node(Reason::ServiceCidrShared, message)
        });
        let families = [(Family::V4, "IPv4"), (Family::V6, "IPv6")].into_iter();
        let families = families.filter(|(family, _)| self.leaves_out(*family));
        let left_out = families.map(|(family, name)| {
            let cidrs = self.left_out.iter();
            let cidrs = cidrs.filter(|cidr| Family::of(&cidr.addr()) == family);
            let cidrs: Vec<_> = cidrs.map(ToString::to_string).collect();
            let message = format!(
                "{name} is not served, and its Service CIDR {} left out: the node has no {name} \
                 address. If the node should have one, add it to the Node's addresses or pass \
                 --node-ip; otherwise pass only the other family's Service CIDR (--service-cidr)",
                cidrs.join(", "),
            );
            Notice::of_node(Reason::FamilyLeftOut, message)
        });
        let without = self.without_address.map(|family| {
            let name = match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            let message = format!(
                "the node has no {name} address: pods reach {name} Services, but the node's own \
                 connections to them do not work, nor those that must be masqueraded or that use \
                 node ports. If the node should have one, add it to the Node's addresses or pass \
                 --node-ip"
            );
            Notice::of_node(Reason::FamilyWithoutAddress, message)
        });
        shared.chain(left_out).chain(without)
    }
}

/// Whether one of these CIDRs has this family.
fn speaks(cidrs: &[IpNet], family: Family) -> bool {
    cidrs.iter().any(|cidr| Family::of(&cidr.addr()) == family)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn config(node_ips: &[&str], service_cidrs: &[&str]) -> Config {
        let mut config = Config::new("n", ips(node_ips));
        let cidrs = service_cidrs.iter().map(|cidr| cidr.parse().unwrap());
        config.service_cidrs = cidrs.collect();
        config
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_family_without_an_address_is_left_out_until_the_node_has_one() {
        let dual = ["10.96.0.0/12", "fd00:10:96::/112"];
        let follow = FollowNode::default().with_addresses(true);
        let mut named = config(&["192.0.2.1"], &dual);
        named.follow_node = follow;
        named.has_ipv6 = false;
        named.validate().unwrap();
        let with = |addresses: &[&str]| {
            let mut node = Node::new("node-a");
            node.addresses = ips(addresses).into();
            named.following(Some(&node), &[]).unwrap()
        };
        let texts = |cidrs: &[IpNet]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        for without in [with(&[]), with(&["192.0.2.7"]), named.before_api()] {
            assert_eq!(texts(&without.service_cidrs), [dual[0]]);
            assert!(without.leaves_out(Family::V6) && !without.leaves_out(Family::V4));
            let reported: Vec<_> = without.notices().map(|notice| notice.message).collect();
            assert_eq!(reported.len(), 1);
            assert!(reported[0].contains("IPv6 is not served") && reported[0].contains(dual[1]));
        }
        let both = with(&["192.0.2.7", "2001:db8::7"]);
        assert_eq!(texts(&both.service_cidrs), dual);
        assert_eq!(both.notices().count(), 0);
        // The machine's own address replaces one that the Node lacks.
        let six = with(&["2001:db8::7"]);
        assert_eq!(six.node_ips, ips(&["2001:db8::7", "192.0.2.1"]));
        assert_eq!(texts(&six.service_cidrs), dual);

        // The same with the API's CIDRs, but there only the Node's addresses decide.
        let mut followed = config(&["192.0.2.1", "2001:db8::1"], &dual[..1]);
        followed.has_ipv6 = false;
        followed.follow_node = follow.with_service_cidrs(true);
        let mut node = Node::new("node-a");
        node.addresses = ips(&["192.0.2.7"]).into();
        let cidrs = dual.map(|cidr| cidr.parse().unwrap());
        let in_effect = followed.following(Some(&node), &cidrs).unwrap();
        assert_eq!(in_effect.node_ips, ips(&["192.0.2.7"]));
        assert_eq!(texts(&in_effect.service_cidrs), [dual[0]]);
        assert!(in_effect.leaves_out(Family::V6));
        // Defaults are not reported.
        let mut alone = config(&["2001:db8::1"], &dual[..1]);
        alone.follow_node = follow.with_service_cidrs(true);
        let in_effect = alone.following(None, &[]).unwrap();
        assert!(in_effect.service_cidrs.is_empty() && in_effect.left_out.is_empty());
    }

    #[test]
    fn a_family_of_the_kernel_is_served_without_an_address() {
        let mut named = config(&["192.0.2.1"], &["10.96.0.0/12", "fd00:10:96::/112"]);
        named.validate().unwrap();
        let in_effect = named.following(None, &[]).unwrap();
        assert_eq!(in_effect.service_cidrs.len(), 2);
        assert!(in_effect.serves(Family::V6) && !in_effect.leaves_out(Family::V6));
        let reasons: Vec<_> = in_effect.notices().map(|notice| notice.reason).collect();
        assert_eq!(reasons, [Reason::FamilyWithoutAddress]);
        // An address ends it.
        named.node_ips = ips(&["192.0.2.1", "2001:db8::1"]);
        let in_effect = named.following(None, &[]).unwrap();
        assert_eq!(
            (in_effect.without_address, in_effect.notices().count()),
            (None, 0)
        );
        // A node of which nothing is known yet serves nothing.
        named.node_ips = Vec::new();
        named.follow_node = FollowNode::default().with_addresses(true);
        let unknown = named.following(None, &[]).unwrap();
        assert!(!unknown.serves(Family::V4) && !unknown.serves(Family::V6));
    }

    /// A Service CIDR from the API does not capture addresses that are known not to be Services'.
    #[test]
    fn service_cidr_unknown_or_shared_captures_nothing_but_cluster_ips() {
        let cidrs: [IpNet; 1] = ["10.96.0.0/12".parse().unwrap()];
        let follow = FollowNode::default().with_service_cidrs(true);
        let mut settings = config(&["192.0.2.1"], &[]);
        settings.follow_node = follow;
        let unknown = settings.following(None, &[]).unwrap();
        assert!(unknown.service_cidrs.is_empty() && unknown.shared_cidrs.is_empty());
        let whole = settings.following(None, &cidrs).unwrap();
        assert_eq!(
            (&whole.service_cidrs[..], whole.notices().count()),
            (&cidrs[..], 0)
        );
        let others: [fn(&mut Config); 3] = [
            |config| config.node_ips = ips(&["10.100.0.7"]),
            |config| config.cluster_cidrs = vec!["10.100.0.0/16".parse().unwrap()],
            |config| config.attached = vec!["10.100.44.0/24".parse().unwrap()],
        ];
        for other in others {
            let mut settings = settings.clone();
            other(&mut settings);
            let shared = settings.following(None, &cidrs).unwrap();
            assert!(shared.service_cidrs.is_empty());
            assert_eq!(shared.shared_cidrs, cidrs);
            let reported: Vec<_> = shared.notices().collect();
            assert_eq!(reported.len(), 1);
            assert_eq!(reported[0].reason, Reason::ServiceCidrShared);
            assert!(reported[0].message.contains("10.96.0.0/12"));
        }
        // An operator's contradicting Service CIDR is an error; one that overlaps an attached
        // network is not.
        let mut named = config(&["10.100.0.7"], &["10.96.0.0/12"]);
        named.following(None, &[]).unwrap_err();
        named.node_ips = ips(&["192.0.2.1"]);
        named.attached = vec!["10.100.44.0/24".parse().unwrap()];
        let shared = named.following(None, &[]).unwrap();
        assert!(shared.service_cidrs.is_empty() && shared.shared_cidrs == cidrs);
    }

    #[test]
    fn without_any_address_nothing_is_refused_before_the_node_is_known() {
        let mut unknown = config(&[], &["10.96.0.0/12"]);
        unknown.follow_node = FollowNode::default().with_addresses(true);
        unknown.validate().unwrap();
        let in_effect = unknown.following(None, &[]).unwrap();
        assert!(in_effect.service_cidrs.is_empty() && in_effect.leaves_out(Family::V4));
        let mut node = Node::new("node-a");
        node.addresses = ips(&["192.0.2.7"]).into();
        let in_effect = unknown.following(Some(&node), &[]).unwrap();
        assert_eq!(
            (in_effect.service_cidrs.len(), in_effect.left_out.len()),
            (1, 0)
        );
    }
}
