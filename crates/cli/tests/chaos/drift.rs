//! Another program changes what svcproxy made, again and again, under load. It is always repaired,
//! and the log says what.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::eventually;

use crate::follower::Follower;
use crate::node::{Mode, Node, PROGRAM};
use crate::options::{MINUTES, Random, number, seed};
use crate::traffic;

/// A change by another program.
struct Drift {
    what: &'static str,
    /// A command of the shell.
    command: &'static str,
    /// What lists it.
    listing: &'static str,
    /// A command that removes what svcproxy leaves alone, since it is another program's.
    after: &'static str,
}

const fn drift(what: &'static str, command: &'static str, listing: &'static str) -> Drift {
    Drift {
        what,
        command,
        listing,
        after: "true",
    }
}

/// A line for each chain and set, in order: chains that stay while others are replaced come first in the
/// kernel's own.
const RULES: &str = "for family in ip ip6 inet; do nft -s list table $family svcproxy 2>&1 | \
                     sed '/^table /d; /^}$/d' | \
                     awk -v RS= -v of=$family '{ gsub(/\\n/, \" \"); print of, $0 }' | sort; done";
const SAVED: &str = "for f in iptables ip6tables; do $f-nft-save; done | sed 's/ \\[.*//; /^#/d'";
const ROUTES: &str = "for f in -4 -6; do ip $f rule; ip $f route show table local proto 73; done; \
                      ip route get 10.96.0.90 | head -c 6";
const SERVERS: &str = "ipvsadm -Sn | sort";

/// Stands for a command that is not of the shell: every sysctl that svcproxy has set gets the value
/// from before.
const SYSCTLS: Drift = drift("sysctls are set back", "", "");

const OF_ROUTES: [Drift; 2] = [
    drift(
        "a route is deleted",
        "ip route del local 10.96.0.0/12 dev lo table local",
        ROUTES,
    ),
    Drift {
        what: "a blackhole route is added before svcproxy's",
        command: "ip route prepend blackhole 10.96.0.0/12 table local",
        listing: ROUTES,
        after: "ip route del blackhole 10.96.0.0/12 table local",
    },
];

impl Mode {
    /// What other programs do to what a mode makes.
    fn drifts(self) -> Vec<Drift> {
        let mut drifts = match self {
            Self::Ipvs => vec![
                drift("`ipvsadm -C`", "ipvsadm -C", SERVERS),
                drift(
                    "`ipvsadm -C`, and the scheduler's module is unloaded",
                    "ipvsadm -C; rmmod ip_vs_rr || true",
                    SERVERS,
                ),
                drift(
                    "a virtual server is deleted",
                    "ipvsadm -D -t 10.97.0.5:80",
                    SERVERS,
                ),
                drift(
                    "a virtual server gets another scheduler",
                    "ipvsadm -E -t 10.97.0.5:80 -s wlc",
                    SERVERS,
                ),
                drift(
                    "a real server is deleted",
                    "ipvsadm -d -t 10.97.0.6:80 -r 10.245.1.6:80",
                    SERVERS,
                ),
                drift(
                    "a real server gets another weight",
                    "ipvsadm -e -t 10.97.0.6:80 -r 10.245.1.6:80 -m -w 7",
                    SERVERS,
                ),
                drift(
                    "a real server is added",
                    "ipvsadm -a -t 10.97.0.7:80 -r 10.245.9.9:80 -m",
                    SERVERS,
                ),
                drift("`nft flush ruleset`", "nft flush ruleset", RULES),
                drift(
                    "a table is deleted",
                    "nft delete table inet svcproxy",
                    RULES,
                ),
                drift(
                    "a table is switched off",
                    "nft add table inet svcproxy '{ flags dormant; }'",
                    RULES,
                ),
                drift(
                    "a chain is flushed",
                    "nft flush chain inet svcproxy filter-input",
                    RULES,
                ),
                drift(
                    "a policy rule is deleted",
                    "ip rule del priority 73",
                    ROUTES,
                ),
            ],
            Self::Iptables => vec![
                drift("`nft flush ruleset`", "nft flush ruleset", SAVED),
                drift("a table is deleted", "nft delete table ip nat", SAVED),
                drift(
                    "a chain is flushed",
                    "iptables-nft -t nat -F SVCPROXY-SERVICES",
                    SAVED,
                ),
                drift(
                    "the kernel's chain is flushed",
                    "iptables-nft -t nat -F PREROUTING",
                    SAVED,
                ),
                drift(
                    "a rule is added to svcproxy's chain",
                    "iptables-nft -t nat -A SVCPROXY-SERVICES -p udp -j RETURN",
                    SAVED,
                ),
            ],
            Self::Nftables => vec![
                drift("`nft flush ruleset`", "nft flush ruleset", RULES),
                drift("a table is deleted", "nft delete table ip6 svcproxy", RULES),
                drift(
                    "a table is switched off",
                    "nft add table ip svcproxy '{ flags dormant; }'",
                    RULES,
                ),
                drift(
                    "a chain is flushed",
                    "nft flush chain ip svcproxy nat-prerouting",
                    RULES,
                ),
                drift(
                    "a map is flushed",
                    "nft flush map ip svcproxy endpoints",
                    RULES,
                ),
                drift(
                    "a rule is added to svcproxy's chain",
                    "nft add rule ip svcproxy nat-prerouting counter",
                    RULES,
                ),
            ],
            Self::Userspace => Vec::new(),
        };
        if matches!(self, Self::Ipvs | Self::Userspace) {
            drifts.extend(OF_ROUTES);
        }
        drifts.push(SYSCTLS);
        drifts
    }
}

/// What was measured of one kind.
#[derive(Default)]
struct Row {
    times: Vec<Duration>,
    /// An example of what the log said.
    said: String,
}

/// Repairs take at most an interval of audits, by default a minute.
const BOUND: Duration = Duration::from_secs(150);

struct Run<'a> {
    node: &'a Node,
    svcproxy: Follower,
    rows: BTreeMap<&'static str, Row>,
}

impl Run<'_> {
    fn repairs(&self) -> Vec<String> {
        let log = self.svcproxy.log();
        let repairs = log
            .iter()
            .filter(|event| event["message"] == "repaired drift");
        let step = |event: &Value| event["step"].as_str().unwrap_or("more").to_owned();
        repairs.map(step).collect()
    }

    fn sh(&self, command: &str) -> String {
        self.node.lab.node().run(["sh", "-c", command]).unwrap()
    }

    /// Changes something, and waits until it is repaired.
    fn once(&mut self, drift: &Drift) {
        let listing = || match drift.listing {
            "" => format!("{:?}", self.node.changed_sysctls()),
            command => self.sh(command),
        };
        let (whole, state) = (listing(), self.node.state());
        let before = self.repairs().len();
        match drift.command {
            "" => self.node.set_sysctls_back(),
            command => _ = self.sh(command),
        }
        let began = Instant::now();
        let repaired = || match (listing(), self.repairs().len()) {
            (now, repairs) if now == whole && repairs > before => Ok(()),
            (now, repairs) => Err((now, repairs)),
        };
        if let Err((now, repairs)) = eventually(BOUND, repaired) {
            let log = self.svcproxy.log();
            panic!(
                "{}: not repaired, {} repairs in the log:\n{now}\nwas\n{whole}\n{:#?}",
                drift.what,
                repairs - before,
                log.last_chunk::<20>()
            );
        }
        let took = began.elapsed();
        self.sh(drift.after);
        let settled = self.node.settled(&state);
        assert_eq!(settled.difference(&state), "", "after {}", drift.what);
        let said = self.repairs().split_off(before);
        let row = self.rows.entry(drift.what).or_default();
        row.times.push(took);
        row.said = said.first().cloned().unwrap_or_default();
        println!("{}: repaired in {took:.2?}", drift.what);
    }

    fn print(&mut self) {
        println!(
            "| another program's change | times | median | longest | the log said, for instance |"
        );
        println!("| --- | --- | --- | --- | --- |");
        for (what, row) in &mut self.rows {
            row.times.sort();
            println!(
                "| {what} | {} | {:.2?} | {:.2?} | {} |",
                row.times.len(),
                row.times[row.times.len() / 2],
                row.times[row.times.len() - 1],
                row.said
            );
        }
    }
}

fn drifts(mode: Mode) {
    let seed = seed();
    let minutes = number::<u64>(MINUTES);
    println!("mode {mode}, seed {seed}");
    let node = Node::empty(mode);
    node.write_services();
    // Without minutes, each kind comes once, and nobody waits a minute for an audit.
    let audits = match minutes {
        Some(_) => &[][..],
        None => &["--audit-interval=2s"],
    };
    let svcproxy = node.start_with(PROGRAM, mode, audits);
    let mut run = Run {
        node: &node,
        svcproxy,
        rows: BTreeMap::new(),
    };
    let syncs = || match run.svcproxy.syncs() {
        count @ 0..2 => Err(count),
        _ => Ok(()),
    };
    // The first audit does what a start leaves for later.
    eventually(BOUND, syncs).unwrap();
    let mut drifts = mode.drifts();
    if run.node.changed_sysctls().is_empty() {
        drifts.retain(|drift| drift.what != SYSCTLS.what);
    }
    let mut random = Random::new(seed, 0);
    if minutes.is_none() && mode == Mode::Ipvs {
        // The machine with IPVS is emulated: a few kinds of the seed's choice.
        let first = random.below(drifts.len().try_into().unwrap());
        drifts.rotate_left(first.try_into().unwrap());
        drifts.truncate(3);
    }
    let end = Duration::from_secs(minutes.unwrap_or_default() * 60);
    let began = Instant::now();
    let ((), seen) = traffic::during(&node.lab, Duration::from_secs(10), None, || {
        for drift in &drifts {
            run.once(drift);
        }
        while began.elapsed() < end {
            let which = random.below(drifts.len().try_into().unwrap());
            run.once(&drifts[usize::try_from(which).unwrap()]);
            thread::sleep(Duration::from_millis(random.below(3_000)));
        }
    });
    run.print();
    println!(
        "{} new connections, of which {} failed while something was undone",
        seen.tried,
        seen.failed.len()
    );
    run.svcproxy.terminate();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_ipvs() {
    drifts(Mode::Ipvs);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_iptables() {
    drifts(Mode::Iptables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_nftables() {
    drifts(Mode::Nftables);
}

#[test]
#[ignore = "netns: needs root"]
fn netns_userspace() {
    drifts(Mode::Userspace);
}
