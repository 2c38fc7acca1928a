//! The Node and the ServiceCIDRs of the API.

use proxier::desired::{Config, Need};
use proxier::source::kube::{ConfigMapError, config_map};
use serde_json::json;
use testbed::{ApiServer, Behaviour, Cut, Resource, Verb};

use crate::cluster::{
    Cluster, NODE, PATIENCE, START, access, current, node, populated, service_cidr, timing,
};

fn becomes(cluster: &mut Cluster, what: &str, is: impl Fn(&Config) -> bool) {
    cluster.until(what, |cluster| {
        let config = cluster.proxier.desired().config();
        if is(config) {
            Ok(())
        } else {
            Err(format!("{config:?}"))
        }
    });
}

#[test]
fn the_node_is_followed() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        let config = cluster.proxier.desired().config();
        assert_eq!(
            config.node_ips,
            ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(config.cluster_cidrs, ["10.244.0.0/24".parse().unwrap()]);
        assert_eq!(config.zone.as_deref(), Some("west"));
        let mut moved = node(NODE);
        moved["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("east");
        cluster.server.put(Resource::Nodes, moved);
        becomes(&mut cluster, "east", |config| {
            config.zone.as_deref() == Some("east")
        });
        cluster.server.delete(Resource::Nodes, NODE);
        becomes(&mut cluster, "no zone", |config| config.zone.is_none());
        cluster.server.put(Resource::Nodes, node(NODE));
        becomes(&mut cluster, "west", |config| {
            config.zone.as_deref() == Some("west")
        });
        cluster.stays(&START);
    }
}

#[test]
fn heartbeats_are_ignored() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        for second in 0..10 {
            let mut beating = node(NODE);
            beating["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True",
                "lastHeartbeatTime": format!("2026-01-01T00:00:{second:02}Z"),
            }]);
            cluster.server.put(Resource::Nodes, beating);
        }
        let mut moved = node(NODE);
        moved["metadata"]["labels"] = json!({});
        cluster.server.put(Resource::Nodes, moved);
        let before = cluster.readings_taken();
        becomes(&mut cluster, "no zone", |config| config.zone.is_none());
        assert_eq!(cluster.readings_taken(), before + 1);
    }
}

#[test]
fn service_cidrs_are_followed() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        let cidrs = |cidrs: &[&str]| {
            let cidrs: Vec<ipnet::IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
            move |config: &Config| config.service_cidrs == cidrs
        };
        becomes(&mut cluster, "one", cidrs(&["10.96.0.0/12"]));
        cluster
            .server
            .put(Resource::ServiceCidrs, service_cidr("more", "10.64.0.0/16"));
        // Inside of another one, and of a family in which the node has no address.
        cluster.server.put(
            Resource::ServiceCidrs,
            service_cidr("within", "10.96.0.0/24"),
        );
        cluster
            .server
            .put(Resource::ServiceCidrs, service_cidr("other", "fd00::/112"));
        becomes(
            &mut cluster,
            "three",
            cidrs(&["10.64.0.0/16", "10.96.0.0/12", "fd00::/112"]),
        );
        cluster.server.compact();
        cluster.server.delete(Resource::ServiceCidrs, "kubernetes");
        cluster.server.cut(Resource::ServiceCidrs, Cut::Close);
        becomes(
            &mut cluster,
            "others",
            cidrs(&["10.64.0.0/16", "10.96.0.0/24", "fd00::/112"]),
        );
        cluster.stays(&START);
    }
}

/// What a server forbids while it starts up may be allowed later. The default Service CIDR is
/// larger than this one, and other programs may use the rest.
#[test]
fn service_cidrs_of_a_server_that_starts_up() {
    for behaviour in current() {
        let server = populated(behaviour);
        let cidr = service_cidr("kubernetes", "10.96.0.0/16");
        server.put(Resource::ServiceCidrs, cidr);
        server.forbid(&[
            Resource::Services,
            Resource::EndpointSlices,
            Resource::Nodes,
            Resource::ServiceCidrs,
        ]);
        let access = access(&server);
        let mut timing = timing();
        timing.absent = PATIENCE * 10;
        let mut cluster = Cluster::follow(server, access, timing);
        for resource in [Resource::Nodes, Resource::ServiceCidrs] {
            cluster.asked(resource, Verb::Watch, 5);
        }
        assert!(cluster.serves().is_empty());
        cluster.server.forbid(&[]);
        cluster.becomes(&START);
        cluster.connects();
        let cidrs = ["10.96.0.0/16".parse().unwrap()];
        let is_narrow = |config: &Config| config.service_cidrs == cidrs;
        becomes(&mut cluster, "/16", is_narrow);
        // The same when it restarts.
        let asks = cluster.server.asks().len();
        cluster.server.forbid(&[Resource::ServiceCidrs]);
        cluster.server.compact();
        cluster.server.cut(Resource::ServiceCidrs, Cut::Close);
        cluster.until("asked on", |cluster| match cluster.server.asks().len() {
            now if now >= asks + 5 => Ok(()),
            now => Err(now),
        });
        assert!(is_narrow(cluster.proxier.desired().config()));
        let failures = cluster.source.state().failures;
        assert!(failures.contains_key("ServiceCIDR"), "{failures:?}");
        cluster.server.forbid(&[]);
        cluster.connects();
    }
}

/// The role of a kube-proxy older than ServiceCIDRs.
#[test]
fn forbidden_service_cidrs() {
    for behaviour in current() {
        let server = populated(behaviour);
        server.forbid(&[Resource::ServiceCidrs]);
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, timing());
        cluster.becomes(&START);
        cluster.connects();
        cluster.server.forbid(&[]);
        let cidr = service_cidr("kubernetes", "10.96.0.0/16");
        cluster.server.put(Resource::ServiceCidrs, cidr);
        let cidrs = ["10.96.0.0/16".parse().unwrap()];
        becomes(&mut cluster, "/16", |config| config.service_cidrs == cidrs);
    }
}

/// Kubernetes has no such object before 1.33, and 10.96.0.0/12 is only kubeadm's default: other
/// clusters have nodes and pods there.
#[test]
fn service_cidrs_that_nobody_tells() {
    for current in current() {
        let behaviour = Behaviour {
            has_service_cidrs: false,
            ..current
        };
        let mut cluster = Cluster::new(behaviour);
        cluster.connects();
        let config = cluster.proxier.desired().config();
        assert!(config.service_cidrs.is_empty() && config.left_out.is_empty());
        let routes = cluster.proxier.desired().all_needs();
        let routes = routes.filter(|need| matches!(need, Need::Route(_)));
        assert_eq!(routes.count(), START.len());
    }
}

fn kubeadm_config(cluster_configuration: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "kubeadm-config"},
        "data": {"ClusterConfiguration": cluster_configuration},
    })
}

#[test]
fn service_cidrs_that_kubeadm_tells() {
    for current in current() {
        let behaviour = Behaviour {
            has_service_cidrs: false,
            ..current
        };
        let cidrs = |texts: &[&str]| texts.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let cases: [(_, Vec<ipnet::IpNet>); 4] = [
            (
                "apiVersion: kubeadm.k8s.io/v1beta4\nclusterName: kubernetes\n\
             kind: ClusterConfiguration\nnetworking:\n  dnsDomain: cluster.local\n  \
             podSubnet: 10.244.0.0/16\n  serviceSubnet: 10.96.0.0/16\n",
                cidrs(&["10.96.0.0/16"]),
            ),
            (
                "networking: {serviceSubnet: '10.96.0.0/16,fd00:10:96::/112'}",
                cidrs(&["10.96.0.0/16", "fd00:10:96::/112"]),
            ),
            ("networking: {serviceSubnet: 10.96.0.0}", cidrs(&[])),
            ("networking: {dnsDomain: cluster.local}", cidrs(&[])),
        ];
        for (text, expected) in cases {
            let server = populated(behaviour);
            server.put(Resource::ConfigMaps, kubeadm_config(text));
            let access = access(&server);
            let mut cluster = Cluster::follow(server, access, timing());
            // Before the Services, which are never in effect with another Service CIDR.
            cluster.becomes(&START);
            let config = cluster.proxier.desired().config();
            assert_eq!(config.service_cidrs, expected, "{text}");
        }
    }
}

#[test]
fn service_cidrs_that_come_with_a_new_server() {
    for current in current() {
        let mut behaviour = Behaviour {
            has_service_cidrs: false,
            ..current
        };
        let mut cluster = Cluster::new(behaviour);
        cluster.connects();
        assert!(cluster.proxier.desired().config().service_cidrs.is_empty());
        behaviour.has_service_cidrs = true;
        cluster.server.become_like(behaviour);
        cluster.server.put(
            Resource::ServiceCidrs,
            service_cidr("kubernetes", "10.96.0.0/16"),
        );
        cluster.asked(Resource::ServiceCidrs, Verb::Watch, 2);
        let cidrs = ["10.96.0.0/16".parse().unwrap()];
        becomes(&mut cluster, "/16", |config| config.service_cidrs == cidrs);
    }
}

#[test]
fn a_config_map_is_read_once() {
    for behaviour in current() {
        let server = ApiServer::start(behaviour).unwrap();
        server.put(
            Resource::ConfigMaps,
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": "kube-system", "name": "kube-proxy"},
                "data": {"config.conf": "mode: ipvs"},
            }),
        );
        let runtime = proxier::Runtime::start().unwrap();
        let read = |name: &str| config_map(&runtime, access(&server), &timing(), name);
        let data = read("kube-system/kube-proxy").unwrap();
        assert_eq!(data["config.conf"], "mode: ipvs");
        assert_eq!(server.asks_of(Resource::ConfigMaps, Verb::Get).len(), 1);
        let error = read("kube-system/other").unwrap_err();
        assert!(matches!(error, ConfigMapError::Request { .. }), "{error}");
        // Nothing that is no name becomes a path.
        for name in ["kube-proxy", "kube-system/a/b", "kube-system/..", "a b/c"] {
            let error = read(name).unwrap_err();
            assert!(matches!(error, ConfigMapError::Name(_)), "{name}: {error}");
        }
    }
}
