//! New connections and datagrams throughout a switch of modes, and what is left of a mode.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testbed::{Connection, Host, eventually};

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, Stop, client};
use crate::ports::{Port, SHOP, SHOP_UDP};

/// The result of a new connection.
struct Tried {
    began: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// Runs an action while all clients open connections to every kind of address; they must work
/// throughout.
///
/// About one in some thousands fails: an IPVS entry of a source port may conflict with a connection
/// through iptables.
pub(crate) fn under_load<T>(lab: &Lab, what: &str, action: impl FnOnce() -> T) -> T {
    under_load_except(0, lab, what, action)
}

/// As [`under_load`]; a number of connections may fail even in a short run.
#[expect(clippy::print_stdout, reason = "the window is to be seen")]
pub(crate) fn under_load_except<T>(
    few: usize,
    lab: &Lab,
    what: &str,
    action: impl FnOnce() -> T,
) -> T {
    let (stopped, tried) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let clients = [lab.probe(), lab.node(), lab.client()];
    let load = |from: &Host| {
        let mut ports = SHOP.iter().cycle();
        while !stopped.load(Ordering::Relaxed) {
            let port = ports.next().unwrap();
            let began = Instant::now();
            let asked = client(port.protocol, port.vip());
            let asked = asked.timeout(Duration::from_secs(10)).ask(from);
            let failure = asked.err();
            let failure = failure.map(|e| format!("{} to {}: {e}", from.name(), port.vip()));
            let ended = Instant::now();
            let outcome = Tried {
                began,
                ended,
                failure,
            };
            tried.lock().unwrap().push(outcome);
        }
    };
    let more = || {
        let before = tried.lock().unwrap().len();
        eventually(PATIENCE, || {
            let now = tried.lock().unwrap().len();
            (now > before + 30).then_some(()).ok_or(now)
        })
        .expect("connections are tried");
    };
    let (result, began, took) = thread::scope(|scope| {
        let load = &load;
        for from in clients {
            scope.spawn(move || load(from));
        }
        let _stop = Stop(&stopped);
        more();
        let began = Instant::now();
        let result = action();
        let took = began.elapsed();
        more();
        (result, began, took)
    });
    let tried = tried.into_inner().unwrap();
    let failed: Vec<_> = tried.iter().filter(|one| one.failure.is_some()).collect();
    let first = failed.iter().map(|one| one.began).min();
    let last = failed.iter().map(|one| one.ended).max();
    let window = first.zip(last).map(|(first, last)| {
        let from = first.saturating_duration_since(began);
        format!(
            "{:?}, from {from:?} on",
            last.saturating_duration_since(first)
        )
    });
    println!(
        "{what}: {} new connections, {} failed; window: {}; it took {took:?}",
        tried.len(),
        failed.len(),
        window.unwrap_or_else(|| "none".to_owned())
    );
    let failures: Vec<_> = failed
        .iter()
        .filter_map(|one| one.failure.as_deref())
        .collect();
    let allowed = (tried.len() / 1000).max(few);
    assert!(failures.len() <= allowed, "{what}: {failures:?}");
    result
}

/// UDP flows from all clients to every kind of address; each must be answered eventually.
pub(crate) struct Datagrams<'a>(Vec<(Connection, &'a Port, &'a str)>);

impl<'a> Datagrams<'a> {
    pub(crate) fn open(lab: &'a Lab) -> Self {
        let mut flows = Vec::new();
        for port in SHOP_UDP {
            for from in [lab.probe(), lab.node(), lab.client()] {
                let to = client(port.protocol, port.vip()).timeout(Duration::from_secs(1));
                flows.push((to.connect(from).unwrap(), port, from.name()));
            }
        }
        let mut flows = Self(flows);
        flows.go_on();
        flows
    }

    pub(crate) fn go_on(&mut self) {
        for (flow, port, from) in &mut self.0 {
            eventually(Duration::from_secs(20), || flow.ask().map(drop))
                .unwrap_or_else(|error| panic!("{port:?} from {from}: {error}"));
        }
    }
}

pub(crate) fn start(lab: &Lab, arguments: &[&str]) -> Follower {
    let mut command = lab.svcproxy(&["--log-format=json"]);
    let follower = Follower::start(command.args(lab.settings()).args(arguments));
    follower.wait("a sync", |event| event["message"] == "synced");
    follower
}

/// The state of iptables mode on the node, in both iptables.
pub(crate) fn of_iptables_mode(lab: &Lab) -> Vec<String> {
    let programs = [
        "iptables-nft-save",
        "ip6tables-nft-save",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
    ];
    let saved = programs.map(|program| lab.node().run([program]).unwrap_or_default());
    let lines = saved.iter().flat_map(|text| text.lines());
    let own = lines.filter(|line| line.contains("SVCPROXY"));
    own.map(str::to_owned).collect()
}

/// The state of nftables mode on the node.
pub(crate) fn of_nftables_mode(lab: &Lab) -> Vec<String> {
    let tables = lab.node().run(["nft", "list", "tables"]).unwrap();
    let own = ["table ip svcproxy", "table ip6 svcproxy"];
    let found = tables.lines().filter(|line| own.contains(&line.trim()));
    found.map(str::to_owned).collect()
}

/// Waits until nothing is left of a mode.
pub(crate) fn nothing_left(svcproxy: &Follower, found: impl Fn() -> Vec<String>) {
    let left = || match found() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    };
    eventually(PATIENCE, left)
        .unwrap_or_else(|left| panic!("left: {left:#?}; {:#?}", svcproxy.log()));
}
