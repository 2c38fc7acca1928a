//! A fake server and a node that follows it.

use std::cell::RefCell;
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use proxier::Proxier;
use proxier::desired::{Config, FollowNode};
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs};
use proxier::source::Reading;
use proxier::source::kube::{Access, KubeSource, StartError, Timing};
use serde_json::{Value, json};
use testbed::{ApiServer, Behaviour, Resource};

/// Far longer than anything takes, for a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long the source must be silent to count as idle.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

pub(crate) const NODE: &str = "node-a";

pub(crate) fn timing() -> Timing {
    let mut timing = Timing::default();
    timing.first_retry = Duration::from_millis(5);
    timing.last_retry = Duration::from_millis(50);
    timing.starting = Duration::from_millis(50);
    timing.absent = Duration::from_millis(100);
    timing.relist = Duration::from_millis(50);
    timing
}

/// The error with which a source rejects its settings.
pub(crate) fn rejected(access: Access) -> StartError {
    let runtime = proxier::Runtime::start().unwrap();
    KubeSource::start(&runtime, access, timing(), NODE, |_| {}).unwrap_err()
}

/// Short time limits.
pub(crate) fn impatient() -> Timing {
    let mut timing = timing();
    timing.answer = Duration::from_millis(500);
    timing.watch = Duration::from_secs(1);
    timing.grace = Duration::from_millis(100);
    timing
}

/// Servers that stream lists, and that send pages, each in both encodings.
pub(crate) fn all() -> [Behaviour; 4] {
    [(true, true), (true, false), (false, true), (false, false)].map(
        |(streams_lists, has_protobuf)| Behaviour {
            streams_lists,
            has_protobuf,
            ..Behaviour::default()
        },
    )
}

/// Current servers, one for each encoding.
pub(crate) fn current() -> [Behaviour; 2] {
    [true, false].map(|has_protobuf| Behaviour {
        has_protobuf,
        ..Behaviour::default()
    })
}

pub(crate) fn access(server: &ApiServer) -> Access {
    let mut access = Access::default();
    access.server = Some(server.url());
    access
}

/// Writes a kubeconfig into a directory. `cluster` and `user` are YAML.
pub(crate) fn kubeconfig(directory: &Path, cluster: &str, user: &str) -> Access {
    let path = directory.join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         contexts: [{{name: here, context: {{cluster: here, user: me}}}}]\n\
         clusters: [{{name: here, cluster: {{{cluster}}}}}]\n\
         users: [{{name: me, user: {{{user}}}}}]\n"
    );
    replace(&path, &text);
    let mut access = Access::default();
    access.kubeconfig = Some(path);
    access
}

/// Replaces a file atomically.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) source: KubeSource,
    pub(crate) proxier: Proxier<Ipvs<FakeIpvs>>,
    /// The source's diagnostics.
    pub(crate) reported: Vec<String>,
    readings: Receiver<Reading>,
    taken: usize,
}

impl Cluster {
    /// A followed server with a node, three Services and their slices.
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        let server = populated(behaviour);
        let access = access(&server);
        let mut cluster = Self::follow(server, access, timing());
        cluster.becomes(&START);
        cluster
    }

    pub(crate) fn follow(server: ApiServer, access: Access, timing: Timing) -> Self {
        let (deliver, readings) = channel();
        let source = KubeSource::start(
            &proxier::Runtime::start().unwrap(),
            access,
            timing,
            NODE,
            move |reading| {
                let _ = deliver.send(reading);
            },
        );
        let mut config = Config::new(NODE, vec!["192.0.2.1".parse().unwrap()]);
        config.follow_node = FollowNode::default()
            .with_addresses(true)
            .with_pod_cidrs(true)
            .with_zone(true)
            .with_service_cidrs(true);
        let kernel = FakeNode::default().kernel().unwrap();
        Self {
            server,
            source: source.unwrap(),
            proxier: Proxier::new(Arc::new(config), Ipvs::new(kernel)),
            reported: Vec::new(),
            readings,
            taken: 0,
        }
    }

    /// The number of readings.
    pub(crate) fn readings_taken(&self) -> usize {
        self.taken
    }

    /// Applies readings until `done`.
    pub(crate) fn until<T: Debug>(
        &mut self,
        what: impl Debug,
        done: impl Fn(&Self) -> Result<(), T>,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(is) = done(self) {
            assert!(Instant::now() < deadline, "not {what:?} but {is:?}");
            if let Ok(reading) = self.readings.recv_timeout(Duration::from_millis(20)) {
                self.ingest(reading);
            }
        }
    }

    fn ingest(&mut self, reading: Reading) {
        self.taken += 1;
        let reported = reading.diagnostics.iter().map(ToString::to_string);
        self.reported.extend(reported);
        let report = self.proxier.handle(reading.changes).unwrap();
        assert!(report.is_none_or(|report| report.is_success()));
    }

    /// Waits until the node serves exactly this: one line per frontend, such as `10.96.0.1:80 →
    /// 10.244.0.1`.
    pub(crate) fn becomes(&mut self, expected: &[&str]) {
        self.until(expected, |cluster| {
            let is = cluster.serves();
            if is == expected { Ok(()) } else { Err(is) }
        });
    }

    /// Applies readings until the source is idle, and checks that the node is unchanged.
    pub(crate) fn stays(&mut self, expected: &[&str]) {
        while let Ok(reading) = self.readings.recv_timeout(QUIET) {
            self.ingest(reading);
        }
        assert_eq!(self.serves(), expected);
    }

    pub(crate) fn serves(&self) -> Vec<String> {
        let frontends = self.proxier.desired().frontends().map(|frontend| {
            let backends = frontend.backends.iter();
            let backends: Vec<_> = backends
                .map(|backend| backend.address.to_string())
                .collect();
            let (address, port) = (frontend.key.address, frontend.key.port);
            format!("{address}:{port} → {}", backends.join(" "))
        });
        let mut frontends: Vec<_> = frontends.collect();
        frontends.sort();
        frontends
    }

    /// Waits until the server got at least this number of requests.
    pub(crate) fn asked(&mut self, resource: Resource, verb: testbed::Verb, times: usize) {
        self.until((resource, verb, times), |cluster| {
            let asks = cluster.server.asks_of(resource, verb);
            if asks.len() >= times {
                Ok(())
            } else {
                Err(asks)
            }
        });
    }

    /// Waits until the source is connected.
    pub(crate) fn connects(&mut self) {
        self.until("connected", |cluster| {
            let state = cluster.source.state();
            if state.connected_since.is_some() {
                Ok(())
            } else {
                Err(state)
            }
        });
    }
}

/// Waits until a kind fails for this reason, and returns the whole error.
pub(crate) fn fails(cluster: &mut Cluster, kind: &str, why: &str) -> String {
    let failure = |cluster: &Cluster| cluster.source.state().failures.get(kind).cloned();
    let said = RefCell::new(String::new());
    cluster.until(why, |cluster| match failure(cluster) {
        Some(failure) if failure.contains(why) => {
            said.replace(failure);
            Ok(())
        }
        other => Err(other),
    });
    said.into_inner()
}

/// The initial state of the node.
pub(crate) const START: [&str; 3] = [
    "10.96.0.1:80 → 10.244.0.1",
    "10.96.0.2:80 → 10.244.0.2 10.244.1.2",
    "10.96.0.3:80 → ",
];

pub(crate) fn populated(behaviour: Behaviour) -> ApiServer {
    let server = ApiServer::start(behaviour).unwrap();
    server.put(Resource::Nodes, node(NODE));
    server.put(Resource::Nodes, node("node-b"));
    if behaviour.has_service_cidrs {
        server.put(
            Resource::ServiceCidrs,
            service_cidr("kubernetes", "10.96.0.0/12"),
        );
    }
    for (name, address) in [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3")] {
        server.put(Resource::Services, service(name, address));
    }
    server.put(Resource::EndpointSlices, slice("a-1", "a", &["10.244.0.1"]));
    server.put(Resource::EndpointSlices, slice("b-1", "b", &["10.244.0.2"]));
    server.put(Resource::EndpointSlices, slice("b-2", "b", &["10.244.1.2"]));
    server
}

pub(crate) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "west"}},
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]},
    })
}

pub(crate) fn service_cidr(name: &str, cidr: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name}, "spec": {"cidrs": [cidr]},
    })
}

pub(crate) fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": "default", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

pub(crate) fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "node-b"});
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": name,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}
