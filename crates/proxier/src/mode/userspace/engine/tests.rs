//! The proxy over loopback addresses, with real sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use super::*;
use crate::desired::{Backend, Frontend, FrontendKind, Place, ServicePortName, WithoutBackends};
use crate::model::{Forwarding, ObjectName, PortName, SessionAffinity};

const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy that serves one frontend on a port of 127.0.0.1.
struct Lab {
    engine: Engine,
    frontend: Frontend,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new(protocol: Protocol, endpoints: &[SocketAddr]) -> Self {
        Self::with(protocol, endpoints, |_| {})
    }

    fn with(
        protocol: Protocol,
        endpoints: &[SocketAddr],
        change: impl FnOnce(&mut Frontend),
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut engine = Engine::new(runtime.handle().clone(), 4096);
        let key = FrontendKey {
            protocol,
            address: [127, 0, 0, 1].into(),
            port: free_port(protocol),
        };
        let mut frontend = frontend(key);
        frontend.backends = backends(endpoints);
        change(&mut frontend);
        engine.serve(&served(&frontend));
        engine.listen(key, address(&frontend)).unwrap();
        Self {
            engine,
            frontend,
            _runtime: runtime,
        }
    }

    fn address(&self) -> SocketAddr {
        address(&self.frontend)
    }

    fn set(&mut self, endpoints: &[SocketAddr]) {
        self.frontend.backends = backends(endpoints);
        self.engine.serve(&served(&self.frontend));
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// How a connection ends that reaches no endpoint.
    fn refusal(&self) -> io::ErrorKind {
        let connected = TcpStream::connect(self.address());
        let asked = connected.and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            name_of(&mut stream)
        });
        asked.unwrap_err().kind()
    }

    fn counts(&self) -> ProxyCounts {
        self.engine.view().counts()
    }
}

fn free_port(protocol: Protocol) -> std::num::NonZeroU16 {
    let port = match protocol {
        Protocol::Udp => UdpSocket::bind("127.0.0.1:0").unwrap().local_addr(),
        _ => TcpListener::bind("127.0.0.1:0").unwrap().local_addr(),
    };
    port.unwrap().port().try_into().unwrap()
}

pub(in crate::mode::userspace) fn frontend(key: FrontendKey) -> Frontend {
    Frontend {
        key,
        owner: ServicePortName {
            service: ObjectName::new("default", "web").unwrap(),
            port: PortName::UNNAMED,
        },
        kind: FrontendKind::ClusterIp,
        scheduler: ipvs::Scheduler::RoundRobin,
        scheduler_flags: ipvs::Flags::default(),
        session_affinity: SessionAffinity::None,
        forwarding: Forwarding::Masquerade,
        proxy_protocol: None,
        backends: Arc::default(),
        without_backends: WithoutBackends::Refuse,
        external: None,
        source_ranges: None,
    }
}

fn backends(endpoints: &[SocketAddr]) -> Arc<[Backend]> {
    let backend = |endpoint: &SocketAddr| Backend {
        address: endpoint.ip(),
        port: endpoint.port().try_into().unwrap(),
        place: Place::Elsewhere,
        weight: 1.try_into().unwrap(),
    };
    endpoints.iter().map(backend).collect()
}

fn served(frontend: &Frontend) -> Arc<Served> {
    Arc::new(Served {
        frontend: Arc::new(frontend.clone()),
        pods: Arc::default(),
    })
}

fn address(frontend: &Frontend) -> SocketAddr {
    (frontend.key.address, frontend.key.port.get()).into()
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An endpoint that answers each connection with its name and the client's bytes until their end.
fn named(name: &'static str) -> SocketAddr {
    let (listener, address) = listener();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    address
}

/// A port at which nobody listens.
fn dead() -> SocketAddr {
    listener().1
}

fn name_of(stream: &mut TcpStream) -> io::Result<String> {
    let mut name = [0; 1];
    stream.read_exact(&mut name)?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn each_direction_ends_by_itself() {
    let (listener, endpoint) = listener();
    let lab = Lab::new(Protocol::Tcp, &[endpoint]);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        // Ends only if the client's end arrives.
        stream.read_to_string(&mut request).unwrap();
        write!(stream, "{request} and an answer").unwrap();
    });
    let mut client = lab.connect();
    client.write_all(b"a request").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "a request and an answer");
    server.join().unwrap();
    eventually("the connection is counted as closed", || {
        lab.counts().open_connections == 0
    });
    let counts = lab.counts();
    assert_eq!((counts.bytes_in, counts.bytes_out), (9, 23));
}

/// Through the buffer and through pipes, with an endpoint that does not read for a while.
#[test]
fn what_the_endpoint_does_not_read_stays_with_the_client_and_nothing_is_lost() {
    const TOTAL: usize = 64 << 20;
    let (listener, endpoint) = listener();
    let lab = Lab::new(Protocol::Tcp, &[endpoint]);
    let byte = |at: usize| u8::try_from((at * 31 + at / 4096) % 251).unwrap();
    let mut client = lab.connect();
    let (mut server, _) = listener.accept().unwrap();
    let writer = thread::spawn(move || {
        let mut sent = 0;
        while sent < TOTAL {
            let chunk: Vec<_> = (sent..(sent + 65_536).min(TOTAL)).map(byte).collect();
            client.write_all(&chunk).unwrap();
            sent += chunk.len();
        }
        client
    });
    // It stalls, far below what is to be sent.
    let carried = || lab.counts().bytes_in;
    let mut before = u64::MAX;
    eventually("the proxy stops to read", || {
        let now = carried();
        thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, now) == now && now > 0
    });
    assert!(
        carried() < u64::try_from(TOTAL / 2).unwrap(),
        "{}",
        carried()
    );
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < TOTAL {
        let count = server.read(&mut buffer).unwrap();
        assert!(count > 0, "ends after {at}");
        let expected = (at..at + count).map(byte);
        assert!(expected.eq(buffer[..count].iter().copied()), "{at}");
        at += count;
    }
    drop((writer.join().unwrap(), server));
    eventually("the pipes are given back", || {
        lab.counts().open_connections == 0 && lab.engine.shared.pipes.used() == 0
    });
}

#[test]
fn a_connection_that_is_refused_is_tried_at_the_next_endpoint() {
    let lab = Lab::new(Protocol::Tcp, &[dead(), named("a"), dead()]);
    for _ in 0..8 {
        assert_eq!(name_of(&mut lab.connect()).unwrap(), "a");
    }
    let counts = lab.counts();
    // Those that failed are the last choice from then on.
    assert!((1..=2).contains(&counts.retries), "{counts:?}");
    assert_eq!((counts.connections, counts.unreachable), (8, 0));
}

#[test]
fn a_client_without_endpoint_gets_a_reset_at_once() {
    let lab = Lab::new(Protocol::Tcp, &[dead(), dead()]);
    assert_eq!(lab.refusal(), io::ErrorKind::ConnectionReset);
    let counts = lab.counts();
    assert_eq!((counts.unreachable, counts.retries), (1, 1), "{counts:?}");
    let lab = Lab::new(Protocol::Tcp, &[]);
    assert_eq!(lab.refusal(), io::ErrorKind::ConnectionReset);
    assert_eq!(lab.counts().without_endpoint, 1);
}

/// A reset of one end is a reset for the other one: it must not take what it has for everything.
#[test]
fn a_reset_is_passed_on() {
    let (listener, endpoint) = listener();
    let lab = Lab::new(Protocol::Tcp, &[endpoint]);
    let mut client = lab.connect();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"x").unwrap();
    name_of(&mut client).unwrap();
    socket2::SockRef::from(&server)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(server);
    let error = name_of(&mut client).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// An endpoint that answers before it has read everything closes with a reset, and the client is still
/// sending. It gets the answer, as it does without a proxy, and then the reset.
#[test]
fn an_early_answer_arrives_before_the_reset() {
    let (listener, address) = listener();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.read_exact(&mut [0; 1]).unwrap();
            stream.write_all(b"too large").unwrap();
        }
    });
    let lab = Lab::new(Protocol::Tcp, &[address]);
    for turn in 0..20 {
        // Each other time, without the proxy.
        let mut client = match turn % 2 {
            0 => TcpStream::connect(address).unwrap(),
            _ => lab.connect(),
        };
        // It ends with an error as soon as the reset has arrived.
        let body = vec![0; 32 << 20];
        let sent = client.write_all(&body);
        let mut answer = Vec::new();
        let end = client.read_to_end(&mut answer);
        assert_eq!(answer, b"too large", "{sent:?} {end:?}");
        assert!(sent.is_err() || end.is_err(), "the reset became an end");
    }
}

#[test]
fn connections_of_a_removed_endpoint_go_on_until_they_are_ended() {
    let (one, other) = (named("a"), named("b"));
    let mut lab = Lab::new(Protocol::Tcp, &[one]);
    let mut old = lab.connect();
    assert_eq!(name_of(&mut old).unwrap(), "a");
    lab.set(&[other]);
    assert_eq!(name_of(&mut lab.connect()).unwrap(), "b");
    let mut says = |word: &[u8; 1]| {
        old.write_all(word)?;
        name_of(&mut old)
    };
    assert_eq!(says(b"x").unwrap(), "x");
    let draining: Vec<_> = lab.engine.draining().collect();
    let [(key, endpoint, _, 1)] = draining[..] else {
        panic!("{draining:?}")
    };
    assert_eq!((key, endpoint), (lab.frontend.key, one));
    lab.engine.end(&key, &endpoint);
    let ended = says(b"x").and_then(|_| says(b"x")).unwrap_err();
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&ended.kind()), "{ended}");
    assert_eq!(lab.engine.draining().count(), 0);
    // It comes back with other connections.
    lab.set(&[one]);
    assert_eq!(name_of(&mut lab.connect()).unwrap(), "a");
}

/// A readiness probe that fails once must cost no connection.
#[test]
fn an_endpoint_that_comes_back_keeps_its_connections() {
    let (one, other) = (named("a"), named("b"));
    let mut lab = Lab::new(Protocol::Tcp, &[one]);
    let mut before = lab.connect();
    assert_eq!(name_of(&mut before).unwrap(), "a");
    eventually("a connection", || lab.counts().open_connections == 1);
    lab.set(&[other]);
    assert_eq!(lab.engine.draining().count(), 1);
    lab.set(&[other, one]);
    assert_eq!(lab.engine.draining().count(), 0);
    lab.engine.end(&lab.frontend.key, &one);
    before.write_all(b"still").unwrap();
    let mut answer = [0; 5];
    before.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still");
}

/// Its endpoint hangs, so only the client's reset can end the connection.
#[test]
fn a_reset_after_the_clients_end_is_noticed() {
    let (listener, address) = listener();
    let lab = Lab::new(Protocol::Tcp, &[address]);
    let client = lab.connect();
    let (mut hanging, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hanging.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(lab.counts().open_connections, 1);
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    eventually("the end", || lab.counts().open_connections == 0);
}

#[test]
fn a_withdrawn_address_is_closed_and_its_connections_are_cut() {
    let mut lab = Lab::new(Protocol::Tcp, &[named("a")]);
    let mut old = lab.connect();
    name_of(&mut old).unwrap();
    lab.engine.withdraw(&lab.frontend.key.clone());
    let error = name_of(&mut old).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    eventually("nobody listens", || {
        TcpStream::connect(lab.address()).is_err()
    });
    assert_eq!(lab.engine.view().served().len(), 0);
}

#[test]
fn a_client_keeps_its_endpoint() {
    let all = [named("a"), named("b"), named("c")];
    let seconds = NonZeroU32::new(60).unwrap();
    let mut lab = Lab::with(Protocol::Tcp, &all, |frontend| {
        frontend.session_affinity = SessionAffinity::ClientIp(seconds);
    });
    let kept = name_of(&mut lab.connect()).unwrap();
    for _ in 0..6 {
        assert_eq!(name_of(&mut lab.connect()).unwrap(), kept);
    }
    let others: Vec<_> = all
        .iter()
        .zip(["a", "b", "c"])
        .filter(|(_, name)| *name != kept)
        .map(|(endpoint, _)| *endpoint)
        .collect();
    lab.set(&others);
    let next = name_of(&mut lab.connect()).unwrap();
    assert_ne!(next, kept);
    lab.set(&all);
    assert_eq!(name_of(&mut lab.connect()).unwrap(), next);
}

#[test]
fn an_endpoint_that_asks_for_it_learns_the_clients_address() {
    for version in [
        crate::model::ProxyProtocol::V1,
        crate::model::ProxyProtocol::V2,
    ] {
        let (listener, endpoint) = listener();
        let lab = Lab::with(Protocol::Tcp, &[dead(), endpoint], |frontend| {
            frontend.proxy_protocol = Some(version);
        });
        let mut client = lab.connect();
        client.write_all(b"request").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        server.read_to_end(&mut all).unwrap();
        let own = client.local_addr().unwrap();
        let header = super::super::proxy_header::header(version, own, lab.address());
        assert_eq!(all, [&header[..], b"request"].concat());
    }
}

/// An endpoint at which the proxy itself listens would be a circle.
#[test]
fn the_proxy_does_not_connect_to_itself() {
    let mut lab = Lab::new(Protocol::Tcp, &[]);
    lab.set(&[lab.address()]);
    assert_eq!(lab.refusal(), io::ErrorKind::ConnectionReset);
    assert_eq!(lab.counts().connections, 0);
}

/// A client that opens connections and does nothing takes at most half of all.
#[test]
fn one_service_cannot_take_all_connections() {
    let lab = Lab::new(Protocol::Tcp, &[named("a")]);
    let most = lab.counts().most_connections / 2;
    let mut open = Vec::new();
    for _ in 0..most {
        let mut client = lab.connect();
        name_of(&mut client).unwrap();
        open.push(client);
    }
    assert_eq!(lab.refusal(), io::ErrorKind::ConnectionReset);
    assert_eq!(lab.counts().over_limit, 1);
    drop(open);
    eventually("the others are served again", || {
        let connected = TcpStream::connect(lab.address());
        connected.is_ok_and(|mut stream| name_of(&mut stream).is_ok())
    });
}

/// An endpoint that answers each datagram with its name and the client's address as it sees it.
fn datagrams(name: &'static str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (own, address) = (socket.try_clone().unwrap(), socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = own.recv_from(&mut buffer) {
            let mut answer = name.as_bytes().to_vec();
            answer.extend(&buffer[..length]);
            let _ = own.send_to(&answer, client);
        }
    });
    (socket, address)
}

fn ask(client: &UdpSocket) -> io::Result<String> {
    let mut buffer = [0; 2048];
    client.send(b"?")?;
    let length = client.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn udp_client(to: SocketAddr, timeout: Duration) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(timeout)).unwrap();
    client.connect(to).unwrap();
    client
}

#[test]
fn each_client_has_a_flow_which_moves_on_when_its_endpoint_goes() {
    let ((_one, a), (_other, b)) = (datagrams("a"), datagrams("b"));
    let mut lab = Lab::new(Protocol::Udp, &[a, b]);
    let clients = [(); 2].map(|()| udp_client(lab.address(), PATIENCE));
    let names = clients.each_ref().map(|client| ask(client).unwrap());
    assert_eq!(
        names
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        2
    );
    for (client, name) in clients.iter().zip(&names) {
        assert_eq!(ask(client).unwrap(), *name);
    }
    assert_eq!((lab.counts().flows, lab.counts().open_flows), (2, 2));
    lab.set(&[b]);
    eventually("the flow of a ends", || lab.counts().open_flows == 1);
    for client in &clients {
        assert_eq!(ask(client).unwrap(), "b?");
    }
    // Nobody answers, and nothing is refused by the proxy itself.
    lab.engine.close(&lab.frontend.key.clone(), &lab.address());
    eventually("all flows end", || lab.counts().open_flows == 0);
    assert_eq!(
        ask(&clients[0]).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn datagrams_that_endpoints_refuse_go_to_the_next_one() {
    let dead = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let dead = dead.map(|socket| socket.local_addr().unwrap());
    let (_socket, a) = datagrams("a");
    let lab = Lab::new(Protocol::Udp, &[&dead[..], &[a]].concat());
    // They take turns, so at least one of two meets a dead endpoint first.
    for _ in 0..2 {
        let client = udp_client(lab.address(), PATIENCE);
        // Both are sent before the first is refused, as a resolver sends questions for A and AAAA.
        client.send(b"1").unwrap();
        client.send(b"2").unwrap();
        let mut answers = [(); 2].map(|()| {
            let mut buffer = [0; 16];
            let length = client.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        answers.sort();
        assert_eq!(answers, ["a1", "a2"]);
        assert_eq!(ask(&client).unwrap(), "a?");
    }
    assert!(lab.counts().retries > 0);

    // If all refuse, the datagrams are lost.
    let lab = Lab::new(Protocol::Udp, &dead);
    let client = udp_client(lab.address(), PATIENCE);
    client.send(b"?").unwrap();
    eventually("it gives up", || lab.counts().unreachable == 1);
    assert_eq!(lab.counts().retries, 3);
    eventually("nothing is kept", || {
        let places = lab.engine.shared.kept.available_permits();
        places == udp::KEPT && lab.counts().open_flows == 0
    });
}

#[test]
fn limits_follow_the_open_files_of_the_process() {
    let few = Limits::of(1024);
    assert_eq!((few.connections, few.flows, few.pipes), (256, 128, 64));
    assert!(few.connections * 2 + few.flows + few.pipes * 2 < 1024 - 200);
    let many = Limits::of(1 << 40);
    assert!(many.connections <= 262_144 && many.pipes <= 1024);
}
