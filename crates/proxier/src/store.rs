//! The known Services and endpoint slices.
//!
//! One writer applies [`Change`]s; later stages read. The store records which Services a change
//! touched, so one change costs work for that Service alone. It is not ready before every kind has
//! been listed in full: the objects missing from an incomplete list would look deleted.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use crate::model::{EndpointSlice, Family, Node, ObjectName, Service, Timestamp};

/// A change of the API objects, as a source reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A Service was added or changed.
    ServiceApplied(Service),
    /// A Service was deleted.
    ServiceDeleted(ObjectName),
    /// The complete list of Services. All others are deleted.
    ServicesReplaced(Vec<Service>),
    /// An endpoint slice was added or changed.
    EndpointSliceApplied(EndpointSlice),
    /// An endpoint slice was deleted.
    EndpointSliceDeleted(ObjectName),
    /// The complete list of endpoint slices. All others are deleted.
    EndpointSlicesReplaced(Vec<EndpointSlice>),
    /// This node's Node was added or changed; `None` if it was deleted, or if there are Nodes and
    /// none is this node's.
    NodeReplaced(Option<Node>),
    /// The complete list of Service CIDRs, without overlaps.
    ServiceCidrsReplaced(Vec<IpNet>),
}

impl Change {
    /// The complete lists of Services and of endpoint slices, from Services with their slices. All
    /// others are deleted.
    pub fn replace_all(
        services: impl IntoIterator<Item = (Service, Vec<EndpointSlice>)>,
    ) -> [Self; 2] {
        let (services, slices): (_, Vec<_>) = services.into_iter().unzip();
        let slices = slices.into_iter().flatten().collect();
        [
            Self::ServicesReplaced(services),
            Self::EndpointSlicesReplaced(slices),
        ]
    }
}

/// The change of a pod or Service that led to a change of an endpoint slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trigger {
    /// Family of the slice.
    pub family: Family,
    /// When it happened, by the control plane's clock.
    pub time: Timestamp,
}

/// A Service with the slices that carry its endpoints.
#[derive(Debug, Clone, Copy)]
pub struct ServiceView<'a> {
    /// The Service.
    pub service: &'a Service,
    slices: &'a BTreeMap<ObjectName, Arc<EndpointSlice>>,
}

impl<'a> ServiceView<'a> {
    /// The Service's slices, by name.
    pub fn slices(&self) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.slices.values().map(Arc::as_ref)
    }
}

#[derive(Debug, Default)]
struct Entry {
    service: Option<Arc<Service>>,
    /// Slices can arrive before their Service, and outlive it for a while.
    slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
}

/// The API objects, grouped by Service.
///
/// ```
/// use proxier::model::{ObjectName, Service};
/// use proxier::store::{Change, Store};
///
/// let web = ObjectName::new("default", "web")?;
/// let mut store = Store::default();
/// store.apply(Change::ServicesReplaced(vec![Service::new(web.clone())]));
/// assert!(!store.is_ready(), "no list of endpoint slices yet");
/// store.apply(Change::EndpointSlicesReplaced(vec![]));
/// assert!(store.is_ready());
/// assert_eq!(store.take_touched(), [web]);
/// # Ok::<(), proxier::model::InvalidName>(())
/// ```
#[derive(Debug, Default)]
pub struct Store {
    entries: HashMap<ObjectName, Entry>,
    /// Which Service each slice belongs to.
    slice_owner: HashMap<ObjectName, ObjectName>,
    touched: HashSet<ObjectName>,
    triggers: Vec<Trigger>,
    node: Option<Node>,
    /// Whether the source said that there is no Node of this node.
    lacks_node: bool,
    service_cidrs: Vec<IpNet>,
    /// Whether `node` and `service_cidrs` are unchanged since they were last read.
    surroundings_seen: bool,
    services_listed: bool,
    slices_listed: bool,
}

impl Store {
    /// Applies a change. An object that equals the stored one does not touch its Service.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::ServiceApplied(service) => self.put_service(service),
            Change::ServiceDeleted(name) => self.remove_service(&name),
            Change::ServicesReplaced(services) => {
                for name in self.missing_services(&services) {
                    self.remove_service(&name);
                }
                services
                    .into_iter()
                    .for_each(|service| self.put_service(service));
                self.services_listed = true;
            }
            Change::EndpointSliceApplied(slice) => self.put_slice(slice),
            Change::EndpointSliceDeleted(name) => self.remove_slice(&name),
            Change::EndpointSlicesReplaced(slices) => {
                for name in self.missing_slices(&slices) {
                    self.remove_slice(&name);
                }
                slices.into_iter().for_each(|slice| self.put_slice(slice));
                self.slices_listed = true;
            }
            Change::NodeReplaced(node) => {
                self.surroundings_seen &= self.node == node;
                self.lacks_node = node.is_none();
                self.node = node;
            }
            Change::ServiceCidrsReplaced(cidrs) => {
                self.surroundings_seen &= self.service_cidrs == cidrs;
                self.service_cidrs = cidrs;
            }
        }
    }

    /// Whether Services and endpoint slices have each been listed in full.
    pub fn is_ready(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// This node's Node, if there is one.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Whether the source said that there are Nodes and none is this node's.
    pub(crate) const fn lacks_node(&self) -> bool {
        self.lacks_node
    }

    /// The Service CIDRs of the API; empty if it has none.
    pub fn service_cidrs(&self) -> &[IpNet] {
        &self.service_cidrs
    }

    /// Whether the Node or the Service CIDRs changed since the last call. True on the first call.
    pub(crate) fn take_new_surroundings(&mut self) -> bool {
        !mem::replace(&mut self.surroundings_seen, true)
    }

    /// The Services that changed, or whose slices changed, since the last call. Sorted.
    pub fn take_touched(&mut self) -> Vec<ObjectName> {
        let mut touched: Vec<_> = mem::take(&mut self.touched).into_iter().collect();
        touched.sort_unstable();
        touched
    }

    /// The triggers of the slices' changes since the last call. Each is returned once.
    pub(crate) fn take_triggers(&mut self) -> Vec<Trigger> {
        mem::take(&mut self.triggers)
    }

    /// A Service and its slices.
    pub fn get(&self, name: &ObjectName) -> Option<ServiceView<'_>> {
        let entry = self.entries.get(name)?;
        Some(ServiceView {
            service: entry.service.as_deref()?,
            slices: &entry.slices,
        })
    }

    /// All Services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = ServiceView<'_>> {
        self.entries.values().filter_map(|entry| {
            Some(ServiceView {
                service: entry.service.as_deref()?,
                slices: &entry.slices,
            })
        })
    }

    /// All slices, also those without a Service.
    #[cfg(all(test, feature = "dns"))]
    pub(crate) fn all_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.entries
            .values()
            .flat_map(|entry| entry.slices.values().map(Arc::as_ref))
    }

    fn put_service(&mut self, service: Service) {
        let entry = self.entries.entry(service.name.clone()).or_default();
        if entry.service.as_deref() != Some(&service) {
            self.touched.insert(service.name.clone());
            entry.service = Some(Arc::new(service));
        }
    }

    fn remove_service(&mut self, name: &ObjectName) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if entry.service.take().is_some() {
            self.touched.insert(name.clone());
        }
        self.forget_if_empty(name);
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        if let Some(owner) = self.slice_owner.get(&slice.name)
            && *owner != slice.service
        {
            self.remove_slice(&slice.name.clone());
        }
        let entry = self.entries.entry(slice.service.clone()).or_default();
        let old = entry.slices.get(&slice.name).map(Arc::as_ref);
        if old != Some(&slice) {
            if let Some(time) = slice.last_change
                && old.and_then(|old| old.last_change) != Some(time)
            {
                let family = slice.family;
                self.triggers.push(Trigger { family, time });
            }
            self.touched.insert(slice.service.clone());
            self.slice_owner
                .insert(slice.name.clone(), slice.service.clone());
            entry.slices.insert(slice.name.clone(), Arc::new(slice));
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.slice_owner.remove(name) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&owner) {
            entry.slices.remove(name);
        }
        self.forget_if_empty(&owner);
        self.touched.insert(owner);
    }

    fn forget_if_empty(&mut self, name: &ObjectName) {
        if self
            .entries
            .get(name)
            .is_some_and(|e| e.service.is_none() && e.slices.is_empty())
        {
            self.entries.remove(name);
        }
    }

    /// The known Services that are not in this list.
    fn missing_services(&self, services: &[Service]) -> Vec<ObjectName> {
        let named: HashSet<_> = services.iter().map(|service| &service.name).collect();
        let known = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.service.is_some());
        known
            .map(|(name, _)| name)
            .filter(|name| !named.contains(*name))
            .cloned()
            .collect()
    }

    /// The known slices that are not in this list.
    fn missing_slices(&self, slices: &[EndpointSlice]) -> Vec<ObjectName> {
        let named: HashSet<_> = slices.iter().map(|slice| &slice.name).collect();
        self.slice_owner
            .keys()
            .filter(|name| !named.contains(*name))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Family};

    fn name(text: &str) -> ObjectName {
        ObjectName::new("default", text).unwrap()
    }

    fn slice(slice: &str, service: &str, address: &str) -> EndpointSlice {
        let mut slice = EndpointSlice::new(name(slice), name(service), Family::V4);
        slice.endpoints = [Endpoint::new(address.parse().unwrap())].into();
        slice
    }

    fn ready_store() -> Store {
        let mut store = Store::default();
        store.apply(Change::ServicesReplaced(vec![
            Service::new(name("a")),
            Service::new(name("b")),
        ]));
        store.apply(Change::EndpointSlicesReplaced(vec![slice(
            "a-1", "a", "10.0.0.1",
        )]));
        store.take_touched();
        store
    }

    #[test]
    fn a_relist_touches_only_what_differs() {
        let mut store = ready_store();
        store.apply(Change::ServicesReplaced(vec![
            Service::new(name("a")),
            Service::new(name("c")),
        ]));
        assert_eq!(store.take_touched(), [name("b"), name("c")]);
        store.apply(Change::EndpointSlicesReplaced(vec![slice(
            "a-1", "a", "10.0.0.1",
        )]));
        assert!(store.take_touched().is_empty());
        assert!(store.get(&name("b")).is_none());
    }

    #[test]
    fn a_trigger_is_returned_once() {
        let at = |seconds| {
            let mut slice = slice("a-1", "a", "10.0.0.2");
            slice.last_change = Timestamp::after_epoch(std::time::Duration::from_secs(seconds));
            slice
        };
        let mut store = ready_store();
        store.apply(Change::EndpointSliceApplied(at(1)));
        store.apply(Change::EndpointSliceApplied(at(2)));
        let seconds = |store: &mut Store| {
            let triggers = store.take_triggers();
            let seconds = triggers.iter().map(|t| t.time.since_epoch().as_secs());
            seconds.collect::<Vec<_>>()
        };
        assert_eq!(seconds(&mut store), [1, 2]);
        // A relist repeats it.
        store.apply(Change::EndpointSlicesReplaced(vec![at(2)]));
        assert_eq!(seconds(&mut store), [0; 0]);
        // The slice changes again, without a change of a pod.
        let mut other = at(2);
        other.endpoints = Box::default();
        store.apply(Change::EndpointSliceApplied(other));
        assert_eq!(seconds(&mut store), [0; 0]);
    }

    #[test]
    fn a_slice_that_changes_its_service_touches_both() {
        let mut store = ready_store();
        store.apply(Change::EndpointSliceApplied(slice("a-1", "b", "10.0.0.1")));
        assert_eq!(store.take_touched(), [name("a"), name("b")]);
        assert_eq!(store.get(&name("a")).unwrap().slices().count(), 0);
        assert_eq!(store.get(&name("b")).unwrap().slices().count(), 1);
    }

    #[test]
    fn slices_may_come_before_and_outlive_their_service() {
        let mut store = ready_store();
        store.apply(Change::EndpointSliceApplied(slice("d-1", "d", "10.0.0.1")));
        assert!(store.get(&name("d")).is_none());
        store.apply(Change::ServiceApplied(Service::new(name("d"))));
        assert_eq!(store.get(&name("d")).unwrap().slices().count(), 1);
        store.apply(Change::ServiceDeleted(name("d")));
        store.apply(Change::EndpointSliceDeleted(name("d-1")));
        assert_eq!(store.take_touched(), [name("d")]);
        assert_eq!(store.services().count(), 2);
        assert!(!store.entries.contains_key(&name("d")));
    }
}
