//! Mode userspace in a process without open files left. The limit is the process's, so this is a
//! program of its own with one test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proxier::desired::Config;
use proxier::mode::userspace::{Userspace, UserspaceProxy};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use proxier::store::Change;
use proxier::{Proxier, Runtime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// An address of this machine that is not a loopback one: endpoints and node ports have no others.
fn own_address() -> Option<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap();
    let mut own = interfaces.iter().map(if_addrs::Interface::ip);
    own.find(|own| own.is_ipv4() && !own.is_loopback())
}

/// The lowest descriptor that is free.
fn lowest_free() -> u64 {
    let free = std::fs::File::open("/dev/null").unwrap();
    u64::try_from(free.as_raw_fd()).unwrap()
}

/// A node port whose endpoint answers.
fn changes(endpoint: SocketAddr, node_port: u16) -> Vec<Change> {
    let port = |number: u16| number.try_into().unwrap();
    let name = ObjectName::new("default", "web").unwrap();
    let mut service = Service::new(name.clone());
    service.cluster_ips = [[10, 96, 0, 1].into()].into();
    let mut web = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80));
    web.node_port = Some(port(node_port));
    service.ports = [web].into();
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    let target = EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, port(endpoint.port()));
    slice.ports = [target].into();
    slice.endpoints = [Endpoint::new(endpoint.ip())].into();
    vec![
        Change::ServicesReplaced(vec![service]),
        Change::EndpointSlicesReplaced(vec![slice]),
    ]
}

#[test]
fn a_listener_without_open_files_pauses_and_goes_on() {
    let Some(own) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback ones");
        return;
    };
    let endpoint = TcpListener::bind((own, 0)).unwrap();
    let address = endpoint.local_addr().unwrap();
    // One at a time, and closed at once, so that the endpoint itself needs few files.
    thread::spawn(move || {
        for stream in endpoint.incoming() {
            let Ok(mut stream) = stream else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let _ = stream.write_all(b"x");
        }
    });
    let free = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap();
    let runtime = Runtime::start().unwrap();
    // Routes are not needed, and this machine must not get any.
    let backend = UserspaceProxy::open(&runtime)
        .unwrap()
        .listen(["10.96.0.0/12".parse().unwrap()]);
    let view = backend.view();
    let config = Config::new("node-a", vec![own]);
    let mut proxier = Proxier::new(Arc::new(config), Userspace::new(backend));
    let report = proxier
        .handle(changes(address, free.port()))
        .unwrap()
        .unwrap();
    assert!(report.is_success(), "{report:#?}");
    let ask = || {
        let mut client = TcpStream::connect(free).ok()?;
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .ok()?;
        let mut answer = [0];
        client.read_exact(&mut answer).ok().map(|()| answer)
    };
    assert_eq!(ask(), Some(*b"x"));

    // A client that is connected by the kernel, and waits for the proxy to accept it.
    let limit = getrlimit(Resource::Nofile);
    let set = |current| {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(current),
                ..limit
            },
        )
        .unwrap();
    };
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let begin = Instant::now();
    while view.counts().open_connections > 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "it stays open");
        thread::sleep(Duration::from_millis(10));
    }
    // Its sockets are closed a moment later.
    thread::sleep(Duration::from_millis(200));
    set(lowest_free());
    socket.connect(&free.into()).unwrap();
    while view.counts().pauses < 2 {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it does not pause"
        );
        thread::sleep(Duration::from_millis(10));
    }
    set(limit.current.unwrap_or(4096));
    let mut waiting = TcpStream::from(socket);
    waiting
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut answer = [0];
    waiting.read_exact(&mut answer).unwrap();
    assert_eq!((answer, ask()), (*b"x", Some(*b"x")));
}
