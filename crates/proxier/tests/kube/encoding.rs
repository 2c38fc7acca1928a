//! Protocol Buffers and JSON.

use proxier::source::kube::{Access, Encoding};
use testbed::{ApiServer, Behaviour, Cut, Fault, Resource, Verb};

use crate::cluster::{Cluster, START, access, all, fails, populated, service, timing};

/// Whether each of the requests for Services accepts Protocol Buffers.
fn accepted(server: &ApiServer) -> Vec<bool> {
    let asks = server.asks().into_iter();
    let asks = asks.filter(|ask| ask.resource == Resource::Services);
    asks.map(|ask| ask.accepts_protobuf).collect()
}

fn follow(server: ApiServer, access: Access) -> Cluster {
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    cluster
}

#[test]
fn protobuf_is_requested_unless_json_is_set() {
    for behaviour in all() {
        for (encoding, expected) in [(Encoding::Protobuf, true), (Encoding::Json, false)] {
            let server = populated(behaviour);
            let mut access = access(&server);
            access.encoding = encoding;
            let mut cluster = follow(server, access);
            cluster
                .server
                .put(Resource::Services, service("d", "10.96.0.4"));
            cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → "]);
            let accepted = accepted(&cluster.server);
            assert!(accepted.iter().all(|is| *is == expected), "{accepted:?}");
        }
    }
}

/// A server, or a proxy before it, that rejects the header.
#[test]
fn a_server_that_cannot_answer_in_protobuf_is_asked_for_json() {
    for behaviour in all() {
        let server = populated(behaviour);
        let not_acceptable = Fault::Status {
            code: 406,
            retry_after: None,
        };
        for verb in [Verb::Watch, Verb::List] {
            server.fail(Resource::Services, verb, [not_acceptable.clone()]);
        }
        let access = access(&server);
        let cluster = follow(server, access);
        let accepted = accepted(&cluster.server);
        assert_eq!(accepted[..2], [true, false], "{behaviour:?}");
        assert!(cluster.source.state().failures.is_empty());
    }
}

/// Whatever is wrong with the encoding, the node goes on with the other one.
#[test]
fn an_answer_that_cannot_be_decoded_is_requested_in_json() {
    for streams_lists in [true, false] {
        let server = populated(Behaviour {
            streams_lists,
            ..Behaviour::default()
        });
        for verb in [Verb::Watch, Verb::List] {
            server.fail(Resource::Services, verb, [Fault::Garbage]);
        }
        let access = access(&server);
        let cluster = follow(server, access);
        let accepted = accepted(&cluster.server);
        assert!(accepted[0]);
        assert_eq!(accepted.last(), Some(&false), "{accepted:?}");
        // The other kinds are not affected.
        let asks = cluster.server.asks().into_iter();
        let mut of_slices = asks.filter(|ask| ask.resource == Resource::EndpointSlices);
        assert!(of_slices.all(|ask| ask.accepts_protobuf));
    }
}

#[test]
fn an_event_that_cannot_be_decoded_is_reported() {
    let mut cluster = Cluster::new(Behaviour::default());
    cluster
        .server
        .fail(Resource::Services, Verb::Watch, [Fault::Garbage]);
    // Stays visible until the list in JSON.
    let refused = Fault::Status {
        code: 500,
        retry_after: None,
    };
    let refused = vec![refused; 10_000];
    cluster
        .server
        .fail(Resource::Services, Verb::Watch, refused);
    cluster.server.cut(Resource::Services, Cut::End);
    fails(&mut cluster, "Service", "500");
    assert_eq!(accepted(&cluster.server).last(), Some(&false));
    cluster.server.forgive();
    cluster.becomes(&START);
    cluster.connects();
}

/// The reason is in the `Status` object of the answer.
#[test]
fn the_message_of_an_error_is_readable_in_both_encodings() {
    for behaviour in all() {
        let server = populated(behaviour);
        server.forbid(&[Resource::Services]);
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, timing());
        let message = "the API server answers: 403 the user cannot list the resource";
        fails(&mut cluster, "Service", message);
    }
}
