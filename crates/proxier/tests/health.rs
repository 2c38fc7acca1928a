//! Health checks over loopback, as a load balancer sends them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proxier::Runtime;
use proxier::desired::HealthCheck;
use proxier::model::ObjectName;
use proxier::observe::health::{HealthError, ServiceHealth};

const PATIENCE: Duration = Duration::from_secs(20);
const EADDRINUSE: i32 = 98;

/// Free ports.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    std::array::from_fn(|_| testbed::reserve_port().unwrap())
}

fn check(name: &str, port: u16, local_endpoints: usize) -> HealthCheck {
    let service = ObjectName::new("default", name).unwrap();
    HealthCheck::new(service, NonZeroU16::new(port).unwrap(), local_endpoints)
}

fn all() -> ServiceHealth {
    ServiceHealth::new(Runtime::start().unwrap(), vec![])
}

fn sync(health: &mut ServiceHealth, checks: impl IntoIterator<Item = HealthCheck>) {
    let errors = health.sync(checks);
    assert!(errors.is_empty(), "{errors:?}");
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: String,
}

/// A client that keeps its connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(to: impl Into<SocketAddr>) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to.into())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn answer(&mut self) -> Answer {
        let status = self.line().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = std::iter::from_fn(|| Some(self.line()))
            .take_while(|line| !line.is_empty())
            .collect();
        let mut length = headers
            .iter()
            .filter_map(|h| h.strip_prefix("content-length: "));
        let mut body = vec![0; length.next().unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        Answer {
            status,
            headers,
            body,
        }
    }

    fn get(&mut self) -> Answer {
        self.send("GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n");
        self.answer()
    }

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn ask(port: u16) -> Answer {
    Client::connect((Ipv4Addr::LOCALHOST, port)).unwrap().get()
}

fn is_refused(to: impl Into<SocketAddr>) -> bool {
    let connected = Client::connect(to);
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// The Service and the count in an answer.
fn reported(answer: &Answer) -> (&str, usize) {
    let field = |name: &str| {
        let start = answer.body.split_once(name).unwrap().1;
        start
            .trim_start_matches(['"', ':', ' '])
            .split(['"', ','])
            .next()
            .unwrap()
    };
    (field("\"name\""), field("localEndpoints").parse().unwrap())
}

#[test]
fn the_answer_is_that_of_kube_proxy() {
    let mut health = all();
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 2)]);
    let answer = ask(port);
    assert_eq!(answer.status, 200);
    // The output of kube-proxy's handler (pkg/proxy/healthcheck/service_health.go).
    assert_eq!(
        answer.body,
        r#"{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": 2,
	"serviceProxyHealthy": true
}"#
    );
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
        "content-length: 114",
    ] {
        assert!(answer.headers.iter().any(|h| h == header), "{answer:?}");
    }
}

#[test]
fn it_answers_at_both_families_and_whatever_the_request() {
    let mut health = all();
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 1)]);
    let loopback: [SocketAddr; 2] = [
        format!("127.0.0.1:{port}").parse().unwrap(),
        format!("[::1]:{port}").parse().unwrap(),
    ];
    for to in loopback {
        for request in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET /any?x=y HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        ] {
            let mut client = Client::connect(to).unwrap();
            client.send(request);
            assert_eq!(client.answer().status, 200, "{request}");
        }
    }
}

#[test]
fn without_endpoints_or_health_the_service_is_unavailable() {
    let healthy = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&healthy);
    let mut health = all().healthy_while(move || asked.load(Ordering::Relaxed));
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 0)]);
    let answer = ask(port);
    assert_eq!((answer.status, reported(&answer)), (503, ("web", 0)));
    assert!(
        answer
            .headers
            .contains(&"x-load-balancing-endpoint-weight: 0".to_owned())
    );

    sync(&mut health, [check("web", port, 3)]);
    healthy.store(false, Ordering::Relaxed);
    let answer = ask(port);
    assert_eq!((answer.status, reported(&answer)), (503, ("web", 3)));
    assert!(answer.body.ends_with("\"serviceProxyHealthy\": false\n}"));
    healthy.store(true, Ordering::Relaxed);
    assert_eq!(ask(port).status, 200);
}

#[test]
fn a_connection_lives_through_changes_and_ends_with_its_check() {
    let mut health = all();
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 1)]);
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(client.get().status, 200);
    sync(&mut health, [check("web", port, 0)]);
    assert_eq!(client.get().status, 503);
    // Another Service takes over the port.
    sync(&mut health, [check("shop", port, 4)]);
    assert_eq!(reported(&client.get()), ("shop", 4));
    sync(&mut health, []);
    assert!(client.is_closed());
    assert!(is_refused((Ipv4Addr::LOCALHOST, port)));
}

#[test]
fn ports_change_and_change_hands() {
    let mut health = all();
    let [one, two, three] = free_ports();
    sync(&mut health, [check("a", one, 1), check("b", two, 2)]);
    sync(&mut health, [check("a", two, 1), check("b", one, 2)]);
    assert_eq!(reported(&ask(one)), ("b", 2));
    assert_eq!(reported(&ask(two)), ("a", 1));
    sync(&mut health, [check("a", three, 1)]);
    assert_eq!(reported(&ask(three)), ("a", 1));
    for closed in [one, two] {
        assert!(is_refused((Ipv4Addr::LOCALHOST, closed)));
        // Free for others as soon as it is closed.
        TcpListener::bind(("::", closed)).unwrap();
    }
    for _ in 0..20 {
        sync(&mut health, []);
        sync(&mut health, [check("a", one, 1)]);
    }
}

#[test]
fn an_occupied_port_is_an_error_until_it_is_free() {
    let mut health = all();
    let [taken, free] = free_ports();
    let other = TcpListener::bind(("::", taken)).unwrap();
    let checks = || [check("web", taken, 1), check("shop", free, 1)];
    for _ in 0..2 {
        let errors = health.sync(checks());
        let [error] = errors.as_slice() else {
            panic!("{errors:?}");
        };
        assert!(matches!(error, HealthError::Listen { .. }));
        assert_eq!(error.service(), Some(&checks()[0].service));
        assert_eq!(error.errno(), Some(EADDRINUSE));
        assert_eq!(
            error.to_string(),
            format!(
                "Service default/web: spec.healthCheckNodePort: cannot listen on [::]:{taken} \
                 (something else on this node has the port)"
            )
        );
        assert_eq!(reported(&ask(free)), ("shop", 1));
    }
    drop(other);
    sync(&mut health, checks());
    assert_eq!(reported(&ask(taken)), ("web", 1));
}

#[test]
fn of_two_services_with_one_port_the_first_by_name_gets_it() {
    let mut health = all();
    let [port] = free_ports();
    let errors = health.sync([
        check("b", port, 2),
        check("a", port, 1),
        check("c", port, 3),
    ]);
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let text = |name| {
        format!(
            "Service default/{name}: spec.healthCheckNodePort: Service default/a already uses \
             {port}"
        )
    };
    assert_eq!(texts, [text("b"), text("c")]);
    assert_eq!(reported(&ask(port)), ("a", 1));
    // After its deletion, the next one gets the port.
    sync(&mut health, [check("b", port, 2)]);
    assert_eq!(reported(&ask(port)), ("b", 2));
}

#[test]
fn it_answers_only_at_the_given_addresses() {
    let mut health = ServiceHealth::new(
        Runtime::start().unwrap(),
        vec!["127.0.0.0/8".parse().unwrap()],
    );
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 1)]);
    assert_eq!(ask(port).status, 200);
    assert!(is_refused((std::net::Ipv6Addr::LOCALHOST, port)));
    // All addresses of 127.0.0.0/8 are local, but only the first one belongs to an interface.
    assert!(is_refused((Ipv4Addr::new(127, 0, 0, 2), port)));
    sync(&mut health, [check("web", port, 0)]);
    assert_eq!(ask(port).status, 503);

    // An address that this node does not have.
    let mut health = ServiceHealth::new(
        Runtime::start().unwrap(),
        vec!["203.0.113.0/24".parse().unwrap()],
    );
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 1)]);
    assert!(is_refused((Ipv4Addr::LOCALHOST, port)));

    let mut health = ServiceHealth::new(
        Runtime::start().unwrap(),
        vec!["0.0.0.0/0".parse().unwrap()],
    );
    sync(&mut health, [check("web", port, 1)]);
    assert_eq!(ask(port).status, 200);
}

#[test]
fn many_services() {
    let mut health = all();
    let ports = free_ports::<300>();
    let checks = |count| {
        let name = |port| format!("web-{port}");
        ports.map(|port| check(&name(port), port, count))
    };
    sync(&mut health, checks(1));
    sync(&mut health, checks(7));
    for port in ports {
        assert_eq!(reported(&ask(port)), (format!("web-{port}").as_str(), 7));
    }
    sync(&mut health, []);
    assert!(
        ports
            .into_iter()
            .all(|port| is_refused((Ipv4Addr::LOCALHOST, port)))
    );
}

#[test]
fn misbehaving_clients_do_not_affect_others() {
    let mut health = all();
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 1)]);
    let connect = || Client::connect((Ipv4Addr::LOCALHOST, port)).unwrap();

    let mut nonsense = connect();
    nonsense.send("\u{0}\u{1}nonsense\r\n\r\n");
    assert_eq!(nonsense.answer().status, 400);

    let mut many_headers = connect();
    let headers: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    many_headers.send(&format!("GET / HTTP/1.1\r\n{headers}\r\n"));
    assert_eq!(many_headers.answer().status, 431);

    // The connection is closed long before the client has sent everything.
    let mut endless = connect();
    let stream = endless.0.get_mut();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nX: ");
    let sent = (0..10_000).take_while(|_| stream.write_all(&[b'y'; 4096]).is_ok());
    assert!(sent.count() < 10_000);

    // Endless requests whose answers are not read.
    let mut deaf = connect();
    let stream = deaf.0.get_mut();
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    while stream.write_all(requests.as_bytes()).is_ok() {}

    // More silent or incomplete connections than the limit.
    let mut idle: Vec<_> = (0..400).map(|_| connect()).collect();
    idle.iter_mut()
        .step_by(2)
        .for_each(|client| client.send("GET / HT"));
    assert_eq!(ask(port).status, 200);
    assert!(idle[0].is_closed());
}

#[test]
fn all_is_closed_when_it_is_dropped() {
    let mut health = all();
    let [port] = free_ports();
    sync(&mut health, [check("web", port, 1)]);
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(client.get().status, 200);
    drop(health);
    assert!(client.is_closed());
    TcpListener::bind(("::", port)).unwrap();
}
