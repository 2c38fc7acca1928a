//! Separates clients in the cluster from clients outside.

use ipnet::IpNet;
use ipvs::Family;

use super::Statement;
use crate::desired::{Config, PodInterfaces};

/// How to detect packets of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pods {
    /// By source network; sorted, without duplicates.
    Networks(Vec<IpNet>),
    /// By incoming interface.
    Interfaces(PodInterfaces),
}

/// The condition for packets that do not come from pods.
pub(crate) enum Outside {
    /// Pods are unknown.
    Unknown,
    /// Every packet comes from a pod.
    None,
    /// All of these must match.
    Matching(Vec<Statement>),
}

impl Pods {
    pub(crate) fn of(config: &Config) -> Self {
        if let Some(interfaces) = &config.pod_interfaces {
            return Self::Interfaces(interfaces.clone());
        }
        let mut networks: Vec<_> = config.cluster_cidrs.iter().map(IpNet::trunc).collect();
        networks.sort_unstable();
        networks.dedup();
        Self::Networks(networks)
    }

    pub(crate) fn outside(&self, family: Family) -> Outside {
        let networks = match self {
            Self::Interfaces(interfaces) => {
                return Outside::Matching(vec![Statement::NotFrom(interfaces.clone())]);
            }
            Self::Networks(networks) => networks.iter(),
        };
        let inside = networks.filter(|network| Family::of(&network.addr()) == family);
        // A network of all addresses has no outside.
        if inside.clone().any(|network| network.prefix_len() == 0) {
            return Outside::None;
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
