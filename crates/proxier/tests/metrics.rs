//! Metrics and health over loopback, as Prometheus and load balancers request them.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipvs::{Statistics, VirtualServerKey};
use proxier::desired::Config;
use proxier::mode::Sysctl;
use proxier::mode::ipvs::{FakeNode, Ipvs};
use proxier::mode::userspace::UserspaceProxy;
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, Node, ObjectName, PortName, Protocol, Service,
    ServicePort, Timestamp, TrafficPolicy,
};
use proxier::observe::metrics::{Document, Monitor, Options, Pages, ProxyServer, Request};
use proxier::reconcile::{Event, Intervals};
use proxier::source::{ConnectionState, RequestOutcome};
use proxier::store::Change;
use proxier::{Proxier, Runtime};
use testbed::{eventually, reserve_port};

const PATIENCE: Duration = Duration::from_secs(20);
const ENOMEM: i32 = 12;

/// A proxy on a node in memory.
struct Proxy {
    node: FakeNode,
    monitor: Monitor,
    events: Sender<Event>,
    run: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start(options: Options, mut intervals: Intervals) -> Self {
        let node = FakeNode::default();
        let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
        let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()));
        let (events, received) = mpsc::channel();
        let monitor = Monitor::new(options);
        monitor.set_mode("ipvs", "ipvs");
        monitor.set_build("0.1.0", "0123abc");
        monitor.inspect_by(events.clone());
        let observer = monitor.clone();
        let run = thread::spawn(move || {
            let _ = proxier::reconcile::run(
                &mut proxier,
                &received,
                &mut intervals,
                |proxier, observed| {
                    observer.observed(proxier, &observed);
                    ControlFlow::Continue(())
                },
            );
        });
        Self {
            node,
            monitor,
            events,
            run: Some(run),
        }
    }

    fn send(&self, changes: Vec<Change>) {
        self.monitor.queued(&changes);
        self.events.send(Event::Changes(changes)).unwrap();
    }

    /// Scrapes until `is_there` holds.
    fn scrape_until(&self, is_there: impl Fn(&Scrape) -> bool) -> Scrape {
        let attempt = || {
            let text = self.monitor.scrape();
            let scrape = Scrape::parse(&text);
            if is_there(&scrape) {
                Ok(scrape)
            } else {
                Err(text)
            }
        };
        eventually(PATIENCE, attempt).unwrap_or_else(|text| panic!("not there: {text}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        let _ = self.run.take().unwrap().join();
    }
}

/// The used part of Prometheus's text format.
#[derive(Debug, Default)]
struct Scrape {
    /// Names and types.
    types: BTreeMap<String, String>,
    /// Series with their labels as text, and values.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split(' ').next().unwrap().to_owned();
            } else if let Some(type_) = line.strip_prefix("# TYPE ") {
                let (name, type_) = type_.split_once(' ').unwrap();
                assert_eq!(name, helped, "HELP and TYPE go together");
                let old = scrape.types.insert(name.to_owned(), type_.to_owned());
                assert_eq!(old, None, "{name} comes twice");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let old = scrape
                    .samples
                    .insert(series.to_owned(), value.parse().unwrap());
                assert_eq!(old, None, "{series} comes twice");
                let name = series.split('{').next().unwrap();
                assert_eq!(scrape.family(name), helped, "{series} stands with its type");
            }
        }
        scrape
    }

    /// The name of a sample's metric.
    fn family<'a>(&self, sample: &'a str) -> &'a str {
        let parts = ["_bucket", "_sum", "_count"].iter();
        let mut bases = parts.filter_map(|part| sample.strip_suffix(part));
        let is_histogram = |base: &&str| self.types.get(*base).is_some_and(|t| t == "histogram");
        bases.find(is_histogram).unwrap_or(sample)
    }

    fn value(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(f64::NAN)
    }

    /// The names of the labels of each metric.
    fn labels(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut labels = BTreeMap::<String, BTreeSet<String>>::new();
        for series in self.samples.keys() {
            let (name, of_series) = series.split_once('{').unwrap_or((series, ""));
            let names = of_series.trim_end_matches('}').split(',');
            let names = names.filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            let of_metric = labels.entry(self.family(name).to_owned()).or_default();
            of_metric.extend(names.filter(|name| name != "le"));
        }
        labels
    }
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text).unwrap()
}

fn service(text: &str, number: u8) -> Service {
    let mut service = Service::new(name(text));
    service.cluster_ips = [[10, 96, 0, number].into()].into();
    service.ports = [port(80)].into();
    service
}

fn port(number: u16) -> ServicePort {
    ServicePort::new(
        PortName::default(),
        Protocol::Tcp,
        number.try_into().unwrap(),
    )
}

fn slice(service: &str, addresses: &[[u8; 4]]) -> EndpointSlice {
    let slice = name(&format!("{service}-1"));
    let mut slice = EndpointSlice::new(slice, name(service), Family::V4);
    let port = EndpointPort::new(PortName::default(), Protocol::Tcp, 8080.try_into().unwrap());
    slice.ports = [port].into();
    let endpoints = addresses
        .iter()
        .map(|address| Endpoint::new((*address).into()));
    slice.endpoints = endpoints.collect();
    slice
}

fn lists(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Vec<Change> {
    vec![
        Change::ServicesReplaced(services),
        Change::EndpointSlicesReplaced(slices),
    ]
}

fn runtime() -> Runtime {
    Runtime::start().unwrap()
}

fn options() -> Options {
    Options::new(vec![Family::V4])
}

/// The log of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn synced(scrape: &Scrape) -> bool {
    scrape.value("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}") >= 1.0
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap()
}

/// Status, head and body.
fn get(port: u16, path: &str) -> (u16, String, String) {
    get_from("node", port, path)
}

/// The same, by a name of the server.
fn get_from(host: &str, port: u16, path: &str) -> (u16, String, String) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = eventually(PATIENCE, || TcpStream::connect(address)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Name, type and labels of each metric in the docs.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/metrics.md");
    let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split('|').collect();
        let name = code(cells[0]);
        let prefixes = ["kubeproxy_", "svcproxy_", "rest_client_", "process_"];
        let is_metric = prefixes.iter().any(|prefix| name.starts_with(prefix));
        let labels = cells[2]
            .split(',')
            .map(code)
            .filter(|label| !label.is_empty());
        is_metric.then(|| (name, (code(cells[1]), labels.collect())))
    });
    rows.collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let mut intervals = Intervals::default();
    intervals.audit = Duration::from_millis(50);
    let proxy = Proxy::start(options(), intervals);
    let [metrics, health] = [reserve_port().unwrap(), reserve_port().unwrap()];
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let pages = Pages::new(|| "{\"a\":1}".into(), "{\"gitVersion\":\"v0\"}".into());
    let _metrics =
        ProxyServer::metrics(&runtime(), address(metrics), proxy.monitor.clone(), pages).unwrap();
    let _health = ProxyServer::health(&runtime(), address(health), proxy.monitor.clone()).unwrap();

    proxy.monitor.follow_source(|| {
        let mut state = ConnectionState::default();
        state.last_heard = Some(Instant::now());
        let outcome = RequestOutcome::new(Some(200), "192.0.2.9:6443", "GET");
        state.requests.insert(outcome, 3);
        state
    });
    proxy.monitor.follow_log(|| 3);
    proxy.monitor.follow_dns(|| {
        let mut state = proxier::discovery::DnsState::default();
        state.answers.insert("NXDOMAIN", 2);
        let address = "10.96.0.10:53".parse().unwrap();
        state.addresses.insert(address, None);
        state
    });
    let runtime = proxier::Runtime::start().unwrap();
    let userspace = UserspaceProxy::open(&runtime).unwrap();
    proxy.monitor.follow_proxy(userspace.view());
    proxy
        .monitor
        .follow_conditions(|| [("AddressConflict", 2)].into());
    let mut web = service("web", 80);
    web.metrics = true;
    web.internal_traffic_policy = TrafficPolicy::Local;
    let mut dns = service("dns", 10);
    let udp = ServicePort::new(PortName::default(), Protocol::Udp, 53.try_into().unwrap());
    dns.ports = [udp].into();
    let mut of_web = slice("web", &[[10, 244, 0, 1]]);
    of_web.last_change =
        Timestamp::after_epoch(since_1970(SystemTime::now()) + Duration::from_millis(1));
    proxy.node.fail_step(1, ENOMEM);
    proxy.send(lists(vec![web, dns], vec![of_web]));
    assert_eq!(get(health, "/healthz").0, 200);
    assert_eq!(get(health, "/livez").0, 200);
    proxy.scrape_until(synced);
    // A partial sync in which a UDP Service gets its first endpoint.
    let mut of_dns = slice("dns", &[[10, 244, 0, 3]]);
    let udp = EndpointPort::new(PortName::default(), Protocol::Udp, 53.try_into().unwrap());
    of_dns.ports = [udp].into();
    let partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds";
    proxy.scrape_until(|scrape| scrape.value("svcproxy_audits_total") >= 1.0);
    proxy.send(vec![Change::EndpointSliceApplied(of_dns)]);
    proxy.scrape_until(|scrape| {
        scrape.types.contains_key(partial)
            && scrape.value("svcproxy_audits_total") >= 1.0
            && scrape
                .types
                .contains_key("kubeproxy_network_programming_duration_seconds")
    });

    let (status, head, body) = get(metrics, "/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
    let scrape = Scrape::parse(&body);
    let labels = scrape.labels();
    let reported = scrape.types.iter().map(|(name, type_)| {
        let labels = labels[name].clone();
        (name.clone(), (type_.clone(), labels))
    });
    assert_eq!(reported.collect::<BTreeMap<_, _>>(), documented());

    assert_eq!(scrape.value("svcproxy_source_up"), 0.0);
    let requests = r#"rest_client_requests_total{code="200",host="192.0.2.9:6443",method="GET"}"#;
    assert_eq!(scrape.value(requests), 3.0);
    assert!(scrape.value("process_resident_memory_bytes") > 1e5);
    let start = scrape.value("process_start_time_seconds");
    let now = since_1970(SystemTime::now()).as_secs_f64();
    assert!(start < now && scrape.value("svcproxy_source_last_heard_timestamp_seconds") <= now);

    let text = |path| {
        let (status, head, body) = get(metrics, path);
        assert_eq!(status, 200);
        assert!(head.contains("x-content-type-options: nosniff"));
        body
    };
    assert_eq!(text("/proxyMode"), "ipvs");
    assert_eq!(text("/configz"), "{\"a\":1}");
    assert_eq!(text("/version"), "{\"gitVersion\":\"v0\"}");
    assert_eq!(text("/healthz"), "ok");
    assert_eq!(get(metrics, "/debug/pprof").0, 404);
}

#[test]
fn metrics_count_syncs_and_changes() {
    let mut intervals = Intervals::default();
    intervals.drain = Duration::from_secs(3600);
    let proxy = Proxy::start(options(), intervals);
    let web = slice("web", &[[10, 244, 0, 1], [10, 244, 0, 2]]);
    proxy.send(lists(vec![service("web", 80)], vec![web]));
    // What is pending is read before the sync is counted, so one scrape can show both.
    let is_done = |scrape: &Scrape| {
        scrape.value("kubeproxy_sync_proxy_rules_service_changes_pending") == 0.0
            && scrape.value("svcproxy_virtual_servers") > 0.0
    };
    let scrape = proxy.scrape_until(|scrape| synced(scrape) && is_done(scrape));
    for (series, value) in [
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_service_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 1.0),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            1.0,
        ),
        ("svcproxy_virtual_servers", 1.0),
        ("svcproxy_real_servers{state=\"active\"}", 2.0),
        ("svcproxy_real_servers{state=\"draining\"}", 0.0),
        ("svcproxy_problems", 0.0),
        ("svcproxy_sync_failures_total", 0.0),
    ] {
        assert_eq!(scrape.value(series), value, "{series}");
    }
    // Two of kube-proxy's buckets.
    let bucket = |le: &str| {
        format!(
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{{le=\"{le}\",ip_family=\"IPv4\"}}"
        )
    };
    for le in ["0.001", "16.384", "+Inf"] {
        assert!(
            scrape.samples.contains_key(&bucket(le)),
            "{:?}",
            scrape.samples
        );
    }

    // The metric measures this delay. An earlier time does not work: changes before the start do
    // not count.
    let mut changed = slice("web", &[[10, 244, 0, 1]]);
    changed.last_change = Timestamp::after_epoch(since_1970(SystemTime::now()));
    thread::sleep(Duration::from_millis(300));
    proxy.node.fail_step(1, ENOMEM);
    proxy.send(vec![Change::EndpointSliceApplied(changed)]);
    let failed = proxy.scrape_until(|scrape| scrape.value("svcproxy_sync_failures_total") >= 1.0);
    assert_eq!(
        failed.value("svcproxy_kernel_errors_total{part=\"ipvs\",errno=\"12\"}"),
        1.0
    );
    let programmed = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    let draining = "svcproxy_real_servers{state=\"draining\"}";
    let scrape = proxy.scrape_until(|scrape| {
        scrape.samples.contains_key(programmed) && scrape.value(draining) > 0.0
    });
    assert_eq!(scrape.value(programmed), 1.0);
    let quick =
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\",ip_family=\"IPv4\"}";
    assert_eq!(scrape.value(quick), 0.0);
    assert_eq!(scrape.value(draining), 1.0);
}

#[test]
fn an_audit_counts_drift() {
    let mut intervals = Intervals::default();
    intervals.audit = Duration::from_millis(20);
    let proxy = Proxy::start(options(), intervals);
    proxy.send(lists(
        vec![service("web", 80)],
        vec![slice("web", &[[10, 244, 0, 1]])],
    ));
    let audits = |scrape: &Scrape| scrape.value("svcproxy_audits_total");
    let quiet = proxy.scrape_until(|scrape| synced(scrape) && audits(scrape) >= 2.0);
    let repaired = |kind| format!("svcproxy_drift_steps_total{{kind=\"{kind}\"}}");
    for kind in proxier::mode::StepKind::ALL.map(proxier::mode::StepKind::name) {
        assert_eq!(quiet.value(&repaired(kind)), 0.0, "{kind}");
    }
    proxy.node.flush_routes();
    let scrape = proxy.scrape_until(|scrape| scrape.value(&repaired("route")) >= 1.0);
    assert_eq!(scrape.value(&repaired("rules")), 0.0);
}

#[test]
fn traffic_is_exported_on_request_and_up_to_the_limit() {
    let mut options = options();
    options.service_limit = 2;
    let proxy = Proxy::start(options, Intervals::default());
    let services = (1..=50).map(|number| {
        let mut service = service(&format!("s{number:02}"), number);
        service.metrics = number != 1;
        service
    });
    let services: Vec<_> = services.collect();
    let names: Vec<_> = services.iter().map(|s| s.name.name().to_owned()).collect();
    let slices = names
        .iter()
        .map(|name| slice(name, &[[10, 244, 0, 1]]))
        .collect();
    proxy.send(lists(services, slices));
    proxy.scrape_until(synced);
    let key = VirtualServerKey::tcp(([10, 96, 0, 2], 80).into());
    let mut statistics = Statistics::default();
    statistics.connections = 7;
    statistics.outgoing_bytes = 9;
    proxy.node.ipvs().set_statistics(&key, statistics);
    let of_s02 = "svcproxy_service_connections_total{namespace=\"default\",service=\"s02\"}";
    let scrape = proxy.scrape_until(|scrape| scrape.value(of_s02) > 0.0);
    let of = |name: &str, labels: &str| {
        let series = format!("{name}{{namespace=\"default\",service=\"{labels}}}");
        scrape.value(&series)
    };
    assert_eq!(of("svcproxy_service_connections_total", "s02\""), 7.0);
    assert_eq!(
        of("svcproxy_service_bytes_total", "s02\",direction=\"out\""),
        9.0
    );
    assert_eq!(of("svcproxy_service_connections_total", "s03\""), 0.0);
    let reported = scrape
        .samples
        .keys()
        .filter(|series| series.contains("service=\""));
    assert_eq!(reported.count(), 2 * 5);
    assert_eq!(scrape.value("svcproxy_service_metrics_left_out"), 47.0);
}

#[test]
fn one_service_that_fails_is_a_problem_and_health_is_that_of_the_others() {
    let mut options = Options::new(vec![Family::V4]);
    // Each change that has not been applied makes it unhealthy.
    options.health_timeout = Duration::ZERO;
    let mut intervals = Intervals::default();
    intervals.drift = Duration::ZERO;
    intervals.first_retry = Duration::from_secs(3600);
    intervals.last_retry = Duration::from_secs(3600);
    let proxy = Proxy::start(options, intervals);
    let syncs = |scrape: &Scrape| {
        scrape.value("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}")
    };
    proxy.send(lists(vec![], vec![]));
    proxy.scrape_until(|scrape| syncs(scrape) >= 1.0);
    // A Service that the kernel rejects.
    let bad = VirtualServerKey::new(Protocol::Tcp, ([10, 96, 0, 99], 80).into());
    proxy.node.fail_virtual_server(bad, Some(ENOMEM));
    proxy.send(vec![
        Change::ServiceApplied(service("bad", 99)),
        Change::EndpointSliceApplied(slice("bad", &[[10, 244, 0, 99]])),
    ]);
    let failed = proxy.scrape_until(|scrape| scrape.value("svcproxy_problems") > 0.0);
    assert_eq!(failed.value("svcproxy_problems"), 1.0);
    // Its own failure is no delay. The metrics may be a moment ahead of health.
    let is_healthy = || proxy.monitor.is_healthy().then_some(()).ok_or("unhealthy");
    eventually(PATIENCE, is_healthy).unwrap();
    proxy.send(vec![Change::ServiceApplied(service("good", 1))]);
    let then = proxy.scrape_until(|scrape| syncs(scrape) > syncs(&failed));
    assert_eq!(then.value("svcproxy_problems"), 1.0, "it is not forgotten");
    eventually(PATIENCE, is_healthy).unwrap();
    // What all Services share fails. The success of one of them hides nothing.
    proxy.node.fail_virtual_server(bad, None);
    proxy.node.set_sysctl(Sysctl::VS_CONNTRACK, "0");
    proxy.node.fail_step(1, ENOMEM);
    proxy.events.send(Event::Drift).unwrap();
    let failures = |scrape: &Scrape| scrape.value("svcproxy_sync_failures_total");
    let failed = proxy.scrape_until(|scrape| failures(scrape) > failures(&then));
    proxy.send(vec![Change::ServiceApplied(service("good", 2))]);
    proxy.scrape_until(|scrape| syncs(scrape) > syncs(&failed));
    assert!(!proxy.monitor.is_healthy());
    proxy.events.send(Event::Drift).unwrap();
    eventually(PATIENCE, is_healthy).unwrap();
    let repaired = proxy.scrape_until(|scrape| scrape.value("svcproxy_problems") == 0.0);
    assert_eq!(failures(&repaired), failures(&failed));
}

#[test]
fn a_node_that_is_being_deleted_fails_healthz_and_not_livez() {
    let proxy = Proxy::start(options(), Intervals::default());
    let port = reserve_port().unwrap();
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let _health = ProxyServer::health(&runtime(), address, proxy.monitor.clone()).unwrap();
    let (status, _, body) = get(port, "/readyz");
    assert!(status == 503 && body.starts_with("{\"lastUpdated\":\"0001-01-01T00:00:00Z\""));
    let mut node = Node::new("node-a");
    node.eligible = false;
    let mut changes = lists(vec![], vec![]);
    changes.push(Change::NodeReplaced(Some(node)));
    proxy.send(changes);
    proxy.scrape_until(synced);
    let (status, head, body) = get(port, "/healthz");
    assert_eq!(status, 503);
    assert!(head.contains("content-type: application/json"));
    assert!(body.contains("\"nodeEligible\":false,\"healthy\":true,\"status\":{\"IPv4\":{"));
    assert_eq!(get(port, "/livez").0, 200);
    assert_eq!(get(port, "/readyz").0, 200);
    proxy.send(vec![Change::NodeReplaced(Some(Node::new("node-a")))]);
    let ok = |_: &Scrape| get(port, "/healthz").0 == 200;
    let scrape = proxy.scrape_until(ok);
    assert!(scrape.value("kubeproxy_proxy_livez_total{code=\"200\"}") >= 1.0);
    assert!(scrape.value("kubeproxy_proxy_healthz_total{code=\"503\"}") >= 1.0);
}

#[test]
fn an_address_in_use_is_served_as_soon_as_it_is_free() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .init();
    let proxy = Proxy::start(options(), Intervals::default());
    let port = reserve_port().unwrap();
    let taken = TcpListener::bind(("::", port)).unwrap();
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let server = ProxyServer::health(&runtime(), address, proxy.monitor.clone()).unwrap();
    eventually(PATIENCE, || match log.text().contains("cannot listen on") {
        true => Ok(()),
        false => Err(log.text()),
    })
    .unwrap();
    drop(taken);
    assert_eq!(get(port, "/livez").0, 200);
    drop(server);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_stuck_loop_delays_no_scrape_and_is_unhealthy() {
    let mut options = options();
    options.health_timeout = Duration::from_millis(300);
    let monitor = Monitor::new(options);
    let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
    let mut proxier = Proxier::new(
        Arc::new(config),
        Ipvs::new(FakeNode::default().kernel().unwrap()),
    );
    let (events, received) = mpsc::channel();
    monitor.inspect_by(events.clone());
    let (stuck, observer) = (Arc::new(Barrier::new(2)), monitor.clone());
    let in_loop = Arc::clone(&stuck);
    let run = thread::spawn(move || {
        let _ = proxier::reconcile::run(
            &mut proxier,
            &received,
            &mut Intervals::default(),
            |proxier, observed| {
                observer.observed(proxier, &observed);
                in_loop.wait();
                in_loop.wait();
                ControlFlow::Continue(())
            },
        );
    });
    monitor.queued(&lists(vec![], vec![]));
    events.send(Event::Changes(lists(vec![], vec![]))).unwrap();
    stuck.wait();
    assert!(monitor.is_healthy());
    monitor.queued(&[Change::ServiceApplied(service("web", 80))]);
    let unhealthy = || (!monitor.is_healthy()).then_some(()).ok_or("healthy");
    eventually(PATIENCE, unhealthy).unwrap();
    let scrape = Scrape::parse(&monitor.scrape());
    assert_eq!(
        scrape.value("kubeproxy_sync_proxy_rules_service_changes_pending"),
        1.0
    );
    // The same over HTTP: every scrape is answered from the last snapshot, however many arrive at
    // once.
    let port = reserve_port().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let pages = Pages::new(String::new, "{}".into());
    let _metrics = ProxyServer::metrics(&runtime(), address, monitor.clone(), pages).unwrap();
    assert_eq!(get(port, "/version").0, 200);
    let scrapes: Vec<_> = (0..5)
        .map(|_| thread::spawn(move || get(port, "/metrics")))
        .collect();
    for scrape in scrapes {
        let (status, _, body) = scrape.join().unwrap();
        assert_eq!(status, 200);
        let age = Scrape::parse(&body).value("svcproxy_snapshot_age_seconds");
        assert!(age.is_finite(), "{body}");
    }
    // The loop continues with the stop. It answers the scrape's request before, or not at all.
    events.send(Event::Stop).unwrap();
    stuck.wait();
    run.join().unwrap();
}

/// Another site can make its own name lead to this address, and then read what browsers get from it.
#[test]
fn other_sites_cannot_read_what_is_for_people() {
    let proxy = Proxy::start(options(), Intervals::default());
    let port = reserve_port().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let home = |_: &Request<'_>| Some(Document::new("text/plain", "home"));
    let pages = Pages::new(String::new, "{}".into()).with_site(|_| None, home);
    let _metrics = ProxyServer::metrics(&runtime(), address, proxy.monitor.clone(), pages).unwrap();
    for host in ["localhost", "node-a:10249", "127.0.0.1:10249", "[::1]"] {
        assert_eq!(get_from(host, port, "/").2, "home", "{host}");
    }
    for path in ["/", "/status", "/conditions", "/services/default/web"] {
        assert_eq!(get_from("evil.example:10249", port, path).0, 421, "{path}");
    }
    // Programs ask by any name, as with kube-proxy.
    assert_eq!(get_from("node-a.example:10249", port, "/metrics").0, 200);
}

#[test]
fn clients_that_do_not_read_block_nothing_and_are_bounded() {
    let proxy = Proxy::start(options(), Intervals::default());
    let port = reserve_port().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let pages = Pages::new(String::new, "{}".into());
    let _metrics = ProxyServer::metrics(&runtime(), address, proxy.monitor.clone(), pages).unwrap();
    assert_eq!(get(port, "/healthz").0, 200);
    // A client with repeated requests, like Prometheus, which connected first.
    let mut scraper = TcpStream::connect(address).unwrap();
    scraper.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n";
    let mut answers_again = || {
        scraper.write_all(ask).unwrap();
        let mut answer = [0; 512];
        let mut read = Vec::new();
        while !read.ends_with(b"ok") {
            let count = scraper.read(&mut answer).unwrap();
            assert!(count > 0, "cut off");
            read.extend_from_slice(&answer[..count]);
        }
    };
    answers_again();
    answers_again();
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut client = TcpStream::connect(address).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
        // The server may have closed the connection already.
        let _ = client.write_all(request);
        crowd.push(client);
    }
    assert_eq!(get(port, "/metrics").0, 200);
    answers_again();
    // The oldest connections of the crowd were closed.
    let first = &mut crowd[0];
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    match first.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}
