//! The derived slices, kept from one reading to the next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::derive::{self, Pod, Selection};
use super::object::{Key, Object, Objects};
use crate::model::{EndpointSlice, Node, ObjectName, Service};

/// The slices of Services with a selector.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    /// Derived slices of Services without slices in the manifests.
    pub(super) slices: BTreeMap<ObjectName, Arc<[EndpointSlice]>>,
    /// Services with slices in the manifests, whose selected Pods are ignored.
    pub(super) unused: Vec<Key>,
}

impl Derived {
    /// Derives slices for the differences from `old`, and reuses the rest from `derived`, which was
    /// derived from `old`.
    pub(super) fn new(objects: &Objects, old: &Objects, derived: &Self) -> Self {
        let nodes = nodes(objects);
        let pods = Index::of(pods(objects).map(|(_, pod)| pod));
        let changed = Index::of(changed_pods(objects, old));
        let with_slices = with_slices(objects);
        let mut new = Self::default();
        for (key, entry) in objects {
            let Object::Service {
                service,
                selection: Some(selection),
            } = entry.object.as_ref()
            else {
                continue;
            };
            let selected = || pods.select(service, selection);
            if with_slices.contains(&service.name) {
                if selected().next().is_some() {
                    new.unused.push(key.clone());
                }
                continue;
            }
            let same = old
                .get(key)
                .is_some_and(|before| before.object == entry.object);
            let kept = derived.slices.get(&service.name);
            let kept = kept.filter(|_| same && changed.select(service, selection).next().is_none());
            let slices = kept.cloned().unwrap_or_else(|| {
                let node = |name: &str| nodes.get(name).copied();
                derive::slices(service, selection, selected(), node).into()
            });
            new.slices.insert(service.name.clone(), slices);
        }
        new
    }
}

/// The Services with endpoints in the manifests.
fn with_slices(objects: &Objects) -> HashSet<&ObjectName> {
    let mut services = HashSet::new();
    for (key, entry) in objects {
        match entry.object.as_ref() {
            Object::EndpointSlice { slice, .. } => services.insert(&slice.service),
            Object::Endpoints { .. } => services.insert(&key.name),
            _ => continue,
        };
    }
    services
}

fn pods(objects: &Objects) -> impl Iterator<Item = (&Key, &Pod)> {
    objects
        .iter()
        .filter_map(|(key, entry)| match entry.object.as_ref() {
            Object::Pod(pod) => Some((key, pod)),
            _ => None,
        })
}

fn nodes(objects: &Objects) -> HashMap<&str, &Node> {
    let objects = objects.values().map(|entry| entry.object.as_ref());
    objects
        .filter_map(|object| match object {
            Object::Node(node) => Some((node.name.as_ref(), node)),
            _ => None,
        })
        .collect()
}

/// The Pods that changed or whose Nodes changed, in both versions.
fn changed_pods<'a>(new: &'a Objects, old: &'a Objects) -> impl Iterator<Item = &'a Pod> {
    let (new_nodes, old_nodes) = (nodes(new), nodes(old));
    let same_node = move |pod: &Pod| {
        let node = pod.node.as_deref();
        node.is_none_or(|node| new_nodes.get(node) == old_nodes.get(node))
    };
    let same =
        |key: &Key| new.get(key).map(|new| &new.object) == old.get(key).map(|old| &old.object);
    let is = pods(new).filter(move |(key, pod)| !(same(key) && same_node(pod)));
    let was = pods(old).filter(move |(key, _)| !same(key));
    is.chain(was).map(|(_, pod)| pod)
}

/// Pods by namespace and label.
struct Index<'a>(HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>);

impl<'a> Index<'a> {
    fn of(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let mut index = HashMap::<_, Vec<_>>::new();
        for pod in pods {
            for (key, value) in &pod.labels {
                let label = (pod.name.namespace(), key.as_str(), value.as_str());
                index.entry(label).or_default().push(pod);
            }
        }
        Self(index)
    }

    /// The Pods that a Service selects, found through its rarest label.
    fn select(
        &self,
        service: &'a Service,
        selection: &'a Selection,
    ) -> impl Iterator<Item = &'a Pod> {
        let namespace = service.name.namespace();
        let labels = selection.labels.iter();
        let with_each = labels.map(|(key, value)| {
            let pods = self.0.get(&(namespace, key.as_str(), value.as_str()));
            pods.map(Vec::as_slice).unwrap_or_default()
        });
        let pods = with_each.min_by_key(|pods| pods.len()).unwrap_or_default();
        pods.iter().copied().filter(|pod| selection.selects(pod))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::super::Location;
    use super::super::object::Entry;
    use super::super::object::{Kind, Maker};
    use super::*;
    use crate::model::{Endpoint, Family};

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name).unwrap()
    }

    fn put(objects: &mut Objects, kind: Kind, name: ObjectName, object: Object) {
        let entry = Entry {
            location: Location::new(Path::new("x.yaml")),
            object: Arc::new(object),
        };
        objects.insert(Key { kind, name }, entry);
    }

    fn put_pod(objects: &mut Objects, pod: &str, app: &str, ready: bool) {
        let mut object = Pod::new(name(pod));
        object.labels.insert("app".into(), app.into());
        object.addresses = ["10.244.1.1".parse().unwrap()].into();
        object.node = Some(app.into());
        object.ready = ready;
        put(objects, Kind::Pod, object.name.clone(), Object::Pod(object));
    }

    fn put_node(objects: &mut Objects, node: &str, zone: &str) {
        let mut object = Node::new(node);
        object.zone = Some(zone.into());
        put(objects, Kind::Node, name(node), Object::Node(object));
    }

    /// A Service that selects the Pods of an app.
    fn put_service(objects: &mut Objects, service: &str, app: &str) {
        let mut selection = Selection::new([("app", app)]);
        selection.families = [Family::V4].into();
        let object = Object::Service {
            service: Service::new(name(service)),
            selection: Some(selection),
        };
        put(objects, Kind::Service, name(service), object);
    }

    /// For each name a Service, a Pod that it selects, and the Pod's Node.
    fn objects(names: &[&str]) -> Objects {
        let mut objects = Objects::new();
        for app in names {
            put_service(&mut objects, app, app);
            put_pod(&mut objects, app, app, true);
            put_node(&mut objects, app, "east");
        }
        objects
    }

    fn from_scratch(objects: &Objects) -> Derived {
        Derived::new(objects, &Objects::new(), &Derived::default())
    }

    #[test]
    fn only_changed_services_are_derived_again() {
        let old = objects(&["a", "b", "c", "d", "e"]);
        let before = from_scratch(&old);
        let mut new = old.clone();
        put_pod(&mut new, "a", "a", false);
        put_pod(&mut new, "b", "c", true);
        put_node(&mut new, "d", "west");
        let after = Derived::new(&new, &old, &before);
        assert_eq!(after, from_scratch(&new));
        let kept = |app| Arc::ptr_eq(&before.slices[&name(app)], &after.slices[&name(app)]);
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(kept),
            [false, false, false, false, true]
        );
        let endpoints = |app: &str| -> Vec<&Endpoint> {
            let slices = after.slices[&name(app)].iter();
            slices.flat_map(|slice| &*slice.endpoints).collect()
        };
        assert!(!endpoints("a")[0].conditions.ready);
        assert_eq!((endpoints("b").len(), endpoints("c").len()), (0, 2));
        assert_eq!(endpoints("d")[0].zone.as_deref(), Some("west"));
    }

    /// A random change of an object with one of three names.
    fn any_change() -> impl Strategy<Value = (Kind, &'static str, &'static str, u8)> {
        let kinds = [
            Kind::Service,
            Kind::EndpointSlice,
            Kind::Endpoints,
            Kind::Pod,
            Kind::Node,
        ];
        let names = || select(vec!["a", "b", "c"]);
        (select(kinds.to_vec()), names(), names(), 0..4_u8)
    }

    fn change(objects: &mut Objects, (kind, which, of, how): (Kind, &str, &str, u8)) {
        let slice = || EndpointSlice::new(name(which), name(of), Family::V4);
        match kind {
            _ if how == 0 => {
                let name = name(which);
                objects.remove(&Key { kind, name });
            }
            Kind::Service => put_service(objects, which, of),
            Kind::Pod => put_pod(objects, which, of, how == 1),
            Kind::Node => put_node(objects, which, of),
            Kind::Endpoints => {
                let (slices, mirrored) = (vec![slice()], true);
                put(
                    objects,
                    kind,
                    name(which),
                    Object::Endpoints { slices, mirrored },
                );
            }
            Kind::EndpointSlice => {
                let made_by = Maker::Other;
                let slice = slice();
                put(
                    objects,
                    kind,
                    name(which),
                    Object::EndpointSlice { slice, made_by },
                );
            }
        }
    }

    proptest! {
        #[test]
        fn reused_slices_equal_those_from_scratch(
            readings in vec(vec(any_change(), 0..4), 1..20),
        ) {
            let (mut old, mut kept) = (Objects::new(), Derived::default());
            for changes in readings {
                let mut new = old.clone();
                changes.into_iter().for_each(|one| change(&mut new, one));
                kept = Derived::new(&new, &old, &kept);
                prop_assert_eq!(&kept, &from_scratch(&new));
                old = new;
            }
        }
    }
}
