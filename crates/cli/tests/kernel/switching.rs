//! Switching modes and back, with new and existing connections.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::{Connection, Host, eventually};

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, Stop, client, succeed};
use crate::lasting::{FIRST, Lasting, SECOND, THIRD, shop};
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
#[expect(clippy::print_stdout, reason = "the window is to be seen")]
fn under_load<T>(lab: &Lab, what: &str, action: impl FnOnce() -> T) -> T {
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
    assert!(failures.len() * 1000 <= tried.len(), "{what}: {failures:?}");
    result
}

/// UDP flows from all clients to every kind of address; each must be answered eventually.
struct Datagrams<'a>(Vec<(Connection, &'a Port, &'a str)>);

impl<'a> Datagrams<'a> {
    fn open(lab: &'a Lab) -> Self {
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

    fn go_on(&mut self) {
        for (flow, port, from) in &mut self.0 {
            eventually(Duration::from_secs(20), || flow.ask().map(drop))
                .unwrap_or_else(|error| panic!("{port:?} from {from}: {error}"));
        }
    }
}

fn start(lab: &Lab, arguments: &[&str]) -> Follower {
    let mut command = lab.svcproxy(&["--log-format=json"]);
    let follower = Follower::start(command.args(lab.settings()).args(arguments));
    follower.wait("a sync", |event| event["message"] == "synced");
    follower
}

/// The state of IPVS mode on the node.
fn of_ipvs_mode(lab: &Lab) -> Vec<String> {
    let node = lab.node();
    let mut found = lab.ipvsadm();
    let run = |command: &str| node.run(command.split(' ')).unwrap();
    for command in [
        "ip rule show",
        "ip -6 rule show",
        "ip route show table all",
        "ip -6 route show table all",
    ] {
        let lines = run(command);
        let own = lines.lines().filter(|line| {
            ["proto 73", "lookup 73", "fwmark 0x2000"]
                .iter()
                .any(|word| line.contains(word))
        });
        found.extend(own.map(str::to_owned));
    }
    let tables = run("nft list tables");
    let own = tables.lines().filter(|line| line.contains("inet svcproxy"));
    found.extend(own.map(str::to_owned));
    found
}

/// The state of iptables mode on the node, in both iptables.
fn of_iptables_mode(lab: &Lab) -> Vec<String> {
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

/// Waits until nothing is left of a mode.
fn nothing_left(svcproxy: &Follower, found: impl Fn() -> Vec<String>) {
    let left = || match found() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    };
    eventually(PATIENCE, left)
        .unwrap_or_else(|left| panic!("left: {left:#?}; {:#?}", svcproxy.log()));
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn modes_are_switched_under_load_and_nothing_is_left() {
    let lab = Lab::new("switch", &[SHOP, SHOP_UDP].concat());
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = lab.follow();
    let mut on_ipvs = Lasting::open(&lab, SHOP);
    let mut datagrams = Datagrams::open(&lab);

    let svcproxy = under_load(&lab, "ipvs to iptables", || {
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=iptables", "--drain-timeout=45"]);
        svcproxy.wait("IPVS to keep its connections", |event| {
            let message = event["message"].as_str();
            message.is_some_and(|message| message.contains("existing connections stay on IPVS"))
        });
        // IPVS still has these connections; the clients end them.
        on_ipvs.hold();
        datagrams.go_on();
        drop(on_ipvs);
        nothing_left(&svcproxy, || of_ipvs_mode(&lab));
        svcproxy
    });
    assert!(!of_iptables_mode(&lab).is_empty());
    datagrams.go_on();
    let mut on_iptables = Lasting::open(&lab, SHOP);

    let svcproxy = under_load(&lab, "iptables to ipvs", || {
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=ipvs"]);
        nothing_left(&svcproxy, || of_iptables_mode(&lab));
        svcproxy
    });
    assert!(!of_ipvs_mode(&lab).is_empty());
    lab.converges();
    // Connection tracking keeps translating them.
    on_iptables.hold();
    datagrams.go_on();
    svcproxy.terminate();
}

/// Connections that are left at the timeout are cut, and no others.
#[test]
#[ignore = "kernel: needs IPVS"]
fn connections_of_the_other_mode_have_a_bound() {
    let lab = Lab::new("bound", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let svcproxy = lab.follow();
    let mut cut: Vec<_> = SHOP
        .iter()
        .map(|port| {
            let to = client(testbed::Protocol::Tcp, port.vip()).timeout(Duration::from_secs(3));
            to.connect(lab.client()).unwrap()
        })
        .collect();
    for connection in &mut cut {
        connection.ask().unwrap();
    }
    svcproxy.terminate();
    let svcproxy = start(&lab, &["--mode=iptables", "--drain-timeout=3"]);
    nothing_left(&svcproxy, || of_ipvs_mode(&lab));
    for connection in &mut cut {
        connection.ask().unwrap_err();
    }
    Lasting::open(&lab, SHOP).hold();
}

/// Sysctls without those of IPVS, as if its module were not loaded.
fn sysctls_without_ipvs(directory: &Path) {
    let [net, ipv4] = ["net", "net/ipv4"].map(|path| directory.join(path));
    fs::create_dir_all(&ipv4).unwrap();
    let link = |place: &Path, name: &str, within: &str| {
        let target = format!("/proc/sys/{within}/{name}");
        symlink(target, place.join(name)).unwrap();
    };
    for name in ["ipv6", "netfilter"] {
        link(&net, name, "net");
    }
    for name in ["ip_forward", "conf"] {
        link(&ipv4, name, "net/ipv4");
    }
}

fn ipvs_appears(directory: &Path) {
    symlink("/proc/sys/net/ipv4/vs", directory.join("net/ipv4/vs")).unwrap();
}

fn reported(log: &[Value], reason: &str) -> usize {
    log.iter().filter(|event| event["reason"] == reason).count()
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn available_ipvs_is_reported_and_switched_to_on_request() {
    for (how, switches) in [("auto", false), ("auto-upgrade", true)] {
        let lab = Lab::new("appears", SHOP);
        lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
        let sysctls = tempfile::tempdir().unwrap();
        sysctls_without_ipvs(sysctls.path());
        let proc_sys = format!("--proc-sys={}", sysctls.path().display());
        let fallback = format!("--fallback={how}");
        let svcproxy = start(&lab, &["--audit-interval=1s", &proc_sys, &fallback]);
        assert_eq!(reported(&svcproxy.log(), "ModeFallback"), 1);
        assert_eq!(of_ipvs_mode(&lab), [""; 0]);
        assert!(!of_iptables_mode(&lab).is_empty());
        let mut lasting = Lasting::open(&lab, SHOP);

        under_load(&lab, "IPVS appears", || {
            ipvs_appears(sysctls.path());
            svcproxy.wait("IPVS", |event| event["reason"] == "IpvsAvailable");
            if switches {
                nothing_left(&svcproxy, || of_iptables_mode(&lab));
            } else {
                let before = svcproxy.syncs();
                let audits = || {
                    let more = svcproxy.syncs() > before + 2;
                    more.then_some(()).ok_or("no audit")
                };
                eventually(PATIENCE, audits).unwrap();
            }
        });
        lasting.hold();
        assert_eq!(of_ipvs_mode(&lab).is_empty(), !switches);
        assert_eq!(of_iptables_mode(&lab).is_empty(), switches);
        // It continues to follow the manifests.
        lab.write("shop.yaml", &shop(&[SECOND], "", ""));
        let only = |port: &Port| match lab.ask(lab.probe(), port) {
            Ok(answer) if answer.backend.starts_with(SECOND) => Ok(()),
            other => Err(other),
        };
        for port in SHOP {
            eventually(PATIENCE, || (0..5).try_for_each(|_| only(port))).unwrap();
        }
        let log = svcproxy.terminate();
        assert_eq!(reported(&log, "IpvsAvailable"), 1, "{log:#?}");
        assert_eq!(reported(&log, "ModeFallback"), 1, "{log:#?}");
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn check_finds_all_and_leaves_nothing() {
    let lab = Lab::new("check", &[]);
    let rest = || {
        [
            "ip route show table all",
            "ip rule",
            "nft list ruleset",
            "ipvsadm -Sn",
        ]
        .map(|command| lab.node().run(command.split(' ')).unwrap())
    };
    let before = rest();
    let check = |arguments: &[&str]| {
        let mut command = lab.svcproxy(&["check", "-o=json"]);
        let settings = lab.settings().into_iter().skip(1);
        command.args(settings).args(arguments).output().unwrap()
    };
    for mode in ["ipvs", "iptables"] {
        let output = check(&[&format!("--mode={mode}")]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap();
        assert!(findings.len() > 10, "{found:#}");
        let missing: Vec<_> = findings.iter().filter(|f| f["result"] != "ok").collect();
        assert_eq!(missing, Vec::<&Value>::new());
        assert_eq!(output.status.code(), Some(0));
    }
    assert_eq!(rest(), before);

    // Beside a running svcproxy, nothing changes.
    lab.use_all_examples();
    lab.once();
    let before = rest();
    assert_eq!(check(&[]).status.code(), Some(0));
    assert_eq!(rest(), before);
    assert_eq!(lab.steps(), [""; 0]);

    // Without the privilege, and as root of only a user namespace.
    for prefix in [
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all"][..],
        &["unshare", "--user", "--map-root-user", "--net"],
    ] {
        let mut command = lab.node().command(prefix[0]);
        command.args(&prefix[1..]);
        command.args([env!("CARGO_BIN_EXE_svcproxy"), "check", "-o=json"]);
        let output = command
            .args(lab.settings().iter().skip(1))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let ipvs = &found["findings"][0];
        assert_eq!(ipvs["name"], "ipvs", "{found:#}");
        assert_eq!(ipvs["reason"], "permission", "{found:#}");
        assert_eq!(ipvs["errno"], 1, "{found:#}");
        let remedy = ipvs["remedy"].as_str().unwrap();
        assert!(remedy.contains("CAP_NET_ADMIN in the initial user namespace"));
    }
    succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
}
