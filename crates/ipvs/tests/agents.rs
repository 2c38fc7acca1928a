//! The examples that are whole agents, on the real kernel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code
)]

#[path = "../examples/director.rs"]
mod director;
#[path = "../examples/dump.rs"]
mod dump;
#[path = "../examples/registry.rs"]
mod registry;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use director::Director;
use ipvs::*;
use testbed::Namespace;

fn namespace(name: &str) -> (Namespace, Client) {
    // See `tests/kernel.rs` for why not left to the kernel.
    let modules = ["-a", "ip_vs", "ip_vs_lblc", "ip_vs_lblcr"];
    assert!(
        Command::new("modprobe")
            .args(modules)
            .status()
            .unwrap()
            .success()
    );
    let namespace = Namespace::new(name).unwrap();
    let handle = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    let client = Client::open_in_namespace(handle.as_fd()).unwrap();
    (namespace, client)
}

/// A server that answers every connection with its name, until it is dropped.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(name: &'static str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A health check has closed its connection already.
                let _ = stream.unwrap().write_all(name.as_bytes());
            }
        };
        let thread = Some(std::thread::spawn(run));
        Self {
            address,
            stop,
            thread,
        }
    }

    /// In the server's namespace: a connection wakes it.
    fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn ask(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn director_falls_back_to_the_sorry_server() {
    let (namespace, mut client) = namespace("director");
    let addresses = ["10.96.0.1", "10.244.0.1", "10.244.0.2", "10.244.0.9"];
    for address in addresses {
        namespace
            .ip(&[&format!("addr add {address}/32 dev lo")])
            .unwrap();
    }
    let [vip, first, second, sorry]: [SocketAddr; 4] =
        addresses.map(|address| format!("{address}:80").parse().unwrap());
    let director = Director {
        virtual_server: vip,
        sorry_server: sorry,
        backends: vec![first, second],
    };
    let foreign = VirtualServer::new("udp 10.96.0.1:53".parse().unwrap());
    client.add_virtual_server(&foreign).unwrap();
    namespace.enter(|| {
        let _sorry = Server::start("sorry", sorry);
        director.pass(&mut client).unwrap();
        assert_eq!(ask(vip), "sorry");

        let one = Server::start("one", first);
        director.pass(&mut client).unwrap();
        assert_eq!(ask(vip), "one");
        assert!(director.pass(&mut client).unwrap().is_empty());

        let two = Server::start("two", second);
        one.stop();
        director.pass(&mut client).unwrap();
        assert_eq!(ask(vip), "two");
        two.stop();
        director.pass(&mut client).unwrap();
        assert_eq!(ask(vip), "sorry");
    });
    assert!(client.virtual_server(&foreign.key).is_ok());
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn registry_serves_what_the_file_lists() {
    let (_namespace, mut client) = namespace("registry");
    let path = std::env::temp_dir().join(format!("ipvs-registry-{}", std::process::id()));
    let foreign = VirtualServer::new("tcp 10.96.0.9:80".parse().unwrap());
    client.add_virtual_server(&foreign).unwrap();
    let mut serve = |json: &str| {
        fs::write(&path, json).unwrap();
        let wanted = registry::read(&path).unwrap();
        let plan = registry::serve(&mut client, &wanted).unwrap();
        let table = client.table().unwrap();
        let text = |entry: &TableEntry| {
            let servers = entry.real_servers.iter().map(|entry| entry.server);
            let servers: Vec<String> = servers.map(|s| format!("{} {}", s.key, s.weight)).collect();
            format!("{} {servers:?}", entry.virtual_server.server.key)
        };
        (plan, table.iter().map(text).collect::<Vec<_>>())
    };
    let other = "tcp 10.96.0.9:80 []".to_owned();
    let (_, table) = serve(
        r#"[{
            "server": { "key": "tcp 10.96.0.1:80", "scheduler": "wrr" },
            "real_servers": [{ "key": "10.244.0.1:80", "weight": 2 }, { "key": "10.244.0.2:80" }]
        }, { "server": { "key": "tcp 10.96.0.9:80" } }]"#,
    );
    let web = r#"tcp 10.96.0.1:80 ["10.244.0.2:80 1", "10.244.0.1:80 2"]"#.to_owned();
    assert_eq!(table, [web, other.clone()]);
    let (plan, table) = serve(
        r#"[{ "server": { "key": "tcp 10.96.0.1:80", "scheduler": "wrr" },
              "real_servers": [{ "key": "10.244.0.1:80", "weight": 5 }] },
            { "server": { "key": "udp [fd00::1]:53" } }, { "server": { "key": "tcp 10.96.0.9:80" } }]"#,
    );
    let changes: Vec<String> = plan.changes().iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "update real server 10.244.0.1:80 of tcp 10.96.0.1:80",
            "delete real server 10.244.0.2:80 of tcp 10.96.0.1:80",
            "add virtual server udp [fd00::1]:53",
        ]
    );
    assert_eq!(plan.conflicts(), [foreign.key]);
    let web = r#"tcp 10.96.0.1:80 ["10.244.0.1:80 5"]"#.to_owned();
    assert_eq!(
        table,
        [web, other.clone(), "udp [fd00::1]:53 []".to_owned()]
    );
    assert_eq!(serve("[]").1, [other]);
    fs::remove_file(&path).unwrap();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn dump_is_restored_whole() {
    let (_namespace, mut client) = namespace("dump");
    let rules = "--set 800 90 70\n\
        -A -t 10.96.0.1:80 -s sh -p 600 -M 255.255.255.0 -b sh-fallback,sh-port\n\
        -a -t 10.96.0.1:80 -r 10.244.0.1:8080 -m -w 3 -x 20 -y 5\n\
        -a -t 10.96.0.1:80 -r 10.244.0.2:80 -g -w 0\n\
        -a -t 10.96.0.1:80 -r 10.244.0.3:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n\
        -A -u [fd00::1]:53 -s rr -o\n\
        -a -u [fd00::1]:53 -r [fd00::2]:5353 -m -w 1\n\
        -A -f 7 -6 -s mh -p 60 -M 64 --pe sip\n\
        --start-daemon master --mcast-interface lo --syncid 7 --sync-maxlen 1400 \
        --mcast-group 224.0.0.82 --mcast-port 9000 --mcast-ttl 3\n\
        --start-daemon backup --mcast-interface lo --syncid 8 --sync-maxlen 1400 \
        --mcast-group 224.0.0.82 --mcast-port 9000 --mcast-ttl 3\n";
    dump::restore(&mut client, rules).unwrap();
    assert_eq!(dump::rules(&dump::dump(&mut client).unwrap()), rules);

    let tagged = VirtualServer::new("tcp 10.96.0.2:80".parse().unwrap()).with_tag(7);
    client.add_virtual_server(&tagged).unwrap();
    let before = dump::dump(&mut client).unwrap();
    let json = serde_json::to_string(&before).unwrap();
    dump::restore(&mut client, "--set 900 120 300\n").unwrap();
    assert_eq!(dump::dump(&mut client).unwrap().len(), 1);
    dump::restore(&mut client, &json).unwrap();
    assert_eq!(dump::dump(&mut client).unwrap(), before);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn sysctls_are_those_of_the_namespace() {
    let (namespace, _client) = namespace("sysctls");
    let handle = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u16>());
    let kernel = (
        numbers.next().unwrap().unwrap(),
        numbers.next().unwrap().unwrap(),
    );
    in_namespace(handle.as_fd(), || {
        sysctl::CONNTRACK.write("1").unwrap();
        assert_eq!(sysctl::CONNTRACK.read().unwrap(), "1");
        for sysctl in sysctl::ALL {
            let read = sysctl.read();
            let expected = sysctl.since.is_none_or(|since| since <= kernel);
            // Debian builds without CONFIG_IP_VS_DEBUG.
            if sysctl.name != "debug_level" {
                assert_eq!(read.is_ok(), expected, "{sysctl}: {read:?}");
            }
        }
        // None is there that this crate does not know.
        for file in fs::read_dir("/proc/sys/net/ipv4/vs").unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(sysctl::Sysctl::by_name(&name).is_some(), "{name}");
        }
        let status = Status::read().map_err(|error| error.kind());
        assert_eq!(status.is_ok(), kernel >= (7, 1), "{status:?}");
    })
    .unwrap();
    // The calling thread's namespace is another one.
    assert_eq!(sysctl::CONNTRACK.read().unwrap(), "0");
}
