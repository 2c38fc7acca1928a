//! Compares svcproxy's requests to an API server with the permissions of its role.

use std::collections::BTreeSet;
use std::time::Duration;

use proxier::notice::{Notice, Reason};
use proxier::source::Extent;
use proxier::source::kube::{Access, KubeSource, Timing, event_queue};
use testbed::{ApiServer, Behaviour, Resource, Verb, eventually};

use crate::kustomize;

/// API group, resource, verb.
type Request = (String, String, String);

fn asked(server: &ApiServer) -> BTreeSet<Request> {
    let asks = server.asks().into_iter();
    asks.map(|ask| {
        let (group, resource) = match ask.resource {
            Resource::Services => ("", "services"),
            Resource::EndpointSlices => ("discovery.k8s.io", "endpointslices"),
            Resource::Nodes => ("", "nodes"),
            Resource::ServiceCidrs => ("networking.k8s.io", "servicecidrs"),
            Resource::ConfigMaps => ("", "configmaps"),
            Resource::Events => ("events.k8s.io", "events"),
        };
        let verb = match ask.verb {
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Get => "get",
            Verb::Create => "create",
        };
        (group.to_owned(), resource.to_owned(), verb.to_owned())
    })
    .collect()
}

fn allowed() -> BTreeSet<Request> {
    let role = kustomize::one("ClusterRole");
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let words = |key: &str| rule[key].as_array().unwrap().iter();
        for group in words("apiGroups") {
            for resource in words("resources") {
                for verb in words("verbs") {
                    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                    allowed.insert((word(group), word(resource), word(verb)));
                }
            }
        }
    }
    allowed
}

#[test]
fn role_allows_all_requests_and_nothing_else() {
    // svcproxy requests lists from a server without streamed lists, and kubeadm's configuration
    // from one without ServiceCIDRs.
    let sources = [true, false].map(|has_service_cidrs| {
        let behaviour = Behaviour {
            streams_lists: false,
            has_service_cidrs,
            ..Behaviour::default()
        };
        let server = ApiServer::start(behaviour).unwrap();
        let mut access = Access::default();
        access.server = Some(server.url());
        let (sender, events) = event_queue();
        let timing = Timing::default();
        let source = KubeSource::start_with_events(
            &proxier::Runtime::start().unwrap(),
            access,
            timing,
            "node-a",
            Extent::Served,
            events,
            |_| {},
        );
        sender.post(Notice::of_node(Reason::ModeFallback, "a test"), None);
        (server, source.unwrap(), sender)
    });
    let allowed = allowed();
    eventually(Duration::from_secs(60), || {
        let asked: BTreeSet<_> = sources
            .iter()
            .flat_map(|(server, ..)| asked(server))
            .collect();
        if asked == allowed { Ok(()) } else { Err(asked) }
    })
    .unwrap();
}
