//! The last good state, and the changes of a new reading. If several Services claim an address and
//! port, it decides which one gets it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::convert::Ingested;
use super::super::{Diagnostic, Location};
use super::derived::Derived;
use super::files::Source;
use super::object::{Entry, Key, Kind, Maker, Object, Objects};
use crate::model::{EndpointSlice, Node, ObjectName, Protocol, Service};
use crate::store::Change;

/// Why Endpoints are not used.
const MIRRORED: &str = "not used: the control plane's endpoint slices of this Service are";
/// Why Endpoints with the label `skip-mirror` are not used.
const NOT_MIRRORED: &str = "not used: this Service has endpoint slices";
/// Why a Service's Pods are not used.
const NOT_DERIVED: &str = "its Pods are not used: its endpoint slices or Endpoints here are";

/// All objects in effect.
#[derive(Debug, Default)]
pub(super) struct LastGood {
    objects: Objects,
    derived: Derived,
}

/// A reading, merged with the previous state.
pub(super) struct Merged {
    pub(super) state: LastGood,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Files with a part that could not be read as an object.
    pub(super) unread: Vec<PathBuf>,
}

impl LastGood {
    /// Merges a whole reading with the parts of `old` that must stay.
    pub(super) fn merge(old: Option<&Self>, sources: Vec<Source>) -> Merged {
        let empty = Self::default();
        let old = old.unwrap_or(&empty);
        let mut new = Self::default();
        let mut diagnostics = Vec::new();
        let mut defined: BTreeMap<Key, Location> = BTreeMap::new();
        let (mut doubtful, mut unread) = (Vec::new(), Vec::new());
        for source in sources {
            let parsed = match source.content {
                Ok(parsed) => parsed,
                Err(error) => {
                    diagnostics.push(error);
                    unread.push(source.path.clone());
                    doubtful.push(source.path);
                    continue;
                }
            };
            if parsed.unread {
                unread.push(source.path.clone());
            }
            if parsed.unattributed {
                doubtful.push(source.path);
            }
            diagnostics.extend(parsed.diagnostics.iter().cloned());
            for definition in &parsed.definitions {
                let (key, location) = (&definition.key, &definition.location);
                if let Some(first) = defined.get(key) {
                    let error = Diagnostic::error(format_args!("already defined at {first}"));
                    diagnostics.push(error.with_object(key).at(location.clone()));
                    continue;
                }
                defined.insert(key.clone(), location.clone());
                match &definition.outcome {
                    Ingested::Good(object) => {
                        let entry = Entry {
                            location: location.clone(),
                            object: Arc::clone(object),
                        };
                        new.objects.insert(key.clone(), entry);
                    }
                    Ingested::LeftOut => {}
                    Ingested::Refused => new.keep(old, key),
                }
            }
        }
        for (key, entry) in &old.objects {
            let file = &entry.location.file;
            if !defined.contains_key(key) && doubtful.iter().any(|path| file.starts_with(path)) {
                new.keep(old, key);
            }
        }
        new.settle_claims(old, &mut diagnostics);
        new.derived = Derived::new(&new.objects, &old.objects, &old.derived);
        Merged {
            state: new,
            diagnostics,
            unread,
        }
    }

    fn keep(&mut self, old: &Self, key: &Key) {
        if let Some(entry) = old.objects.get(key) {
            self.objects.insert(key.clone(), entry.clone());
        }
    }

    fn service(&self, key: &Key) -> Option<&Service> {
        match self.objects.get(key)?.object.as_ref() {
            Object::Service { service, .. } => Some(service),
            _ => None,
        }
    }

    fn has_nodes(&self) -> bool {
        self.objects.keys().any(|key| key.kind == Kind::Node)
    }

    fn node(&self, name: &str) -> Option<&Node> {
        let key = Key::new(Kind::Node, "", name)?;
        match self.objects.get(&key)?.object.as_ref() {
            Object::Node(node) => Some(node),
            _ => None,
        }
    }

    /// Rejects Services that claim an address and port of another one. The Service that has it
    /// keeps it: a new manifest must not take over a working Service's traffic. Otherwise the older
    /// Service gets it, if ages are known, or else the one that is defined first.
    fn settle_claims(&mut self, old: &Self, diagnostics: &mut Vec<Diagnostic>) {
        let services = self.objects.iter().filter_map(|(key, entry)| {
            let service = self.service(key)?;
            let before = old.service(key);
            let had_it = before.is_some_and(|before| same(before, service));
            let age = (service.created.is_none(), service.created);
            Some(((Reverse(had_it), age, &entry.location), key, service))
        });
        let mut services: Vec<_> = services.collect();
        services.sort_by(|a, b| a.0.cmp(&b.0));
        let mut claims = Claims::default();
        let mut refused = Vec::new();
        for ((.., location), key, service) in services {
            let Err(taken) = claims.take(service) else {
                continue;
            };
            let error = Diagnostic::error(&taken)
                .with_field(format_args!("spec.ports[{}].port", taken.index))
                .with_object(key);
            diagnostics.push(error.at(location.clone()));
            let before = old.service(key);
            let stays = before.is_some_and(|before| claims.take(before).is_ok());
            refused.push((key.clone(), stays));
        }
        for (key, stays) in refused {
            self.objects.remove(&key);
            if stays {
                self.keep(old, &key);
            }
        }
    }

    /// The changes from `old` to this state; `node` is this node's name. Without `old` these are
    /// all objects, as a replacement only if the state is `complete`. Endpoints that the control
    /// plane has already mirrored add nothing to its slices.
    pub(super) fn changes_since(
        &self,
        old: Option<&Self>,
        complete: bool,
        node: Option<&str>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Vec<Change> {
        let new = View::of(self);
        diagnostics.extend(new.notes());
        let mut changes = Vec::new();
        let node_of = |state: &'_ Self| node.and_then(|name| state.node(name)).cloned();
        let this_node = node_of(self);
        // Other Nodes without this node's show that its name is wrong.
        let lacks_node = |state: &Self| node_of(state).is_none() && state.has_nodes();
        let is_lack_new = node.is_some() && lacks_node(self) && !old.is_some_and(lacks_node);
        if is_lack_new || this_node != old.and_then(node_of) {
            changes.push(Change::NodeReplaced(this_node));
        }
        let Some(old) = old.map(View::of) else {
            let services = new.services.into_values().cloned();
            let slices = new.slices.into_values().cloned();
            if complete {
                changes.push(Change::ServicesReplaced(services.collect()));
                changes.push(Change::EndpointSlicesReplaced(slices.collect()));
            } else {
                changes.extend(services.map(Change::ServiceApplied));
                changes.extend(slices.map(Change::EndpointSliceApplied));
            }
            return changes;
        };
        let (deleted, applied) = (Change::ServiceDeleted, Change::ServiceApplied);
        differences(&old.services, &new.services, deleted, applied, &mut changes);
        let (deleted, applied) = (Change::EndpointSliceDeleted, Change::EndpointSliceApplied);
        differences(&old.slices, &new.slices, deleted, applied, &mut changes);
        changes
    }
}

/// The view of a state for the store.
struct View<'a> {
    services: BTreeMap<&'a ObjectName, &'a Service>,
    slices: BTreeMap<&'a ObjectName, &'a EndpointSlice>,
    /// Objects that are not used because there are slices, with the reason.
    unused: Vec<(&'a Key, &'a Entry, &'static str)>,
}

impl<'a> View<'a> {
    fn of(state: &'a LastGood) -> Self {
        let mut view = Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            unused: Vec::new(),
        };
        let mut of_control_plane = BTreeSet::new();
        let mut with_slices = BTreeSet::new();
        // Slices are visited before Endpoints, which have the name of their Service.
        for (key, entry) in &state.objects {
            match entry.object.as_ref() {
                Object::Service { service, .. } => {
                    view.services.insert(&service.name, service);
                }
                Object::EndpointSlice { slice, made_by } => {
                    if *made_by == Maker::ControlPlane {
                        of_control_plane.insert(&slice.service);
                    }
                    with_slices.insert(&slice.service);
                    view.slices.insert(&slice.name, slice);
                }
                Object::Endpoints { .. } if of_control_plane.contains(&key.name) => {
                    view.unused.push((key, entry, MIRRORED));
                }
                Object::Endpoints {
                    mirrored: false, ..
                } if with_slices.contains(&key.name) => {
                    view.unused.push((key, entry, NOT_MIRRORED));
                }
                Object::Endpoints { slices, .. } => view.slices.extend(by_name(slices)),
                Object::Pod(_) | Object::Node(_) => {}
            }
        }
        let derived = &state.derived;
        view.slices
            .extend(derived.slices.values().flat_map(|slices| by_name(slices)));
        let unused = derived
            .unused
            .iter()
            .filter_map(|key| Some((key, state.objects.get(key)?, NOT_DERIVED)));
        view.unused.extend(unused);
        view
    }

    fn notes(&self) -> impl Iterator<Item = Diagnostic> {
        self.unused.iter().map(|(key, entry, message)| {
            Diagnostic::note(message)
                .with_object(key)
                .at(entry.location.clone())
        })
    }
}

fn by_name(slices: &[EndpointSlice]) -> impl Iterator<Item = (&ObjectName, &EndpointSlice)> {
    slices.iter().map(|slice| (&slice.name, slice))
}

fn differences<T: Clone + PartialEq>(
    old: &BTreeMap<&ObjectName, &T>,
    new: &BTreeMap<&ObjectName, &T>,
    deleted: fn(ObjectName) -> Change,
    applied: fn(T) -> Change,
    changes: &mut Vec<Change>,
) {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changes.extend(gone.map(|name| deleted((*name).clone())));
    let different = new
        .iter()
        .filter(|(name, object)| old.get(*name) != Some(object));
    changes.extend(different.map(|(_, object)| applied((*object).clone())));
}

type Claim = (IpAddr, Protocol, NonZeroU16);

/// The claimed addresses and ports, with the Services that have them.
#[derive(Debug, Default)]
pub(super) struct Claims<'a>(HashMap<Claim, &'a ObjectName>);

/// An address and port that another Service has.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    /// Index of the port in the Service that lost.
    pub(super) index: usize,
    claim: Claim,
    owner: &'a ObjectName,
}

impl fmt::Display for Taken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, _, port) = self.claim;
        write!(f, "{port} of {address} belongs to Service {}", self.owner)
    }
}

impl<'a> Claims<'a> {
    /// Claims everything that a Service requests or, if a part is claimed already, nothing.
    pub(super) fn take(&mut self, service: &'a Service) -> Result<(), Taken<'a>> {
        for (index, claim) in claims(service) {
            if let Some(owner) = self.0.get(&claim) {
                return Err(Taken {
                    index,
                    claim,
                    owner,
                });
            }
        }
        let claims = claims(service).map(|(_, claim)| (claim, &service.name));
        self.0.extend(claims);
        Ok(())
    }
}

fn claims(service: &Service) -> impl Iterator<Item = (usize, Claim)> + '_ {
    let ports = service.ports.iter().enumerate();
    ports.flat_map(|(index, port)| {
        let addresses = service.cluster_ips.iter();
        addresses.map(move |address| (index, (*address, port.protocol, port.port)))
    })
}

/// Whether both Services claim the same addresses and ports.
pub(super) fn same(a: &Service, b: &Service) -> bool {
    claims(a)
        .map(|(_, claim)| claim)
        .eq(claims(b).map(|(_, claim)| claim))
}
