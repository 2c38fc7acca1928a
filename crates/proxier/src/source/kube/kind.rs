//! The watched kinds: their URLs, and how their objects change the store.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::options;

use super::super::Extent;
use super::super::api;
use super::super::convert::{self, Converted};
use super::client::Ask;
use super::encoding::Metadata;
use crate::model::{EndpointSlice, Node, ObjectName, Service};
use crate::store::Change;

/// Label selectors that exclude Services of other service proxies, and slices of headless Services,
/// at the server. Each kind has one, as in kube-proxy 1.36 (kubernetes
/// `cmd/kube-proxy/app/server.go`): a Service with a cluster IP is served whatever its other labels,
/// and so is a slice that names another proxy. Discovery needs all of them.
const OF_SERVICES: &str = "!service.kubernetes.io/service-proxy-name";
const OF_SLICES: &str = "!service.kubernetes.io/headless";

/// The URL of a kind's objects, and the selectors.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) path: &'static str,
    pub(super) labels: Option<&'static str>,
    pub(super) fields: Option<String>,
    /// Whether the field selector only saves traffic, so that a server that does not support it may
    /// send everything.
    pub(super) fields_optional: bool,
    /// Whether a server may lack this kind.
    pub(super) kind_optional: bool,
}

impl Selection {
    /// The request for the selected objects, with the given parameters.
    pub(super) fn ask(&self, parameters: &[(&str, Option<&str>)]) -> Ask {
        let selectors = [
            ("labelSelector", self.labels),
            ("fieldSelector", self.fields.as_deref()),
        ];
        let all = parameters.iter().copied().chain(selectors);
        let query: Vec<_> = all.filter_map(|(key, value)| Some((key, value?))).collect();
        Ask::get(self.path, &query)
    }
}

/// A kind of object.
pub(super) trait Kind: Send + Sync {
    /// The API's type.
    type Object: api::Object;
    /// The converted type.
    type Model: Send + Sync;
    /// The identity among the objects of its kind.
    type Name: Clone + Eq + Hash + Display + Send + Sync;

    const NAME: &'static str;

    fn selection(&self) -> Selection;

    /// The name of an object that could not be converted. None if the name is invalid.
    fn name(metadata: &Metadata) -> Option<Self::Name>;
    fn name_of(model: &Self::Model) -> Self::Name;
    fn convert(&self, object: &Self::Object) -> Converted<Self::Model>;
    fn metadata(object: Self::Object) -> api::Metadata;

    /// The change for the first list.
    fn replaced(&mut self, models: Vec<Self::Model>) -> Change;
    fn applied(&mut self, model: Self::Model) -> Option<Change>;
    fn deleted(&mut self, name: Self::Name) -> Option<Change>;

    /// The path of an object that replaces the kind on a server that does not have it, or forbids
    /// it.
    fn stand_in(&self) -> Option<&'static str> {
        None
    }

    /// The change from that object.
    fn stood_in(&mut self, _object: &[u8]) -> Option<Change> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Services(pub(super) Extent);

impl Kind for Services {
    type Object = api::Service;
    type Model = Service;
    type Name = ObjectName;

    const NAME: &'static str = "Service";

    fn selection(&self) -> Selection {
        let served = self.0 == Extent::Served;
        Selection {
            path: "/api/v1/services",
            labels: served.then_some(OF_SERVICES),
            fields: served.then(|| "spec.clusterIP!=None".to_owned()),
            fields_optional: true,
            kind_optional: false,
        }
    }

    fn name(metadata: &Metadata) -> Option<ObjectName> {
        object_name(metadata)
    }

    fn name_of(model: &Service) -> ObjectName {
        model.name.clone()
    }

    fn convert(&self, object: &api::Service) -> Converted<Service> {
        convert::service(object, self.0)
    }

    fn metadata(object: api::Service) -> api::Metadata {
        object.metadata
    }

    fn replaced(&mut self, models: Vec<Service>) -> Change {
        Change::ServicesReplaced(models)
    }

    fn applied(&mut self, model: Service) -> Option<Change> {
        Some(Change::ServiceApplied(model))
    }

    fn deleted(&mut self, name: ObjectName) -> Option<Change> {
        Some(Change::ServiceDeleted(name))
    }
}

#[derive(Debug)]
pub(super) struct EndpointSlices(pub(super) Extent);

impl Kind for EndpointSlices {
    type Object = api::EndpointSlice;
    type Model = EndpointSlice;
    type Name = ObjectName;

    const NAME: &'static str = "EndpointSlice";

    fn selection(&self) -> Selection {
        let served = self.0 == Extent::Served;
        Selection {
            path: "/apis/discovery.k8s.io/v1/endpointslices",
            labels: served.then_some(OF_SLICES),
            fields: None,
            fields_optional: false,
            kind_optional: false,
        }
    }

    fn name(metadata: &Metadata) -> Option<ObjectName> {
        object_name(metadata)
    }

    fn name_of(model: &EndpointSlice) -> ObjectName {
        model.name.clone()
    }

    fn convert(&self, object: &api::EndpointSlice) -> Converted<EndpointSlice> {
        convert::endpoint_slice(object, self.0)
    }

    fn metadata(object: api::EndpointSlice) -> api::Metadata {
        object.metadata
    }

    fn replaced(&mut self, models: Vec<EndpointSlice>) -> Change {
        Change::EndpointSlicesReplaced(models)
    }

    fn applied(&mut self, model: EndpointSlice) -> Option<Change> {
        Some(Change::EndpointSliceApplied(model))
    }

    fn deleted(&mut self, name: ObjectName) -> Option<Change> {
        Some(Change::EndpointSliceDeleted(name))
    }
}

/// This node's Node only.
#[derive(Debug)]
pub(super) struct ThisNode {
    name: String,
    /// The last reported Node: most changes of a Node are heartbeats.
    reported: Option<Node>,
}

impl ThisNode {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            reported: None,
        }
    }
}

impl Kind for ThisNode {
    type Object = api::Node;
    type Model = Node;
    type Name = Arc<str>;

    const NAME: &'static str = "Node";

    fn selection(&self) -> Selection {
        Selection {
            path: "/api/v1/nodes",
            labels: None,
            fields: Some(format!("metadata.name={}", self.name)),
            fields_optional: false,
            kind_optional: false,
        }
    }

    fn name(metadata: &Metadata) -> Option<Arc<str>> {
        metadata.name.as_deref().map(Into::into)
    }

    fn name_of(model: &Node) -> Arc<str> {
        model.name.clone()
    }

    fn convert(&self, object: &api::Node) -> Converted<Node> {
        convert::node(object)
    }

    fn metadata(object: api::Node) -> api::Metadata {
        object.metadata
    }

    fn replaced(&mut self, models: Vec<Node>) -> Change {
        self.reported = models.into_iter().find(|node| *node.name == *self.name);
        Change::NodeReplaced(self.reported.clone())
    }

    fn applied(&mut self, model: Node) -> Option<Change> {
        if *model.name != *self.name || self.reported.as_ref() == Some(&model) {
            return None;
        }
        self.reported = Some(model);
        Some(Change::NodeReplaced(self.reported.clone()))
    }

    fn deleted(&mut self, name: Arc<str>) -> Option<Change> {
        let gone = self.reported.take_if(|node| node.name == name);
        gone.map(|_| Change::NodeReplaced(None))
    }
}

/// kubeadm's configuration of the cluster. Before Kubernetes 1.33, nothing else in the API contains
/// the Service CIDR. kubeadm lets nodes read it; svcproxy's access depends on its role.
const CLUSTER_CONFIGURATION: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";

/// The ConfigMap with kubeadm's configuration.
#[derive(Deserialize)]
struct KubeadmConfig {
    data: KubeadmData,
}

#[derive(Deserialize)]
struct KubeadmData {
    /// The configuration, as YAML.
    #[serde(rename = "ClusterConfiguration")]
    cluster_configuration: String,
}

#[derive(Deserialize)]
struct ClusterConfiguration {
    networking: Networking,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Networking {
    /// One per family, separated by commas.
    service_subnet: String,
}

/// The Service CIDRs in kubeadm's ConfigMap. `None` if it has none, or a value that is not a
/// network.
fn kubeadm_service_cidrs(config_map: &[u8]) -> Option<Vec<IpNet>> {
    let config: KubeadmConfig = serde_json::from_slice(config_map).ok()?;
    let options = options! { with_snippet: false };
    let yaml = config.data.cluster_configuration;
    let cluster: ClusterConfiguration =
        serde_saphyr::from_slice_with_options(yaml.as_bytes(), options).ok()?;
    let subnets = cluster.networking.service_subnet;
    let cidrs = subnets.split(',').map(|subnet| subnet.trim().parse());
    cidrs.collect::<Result<_, _>>().ok()
}

/// The networks of cluster IPs, if the server has this kind (since Kubernetes 1.33).
#[derive(Debug, Default)]
pub(super) struct ServiceCidrs {
    networks: BTreeMap<Arc<str>, Vec<IpNet>>,
}

impl ServiceCidrs {
    fn all(&self) -> Change {
        let networks = self.networks.values().flatten().copied().collect();
        // ServiceCIDRs may overlap.
        Change::ServiceCidrsReplaced(IpNet::aggregate(&networks))
    }
}

impl Kind for ServiceCidrs {
    type Object = api::ServiceCidr;
    type Model = (Arc<str>, Vec<IpNet>);
    type Name = Arc<str>;

    const NAME: &'static str = "ServiceCIDR";

    fn selection(&self) -> Selection {
        Selection {
            path: "/apis/networking.k8s.io/v1/servicecidrs",
            labels: None,
            fields: None,
            fields_optional: false,
            kind_optional: true,
        }
    }

    fn name(metadata: &Metadata) -> Option<Arc<str>> {
        metadata.name.as_deref().map(Into::into)
    }

    fn name_of(model: &Self::Model) -> Arc<str> {
        model.0.clone()
    }

    fn convert(&self, object: &api::ServiceCidr) -> Converted<Self::Model> {
        let converted = convert::service_cidr(object);
        let name = object.name().map(Into::into);
        Converted {
            object: name.zip(converted.object),
            diagnostics: converted.diagnostics,
        }
    }

    fn metadata(object: api::ServiceCidr) -> api::Metadata {
        object.metadata
    }

    fn replaced(&mut self, models: Vec<Self::Model>) -> Change {
        self.networks = models.into_iter().collect();
        self.all()
    }

    fn applied(&mut self, (name, networks): Self::Model) -> Option<Change> {
        let before = self.networks.insert(name.clone(), networks);
        (before.as_ref() != self.networks.get(&name)).then(|| self.all())
    }

    fn deleted(&mut self, name: Arc<str>) -> Option<Change> {
        self.networks.remove(&name)?;
        Some(self.all())
    }

    fn stand_in(&self) -> Option<&'static str> {
        Some(CLUSTER_CONFIGURATION)
    }

    fn stood_in(&mut self, object: &[u8]) -> Option<Change> {
        let networks = kubeadm_service_cidrs(object)?;
        Some(Change::ServiceCidrsReplaced(IpNet::aggregate(&networks)))
    }
}

fn object_name(metadata: &Metadata) -> Option<ObjectName> {
    let namespace = metadata.namespace.as_deref()?;
    ObjectName::new(namespace, metadata.name.as_deref()?).ok()
}
