//! Which endpoints of a Service this node uses, and why it does not use the others.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipvs::Family;

use super::Config;
use super::endpoints::{Endpoints, Targets, candidate, endpoints, refusal};
use crate::model::{Endpoint, EndpointConditions, ObjectName, PortName, ServicePort};
use crate::store::ServiceView;

/// An endpoint in a slice of a Service, for one port of the Service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointUse {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` if the slice has no port of the Service's port's name and protocol.
    pub port: Option<NonZeroU16>,
    /// The slice.
    pub slice: ObjectName,
    /// Its node, if known.
    pub node: Option<Arc<str>>,
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
    /// Its conditions.
    pub conditions: EndpointConditions,
    /// Its weight.
    pub weight: u16,
    /// Why this node does not use it under traffic policy `Cluster`; `None` if it does.
    pub unused: Option<Unused>,
    /// Why this node does not use it under traffic policy `Local`; `None` if it does.
    pub unused_here: Option<Unused>,
}

/// Why an endpoint gets no new connections from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unused {
    /// The slice's ports of this protocol have other names.
    NoSuchPort(Box<[PortName]>),
    /// The address cannot be a real server, for this reason.
    Refused(String),
    /// It is not ready.
    NotReady,
    /// It is terminating and no longer serves.
    Terminating,
    /// It is terminating and still serves, but others are ready.
    OthersAreReady,
    /// Its weight is 0.
    WithoutWeight,
    /// Its hints name other nodes or zones, and those of other endpoints name this one.
    ForOthers,
    /// Traffic policy `Local`: it is on this other node.
    OnOtherNode(Arc<str>),
    /// Traffic policy `Local`: it has no node name.
    NodeUnknown,
}

/// The endpoints of one port of a Service, in the order of the slices' names.
pub fn endpoint_uses(
    view: ServiceView<'_>,
    port: &ServicePort,
    config: &Config,
) -> Vec<EndpointUse> {
    let targets = Targets::of(view);
    let chosen =
        [Family::V4, Family::V6].map(|family| endpoints(&targets, port, family, true, config));
    let [v4, v6] = &chosen;
    let mut uses = Vec::new();
    for slice in view.slices() {
        let same = |port: &ServicePort, of: &crate::model::EndpointPort| {
            of.name == port.name && of.protocol == port.protocol
        };
        let target = slice.ports.iter().find(|of| same(port, of));
        let chosen = match slice.family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        for endpoint in &slice.endpoints {
            let number = target.map(|target| target.port);
            let never = match target {
                None => {
                    let ports = slice.ports.iter();
                    let names = ports.filter(|of| of.protocol == port.protocol);
                    let names = names.map(|of| of.name.clone()).collect();
                    Some(Unused::NoSuchPort(names))
                }
                Some(target) => refusal(endpoint, slice.family, config)
                    .map(Unused::Refused)
                    .or_else(|| unusable(endpoint, candidate(endpoint, target, config).is_some())),
            };
            let unused = |here| {
                never
                    .clone()
                    .or_else(|| unchosen(endpoint, number, chosen, here, config))
            };
            uses.push(EndpointUse {
                address: endpoint.address,
                port: number,
                slice: slice.name.clone(),
                node: endpoint.node.clone(),
                zone: endpoint.zone.clone(),
                conditions: endpoint.conditions,
                weight: endpoint.weight,
                unused: unused(false),
                unused_here: unused(true),
            });
        }
    }
    uses
}

/// Why an endpoint takes no connections at all.
fn unusable(endpoint: &Endpoint, is_candidate: bool) -> Option<Unused> {
    if is_candidate {
        return None;
    }
    let conditions = endpoint.conditions;
    let answers = conditions.ready || (conditions.serving && conditions.terminating);
    Some(match conditions.terminating {
        _ if answers => Unused::WithoutWeight,
        true => Unused::Terminating,
        false => Unused::NotReady,
    })
}

/// Why a usable endpoint is not among those that were chosen.
fn unchosen(
    endpoint: &Endpoint,
    port: Option<NonZeroU16>,
    chosen: &Endpoints,
    here: bool,
    config: &Config,
) -> Option<Unused> {
    let list = if here { &chosen.local } else { &chosen.cluster };
    let is_it = |address, number| endpoint.address == address && port == Some(number);
    if list
        .iter()
        .any(|backend| is_it(backend.address, backend.port))
    {
        return None;
    }
    Some(match &endpoint.node {
        Some(node) if here && *node != config.node_name => Unused::OnOtherNode(Arc::clone(node)),
        None if here => Unused::NodeUnknown,
        _ if !endpoint.conditions.ready => Unused::OthersAreReady,
        _ => Unused::ForOthers,
    })
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPort(found) => {
                f.write_str("its slice has no port of this name")?;
                for (index, name) in found.iter().enumerate() {
                    f.write_str(if index == 0 { ", only: " } else { ", " })?;
                    match name.is_unnamed() {
                        true => f.write_str("unnamed")?,
                        false => write!(f, "{name:?}")?,
                    }
                }
                Ok(())
            }
            Self::Refused(why) => f.write_str(why),
            Self::NotReady => f.write_str("not ready"),
            Self::Terminating => f.write_str("terminating, and no longer serving"),
            Self::OthersAreReady => f.write_str("terminating, and others are ready"),
            Self::WithoutWeight => f.write_str("weight 0"),
            Self::ForOthers => f.write_str("its hints are for other nodes or zones"),
            Self::OnOtherNode(node) => write!(f, "traffic policy Local, and it is on node {node}"),
            Self::NodeUnknown => f.write_str("traffic policy Local, and it has no node name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointPort, EndpointSlice, Hints, Protocol, Service};
    use crate::store::{Change, Store};

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name).unwrap()
    }

    fn port(name: &str) -> ServicePort {
        let name = PortName::new(name).unwrap();
        ServicePort::new(name, Protocol::Tcp, NonZeroU16::new(80).unwrap())
    }

    fn endpoint(last: u8, node: Option<&str>) -> Endpoint {
        let mut endpoint = Endpoint::new([10, 244, 0, last].into());
        endpoint.node = node.map(Into::into);
        endpoint
    }

    fn slice(of: &str, port: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let mut slice = EndpointSlice::new(name(of), name("web"), Family::V4);
        let number = NonZeroU16::new(8080).unwrap();
        let port = PortName::new(port).unwrap();
        slice.ports = [EndpointPort::new(port, Protocol::Tcp, number)].into();
        slice.endpoints = endpoints.into();
        slice
    }

    /// Address, use under policy Cluster, use under policy Local.
    fn uses(slices: Vec<EndpointSlice>) -> Vec<(String, String, String)> {
        let mut service = Service::new(name("web"));
        service.cluster_ips = [[10, 96, 0, 1].into()].into();
        service.ports = [port("http")].into();
        let mut store = Store::default();
        store.apply(Change::ServicesReplaced(vec![service]));
        store.apply(Change::EndpointSlicesReplaced(slices));
        let mut config = Config::new("here", vec![[192, 0, 2, 1].into()]);
        config.zone = Some("a".into());
        let view = store.get(&name("web")).unwrap();
        let uses = endpoint_uses(view, &port("http"), &config).into_iter();
        let text = |unused: Option<Unused>| unused.map_or("used".to_owned(), |why| why.to_string());
        uses.map(|it| {
            (
                it.address.to_string(),
                text(it.unused),
                text(it.unused_here),
            )
        })
        .collect()
    }

    fn row(last: u8, cluster: &str, local: &str) -> (String, String, String) {
        (
            format!("10.244.0.{last}"),
            cluster.to_owned(),
            local.to_owned(),
        )
    }

    #[test]
    fn each_endpoint_has_its_own_reason() {
        let with = |last, ready, serving, terminating| {
            let mut endpoint = endpoint(last, Some("here"));
            endpoint.conditions.ready = ready;
            endpoint.conditions.serving = serving;
            endpoint.conditions.terminating = terminating;
            endpoint
        };
        let mut bad = endpoint(9, Some("here"));
        bad.address = [127, 0, 0, 1].into();
        let all = vec![
            endpoint(1, Some("here")),
            endpoint(2, Some("there")),
            endpoint(3, None),
            with(4, false, false, false),
            with(5, false, false, true),
            with(6, false, true, true),
            endpoint(7, Some("here")).with_weight(0),
            bad,
        ];
        let elsewhere = "traffic policy Local, and it is on node there";
        let unknown = "traffic policy Local, and it has no node name";
        let both = |last, why| row(last, why, why);
        let found = uses(vec![
            slice("web-1", "http", all),
            slice("web-2", "other", vec![endpoint(10, None)]),
        ]);
        let refused = found[7].1.clone();
        assert!(refused.contains("loopback"), "{refused}");
        assert_eq!(
            found,
            [
                both(1, "used"),
                row(2, "used", elsewhere),
                row(3, "used", unknown),
                both(4, "not ready"),
                both(5, "terminating, and no longer serving"),
                both(6, "terminating, and others are ready"),
                both(7, "weight 0"),
                ("127.0.0.1".to_owned(), refused.clone(), refused),
                both(10, "its slice has no port of this name, only: \"other\""),
            ]
        );
    }

    #[test]
    fn hints_and_the_last_resort() {
        let hinted = |last, zone: &str| {
            let mut endpoint = endpoint(last, Some("here"));
            endpoint.hints = Some(Box::new(Hints::new([zone.into()], [])));
            endpoint
        };
        let for_others = "its hints are for other nodes or zones";
        assert_eq!(
            uses(vec![slice(
                "web-1",
                "http",
                vec![hinted(1, "a"), hinted(2, "b")]
            )]),
            [row(1, "used", "used"), row(2, for_others, "used")]
        );
        let mut leaving = endpoint(3, Some("here"));
        leaving.conditions.ready = false;
        leaving.conditions.terminating = true;
        assert_eq!(
            uses(vec![slice("web-1", "http", vec![leaving])]),
            [row(3, "used", "used")]
        );
    }
}
