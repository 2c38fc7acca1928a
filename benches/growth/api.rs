//! Rows of svcproxy with an API server, which is a process of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::{env, fs, thread};

use ipvs::{Change, RealServer, RealServerKey, VirtualServerKey};
use proxier::desired::Config;
use proxier::mode::ipvs::plan::{NodeState, Plan, Step};
use proxier::mode::ipvs::{Ipvs, IpvsKernel, Kernel};
use proxier::mode::{ApplyReport, NodeError};
use proxier::reconcile::{self, Event, Intervals, Observed};
use proxier::source::Reading;
use proxier::source::kube::offline::Offline;
use proxier::source::kube::{Access, Encoding, KubeSource, Timing};
use proxier::{Proxier, Runtime};
use serde_json::json;
use testbed::{ApiServer, Behaviour, Namespace, Resource};

use crate::kernel;
use crate::measure::{Cost, Of, measure, measure_of};
use crate::objects::{self, service, slice};
use crate::row::{Goal, Needs, Row, Sample, Size, of};
use crate::{Result, some};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODE: &str = "node-a";
/// The cluster in which a burst happens.
const BURST_IN: Size = of(10_000);

/// A list of version 1 without objects: `runtime.Unknown` around a list with its metadata.
const EMPTY_LIST: &[u8] = b"k8s\0\x12\x05\x0a\x03\x12\x011";

const MB: u64 = 1_000_000;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "synced",
        about: "from the start of the source to the desired state and its plan, beside a client that only \
                reads the same bytes",
        sizes_of: "Services × 3",
        sizes: &[of(1_000), of(5_000), of(10_000)],
        goal: Goal::Ratio(2.0),
        needs: Needs::Nothing,
        run: synced,
    },
    Row {
        name: "burst",
        about: "a burst of changes among 10,000 Services, mode ipvs, beside reading and decoding the events \
                and the raw IPVS messages",
        sizes_of: "changes",
        sizes: &[of(1_000), of(10_000)],
        goal: Goal::Ratio(1.3),
        needs: Needs::Ipvs,
        run: burst,
    },
    Row {
        name: "memory",
        about: "resident memory at rest, without a kernel in memory",
        sizes_of: "Services × endpoints",
        sizes: &[
            of(10_000),
            Size {
                count: 10_000,
                endpoints: 50,
            },
            Size {
                count: 50_000,
                endpoints: 10,
            },
        ],
        goal: Goal::Memory(&[30 * MB, 80 * MB, 130 * MB]),
        needs: Needs::Nothing,
        run: memory,
    },
];

fn filled(size: Size) -> Result<ApiServer> {
    let server = ApiServer::start(Behaviour::default())?;
    server.put(Resource::Nodes, json!({"metadata": {"name": NODE}}));
    for number in 0..size.count {
        server.put(Resource::Services, service(number));
        server.put(Resource::EndpointSlices, slice(number, size.endpoints, 0));
    }
    Ok(server)
}

/// The server's process: a line of input is a change of one endpoint.
pub(crate) fn serve(size: Size) -> Result<()> {
    let server = filled(size)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.url())?;
    out.flush()?;
    for (change, _) in (0u32..).zip(std::io::stdin().lines()) {
        let object = slice(change % size.count, size.endpoints, 1 + change);
        server.put(Resource::EndpointSlices, object);
    }
    Ok(())
}

/// A server in another process, whose memory does not count.
struct Server {
    child: Child,
    input: ChildStdin,
    _output: BufReader<ChildStdout>,
    url: String,
}

impl Server {
    fn start(size: Size) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args([
                "serve",
                &size.count.to_string(),
                &size.endpoints.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut url = String::new();
        output.read_line(&mut url)?;
        Ok(Self {
            child,
            input,
            _output: output,
            url: url.trim_end().to_owned(),
        })
    }

    /// The version of all objects.
    fn version(&self) -> Result<String> {
        let list = Answer::ask(&self.url, "/api/v1/nodes", Encoding::Json)?.rest_of_list()?;
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        let version = list.pointer("/metadata/resourceVersion");
        let version = version.and_then(serde_json::Value::as_str);
        Ok(version.ok_or("a list without a version")?.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer that arrives.
struct Answer {
    stream: BufReader<TcpStream>,
    length: Option<u64>,
}

impl Answer {
    fn ask(url: &str, path: &str, encoding: Encoding) -> Result<Self> {
        let address = url.strip_prefix("http://").ok_or("not a URL")?;
        let mut stream = TcpStream::connect(address)?;
        let accept = encoding.media_type();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: server\r\nAccept: {accept}\r\n\r\n"
        )?;
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        let mut length = None;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = Some(text.trim_end().parse()?);
            }
            if line == "\r\n" {
                return Ok(Self { stream, length });
            }
            if line.is_empty() {
                return Err("the server closed the connection".into());
            }
        }
    }

    fn rest_of_list(&mut self) -> Result<Vec<u8>> {
        let length = self.length.ok_or("a list without a length")?;
        let mut body = Vec::new();
        self.stream.by_ref().take(length).read_to_end(&mut body)?;
        Ok(body)
    }

    /// The next chunk, and its length with what frames it.
    fn chunk(&mut self) -> Result<(Vec<u8>, u64)> {
        let mut head = String::new();
        let head_length = self.stream.read_line(&mut head)?;
        let length = usize::from_str_radix(head.trim_end(), 16)?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        self.stream.read_exact(&mut [0; 2])?;
        Ok((chunk, u64::try_from(head_length + length + 2)?))
    }

    /// Reads so many bytes, and looks at none.
    fn skim(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let read = u64::try_from(self.stream.fill_buf()?.len())?.min(left);
            if read == 0 {
                return Err("the answer is too short".into());
            }
            self.stream.consume(usize::try_from(read)?);
            left -= read;
        }
        Ok(())
    }
}

/// A streamed list, as svcproxy requests it.
fn streamed(path: &str) -> String {
    format!(
        "{path}?watch=true&allowWatchBookmarks=true&resourceVersion=0&sendInitialEvents=true\
         &resourceVersionMatch=NotOlderThan"
    )
}

/// The number of bytes of a streamed list.
fn length_of_streamed(url: &str, path: &str) -> Result<u64> {
    let mut answer = Answer::ask(url, &streamed(path), Encoding::Protobuf)?;
    let mut total = 0;
    loop {
        let (chunk, length) = answer.chunk()?;
        total += length;
        let mark = b"k8s.io/initial-events-end";
        if chunk.windows(mark.len()).any(|part| part == mark) {
            return Ok(total);
        }
    }
}

fn config() -> Result<Arc<Config>> {
    let mut config = Config::new(NODE, vec!["192.0.2.7".parse()?]);
    config.service_cidrs = vec!["10.96.0.0/12".parse()?];
    Ok(Arc::new(config))
}

/// svcproxy behind a server.
struct Follower<K: Kernel> {
    proxier: Proxier<Ipvs<K>>,
    readings: Receiver<Reading>,
    _source: KubeSource,
}

impl<K: Kernel> Follower<K> {
    /// Follows the server until its objects are in effect.
    fn synced(url: &str, kernel: K) -> Result<Self> {
        let mut proxier = Proxier::new(config()?, Ipvs::new(kernel));
        let (deliver, readings) = channel();
        let mut access = Access::default();
        access.server = Some(url.to_owned());
        let (runtime, timing) = (Runtime::start()?, Timing::default());
        let source = KubeSource::start(&runtime, access, timing, NODE, move |reading| {
            let _ = deliver.send(reading);
        })?;
        loop {
            if let Some(report) = proxier.handle(readings.recv()?.changes)? {
                if let Some(failure) = report.applied.failures.first() {
                    return Err(format!("{failure:?}").into());
                }
                break;
            }
        }
        Ok(Self {
            proxier,
            readings,
            _source: source,
        })
    }
}

fn synced(size: Size) -> Result<Sample> {
    let server = Server::start(size)?;
    let paths = [SERVICES, SLICES];
    let lengths = paths.map(|path| length_of_streamed(&server.url, path));
    let (read, raw) = measure_of(Of::Process, || -> Result<()> {
        for (path, length) in paths.iter().zip(&lengths) {
            let length = *length.as_ref().map_err(ToString::to_string)?;
            Answer::ask(&server.url, &streamed(path), Encoding::Protobuf)?.skim(length)?;
        }
        Ok(())
    });
    read?;
    let (follower, cost) = measure_of(Of::Process, || Follower::synced(&server.url, NoKernel));
    some(follower?.proxier.desired().frontends().count())?;
    Ok(Sample::beside(cost, raw.work))
}

/// In a namespace in which the server is, too.
fn burst(size: Size) -> Result<Sample> {
    let inside = Namespace::new("burst")?;
    let (work, messages, server, version) = inside.enter(|| burst_in(size))?;
    // The same events again, for a client that reads and decodes them and does nothing else.
    let decoded = inside.enter(|| -> Result<_> {
        let path = format!("{SLICES}?watch=true&resourceVersion={version}");
        let mut answer = Answer::ask(&server.url, &path, Encoding::Protobuf)?;
        let (mut length, mut frames, mut events) = (0, Vec::new(), 0);
        while events < size.count {
            let (chunk, framed) = answer.chunk()?;
            length += framed;
            events += count_frames(&chunk)?;
            frames.extend(chunk);
        }
        let mut answer = Answer::ask(&server.url, &path, Encoding::Protobuf)?;
        let (read, reading) = measure_of(Of::Thread, || answer.skim(length));
        read?;
        let mut offline = Offline::new(Encoding::Protobuf);
        offline.endpoint_slices(EMPTY_LIST)?;
        let (readings, decoding) = measure(|| offline.endpoint_slice_events(&frames));
        some(readings?.len())?;
        Ok(reading.work + decoding.work)
    })?;
    drop(server);
    drop(inside);
    let raw = decoded + kernel::raw_changes(&initial()?, &messages)?;
    Ok(Sample::beside(work, raw))
}

/// The number of events in a chunk: each is after its length.
fn count_frames(mut chunk: &[u8]) -> Result<u32> {
    let mut count = 0;
    while let Some((length, rest)) = chunk.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        chunk = rest.get(length..).ok_or("an event in two chunks")?;
        count += 1;
    }
    Ok(count)
}

type Burst = (Cost, Vec<Change>, Server, String);

fn burst_in(size: Size) -> Result<Burst> {
    let mut server = Server::start(BURST_IN)?;
    let follower = Follower::synced(&server.url, IpvsKernel::open()?)?;
    let version = server.version()?;
    let Follower {
        mut proxier,
        readings,
        _source,
    } = follower;
    let count = usize::try_from(size.count)?;
    let (sender, events) = channel();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let mut changes = Vec::new();
    let (result, cost) = measure_of(Of::Process, || -> Result<()> {
        thread::spawn(move || {
            for reading in readings {
                let _ = sender.send(Event::Changes(reading.changes));
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        server.input.write_all(&b"\n".repeat(count))?;
        let mut intervals = Intervals::default();
        let mut failure = None;
        let _ = reconcile::run(&mut proxier, &events, &mut intervals, |_, observed| {
            let done = sent.load(Ordering::SeqCst) >= count;
            if let Observed::Round(round) = observed {
                match round.result {
                    Ok(report) => changes.extend(ipvs_changes(&report.plan)),
                    Err(error) => failure = Some(error.to_string()),
                }
            }
            match done || failure.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        match failure {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    });
    result?;
    some(changes.len())?;
    Ok((cost, changes, server, version))
}

fn ipvs_changes(plan: &Plan) -> impl Iterator<Item = Change> {
    plan.steps().iter().filter_map(|step| match step {
        Step::Ipvs(change) => Some(*change),
        _ => None,
    })
}

/// The changes of IPVS that lead to the cluster before a burst.
fn initial() -> Result<Vec<Change>> {
    let mut offline = Offline::new(Encoding::Protobuf);
    let services = offline.services(&objects::services(BURST_IN, Encoding::Protobuf))?;
    let slices = offline.endpoint_slices(&objects::slices(BURST_IN, Encoding::Protobuf))?;
    let mut proxier = Proxier::new(config()?, Ipvs::new(NoKernel));
    let changes = services.changes.into_iter().chain(slices.changes);
    let report = proxier.handle(changes)?.ok_or("nothing was synced")?;
    Ok(ipvs_changes(&report.plan).collect())
}

fn memory(size: Size) -> Result<Sample> {
    let server = Server::start(size)?;
    let output = Command::new(env::current_exe()?)
        .args(["rest", &size.count.to_string(), &size.endpoints.to_string()])
        .arg(&server.url)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || words.next().ok_or("no figure")?.map_err(Into::into);
    let next: &mut dyn FnMut() -> Result<u64> = &mut next;
    let resident = Some(next()?);
    let cost = Cost {
        kept: next()?,
        peak: next()?,
        ..Cost::default()
    };
    Ok(Sample {
        resident,
        ..cost.into()
    })
}

/// A process of its own, whose memory at rest is printed: resident, allocated, and at the peak.
pub(crate) fn rest(size: Size, url: &str) -> Result<()> {
    let (follower, cost) = measure_of(Of::Process, || Follower::synced(url, NoKernel));
    let follower = follower?;
    let frontends = follower.proxier.desired().frontends().count();
    if frontends != usize::try_from(size.count)? {
        return Err(format!("{frontends} frontends").into());
    }
    println!("{} {} {}", resident()?, cost.kept, cost.peak);
    Ok(())
}

/// The resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kilobytes: u64 = kilobytes.ok_or("no VmRSS")?.parse()?;
    Ok(kilobytes * 1_024)
}

/// A kernel that takes all steps and keeps nothing.
struct NoKernel;

impl Kernel for NoKernel {
    fn outline(&mut self) -> std::result::Result<NodeState, NodeError> {
        Ok(NodeState::default())
    }

    fn real_servers(
        &mut self,
        _: &VirtualServerKey,
    ) -> std::result::Result<Option<Vec<RealServer>>, NodeError> {
        Ok(None)
    }

    fn apply(&mut self, _: &Plan) -> ApplyReport {
        ApplyReport::default()
    }

    fn connections(
        &mut self,
        _: &VirtualServerKey,
    ) -> std::result::Result<HashMap<RealServerKey, u64>, NodeError> {
        Ok(HashMap::new())
    }

    fn remove_ruleset(&mut self) -> std::result::Result<(), NodeError> {
        Ok(())
    }
}
