//! Telling clients in the cluster from those outside of it.

use ipnet::IpNet;
use ipvs::Family;

use super::Statement;
use crate::desired::{Config, PodInterfaces};

/// How packets of pods are told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pods {
    /// By their source; sorted and without doubles.
    Networks(Vec<IpNet>),
    /// By where they come in.
    Interfaces(PodInterfaces),
}

/// What tells that a packet is no pod's.
pub(super) enum Outside {
    /// It is not known which are pods'.
    Unknown,
    /// Every packet is a pod's.
    Nobody,
    /// It matches all of these.
    Matching(Vec<Statement>),
}

impl Pods {
    pub(super) fn of(config: &Config) -> Self {
        if let Some(interfaces) = &config.pod_interfaces {
            return Self::Interfaces(interfaces.clone());
        }
        let mut networks: Vec<_> = config.cluster_cidrs.iter().map(IpNet::trunc).collect();
        networks.sort_unstable();
        networks.dedup();
        Self::Networks(networks)
    }

    pub(super) fn outside(&self, family: Family) -> Outside {
        let networks = match self {
            Self::Interfaces(interfaces) => {
                return Outside::Matching(vec![Statement::NotFrom(interfaces.clone())]);
            }
            Self::Networks(networks) => networks.iter(),
        };
        let inside = networks.filter(|network| Family::of(&network.addr()) == family);
        // Nothing is outside of a network that is everything.
        if inside.clone().any(|network| network.prefix_len() == 0) {
            return Outside::Nobody;
        }
        let source: Vec<_> = inside
            .map(|network| Statement::SourceNotIn(*network))
            .collect();
        if source.is_empty() {
            Outside::Unknown
        } else {
            Outside::Matching(source)
        }
    }
}
