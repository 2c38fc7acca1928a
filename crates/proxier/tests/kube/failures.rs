//! A failing server: the last state stays in effect, and missed changes are applied later.

use std::time::Duration;

use testbed::{Behaviour, Cut, Fault, Resource, Verb};

use crate::cluster::{
    Cluster, NODE, PATIENCE, START, access, current, impatient, node, populated, service, slice,
    timing,
};

const KINDS: [Resource; 4] = [
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Nodes,
    Resource::ServiceCidrs,
];

/// The state of the node after [`change`].
const CHANGED: [&str; 3] = [
    START[0],
    "10.96.0.2:80 → 10.244.0.9 10.244.1.2",
    "10.96.0.4:80 → ",
];

/// Creates one object, changes one and deletes one.
fn change(cluster: &Cluster) {
    cluster
        .server
        .put(Resource::Services, service("d", "10.96.0.4"));
    cluster
        .server
        .put(Resource::EndpointSlices, slice("b-1", "b", &["10.244.0.9"]));
    cluster.server.delete(Resource::Services, "default/c");
}

#[test]
fn watches_that_end_in_any_way() {
    for behaviour in current() {
        for cut in [Cut::End, Cut::Close, Cut::MidEvent] {
            let mut cluster = Cluster::new(behaviour);
            for resource in KINDS {
                cluster.server.cut(resource, cut);
            }
            change(&cluster);
            cluster.becomes(&CHANGED);
            cluster.stays(&CHANGED);
            cluster.connects();
        }
    }
}

#[test]
fn watches_continue_at_their_version() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        cluster.server.cut(Resource::Services, Cut::Close);
        cluster.asked(Resource::Services, Verb::Watch, 2);
        let watches = cluster.server.asks_of(Resource::Services, Verb::Watch);
        assert_eq!(watches[1].parameter("sendInitialEvents"), None);
        let from: u64 = watches[1]
            .parameter("resourceVersion")
            .unwrap()
            .parse()
            .unwrap();
        assert!(from > 0);
    }
}

#[test]
fn a_server_that_goes_away_and_comes_back() {
    for behaviour in current() {
        let mut cluster = Cluster::new(behaviour);
        cluster.server.go_away();
        change(&cluster);
        cluster.until("failures", |cluster| {
            let failures = cluster.source.state().failures;
            if failures.len() == 4 {
                Ok(())
            } else {
                Err(failures)
            }
        });
        cluster.stays(&START);
        assert!(cluster.source.state().connected_since.is_none());
        cluster.server.come_back();
        cluster.becomes(&CHANGED);
        cluster.connects();
        assert!(cluster.source.state().failures.is_empty());
    }
}

/// A server that starts up refuses connections, then forbids everything, and may forget the version
/// of its own first list. None of this lengthens the pauses.
#[test]
fn a_server_that_takes_long_to_start() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut timing = timing();
        timing.first_retry = Duration::from_millis(2);
        timing.starting = Duration::from_millis(10);
        // The pause after the failures below, if they lengthened it.
        timing.last_retry = PATIENCE * 10;
        let mut cluster = Cluster::follow(server, access, timing);
        cluster.becomes(&START);
        cluster.server.go_away();
        change(&cluster);
        cluster.until("many attempts", |cluster| {
            let requests = cluster.source.state().requests;
            let unanswered = requests.iter().filter(|(of, _)| of.code == "<error>");
            match unanswered.map(|(_, count)| count).sum::<u64>() {
                100.. => Ok(()),
                few => Err(few),
            }
        });
        let forbidden = Fault::Status {
            code: 403,
            retry_after: None,
        };
        for resource in KINDS {
            for verb in [Verb::List, Verb::Watch] {
                let faults = vec![forbidden.clone(); 20];
                cluster.server.fail(resource, verb, faults);
            }
        }
        cluster.server.come_back();
        cluster.becomes(&CHANGED);
        cluster.connects();
    }
}

/// The other kinds do not wait for the end of their own pauses.
#[test]
fn one_answer_ends_the_pauses_of_all_kinds() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut timing = timing();
        timing.first_retry = PATIENCE * 10;
        timing.starting = PATIENCE * 10;
        timing.last_retry = PATIENCE * 10;
        let mut cluster = Cluster::follow(server, access, timing);
        cluster.becomes(&START);
        // Only an open watch can be cut.
        cluster.connects();
        let [one, others @ ..] = KINDS;
        for resource in others {
            cluster.server.fail(resource, Verb::Watch, [Fault::Close]);
            cluster.server.cut(resource, Cut::End);
        }
        cluster.until("failures", |cluster| {
            match cluster.source.state().failures.len() {
                3 => Ok(()),
                failures => Err(failures),
            }
        });
        change(&cluster);
        cluster.server.cut(one, Cut::End);
        cluster.becomes(&CHANGED);
        cluster.connects();
    }
}

#[test]
fn a_server_that_has_forgotten() {
    for current in current() {
        for gone_by_event in [true, false] {
            for streams_lists in [true, false] {
                let behaviour = Behaviour {
                    gone_by_event,
                    streams_lists,
                    ..current
                };
                let mut cluster = Cluster::new(behaviour);
                cluster.server.go_away();
                change(&cluster);
                cluster.server.compact();
                cluster.server.come_back();
                cluster.becomes(&CHANGED);
                cluster.stays(&CHANGED);
                cluster.connects();
            }
        }
    }
}

/// A relist is one reading: there is no moment with fewer objects than before and after.
#[test]
fn a_new_list_removes_nothing_temporarily() {
    for behaviour in current() {
        let mut cluster = Cluster::new(Behaviour {
            streams_lists: false,
            page: 1,
            ..behaviour
        });
        for round in 0..5 {
            cluster.server.compact();
            cluster.server.put(
                Resource::Services,
                service("c", &format!("10.96.1.{round}")),
            );
            cluster.server.cut(Resource::Services, Cut::Close);
            let expected = [START[0], START[1], &format!("10.96.1.{round}:80 → ")];
            cluster.until(expected, |cluster| {
                let is = cluster.serves();
                assert!(is.len() == 3 && is[..2] == START[..2], "{is:?}");
                if is == expected { Ok(()) } else { Err(is) }
            });
        }
    }
}

#[test]
fn requests_that_fail_in_any_way() {
    for behaviour in current() {
        let status = |code| Fault::Status {
            code,
            retry_after: None,
        };
        let faults = [
            status(429),
            Fault::Status {
                code: 429,
                retry_after: Some(1),
            },
            // Longer than the upper limit.
            Fault::Status {
                code: 503,
                retry_after: Some(100_000_000),
            },
            status(500),
            status(504),
            status(403),
            status(400),
            Fault::Close,
            Fault::Half,
            Fault::Garbage,
            Fault::Slow,
        ];
        for streams_lists in [true, false] {
            let mut cluster = Cluster::new(Behaviour {
                streams_lists,
                ..behaviour
            });
            for resource in KINDS {
                cluster.server.fail(resource, Verb::List, faults.clone());
                cluster.server.fail(resource, Verb::Watch, faults.clone());
            }
            cluster.server.go_away();
            cluster.server.compact();
            change(&cluster);
            cluster.server.come_back();
            cluster.becomes(&CHANGED);
            cluster.stays(&CHANGED);
        }
    }
}

#[test]
fn a_server_that_falls_silent() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, impatient());
        cluster.becomes(&START);
        for resource in KINDS {
            cluster.server.cut(resource, Cut::Silence);
            cluster.server.fail(resource, Verb::Watch, [Fault::Silence]);
        }
        change(&cluster);
        cluster.becomes(&CHANGED);
        cluster.stays(&CHANGED);
    }
}

#[test]
fn a_silent_list_is_requested_in_pages() {
    for behaviour in current() {
        let server = populated(behaviour);
        server.fail(Resource::Services, Verb::Watch, [Fault::Silence]);
        let access = access(&server);
        let mut cluster = Cluster::follow(server, access, impatient());
        cluster.becomes(&START);
        assert_eq!(
            cluster.server.asks_of(Resource::Services, Verb::List).len(),
            1
        );
    }
}

#[test]
fn watches_are_renewed_at_their_time() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut timing = impatient();
        timing.grace = Duration::from_secs(60);
        let mut cluster = Cluster::follow(server, access, timing);
        cluster.becomes(&START);
        cluster.asked(Resource::Services, Verb::Watch, 3);
        let watches = cluster.server.asks_of(Resource::Services, Verb::Watch);
        for watch in watches {
            let seconds: u64 = watch.parameter("timeoutSeconds").unwrap().parse().unwrap();
            assert!((1..=2).contains(&seconds));
        }
        change(&cluster);
        cluster.becomes(&CHANGED);
        assert!(
            cluster.source.state().failures.is_empty(),
            "that is no failure"
        );
    }
}

/// A server restored from a backup: it does not know the last version, and watches from that
/// version get no events.
#[test]
fn a_restored_server() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut timing = impatient();
        timing.grace = Duration::from_secs(60);
        let mut cluster = Cluster::follow(server, access, timing);
        cluster.becomes(&START);
        cluster.server.go_away();
        cluster.server.wipe();
        cluster.server.put(Resource::Nodes, node(NODE));
        cluster
            .server
            .put(Resource::Services, service("d", "10.96.0.4"));
        cluster.server.come_back();
        let expected = ["10.96.0.4:80 → "];
        cluster.becomes(&expected);
        cluster.stays(&expected);
        cluster.connects();
    }
}

/// A server that has forgotten a version still works: this is no failure, and the pause does not
/// grow.
#[test]
fn an_expired_version_is_no_failure() {
    for behaviour in current() {
        let server = populated(behaviour);
        let access = access(&server);
        let mut timing = timing();
        // Long enough to see a failure.
        timing.first_retry = Duration::from_millis(300);
        let mut cluster = Cluster::follow(server, access, timing);
        cluster.becomes(&START);
        cluster.server.compact();
        cluster.server.cut(Resource::Services, Cut::Close);
        change(&cluster);
        cluster.until("changed", |cluster| {
            let failures = cluster.source.state().failures;
            let is_gone = |failure: &String| failure.contains("410");
            assert!(!failures.values().any(is_gone), "{failures:?}");
            match cluster.serves() {
                serves if serves == CHANGED => Ok(()),
                serves => Err(serves),
            }
        });
    }
}

#[test]
fn nothing_is_delivered_after_the_drop() {
    for behaviour in current() {
        let cluster = Cluster::new(behaviour);
        let Cluster { server, source, .. } = cluster;
        let asks = server.asks().len();
        drop(source);
        server.cut(Resource::Services, Cut::End);
        assert_eq!(server.asks().len(), asks, "the thread is gone");
    }
}
