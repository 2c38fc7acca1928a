//! Health reports about a server that lists slowly or becomes unreachable.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread;

use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeNode, Ipvs};
use proxier::model::Family;
use proxier::observe::metrics::{Monitor, Options, ProxyServer};
use proxier::reconcile::{Event, Intervals, run};
use proxier::source::kube::KubeSource;
use testbed::{Behaviour, Fault, Resource, Verb, eventually};

use crate::cluster::{NODE, PATIENCE, access, populated, timing};

/// Status and body.
fn get(address: SocketAddr, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()))
}

#[test]
fn a_proxy_is_ready_after_every_list_and_stays_so_without_its_server() {
    let server = populated(Behaviour::default());
    let broken = Fault::Status {
        code: 500,
        retry_after: None,
    };
    server.fail(Resource::ServiceCidrs, Verb::Watch, vec![broken; 10_000]);

    let monitor = Monitor::new(Options::new(vec![Family::V4]));
    let (events, received) = mpsc::channel();
    let (queue, changes) = (monitor.clone(), events.clone());
    let source = KubeSource::start(
        &proxier::Runtime::start().unwrap(),
        access(&server),
        timing(),
        NODE,
        move |reading| {
            queue.queued(&reading.changes);
            let _ = changes.send(Event::Changes(reading.changes));
        },
    );
    let source = source.unwrap();
    monitor.follow_source(source.watch_state());
    monitor.inspect_by(events.clone());
    let config = Config::new(NODE, vec!["192.0.2.1".parse().unwrap()]);
    let mut proxier = Proxier::new(
        Arc::new(config),
        Ipvs::new(FakeNode::default().kernel().unwrap()),
    );
    let observer = monitor.clone();
    let proxy = thread::spawn(move || {
        let _ = run(
            &mut proxier,
            &received,
            &mut Intervals::default(),
            |proxier, observed| {
                observer.observed(proxier, &observed);
                ControlFlow::Continue(())
            },
        );
    });
    let port = testbed::reserve_port().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let runtime = proxier::Runtime::start().unwrap();
    let _server = ProxyServer::health(&runtime, address, monitor.clone()).unwrap();
    let becomes = |status: &str, source: &str| {
        let is = || match get(address, "/readyz") {
            Some((is, body)) if is == status && body.contains(source) => Ok(()),
            other => Err(other),
        };
        eventually(PATIENCE, is).unwrap();
        assert_eq!(get(address, "/livez").unwrap().0, "200");
    };

    becomes("503", r#""failing":["ServiceCIDR"]"#);
    server.forgive();
    becomes("200", r#""connected":true"#);
    let up = |value: &str| {
        monitor
            .scrape()
            .contains(&format!("\nsvcproxy_source_up {value}\n"))
    };
    assert!(up("1"));
    server.go_away();
    for resource in [Resource::Services, Resource::EndpointSlices] {
        server.cut(resource, testbed::Cut::Close);
    }
    becomes("200", r#""connected":false"#);
    assert!(up("0"));
    let host = server.url().replace("http://", "");
    let counted = || {
        let scrape = monitor.scrape();
        let is_counted = |code| {
            let labels = format!(r#"code="{code}",host="{host}",method="GET""#);
            scrape.contains(&format!("\nrest_client_requests_total{{{labels}}} "))
        };
        let all = ["200", "500", "<error>"].into_iter().all(is_counted);
        if all { Ok(()) } else { Err(scrape) }
    };
    eventually(PATIENCE, counted).unwrap();

    events.send(Event::Stop).unwrap();
    proxy.join().unwrap();
}
