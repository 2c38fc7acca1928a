//! The DNS server, asked by `dig`: each example of Kubernetes' DNS specification 1.1.0, and names of
//! other domains. They need no namespace, but a program that only this tier installs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use proxier::Runtime;
use proxier::discovery::DnsState;
use proxier::discovery::dns::{Config, Dns};
use proxier::source::Extent;
use proxier::source::manifest::Manifests;
use testbed::{eventually, reserve_port};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of these manifests on the loopback interface.
struct Server {
    dns: Dns,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    fn start(manifests: &str) -> Self {
        Self::with_upstreams(manifests, &[])
    }

    fn with_upstreams(manifests: &str, upstreams: &[SocketAddr]) -> Self {
        Self::with(manifests, |config| config.upstreams = upstreams.to_vec())
    }

    fn with(manifests: &str, change: impl FnOnce(&mut Config)) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, reserve_port().unwrap()));
        let mut config = Config::new([address]);
        change(&mut config);
        let runtime = Runtime::start().unwrap();
        let dns = Dns::start(&runtime, config).unwrap();
        let server = Self {
            dns,
            address,
            _runtime: runtime,
        };
        server.apply(manifests);
        server
    }

    fn apply(&self, manifests: &str) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("all.yaml"), manifests).unwrap();
        let mut source = Manifests::new([directory.path()]).extent(Extent::Named);
        let reading = source.read();
        assert_eq!(reading.diagnostics, []);
        self.dns.apply(&reading.changes);
    }

    /// The output of `dig`.
    fn dig(&self, arguments: &str) -> String {
        let port = self.address.port().to_string();
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=10"]);
        let output = dig.args(arguments.split(' ')).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        text
    }

    /// The records of a section, with single spaces, sorted.
    fn section(&self, section: &str, question: &str) -> Vec<String> {
        let text = self.dig(&format!("+noall +{section} {question}"));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines: Vec<_> = text.lines().map(words).collect();
        lines.retain(|line| !line.is_empty() && !line.starts_with(';'));
        lines.sort();
        lines
    }

    fn answer(&self, question: &str) -> Vec<String> {
        self.section("answer", question)
    }

    /// `status: …, flags: …`.
    fn header(&self, question: &str) -> String {
        let text = self.dig(&format!("+noall +comments {question}"));
        let line = |word: &str| text.lines().find(|line| line.contains(word)).unwrap();
        let status = line("status: ").split("status: ").nth(1).unwrap();
        let status = status.split(',').next().unwrap();
        let flags = line("flags: ").split("flags: ").nth(1).unwrap();
        let flags = flags.split(';').next().unwrap();
        format!("{status}: {flags}")
    }

    fn counts(&self) -> DnsState {
        self.dns.state()
    }
}

/// The API server, with an address of each family.
const KUBERNETES: &str = "
apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec:
  clusterIP: 10.3.0.1
  clusterIPs: [10.3.0.1, '2001:db8::1']
  ports: [{name: https, port: 443}, {port: 444, name: other, protocol: UDP}]
";

/// A headless Service with these endpoints, of one family.
fn headless(family: &str, endpoints: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: headless}}
spec: {{clusterIP: None, ports: [{{name: https, port: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: headless-1
  labels: {{kubernetes.io/service-name: headless, service.kubernetes.io/headless: ''}}
addressType: {family}
ports: [{{name: https, port: 443}}]
endpoints: {endpoints}
"
    )
}

#[test]
#[ignore = "netns: needs dig"]
fn section_2_2_schema_version() {
    let server = Server::start(KUBERNETES);
    let answer = server.answer("dns-version.cluster.local. TXT");
    assert_eq!(answer, ["dns-version.cluster.local. 5 IN TXT \"1.1.0\""]);
}

#[test]
#[ignore = "netns: needs dig"]
fn section_2_3_services_with_cluster_ip() {
    let server = Server::start(KUBERNETES);
    let name = "kubernetes.default.svc.cluster.local.";
    let a = format!("{name} 5 IN A 10.3.0.1");
    let aaaa = format!("{name} 5 IN AAAA 2001:db8::1");
    assert_eq!(server.answer(&format!("{name} A")), [&*a]);
    assert_eq!(server.answer(&format!("{name} AAAA")), [&*aaaa]);
    assert_eq!(server.header(&format!("{name} A")), "NOERROR: qr aa rd");
    // All comparisons are case-insensitive, and the answer has the case of the question.
    let upper = "KuberNetes.default.SVC.cluster.local.";
    assert_eq!(
        server.answer(&format!("{upper} A")),
        [format!("{upper} 5 IN A 10.3.0.1")]
    );

    let srv = format!("_https._tcp.{name}");
    assert_eq!(
        server.answer(&format!("{srv} SRV")),
        [format!("{srv} 5 IN SRV 0 100 443 {name}")]
    );
    assert_eq!(
        server.section("additional", &format!("{srv} SRV")),
        [a, aaaa]
    );
    let udp = format!("_other._udp.{name}");
    assert_eq!(
        server.answer(&format!("{udp} SRV")),
        [format!("{udp} 5 IN SRV 0 100 444 {name}")]
    );

    assert_eq!(
        server.answer("1.0.3.10.in-addr.arpa. PTR"),
        [format!("1.0.3.10.in-addr.arpa. 5 IN PTR {name}")]
    );
    let zeros = "0.".repeat(23);
    let reverse = format!("1.{zeros}8.b.d.0.1.0.0.2.ip6.arpa.");
    assert_eq!(
        server.answer(&format!("{reverse} PTR")),
        [format!("{reverse} 5 IN PTR {name}")]
    );
}

#[test]
#[ignore = "netns: needs dig"]
fn section_2_4_headless_services() {
    let name = "headless.default.svc.cluster.local.";
    let three = "[{addresses: [10.3.0.1]}, {addresses: [10.3.0.2]}, {addresses: [10.3.0.3]}]";
    let server = Server::start(&headless("IPv4", three));
    let a = |last: u8| format!("{name} 5 IN A 10.3.0.{last}");
    assert_eq!(server.answer(&format!("{name} A")), [1, 2, 3].map(a));

    server.apply(&headless(
        "IPv4",
        "[{addresses: [10.3.0.100], hostname: my-pet}]",
    ));
    assert_eq!(
        server.answer(&format!("my-pet.{name} A")),
        [format!("my-pet.{name} 5 IN A 10.3.0.100")]
    );
    assert_eq!(
        server.answer("100.0.3.10.in-addr.arpa. PTR"),
        [format!("100.0.3.10.in-addr.arpa. 5 IN PTR my-pet.{name}")]
    );

    let pets = "[{addresses: [10.3.0.1], hostname: my-pet}, \
        {addresses: [10.3.0.2], hostname: my-pet-2}, {addresses: [10.3.0.3]}]";
    server.apply(&headless("IPv4", pets));
    let srv = format!("_https._tcp.{name}");
    let to = |host: &str| format!("{srv} 5 IN SRV 0 33 443 {host}.{name}");
    assert_eq!(
        server.answer(&format!("{srv} SRV")),
        ["10-3-0-3", "my-pet-2", "my-pet"].map(to)
    );
    assert_eq!(server.section("additional", &format!("{srv} SRV")).len(), 3);

    // Without a ready endpoint the answer should be NXDOMAIN.
    let none = "[{addresses: [10.3.0.1], conditions: {ready: false}}]";
    server.apply(&headless("IPv4", none));
    assert_eq!(server.header(&format!("{name} A")), "NXDOMAIN: qr aa rd");
}

#[test]
#[ignore = "netns: needs dig"]
fn section_2_4_headless_services_in_ipv6() {
    let name = "headless.default.svc.cluster.local.";
    let three = "[{addresses: ['2001:db8::1'], hostname: my-pet}, {addresses: ['2001:db8::2']}, \
        {addresses: ['2001:db8::3']}]";
    let server = Server::start(&headless("IPv6", three));
    let aaaa = |last: u8| format!("{name} 5 IN AAAA 2001:db8::{last}");
    assert_eq!(server.answer(&format!("{name} AAAA")), [1, 2, 3].map(aaaa));
    assert_eq!(
        server.answer(&format!("my-pet.{name} AAAA")),
        [format!("my-pet.{name} 5 IN AAAA 2001:db8::1")]
    );
    let zeros = "0.".repeat(23);
    let reverse = format!("1.{zeros}8.b.d.0.1.0.0.2.ip6.arpa.");
    assert_eq!(
        server.answer(&format!("{reverse} PTR")),
        [format!("{reverse} 5 IN PTR my-pet.{name}")]
    );
}

const EXTERNAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: foo}
spec: {type: ExternalName, externalName: www.example.com}
";

#[test]
#[ignore = "netns: needs dig"]
fn section_2_5_external_names() {
    let alias = "foo.default.svc.cluster.local. 5 IN CNAME www.example.com.";
    let server = Server::start(EXTERNAL);
    assert_eq!(server.answer("foo.default.svc.cluster.local. A"), [alias]);
    let upstream = Upstream::start(Answers::Right);
    let server = Server::with_upstreams(EXTERNAL, &[upstream.address]);
    assert_eq!(
        server.answer("foo.default.svc.cluster.local. A"),
        [alias, "www.example.com. 28715 IN A 192.0.2.53"]
    );
    let all = server.answer("foo.default.svc.cluster.local. AAAA");
    assert_eq!(all, [alias, "www.example.com. 28715 IN AAAA 2001:db8::1"]);
}

#[test]
#[ignore = "netns: needs dig"]
fn pods_have_names_of_their_addresses() {
    let server = Server::start(KUBERNETES);
    let name = "10-244-1-7.default.pod.cluster.local.";
    let answer = server.answer(&format!("{name} A"));
    assert_eq!(answer, [format!("{name} 5 IN A 10.244.1.7")]);
    let name = "fd00--7.default.pod.cluster.local.";
    let answer = server.answer(&format!("{name} AAAA"));
    assert_eq!(answer, [format!("{name} 5 IN AAAA fd00::7")]);
}

#[test]
#[ignore = "netns: needs dig"]
fn negative_answers_have_the_soa_record() {
    let server = Server::start(KUBERNETES);
    let soa = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. ";
    for (question, header) in [
        ("other.default.svc.cluster.local. A", "NXDOMAIN: qr aa rd"),
        ("default.svc.cluster.local. A", "NOERROR: qr aa rd"),
    ] {
        assert_eq!(server.header(question), header);
        assert_eq!(server.answer(question), [""; 0]);
        let authority = server.section("authority", question);
        assert!(
            authority.len() == 1 && authority[0].starts_with(soa),
            "{authority:?}"
        );
        assert!(
            authority[0].ends_with(" 7200 1800 86400 5"),
            "{authority:?}"
        );
    }
    assert_eq!(server.header("www.example.com. A"), "REFUSED: qr rd");
    assert_eq!(
        server.answer("cluster.local. NS"),
        ["cluster.local. 5 IN NS ns.dns.cluster.local."]
    );
    assert_eq!(server.answer("ns.dns.cluster.local. A").len(), 1);
}

/// As CoreDNS with the Service CIDR among its zones: an address without a Service has no name.
#[test]
#[ignore = "netns: needs dig"]
fn addresses_of_the_service_cidr_without_service_have_no_name() {
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = Server::with(KUBERNETES, |config| {
        config.upstreams = vec![upstream.local_addr().unwrap()];
        config.service_cidrs = vec!["10.3.0.0/16".parse().unwrap()];
    });
    assert_eq!(server.header("-x 10.3.0.1"), "NOERROR: qr aa rd ra");
    assert_eq!(server.header("-x 10.3.0.2"), "NXDOMAIN: qr aa rd ra");
    let authority = server.section("authority", "-x 10.3.0.2");
    let soa = "3.10.in-addr.arpa. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. ";
    assert!(
        authority.len() == 1 && authority[0].starts_with(soa),
        "{authority:?}"
    );
    assert_eq!(server.answer("3.10.in-addr.arpa. SOA").len(), 1);
    // Nothing of this was for another server.
    upstream.set_nonblocking(true).unwrap();
    assert!(upstream.recv(&mut [0; 512]).is_err());
}

#[test]
#[ignore = "netns: needs dig"]
fn long_answers_come_over_tcp() {
    let endpoints: Vec<_> = (1..=200)
        .map(|n| format!("{{addresses: [10.3.0.{n}]}}"))
        .collect();
    let server = Server::start(&headless("IPv4", &format!("[{}]", endpoints.join(", "))));
    let question = "headless.default.svc.cluster.local. A";
    assert_eq!(
        server.header(&format!("+ignore {question}")),
        "NOERROR: qr aa tc rd"
    );
    // dig asks again over TCP, as every resolver does.
    assert_eq!(server.answer(question).len(), 200);
    let plain = server.dig(&format!("+noedns +ignore {question}"));
    assert!(plain.contains("MSG SIZE  rcvd: 52"), "{plain}");
    assert!(!server.dig("+noedns cluster.local. SOA").contains("EDNS"));
    let edns = server.dig("cluster.local. SOA");
    assert!(
        edns.contains("EDNS: version: 0, flags:; udp: 1232"),
        "{edns}"
    );
    let future = server.dig("+edns=1 +noednsneg cluster.local. SOA");
    assert!(future.contains("status: BADVERS"), "{future}");
}

/// How an upstream server answers.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Right,
    /// First with another number, and for another name.
    ForgedFirst,
    Never,
    /// A longer answer than any client of UDP accepts.
    Long,
}

/// A server that knows the addresses of every name.
struct Upstream {
    address: SocketAddr,
}

impl Upstream {
    fn start(how: Answers) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, reserve_port().unwrap()));
        let socket = UdpSocket::bind(address).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let query = &buffer[..length];
                let right = resolved(query, how);
                if how == Answers::ForgedFirst {
                    let mut number = right.clone();
                    number[0] ^= 0xff;
                    socket.send_to(&number, client).unwrap();
                    let mut name = right.clone();
                    name[13] = b'x';
                    socket.send_to(&name, client).unwrap();
                }
                if how != Answers::Never {
                    socket.send_to(&right, client).unwrap();
                }
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream: TcpStream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut query).unwrap();
                let answer = resolved(&query, how);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).unwrap();
            }
        });
        Self { address }
    }
}

/// The answer to a query for an address.
fn resolved(query: &[u8], how: Answers) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let of_type = query[end - 3];
    let (number, data): (_, Vec<u8>) = match of_type {
        28 => (
            1,
            "2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
                .into(),
        ),
        _ if how == Answers::Long => (100, vec![192, 0, 2, 53]),
        _ => (1, vec![192, 0, 2, 53]),
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, number, 0, 0, 0, 0]);
    answer.extend(&query[12..end]);
    for _ in 0..number {
        answer.extend([0xc0, 12, 0, of_type, 0, 1]);
        answer.extend(28_715_u32.to_be_bytes());
        answer.extend([0, u8::try_from(data.len()).unwrap()]);
        answer.extend(&data);
    }
    answer
}

#[test]
#[ignore = "netns: needs dig"]
fn names_of_other_domains_come_from_the_upstream_server() {
    let right = "www.example.com. 28715 IN A 192.0.2.53";
    let upstream = Upstream::start(Answers::ForgedFirst);
    let server = Server::with_upstreams(KUBERNETES, &[upstream.address]);
    assert_eq!(server.answer("www.example.com. A"), [right]);
    assert_eq!(server.header("www.example.com. A"), "NOERROR: qr rd ra");
    assert_eq!(server.answer("+tcp www.example.com. A"), [right]);
    assert_eq!(
        server.header("+norecurse www.example.com. A"),
        "REFUSED: qr ra"
    );

    // The second one answers if the first one does not.
    let silent = Upstream::start(Answers::Never);
    let both = [silent.address, upstream.address];
    let server = Server::with_upstreams(KUBERNETES, &both);
    assert_eq!(server.answer("www.example.com. A"), [right]);

    let long = Upstream::start(Answers::Long);
    let server = Server::with_upstreams(KUBERNETES, &[long.address]);
    assert_eq!(
        server.header("+ignore www.example.com. A"),
        "NOERROR: qr tc rd ra"
    );
    assert_eq!(server.answer("www.example.com. A").len(), 100);
    assert_eq!(server.counts().forward_failures, 0);
}

#[test]
#[ignore = "netns: needs dig"]
fn an_upstream_server_that_does_not_answer_costs_only_its_names() {
    let silent = Upstream::start(Answers::Never);
    let server = Server::with_upstreams(EXTERNAL, &[silent.address]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| server.header("www.example.com. A"));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // More than may wait at one time.
        for number in 0..300_u16 {
            let number = number.to_be_bytes();
            let query = [
                &number[..],
                &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1],
            ];
            socket.send_to(&query.concat(), server.address).unwrap();
        }
        // Those that are too many fail at once, and names of the domain are answered as always.
        eventually(PATIENCE, || {
            let counts = server.counts();
            (counts.forward_failures > 40).then_some(()).ok_or(counts)
        })
        .unwrap();
        assert_eq!(server.header("x.cluster.local. A"), "NXDOMAIN: qr aa rd ra");
        assert_eq!(waiting.join().unwrap(), "SERVFAIL: qr rd ra");
    });
    let external = server.header("foo.default.svc.cluster.local. A");
    assert_eq!(external, "SERVFAIL: qr rd ra");
}

/// Many idle connections of one client leave place for others, and end after a while.
#[test]
#[ignore = "netns: needs dig"]
fn connections_are_limited_per_client() {
    let server = Server::start(KUBERNETES);
    let idle: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    eventually(PATIENCE, || {
        let refused = server.counts().refused_connections;
        (refused == 60 - 32).then_some(()).ok_or(refused)
    })
    .unwrap();
    // Another address of this machine.
    let question = "+tcp -b 127.0.0.2 kubernetes.default.svc.cluster.local. A";
    assert_eq!(server.answer(question).len(), 1);
    // The server closes what is idle.
    let mut first = &idle[0];
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    drop(idle);
}

#[test]
#[ignore = "netns: needs dig"]
fn malformed_queries_stop_nothing() {
    let server = Server::start(KUBERNETES);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 512];
    for bytes in [&[][..], &[0; 11], &[0xff; 40], &[0x80; 12]] {
        socket.send_to(bytes, server.address).unwrap();
    }
    // A header that promises a question.
    let half = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63];
    socket.send_to(&half, server.address).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], [0, 7, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&[0xff, 0xff, 1, 2]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(stream.read(&mut buffer), Ok(0) | Err(_)));
    assert_eq!(server.header("cluster.local. SOA"), "NOERROR: qr aa rd");
}

#[test]
#[ignore = "netns: needs dig"]
fn an_address_in_use_is_served_as_soon_as_it_is_free() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, reserve_port().unwrap()));
    let taken = UdpSocket::bind(address).unwrap();
    let runtime = Runtime::start().unwrap();
    let dns = Dns::start(&runtime, Config::new([address])).unwrap();
    let error = eventually(PATIENCE, || {
        let error = dns.state().addresses.get(&address).cloned().flatten();
        error.ok_or("no error is known")
    });
    assert!(error.unwrap().contains("in use"));
    drop(taken);
    let server = Server {
        dns,
        address,
        _runtime: runtime,
    };
    server.apply(KUBERNETES);
    eventually(PATIENCE, || TcpStream::connect(address)).unwrap();
    assert_eq!(server.counts().addresses, [(address, None)].into());
    assert_eq!(server.header("cluster.local. SOA"), "NOERROR: qr aa rd");
}
