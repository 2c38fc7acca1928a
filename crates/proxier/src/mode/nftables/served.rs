//! What the elements do with connections to a destination, for people.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::{Element, NodeState, Target};
use crate::desired::FrontendKey;
use crate::mode::iptables::Clients;
use crate::mode::ipvs::plan::{Audience, Comment};

/// What happens to the connections of some clients to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// The clients.
    pub clients: Clients,
    /// What happens.
    pub outcome: Outcome,
    /// The Service port, as the element's comment names it.
    pub owner: Comment,
    /// The timeout of session affinity in seconds.
    pub affinity: Option<NonZeroU32>,
    /// The endpoints, sorted.
    pub endpoints: Vec<Target>,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// An endpoint gets it.
    Served,
    /// It is rejected.
    Refused,
    /// It is dropped.
    Dropped,
}

/// What happens to connections to a destination, for each group of clients.
pub fn served(node: &NodeState, key: &FrontendKey) -> Vec<Served> {
    let elements: Vec<_> = node.elements.of(key).collect();
    let is_external = |element: &Element| {
        matches!(
            element,
            Element::Service {
                audience: Audience::External,
                ..
            } | Element::Dropped(_, Audience::External)
        )
    };
    let is_divided = elements.iter().any(|(element, _)| is_external(element));
    let clients = |audience| match audience {
        Audience::External => Clients::Outside,
        Audience::All if is_divided => Clients::Inside,
        Audience::All => Clients::All,
    };
    let of = |(element, comment): &(&Element, &Comment)| {
        let (audience, outcome, affinity) = match element {
            Element::Service {
                audience, choice, ..
            } => (*audience, Outcome::Served, choice.affinity),
            Element::NoEndpoints(_) => (Audience::All, Outcome::Refused, None),
            Element::Dropped(_, audience) => (*audience, Outcome::Dropped, None),
            _ => return None,
        };
        let endpoints: BTreeSet<_> = elements
            .iter()
            .filter_map(|(element, _)| match element {
                Element::Endpoint {
                    audience: of, to, ..
                } if *of == audience => Some(*to),
                _ => None,
            })
            .collect();
        Some(Served {
            clients: clients(audience),
            outcome,
            owner: (*comment).clone(),
            affinity,
            endpoints: endpoints.into_iter().collect(),
        })
    };
    elements.iter().filter_map(of).collect()
}
