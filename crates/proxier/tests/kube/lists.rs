//! The first list, and its requests.

use serde_json::json;
use testbed::{Behaviour, Fault, Resource, Verb};

use crate::cluster::{
    Cluster, START, access, all, current, fails, populated, service, slice, timing,
};

/// A server without streamed lists, ServiceCIDRs and field selectors of Services.
const OLD: Behaviour = Behaviour {
    streams_lists: false,
    has_service_cidrs: false,
    selects_cluster_ips: false,
    gone_by_event: true,
    has_protobuf: false,
    page: 2,
};

#[test]
fn lists_are_streamed_where_they_can_be() {
    for behaviour in current() {
        let cluster = Cluster::new(behaviour);
        for resource in [
            Resource::Services,
            Resource::EndpointSlices,
            Resource::Nodes,
        ] {
            assert_eq!(cluster.server.asks_of(resource, Verb::List), []);
            let asks = cluster.server.asks_of(resource, Verb::Watch);
            assert_eq!(
                asks.len(),
                1,
                "one connection for the list and what follows"
            );
            assert_eq!(asks[0].parameter("sendInitialEvents"), Some("true"));
            // Any version: answered from the server's cache.
            assert_eq!(asks[0].parameter("resourceVersion"), Some("0"));
            assert_eq!(asks[0].parameter("allowWatchBookmarks"), Some("true"));
        }
    }
}

/// A quorum read for every node at once can overload a control plane (kubernetes/kubernetes#85342).
#[test]
fn lists_come_from_the_cache_and_never_go_back() {
    for behaviour in all() {
        let mut cluster = Cluster::new(behaviour);
        cluster
            .server
            .put(Resource::Services, service("d", "10.96.0.4"));
        let four = [START[0], START[1], START[2], "10.96.0.4:80 → "];
        cluster.becomes(&four);
        cluster.server.go_away();
        fails(&mut cluster, "Service", "cannot reach the API server");
        cluster
            .server
            .put(Resource::Services, service("e", "10.96.0.5"));
        cluster.server.compact();
        cluster.server.come_back();
        cluster.becomes(&[four[0], four[1], four[2], four[3], "10.96.0.5:80 → "]);
        let asks = cluster.server.asks();
        let lists = asks.iter().filter(|ask| {
            let streams = ask.parameter("sendInitialEvents").is_some();
            ask.resource == Resource::Services
                && ask.parameter("continue").is_none()
                && (if behaviour.streams_lists {
                    streams
                } else {
                    ask.verb == Verb::List
                })
        });
        let versions: Vec<_> = lists
            .map(|ask| {
                let rule = ask.parameter("resourceVersionMatch");
                (ask.parameter("resourceVersion").unwrap(), rule)
            })
            .collect();
        let [first, second] = &versions[..] else {
            panic!("{versions:?}")
        };
        assert_eq!(first.0, "0");
        let newest: u64 = second.0.parse().unwrap();
        assert!(newest > 0, "{versions:?}");
        assert_eq!(second.1, Some("NotOlderThan"));
    }
}

#[test]
fn an_old_server_is_asked_for_pages() {
    let mut cluster = Cluster::new(OLD);
    let lists = cluster.server.asks_of(Resource::Services, Verb::List);
    let pages: Vec<_> = lists
        .iter()
        .map(|ask| ask.parameter("continue").is_some())
        .collect();
    assert_eq!(pages, [false, true], "three Services are two pages");
    cluster
        .server
        .put(Resource::Services, service("d", "10.96.0.4"));
    cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → "]);
    let watches = cluster.server.asks_of(Resource::Services, Verb::Watch);
    assert!(watches.last().unwrap().parameter("fieldSelector").is_none());
}

/// As an API server does, the fake one compresses pages of more than 128 KiB.
#[test]
fn pages_are_compressed_and_watches_are_not() {
    let behaviour = Behaviour {
        page: usize::MAX,
        ..OLD
    };
    let server = populated(behaviour);
    for n in 0..300 {
        let mut service = service(&format!("many{n}"), &format!("10.96.{}.9", n % 250 + 1));
        service["metadata"]["annotations"] = json!({"long": "x".repeat(1_000)});
        service["spec"]["ports"][0]["port"] = json!(1_000 + n);
        server.put(Resource::Services, service);
    }
    // The first answer is cut off in the middle.
    server.fail(Resource::Services, Verb::List, [Fault::Half]);
    let access = access(&server);
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.until("all Services", |cluster| match cluster.serves().len() {
        303 => Ok(()),
        other => Err(other),
    });
    for ask in cluster.server.asks() {
        let is_list = ask.verb == Verb::List;
        assert_eq!(ask.accepts_gzip, is_list, "{ask:?}");
    }
}

#[test]
fn excluded_objects_are_left_out_at_the_server() {
    for behaviour in current() {
        let cluster = Cluster::new(behaviour);
        let slices = &cluster
            .server
            .asks_of(Resource::EndpointSlices, Verb::Watch)[0];
        let label = slices.parameter("labelSelector");
        assert_eq!(label, Some("!service.kubernetes.io/headless"));
        let ask = &cluster.server.asks_of(Resource::Services, Verb::Watch)[0];
        let label = ask.parameter("labelSelector");
        assert_eq!(label, Some("!service.kubernetes.io/service-proxy-name"));
        assert_eq!(ask.parameter("fieldSelector"), Some("spec.clusterIP!=None"));
        let ask = &cluster.server.asks_of(Resource::Nodes, Verb::Watch)[0];
        assert_eq!(ask.parameter("fieldSelector"), Some("metadata.name=node-a"));
    }
}

#[test]
fn headless_and_foreign_objects_come_and_go() {
    for behaviour in [Behaviour::default(), OLD] {
        let mut cluster = Cluster::new(behaviour);
        let mut headless = service("d", "None");
        headless["spec"]["ports"] = json!([]);
        cluster.server.put(Resource::Services, headless);
        let mut foreign = service("a", "10.96.0.1");
        foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
        cluster.server.put(Resource::Services, foreign);
        let mut foreign = slice("b-2", "b", &["10.244.1.2"]);
        foreign["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
        cluster.server.put(Resource::EndpointSlices, foreign);
        cluster.becomes(&["10.96.0.2:80 → 10.244.0.2", START[2]]);
        cluster
            .server
            .put(Resource::Services, service("a", "10.96.0.1"));
        cluster
            .server
            .put(Resource::EndpointSlices, slice("b-2", "b", &["10.244.1.2"]));
        cluster.becomes(&START);
    }
}

/// As kube-proxy 1.36: the label of headless Services matters on slices alone, and that of other
/// proxies on Services alone.
#[test]
fn labels_of_the_other_kind_exclude_nothing() {
    for behaviour in [Behaviour::default(), OLD] {
        let mut cluster = Cluster::new(behaviour);
        let mut labelled = service("d", "10.96.0.4");
        labelled["metadata"]["labels"] = json!({"service.kubernetes.io/headless": ""});
        cluster.server.put(Resource::Services, labelled);
        let mut labelled = slice("d-1", "d", &["10.244.0.4"]);
        labelled["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = json!("x");
        cluster.server.put(Resource::EndpointSlices, labelled);
        cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → 10.244.0.4"]);
    }
}

#[test]
fn nothing_is_programmed_before_every_kind_is_listed() {
    for behaviour in current() {
        for missing in [
            Resource::Nodes,
            Resource::ServiceCidrs,
            Resource::Services,
            Resource::EndpointSlices,
        ] {
            let server = populated(behaviour);
            let refusal = Fault::Status {
                code: 500,
                retry_after: None,
            };
            server.fail(missing, Verb::Watch, vec![refusal; 10_000]);
            let access = access(&server);
            let mut cluster = Cluster::follow(server, access, timing());
            cluster.asked(missing, Verb::Watch, 8);
            cluster.stays(&[]);
            assert!(
                cluster.proxier.handle([]).unwrap().is_none(),
                "{missing:?} was not listed"
            );
            assert!(cluster.source.state().connected_since.is_none());
            cluster.server.forgive();
            cluster.becomes(&START);
            cluster.connects();
        }
    }
}

#[test]
fn an_incomplete_list_is_not_applied() {
    for behaviour in [Behaviour::default(), OLD] {
        let server = populated(behaviour);
        for resource in [Resource::Services, Resource::EndpointSlices] {
            for verb in [Verb::List, Verb::Watch] {
                server.fail(
                    resource,
                    verb,
                    [Fault::Half, Fault::Garbage, Fault::Ended, Fault::Slow],
                );
            }
        }
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, timing());
        cluster.until("the list, or nothing", |cluster| match cluster.serves() {
            is if is == START => Ok(()),
            is => {
                assert!(is.is_empty(), "half a list was taken for a whole: {is:?}");
                Err(is)
            }
        });
    }
}

#[test]
fn a_page_may_be_expired() {
    let server = populated(OLD);
    for resource in [Resource::Services, Resource::EndpointSlices] {
        let gone = Fault::Status {
            code: 410,
            retry_after: None,
        };
        // The second of two pages, twice.
        server.fail(
            resource,
            Verb::List,
            [Fault::Slow, gone.clone(), Fault::Slow, gone],
        );
    }
    let access = access(&server);
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
}
