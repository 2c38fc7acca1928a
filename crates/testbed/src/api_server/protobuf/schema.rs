//! The fields of the API's messages, of the `generated.proto` files in k8s.io/api and
//! k8s.io/apimachinery. Nodes have only some of theirs.

use super::super::Resource;

/// A field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// The name in JSON.
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) rule: Rule,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    Time,
    /// A number or a string.
    IntOrString,
    /// JSON in a message.
    Json,
    /// Strings by strings.
    Map,
    Message(&'static [Field]),
}

/// When a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A pointer in Go: if it is there.
    Optional,
    /// Always; JSON leaves out an empty value.
    Always,
    /// Always, in JSON too.
    Kept,
    /// Once for each item of a list.
    Repeated,
}

use self::Kind::{IntOrString, Json, Map, Message, Number, Switch, Text, Time};
use self::Rule::{Always, Kept, Optional, Repeated};

const fn field(number: u32, name: &'static str, kind: Kind, rule: Rule) -> Field {
    Field {
        name,
        number,
        kind,
        rule,
    }
}

/// The message of a kind's objects.
pub(super) fn of(resource: Resource) -> &'static [Field] {
    match resource {
        Resource::Services => SERVICE,
        Resource::EndpointSlices => ENDPOINT_SLICE,
        Resource::Nodes => NODE,
        Resource::ServiceCidrs => SERVICE_CIDR,
        Resource::ConfigMaps | Resource::Events => &[],
    }
}

const OBJECT_META: &[Field] = &[
    field(1, "name", Text, Always),
    field(2, "generateName", Text, Always),
    field(3, "namespace", Text, Always),
    field(4, "selfLink", Text, Always),
    field(5, "uid", Text, Always),
    field(6, "resourceVersion", Text, Always),
    field(7, "generation", Number, Always),
    field(8, "creationTimestamp", Time, Always),
    field(9, "deletionTimestamp", Time, Optional),
    field(10, "deletionGracePeriodSeconds", Number, Optional),
    field(11, "labels", Map, Repeated),
    field(12, "annotations", Map, Repeated),
    field(13, "ownerReferences", Message(OWNER_REFERENCE), Repeated),
    field(14, "finalizers", Text, Repeated),
    field(17, "managedFields", Message(MANAGED_FIELDS), Repeated),
];

const OWNER_REFERENCE: &[Field] = &[
    field(1, "kind", Text, Kept),
    field(3, "name", Text, Kept),
    field(4, "uid", Text, Kept),
    field(5, "apiVersion", Text, Kept),
    field(6, "controller", Switch, Optional),
    field(7, "blockOwnerDeletion", Switch, Optional),
];

const MANAGED_FIELDS: &[Field] = &[
    field(1, "manager", Text, Always),
    field(2, "operation", Text, Always),
    field(3, "apiVersion", Text, Always),
    field(4, "time", Time, Optional),
    field(6, "fieldsType", Text, Always),
    field(7, "fieldsV1", Json, Optional),
    field(8, "subresource", Text, Always),
];

const CONDITION: &[Field] = &[
    field(1, "type", Text, Kept),
    field(2, "status", Text, Kept),
    field(3, "observedGeneration", Number, Always),
    field(4, "lastTransitionTime", Time, Always),
    field(5, "reason", Text, Kept),
    field(6, "message", Text, Kept),
];

const SERVICE: &[Field] = &[
    field(1, "metadata", Message(OBJECT_META), Always),
    field(2, "spec", Message(SERVICE_SPEC), Always),
    field(3, "status", Message(SERVICE_STATUS), Always),
];

const SERVICE_SPEC: &[Field] = &[
    field(1, "ports", Message(SERVICE_PORT), Repeated),
    field(2, "selector", Map, Repeated),
    field(3, "clusterIP", Text, Always),
    field(4, "type", Text, Always),
    field(5, "externalIPs", Text, Repeated),
    field(7, "sessionAffinity", Text, Always),
    field(8, "loadBalancerIP", Text, Always),
    field(9, "loadBalancerSourceRanges", Text, Repeated),
    field(10, "externalName", Text, Always),
    field(11, "externalTrafficPolicy", Text, Always),
    field(12, "healthCheckNodePort", Number, Always),
    field(13, "publishNotReadyAddresses", Switch, Always),
    field(14, "sessionAffinityConfig", Message(AFFINITY), Optional),
    field(17, "ipFamilyPolicy", Text, Optional),
    field(18, "clusterIPs", Text, Repeated),
    field(19, "ipFamilies", Text, Repeated),
    field(20, "allocateLoadBalancerNodePorts", Switch, Optional),
    field(21, "loadBalancerClass", Text, Optional),
    field(22, "internalTrafficPolicy", Text, Optional),
    field(23, "trafficDistribution", Text, Optional),
];

const SERVICE_PORT: &[Field] = &[
    field(1, "name", Text, Always),
    field(2, "protocol", Text, Always),
    field(3, "port", Number, Kept),
    field(4, "targetPort", IntOrString, Kept),
    field(5, "nodePort", Number, Always),
    field(6, "appProtocol", Text, Optional),
];

const AFFINITY: &[Field] = &[field(1, "clientIP", Message(CLIENT_IP), Optional)];

const CLIENT_IP: &[Field] = &[field(1, "timeoutSeconds", Number, Optional)];

const SERVICE_STATUS: &[Field] = &[
    field(1, "loadBalancer", Message(LOAD_BALANCER), Always),
    field(2, "conditions", Message(CONDITION), Repeated),
];

const LOAD_BALANCER: &[Field] = &[field(1, "ingress", Message(INGRESS), Repeated)];

const INGRESS: &[Field] = &[
    field(1, "ip", Text, Always),
    field(2, "hostname", Text, Always),
    field(3, "ipMode", Text, Optional),
    field(4, "ports", Message(PORT_STATUS), Repeated),
];

const PORT_STATUS: &[Field] = &[
    field(1, "port", Number, Kept),
    field(2, "protocol", Text, Kept),
    field(3, "error", Text, Optional),
];

const ENDPOINT_SLICE: &[Field] = &[
    field(1, "metadata", Message(OBJECT_META), Always),
    field(2, "endpoints", Message(ENDPOINT), Repeated),
    field(3, "ports", Message(ENDPOINT_PORT), Repeated),
    field(4, "addressType", Text, Kept),
];

const ENDPOINT: &[Field] = &[
    field(1, "addresses", Text, Repeated),
    field(2, "conditions", Message(CONDITIONS), Always),
    field(3, "hostname", Text, Optional),
    field(4, "targetRef", Message(OBJECT_REFERENCE), Optional),
    field(5, "deprecatedTopology", Map, Repeated),
    field(6, "nodeName", Text, Optional),
    field(7, "zone", Text, Optional),
    field(8, "hints", Message(HINTS), Optional),
];

const CONDITIONS: &[Field] = &[
    field(1, "ready", Switch, Optional),
    field(2, "serving", Switch, Optional),
    field(3, "terminating", Switch, Optional),
];

const OBJECT_REFERENCE: &[Field] = &[
    field(1, "kind", Text, Always),
    field(2, "namespace", Text, Always),
    field(3, "name", Text, Always),
    field(4, "uid", Text, Always),
    field(5, "apiVersion", Text, Always),
    field(6, "resourceVersion", Text, Always),
    field(7, "fieldPath", Text, Always),
];

const HINTS: &[Field] = &[
    field(1, "forZones", Message(NAMED), Repeated),
    field(2, "forNodes", Message(NAMED), Repeated),
];

const NAMED: &[Field] = &[field(1, "name", Text, Kept)];

const ENDPOINT_PORT: &[Field] = &[
    field(1, "name", Text, Optional),
    field(2, "protocol", Text, Optional),
    field(3, "port", Number, Optional),
    field(4, "appProtocol", Text, Optional),
];

const NODE: &[Field] = &[
    field(1, "metadata", Message(OBJECT_META), Always),
    field(2, "spec", Message(NODE_SPEC), Always),
    field(3, "status", Message(NODE_STATUS), Always),
];

const NODE_SPEC: &[Field] = &[
    field(1, "podCIDR", Text, Always),
    field(2, "externalID", Text, Always),
    field(3, "providerID", Text, Always),
    field(4, "unschedulable", Switch, Always),
    field(5, "taints", Message(TAINT), Repeated),
    field(7, "podCIDRs", Text, Repeated),
];

const TAINT: &[Field] = &[
    field(1, "key", Text, Kept),
    field(2, "value", Text, Always),
    field(3, "effect", Text, Kept),
    field(4, "timeAdded", Time, Optional),
];

const NODE_STATUS: &[Field] = &[
    field(3, "phase", Text, Always),
    field(4, "conditions", Message(CONDITION), Repeated),
    field(5, "addresses", Message(NODE_ADDRESS), Repeated),
];

const NODE_ADDRESS: &[Field] = &[
    field(1, "type", Text, Kept),
    field(2, "address", Text, Kept),
];

const SERVICE_CIDR: &[Field] = &[
    field(1, "metadata", Message(OBJECT_META), Always),
    field(2, "spec", Message(SERVICE_CIDR_SPEC), Always),
    field(3, "status", Message(SERVICE_CIDR_STATUS), Always),
];

const SERVICE_CIDR_SPEC: &[Field] = &[field(1, "cidrs", Text, Repeated)];

const SERVICE_CIDR_STATUS: &[Field] = &[field(1, "conditions", Message(CONDITION), Repeated)];

pub(super) const LIST_META: &[Field] = &[
    field(1, "selfLink", Text, Always),
    field(2, "resourceVersion", Text, Always),
    field(3, "continue", Text, Always),
    field(4, "remainingItemCount", Number, Optional),
];

pub(super) const TYPE_META: &[Field] = &[
    field(1, "apiVersion", Text, Always),
    field(2, "kind", Text, Always),
];

pub(super) const STATUS: &[Field] = &[
    field(1, "metadata", Message(LIST_META), Always),
    field(2, "status", Text, Always),
    field(3, "message", Text, Always),
    field(4, "reason", Text, Always),
    field(5, "details", Message(STATUS_DETAILS), Optional),
    field(6, "code", Number, Always),
];

const STATUS_DETAILS: &[Field] = &[
    field(1, "name", Text, Always),
    field(2, "group", Text, Always),
    field(3, "kind", Text, Always),
    field(5, "retryAfterSeconds", Number, Always),
    field(6, "uid", Text, Always),
];
