//! The names of a cluster domain, and what they mean. Pure.
//!
//! Nothing but Services, slices and reverse names is stored: a name is looked up by its labels. So a
//! change replaces the records of one Service, whatever the size of the zone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use hickory_proto::rr::Name;
use ipnet::IpNet;

use super::name::reverse_zones;
use super::records::{Endpoints, Kind, Records};
use crate::model::{EndpointSlice, ObjectName, Protocol, Service};
use crate::store::Change;

/// The zone. Its names are relative to the cluster domain, which it does not know.
#[derive(Debug, Default)]
pub struct Zone {
    /// By `NAME.NAMESPACE`, as in a question.
    entries: HashMap<Box<str>, Entry>,
    slice_owner: HashMap<ObjectName, ObjectName>,
    /// The number of Services with records, by namespace.
    namespaces: HashMap<Box<str>, usize>,
    /// What leads back from an address.
    pointers: HashMap<IpAddr, BTreeSet<Pointer>>,
    /// The reverse zones of the Service CIDRs that the source knows.
    reverse: Vec<Name>,
    services_listed: bool,
    slices_listed: bool,
    changes: u32,
}

#[derive(Debug, Default)]
struct Entry {
    kind: Option<Kind>,
    /// Slices can arrive before their Service, and outlive it for a while.
    slices: BTreeMap<ObjectName, Endpoints>,
    records: Option<Arc<Records>>,
}

/// The name that an address leads back to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pointer {
    pub(super) service: ObjectName,
    /// The label of a host of a headless Service.
    pub(super) host: Option<Arc<str>>,
}

/// A part of a change: the work of one Service.
#[derive(Debug)]
pub(super) enum Step<'a> {
    PutService(&'a Service),
    RemoveService(Box<str>),
    PutSlice(&'a EndpointSlice),
    RemoveSlice(ObjectName),
    ServiceCidrs(&'a [IpNet]),
    ServicesListed,
    SlicesListed,
}

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no such name, nor one below it.
    Absent,
    /// There are only names below it.
    Empty,
    /// The domain itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `ns.dns`: this server.
    NameServer,
    /// A Service.
    Service(Arc<Records>),
    /// A host of a headless Service.
    Host(Arc<Records>, Box<str>),
    /// A port of a Service.
    Port(Arc<Records>, Protocol, Box<str>),
    /// An address as a name.
    Pod(IpAddr),
}

/// The key of a Service.
fn key(name: &ObjectName) -> Box<str> {
    format!("{}.{}", name.name(), name.namespace()).into()
}

impl Zone {
    /// Applies a change.
    pub fn apply(&mut self, change: &Change) {
        for step in self.steps(change) {
            self.step(step);
        }
    }

    /// Whether Services and slices have each been listed in full. Before, no name is known to be
    /// absent.
    pub fn is_ready(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// The number of changes that led to other records.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// The steps of a change. Between two of them the zone is as valid as before and after.
    pub(super) fn steps<'a>(&self, change: &'a Change) -> Vec<Step<'a>> {
        match change {
            Change::ServiceApplied(service) => vec![Step::PutService(service)],
            Change::ServiceDeleted(name) => vec![Step::RemoveService(key(name))],
            Change::ServicesReplaced(services) => {
                let named: HashSet<_> = services.iter().map(|service| key(&service.name)).collect();
                let known = self
                    .entries
                    .iter()
                    .filter(|(_, entry)| entry.kind.is_some());
                let gone = known
                    .map(|(name, _)| name)
                    .filter(|name| !named.contains(*name));
                let gone = gone.cloned().map(Step::RemoveService);
                let put = services.iter().map(Step::PutService);
                gone.chain(put).chain([Step::ServicesListed]).collect()
            }
            Change::EndpointSliceApplied(slice) => vec![Step::PutSlice(slice)],
            Change::EndpointSliceDeleted(name) => vec![Step::RemoveSlice(name.clone())],
            Change::EndpointSlicesReplaced(slices) => {
                let named: HashSet<_> = slices.iter().map(|slice| &slice.name).collect();
                let known = self.slice_owner.keys();
                let gone = known.filter(|name| !named.contains(name));
                let gone = gone.cloned().map(Step::RemoveSlice);
                let put = slices.iter().map(Step::PutSlice);
                gone.chain(put).chain([Step::SlicesListed]).collect()
            }
            Change::ServiceCidrsReplaced(cidrs) => vec![Step::ServiceCidrs(cidrs)],
            Change::NodeReplaced(_) => Vec::new(),
        }
    }

    pub(super) fn step(&mut self, step: Step<'_>) {
        match step {
            Step::PutService(service) => {
                let key = key(&service.name);
                let kind = Kind::of(service);
                let known = self.entries.get(&key);
                let known = known.and_then(|entry| entry.kind.as_ref());
                if known != kind.as_ref() {
                    self.change(&key, &service.name, |entry| entry.kind = kind);
                }
            }
            Step::RemoveService(key) => {
                if let Some(name) = name_of(&key) {
                    self.change(&key, &name, |entry| entry.kind = None);
                }
            }
            Step::PutSlice(slice) => {
                let owner = self.slice_owner.get(&slice.name);
                if owner.is_some_and(|owner| *owner != slice.service) {
                    self.remove_slice(&slice.name);
                }
                let key = key(&slice.service);
                let endpoints = Endpoints::of(slice);
                let known = self.entries.get(&key);
                let known = known.and_then(|entry| entry.slices.get(&slice.name));
                if known == Some(&endpoints) {
                    return;
                }
                let (name, service) = (slice.name.clone(), slice.service.clone());
                self.slice_owner.insert(name.clone(), service.clone());
                self.change(&key, &service, |entry| {
                    entry.slices.insert(name, endpoints);
                });
            }
            Step::RemoveSlice(name) => self.remove_slice(&name),
            Step::ServiceCidrs(cidrs) => self.reverse = reverse_zones(cidrs),
            Step::ServicesListed => self.services_listed = true,
            Step::SlicesListed => self.slices_listed = true,
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        if let Some(owner) = self.slice_owner.remove(name) {
            self.change(&key(&owner), &owner, |entry| {
                entry.slices.remove(name);
            });
        }
    }

    /// Changes an entry, and its records with it.
    fn change(&mut self, key: &str, name: &ObjectName, how: impl FnOnce(&mut Entry)) {
        let entry = self.entries.entry(key.into()).or_default();
        how(entry);
        let kind = entry.kind.as_ref();
        let new = kind.and_then(|kind| Records::new(kind, entry.slices.values()));
        let is_empty = entry.kind.is_none() && entry.slices.is_empty();
        if entry.records.as_deref() != new.as_ref() {
            let new = new.map(Arc::new);
            let old = std::mem::replace(&mut entry.records, new.clone());
            self.changes = self.changes.wrapping_add(1);
            self.index(name, old.as_deref(), new.as_deref());
        }
        if is_empty {
            self.entries.remove(key);
        }
    }

    /// Updates what is found by namespace and by address.
    fn index(&mut self, name: &ObjectName, old: Option<&Records>, new: Option<&Records>) {
        let namespace = name.namespace();
        match (old, new) {
            (None, Some(_)) => *self.namespaces.entry(namespace.into()).or_default() += 1,
            (Some(_), None) => {
                if let Some(count) = self.namespaces.get_mut(namespace) {
                    *count -= 1;
                    if *count == 0 {
                        self.namespaces.remove(namespace);
                    }
                }
            }
            _ => {}
        }
        let pointer = |host| Pointer {
            service: name.clone(),
            host,
        };
        for (address, host) in old.map(Records::pointers).unwrap_or_default() {
            if let Some(pointers) = self.pointers.get_mut(&address) {
                pointers.remove(&pointer(host));
                if pointers.is_empty() {
                    self.pointers.remove(&address);
                }
            }
        }
        for (address, host) in new.map(Records::pointers).unwrap_or_default() {
            self.pointers
                .entry(address)
                .or_default()
                .insert(pointer(host));
        }
    }

    /// What a name means: its labels without the domain, in lower case, such as `web.shop.svc`.
    pub(super) fn find(&self, name: &str) -> Found {
        let (rest, last) = cut(name);
        match (rest, last) {
            ("", "") => Found::Apex,
            ("", "dns-version") => Found::Version,
            ("ns", "dns") => Found::NameServer,
            ("", "dns" | "svc" | "pod") => Found::Empty,
            (rest, "svc") => self.find_service(rest),
            (rest, "pod") => self.find_pod(rest),
            _ => Found::Absent,
        }
    }

    /// What `NAMESPACE`, or a name below it, means.
    fn find_service(&self, name: &str) -> Found {
        let (rest, namespace) = cut(name);
        if rest.is_empty() {
            return self.namespace(namespace);
        }
        let (below, service) = cut(rest);
        let key = name.get(name.len() - service.len() - 1 - namespace.len()..);
        let entry = key.and_then(|key| self.entries.get(key));
        let Some(records) = entry.and_then(|entry| entry.records.as_ref()) else {
            return Found::Absent;
        };
        if below.is_empty() {
            return Found::Service(records.clone());
        }
        let (port, label) = cut(below);
        match label.strip_prefix('_') {
            Some(protocol) => find_port(records, protocol, port),
            None if port.is_empty() => match &**records {
                Records::Headless(headless) if headless.hosts.contains_key(label) => {
                    Found::Host(records.clone(), label.into())
                }
                _ => Found::Absent,
            },
            None => Found::Absent,
        }
    }

    fn namespace(&self, namespace: &str) -> Found {
        match self.namespaces.contains_key(namespace) {
            true => Found::Empty,
            false => Found::Absent,
        }
    }

    /// What `NAMESPACE` or `ADDRESS.NAMESPACE` means. Any address has a name, as in CoreDNS with
    /// `pods insecure`, if the namespace has a Service.
    fn find_pod(&self, name: &str) -> Found {
        let (address, namespace) = cut(name);
        match self.namespace(namespace) {
            Found::Empty if address.contains('.') => Found::Absent,
            Found::Empty if !address.is_empty() => pod(address).map_or(Found::Absent, Found::Pod),
            found => found,
        }
    }

    /// Everything that can be found, in order.
    #[cfg(test)]
    pub(super) fn content(&self) -> String {
        let entries = self.entries.iter();
        let records = entries.filter_map(|(name, entry)| Some((name, entry.records.as_ref()?)));
        let records: BTreeMap<_, _> = records.collect();
        let pointers: BTreeMap<_, _> = self.pointers.iter().collect();
        let namespaces: BTreeMap<_, _> = self.namespaces.iter().collect();
        format!("{records:#?}\n{pointers:#?}\n{namespaces:#?}")
    }

    /// The reverse zones of the Service CIDRs that the source knows.
    pub(super) fn reverse(&self) -> &[Name] {
        &self.reverse
    }

    /// What leads back from an address.
    pub(super) fn pointers(&self, address: IpAddr) -> impl Iterator<Item = &Pointer> {
        self.pointers.get(&address).into_iter().flatten()
    }
}

/// The name of a Service from its key.
fn name_of(key: &str) -> Option<ObjectName> {
    let (name, namespace) = key.rsplit_once('.')?;
    ObjectName::new(namespace, name).ok()
}

/// The last label of a name, and what is before it.
fn cut(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// The meaning of `_PROTOCOL` or `_PORT._PROTOCOL` before a Service.
fn find_port(records: &Arc<Records>, protocol: &str, port: &str) -> Found {
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Found::Absent,
    };
    let names = || -> Box<dyn Iterator<Item = &str>> {
        match &**records {
            Records::ClusterIp { ports, .. } => {
                let ports = ports.iter().filter(move |port| port.protocol == protocol);
                Box::new(ports.map(|port| port.name.as_str()))
            }
            Records::Headless(headless) => {
                let ports = headless
                    .servers
                    .keys()
                    .filter(move |(of, _)| *of == protocol);
                Box::new(ports.map(|(_, name)| name.as_str()))
            }
            Records::ExternalName(_) => Box::new(std::iter::empty()),
        }
    };
    match port.strip_prefix('_') {
        Some(port) if names().any(|name| name == port) => {
            Found::Port(records.clone(), protocol, port.into())
        }
        None if port.is_empty() && names().next().is_some() => Found::Empty,
        _ => Found::Absent,
    }
}

/// An address that is written with dashes: `10-244-1-7`, `fd00--7`.
fn pod(label: &str) -> Option<IpAddr> {
    let dotted = label.replace('-', ".");
    let v4 = dotted.parse::<Ipv4Addr>().map(IpAddr::V4);
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
    v4.or_else(|_| v6()).ok()
}
