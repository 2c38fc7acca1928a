//! How an endpoint is chosen, and the chains that do it.
#![cfg_attr(
    not(feature = "nftables"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use ipvs::Family;

use super::{NAME, Set};
use crate::desired::{DesiredState, Frontend, Problem};
use crate::mode::ipvs::plan::Audience;
use crate::mode::limits::{limits, limits_of};
use crate::model::ObjectName;
use crate::notice::Reason;

/// What a destination's endpoints are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Choice {
    /// The number of endpoints; one with more weight counts more than once.
    pub count: NonZeroU32,
    /// The timeout of session affinity in seconds.
    pub affinity: Option<NonZeroU32>,
}

impl Choice {
    /// The most endpoints of a destination; further ones are not used.
    pub(super) const MOST: u32 = (1 << (32 - SECONDS)) - 1;

    /// The first one in their order.
    pub(super) const FIRST: Self = Self {
        count: NonZeroU32::MIN,
        affinity: None,
    };

    /// The number that stands for it in the maps.
    pub(super) fn number(self) -> u32 {
        let seconds = self.affinity.map_or(0, NonZeroU32::get);
        self.count.get() << SECONDS | seconds & ((1 << SECONDS) - 1)
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Some(Self {
            count: NonZeroU32::new(number >> SECONDS)?,
            affinity: NonZeroU32::new(number & ((1 << SECONDS) - 1)),
        })
    }
}

/// What Services request and mode nftables does not have: of all, or of one.
pub fn problems(desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
    let mut problems = match of {
        None => limits(desired, NAME),
        Some(service) => limits_of(service, desired, NAME).collect(),
    };
    problems.extend(left_out(desired, of));
    problems
}

/// Services with more endpoints at a destination than can be chosen from. One problem a Service.
fn left_out(desired: &DesiredState, of: Option<&ObjectName>) -> impl Iterator<Item = Problem> {
    let mut problems = BTreeMap::new();
    let mut add = |frontend: &Frontend| {
        let counts = frontend.external.iter().chain([&frontend.backends]);
        let most = counts.map(|backends| backends.len()).max().unwrap_or(0);
        if u32::try_from(most).is_ok_and(|most| most <= Choice::MOST) {
            return;
        }
        let (service, key) = (&frontend.owner.service, frontend.key);
        problems.entry(service.clone()).or_insert_with(|| Problem {
            service: service.clone(),
            field: "endpoints".to_owned(),
            reason: Reason::EndpointsLeftOut,
            message: format!(
                "{} of {most} are used at {key}: mode {NAME} cannot choose among more",
                Choice::MOST
            ),
        });
    };
    match of {
        Some(service) => desired.frontends_of(service).for_each(|of| add(of)),
        None => desired.frontends().for_each(|of| add(of)),
    }
    problems.into_values()
}

/// Bits of a choice's number for the timeout, which is a day at most: the API server's limit.
const SECONDS: u32 = 17;

/// `3`, `3-for-10800`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        match self.affinity {
            Some(seconds) => write!(f, "-for-{seconds}"),
            None => Ok(()),
        }
    }
}

/// A chain that chooses an endpoint, in the table of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chooser {
    /// The family of its table.
    pub family: Family,
    /// Whether its destinations are node ports.
    pub is_node_port: bool,
    /// The clients.
    pub audience: Audience,
    /// The choice.
    pub choice: Choice,
}

impl Chooser {
    const KINDS: [(bool, Audience, &str, Set); 4] = [
        (false, Audience::All, "choose-", Set::Choices),
        (
            false,
            Audience::External,
            "choose-external-",
            Set::ExternalChoices,
        ),
        (true, Audience::All, "choose-port-", Set::PortChoices),
        (
            true,
            Audience::External,
            "choose-external-port-",
            Set::ExternalPortChoices,
        ),
    ];

    fn kind(self) -> (&'static str, Set) {
        let mut kinds = Self::KINDS.into_iter();
        let own = (self.is_node_port, self.audience);
        let found = kinds.find(|(port, audience, ..)| (*port, *audience) == own);
        found.map_or(("choose-", Set::Choices), |(_, _, prefix, set)| {
            (prefix, set)
        })
    }

    /// The map that selects it.
    pub(super) fn set(self) -> Set {
        self.kind().1
    }

    /// The name of the chain.
    pub(super) fn name(self) -> String {
        format!("{}{}", self.kind().0, self.choice)
    }

    /// The chain with this name in the table of a family.
    pub(super) fn from_name(family: Family, name: &str) -> Option<Self> {
        Self::KINDS
            .into_iter()
            .find_map(|(is_node_port, audience, prefix, _)| {
                let text = name.strip_prefix(prefix)?;
                let (count, affinity) = match text.split_once("-for-") {
                    Some((count, seconds)) => (count, Some(seconds.parse().ok()?)),
                    None => (text, None),
                };
                let count = count.parse().ok()?;
                let choice = Choice { count, affinity };
                let chooser = Self {
                    family,
                    is_node_port,
                    audience,
                    choice,
                };
                (chooser.name() == name).then_some(chooser)
            })
    }
}

impl fmt::Display for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choosers_are_known_by_their_chains() {
        for (is_node_port, audience, ..) in Chooser::KINDS {
            for affinity in [None, NonZeroU32::new(10_800)] {
                let choice = Choice {
                    count: NonZeroU32::new(3).unwrap(),
                    affinity,
                };
                let chooser = Chooser {
                    family: Family::V6,
                    is_node_port,
                    audience,
                    choice,
                };
                assert_eq!(
                    Chooser::from_name(Family::V6, &chooser.name()),
                    Some(chooser)
                );
                assert_eq!(Choice::from_number(choice.number()), Some(choice));
            }
        }
        for other in [
            "choose-",
            "choose-0",
            "choose-03",
            "choose-x",
            "services",
            "choose-3-for-0",
        ] {
            assert_eq!(Chooser::from_name(Family::V4, other), None, "{other}");
        }
    }
}
