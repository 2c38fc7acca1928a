//! Which clients a frontend serves, by their address.

use std::net::IpAddr;

use foldhash::HashSet;
use ipnet::IpNet;
use ipvs::Family;

use super::Served;
use crate::desired::WithoutBackends;
use crate::mode::ipvs::plan::Audience;

/// What happens to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An endpoint for these clients answers it.
    Serve(Audience),
    /// It gets an error at once.
    Refuse,
    /// It gets no answer.
    Drop,
}

/// The node's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Own(pub(super) HashSet<IpAddr>);

impl Own {
    pub(super) fn has(&self, client: IpAddr) -> bool {
        client.is_loopback() || self.0.contains(&client)
    }

    /// As networks of a family.
    fn networks(&self, family: Family) -> impl Iterator<Item = IpNet> {
        let loopback = match family {
            Family::V4 => IpNet::new_assert([127, 0, 0, 0].into(), 8),
            Family::V6 => IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
        };
        let own = self.0.iter().copied();
        let own = own.filter(move |own| Family::of(own) == family);
        own.map(IpNet::from).chain([loopback])
    }
}

/// Whether a client is in none of the source ranges that a frontend has.
pub(super) fn is_out_of_range(served: &Served, own: &Own, client: IpAddr) -> bool {
    let ranges = served.frontend.source_ranges.as_ref();
    ranges.is_some_and(|ranges| {
        !own.has(client) && !ranges.iter().any(|range| range.contains(&client))
    })
}

/// What happens to a client of a frontend.
pub(super) fn verdict(served: &Served, own: &Own, client: IpAddr) -> Verdict {
    let frontend = &served.frontend;
    if is_out_of_range(served, own, client) {
        return Verdict::Drop;
    }
    let is_inside = || own.has(client) || served.pods.iter().any(|pods| pods.contains(&client));
    match &frontend.external {
        Some(external) if !is_inside() => match external.is_empty() {
            true => Verdict::Drop,
            false => Verdict::Serve(Audience::External),
        },
        _ if !frontend.backends.is_empty() => Verdict::Serve(Audience::All),
        _ => match frontend.without_backends {
            WithoutBackends::Refuse => Verdict::Refuse,
            WithoutBackends::Drop => Verdict::Drop,
        },
    }
}

/// The clients whose packets the kernel drops before the proxy sees them: the first network that
/// contains the client decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// Networks, and whether their packets pass.
    pub(super) rules: Vec<(IpNet, bool)>,
    /// Whether packets of all others pass.
    pub(super) otherwise: bool,
}

impl Filter {
    /// The filter of a frontend; `None` if all packets pass. It drops exactly the clients whose
    /// [`verdict`] is [`Verdict::Drop`].
    pub(super) fn of(served: &Served, own: &Own) -> Option<Self> {
        let frontend = &served.frontend;
        let family = frontend.key.family();
        let inside =
            !frontend.backends.is_empty() || frontend.without_backends == WithoutBackends::Refuse;
        let outside = match &frontend.external {
            Some(external) => !external.is_empty(),
            None => inside,
        };
        let of_family = |networks: &[IpNet]| {
            let networks = networks.iter().copied();
            networks
                .filter(|network| Family::of(&network.addr()) == family)
                .collect::<Vec<_>>()
        };
        let ranges = frontend.source_ranges.as_deref().map(of_family);
        if ranges.is_none() && inside && outside {
            return None;
        }
        let mut rules: Vec<_> = own.networks(family).map(|own| (own, inside)).collect();
        let pods = of_family(&served.pods);
        let otherwise = match ranges {
            None => {
                rules.extend(pods.into_iter().map(|pods| (pods, inside)));
                outside
            }
            Some(ranges) => {
                if inside != outside {
                    let both = pods.iter().flat_map(|pods| intersections(*pods, &ranges));
                    rules.extend(both.map(|both| (both, inside)));
                    rules.extend(pods.iter().map(|pods| (*pods, false)));
                }
                // Without pods, `outside` says what happens to everyone else.
                rules.extend(ranges.into_iter().map(|range| (range, outside)));
                false
            }
        };
        Some(Self { rules, otherwise })
    }

    /// Whether a client's packets pass.
    #[cfg(test)]
    pub(super) fn passes(&self, client: IpAddr) -> bool {
        let rule = self.rules.iter().find(|(net, _)| net.contains(&client));
        rule.map_or(self.otherwise, |(_, passes)| *passes)
    }
}

fn intersections(one: IpNet, others: &[IpNet]) -> impl Iterator<Item = IpNet> {
    others.iter().filter_map(move |other| {
        if one.contains(other) {
            Some(*other)
        } else {
            other.contains(&one).then_some(one)
        }
    })
}
