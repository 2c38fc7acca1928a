//! Random objects, in which each field is usually valid by itself.

use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// Texts that are invalid in nearly every field.
fn wrong() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "",
            "None",
            "Local",
            "127.0.0.1",
            "0.0.0.0",
            "::ffff:10.0.0.1",
            "fe80::1%eth0",
            "10.0.0.0/33",
            "-a"
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        Just("\u{0}\n\"'\u{202e}".repeat(200)),
    ]
}

/// Usually one of these, so that many objects are valid.
fn mostly<T: Clone + Into<Value> + std::fmt::Debug + 'static>(
    right: Vec<T>,
) -> BoxedStrategy<Value> {
    let right = select(right).prop_map(Into::into);
    prop_oneof![30 => right, 1 => wrong().prop_map(Value::from)].boxed()
}

fn number(right: Vec<i32>) -> BoxedStrategy<Value> {
    let wrong = select(vec![0, 1, 65_536, 86_401, -1, i32::MIN, i32::MAX]);
    prop_oneof![30 => select(right), 1 => wrong]
        .prop_map(Value::from)
        .boxed()
}

fn address() -> BoxedStrategy<Value> {
    mostly(vec![
        "10.96.0.1",
        "192.0.2.1",
        "192.0.2.2",
        "fd00::1",
        "2001:db8::1",
    ])
}

fn range() -> BoxedStrategy<Value> {
    mostly(vec![
        "10.0.0.0/8",
        " 10.1.0.0/16",
        "10.1.2.3/24",
        "0.0.0.0/0",
        "2001:db8::/32",
        "::/0",
    ])
}

type Fields = Vec<(&'static str, BoxedStrategy<Value>)>;

/// An object with some of the fields.
fn some_of(fields: Fields) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| option::weighted(0.6, value).prop_map(move |value| (name, value)))
        .collect();
    let object = |fields: Vec<(&str, Option<Value>)>| {
        let set = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(Map::from_iter(set))
    };
    fields.prop_map(object).boxed()
}

fn list_of(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    vec(item, 0..4).prop_map(Value::from).boxed()
}

fn metadata(labels: Vec<&'static str>) -> BoxedStrategy<Value> {
    let map = |keys: Vec<&'static str>, values| {
        let key = prop_oneof![9 => select(keys).prop_map(str::to_owned), 1 => wrong()];
        hash_map(key, values, 0..3)
            .prop_map(|map| json!(map))
            .boxed()
    };
    let annotations = vec![
        "svcproxy.io/scheduler",
        "svcproxy.io/scheduler-flags",
        "service.beta.kubernetes.io/load-balancer-source-ranges",
    ];
    let schedulers = mostly(vec![
        "sh",
        "mh",
        "rr",
        "none",
        "sh-port",
        "mh-port,sh-port",
        "x",
    ]);
    let rest = some_of(vec![
        ("namespace", mostly(vec!["default", "kube-system"])),
        ("labels", map(labels, mostly(vec!["web", "true"]))),
        ("annotations", map(annotations, schedulers)),
    ]);
    with(rest, "name", mostly(vec!["web"]))
}

/// Adds a field to the object.
fn with(
    object: BoxedStrategy<Value>,
    field: &'static str,
    value: BoxedStrategy<Value>,
) -> BoxedStrategy<Value> {
    let both = (object, value).prop_map(move |(mut object, value)| {
        object[field] = value;
        object
    });
    both.boxed()
}

fn kind(
    version: &'static str,
    kind: &'static str,
    labels: Vec<&'static str>,
    fields: Fields,
) -> BoxedStrategy<Value> {
    let object = with(some_of(fields), "metadata", metadata(labels));
    let object = with(object, "apiVersion", Just(json!(version)).boxed());
    with(object, "kind", Just(json!(kind)).boxed())
}

fn ports() -> BoxedStrategy<Value> {
    let port = some_of(vec![
        ("name", mostly(vec!["a", "b", "c", "d", "e"])),
        ("protocol", mostly(vec!["TCP", "UDP", "SCTP"])),
        ("nodePort", number(vec![0, 30_080, 30_081, 30_082])),
        ("targetPort", mostly(vec![json!(80), json!("web")])),
    ]);
    let port = with(port, "port", number(vec![53, 80, 443, 8080]));
    prop_oneof![4 => vec(port.clone(), 1..2), 1 => vec(port, 0..4)]
        .prop_map(Value::from)
        .boxed()
}

pub(super) fn service() -> BoxedStrategy<Value> {
    let both = vec![json!(["10.96.0.1", "fd00::1"]), json!(["10.96.0.1"])];
    let affinity = |seconds| json!({"clientIP": {"timeoutSeconds": seconds}});
    let rare = |strategy: BoxedStrategy<Value>, usual: Value| {
        prop_oneof![1 => strategy, 4 => Just(usual)].boxed()
    };
    let spec = some_of(vec![
        ("clusterIPs", select(both).boxed()),
        (
            "ipFamilies",
            rare(list_of(mostly(vec!["IPv4", "IPv6"])), json!(["IPv4"])),
        ),
        (
            "ipFamilyPolicy",
            mostly(vec!["PreferDualStack", "RequireDualStack"]),
        ),
        ("externalIPs", list_of(address())),
        ("externalTrafficPolicy", mostly(vec!["Local", "Cluster"])),
        ("internalTrafficPolicy", mostly(vec!["Local", "Cluster"])),
        (
            "healthCheckNodePort",
            rare(number(vec![30_080, 32_000]), json!(0)),
        ),
        ("loadBalancerSourceRanges", list_of(range())),
        ("sessionAffinity", mostly(vec!["None", "ClientIP"])),
        (
            "sessionAffinityConfig",
            rare(number(vec![7]).prop_map(affinity).boxed(), json!({})),
        ),
    ]);
    let types = vec![
        "LoadBalancer",
        "LoadBalancer",
        "LoadBalancer",
        "NodePort",
        "ClusterIP",
    ];
    let spec = with(spec, "type", mostly(types));
    let spec = with(spec, "clusterIP", mostly(vec!["10.96.0.1"]));
    let spec = with(spec, "ports", ports());
    let ingress = some_of(vec![
        ("ip", address()),
        ("ipMode", mostly(vec!["VIP", "Proxy"])),
        ("hostname", mostly(vec!["lb.example.org"])),
    ]);
    let status = list_of(ingress).prop_map(|ingress| json!({"loadBalancer": {"ingress": ingress}}));
    let labels = vec!["app", "service.kubernetes.io/headless"];
    let fields = vec![("status", status.boxed())];
    with(kind("v1", "Service", labels, fields), "spec", spec)
}

pub(super) fn slice() -> BoxedStrategy<Value> {
    let names = || {
        let right = subsequence(vec![json!("a"), json!("b"), json!("c")], 0..4);
        let names = prop_oneof![9 => right, 1 => vec(mostly(vec!["a", "b"]), 0..10)];
        let named = |names: Vec<Value>| names.into_iter().map(|name| json!({ "name": name }));
        names.prop_map(move |names| named(names).collect()).boxed()
    };
    let condition = || any::<Option<bool>>().prop_map(Value::from).boxed();
    let conditions = some_of(vec![
        ("ready", condition()),
        ("serving", condition()),
        ("terminating", condition()),
    ]);
    let endpoint = some_of(vec![
        ("nodeName", mostly(vec!["a", "b"])),
        ("zone", mostly(vec!["a", "b"])),
        ("conditions", conditions),
        (
            "hints",
            some_of(vec![("forZones", names()), ("forNodes", names())]),
        ),
    ]);
    let addresses = mostly(vec!["10.244.0.1", "10.244.0.2", "10.244.0.3"]);
    let addresses = vec(addresses, 1..3).prop_map(Value::from);
    let endpoint = with(endpoint, "addresses", addresses.boxed());
    let labels = vec![
        "kubernetes.io/service-name",
        "app",
        "service.kubernetes.io/headless",
    ];
    let slice = kind(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        labels,
        vec![("ports", ports())],
    );
    let of_service = slice.clone().prop_map(|mut slice| {
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!("web");
        slice
    });
    let slice = prop_oneof![1 => slice, 4 => of_service].boxed();
    let slice = with(slice, "endpoints", list_of(endpoint));
    with(
        slice,
        "addressType",
        mostly(vec!["IPv4", "IPv4", "IPv4", "IPv6", "FQDN"]),
    )
}

pub(super) fn endpoints() -> BoxedStrategy<Value> {
    let address = some_of(vec![("nodeName", mostly(vec!["a", "b"]))]);
    let address = with(
        address,
        "ip",
        mostly(vec!["10.244.0.1", "10.244.0.2", "fd00::1"]),
    );
    let subset = some_of(vec![
        ("addresses", list_of(address.clone())),
        ("notReadyAddresses", list_of(address)),
        ("ports", ports()),
    ]);
    let labels = vec!["app", "endpointslice.kubernetes.io/skip-mirror"];
    kind(
        "v1",
        "Endpoints",
        labels,
        vec![("subsets", list_of(subset))],
    )
}

pub(super) fn node() -> BoxedStrategy<Value> {
    let address = (mostly(vec!["InternalIP", "ExternalIP"]), address());
    let address = address.prop_map(|(kind, address)| json!({"type": kind, "address": address}));
    let spec = some_of(vec![("podCIDRs", list_of(range()))]);
    let status = some_of(vec![("addresses", list_of(address.boxed()))]);
    let labels = vec!["app", "topology.kubernetes.io/zone"];
    kind(
        "v1",
        "Node",
        labels,
        vec![("spec", spec), ("status", status)],
    )
}
