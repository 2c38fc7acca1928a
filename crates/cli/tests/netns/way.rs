//! `svcproxy explain` names what outside svcproxy keeps a connection from its endpoint: whenever it says
//! that a connection is lost, a real one fails.

use testbed::Protocol;

use crate::lab::{Lab, client};
use crate::refused::manifest;

/// What another program does, how it is undone, and what the explanation says.
struct Case {
    done: &'static str,
    undone: &'static str,
    reason: &'static str,
    words: &'static [&'static str],
}

/// In every mode: dropped before svcproxy has done anything.
const DROPPED_FIRST: Case = Case {
    done: "iptables -t raw -A PREROUTING -d 10.96.0.21/32 -p tcp --dport 80 -j DROP",
    undone: "iptables -t raw -F",
    reason: "Firewall",
    words: &["packet to tcp 10.96.0.21:80", "chain ip raw PREROUTING"],
};

/// In every mode: the way to the endpoint ends.
const BLACKHOLE: Case = Case {
    done: "ip route replace blackhole 10.244.1.1",
    undone: "ip route replace 10.244.1.1 dev pod1",
    reason: "NoRoute",
    words: &["no route to endpoint 10.244.1.1: a route of kind blackhole"],
};

const CASES: [Case; 8] = [
    Case {
        done: "iptables -I FORWARD -d 10.244.0.0/16 -j DROP",
        undone: "iptables -D FORWARD 1",
        reason: "Firewall",
        words: &[
            "packet to endpoint 10.244.1.1:8080",
            "chain ip filter FORWARD",
            "drops it: rule 1 of chain FORWARD: -d 10.244.0.0/16 -j DROP",
        ],
    },
    Case {
        done: "iptables -I FORWARD -p tcp -m multiport --sports 80,8080 -j DROP",
        undone: "iptables -D FORWARD 1",
        reason: "Firewall",
        words: &["answer of endpoint 10.244.1.1:8080", "--sports 80,8080"],
    },
    DROPPED_FIRST,
    Case {
        done: "nft 'table inet fw { chain passes { type filter hook forward priority 5; \
               ip saddr { 172.18.0.0/16, 192.0.2.0/24 } tcp dport { 22, 8000-9000 } drop; }; }'",
        undone: "nft delete table inet fw",
        reason: "Firewall",
        words: &[
            "chain inet fw passes (hook forward, priority 5) drops it: rule of chain passes, handle 4: ",
            "ip saddr { 172.18.0.0/16, 192.0.2.0/24 }",
            "th dport { 22, 8000-9000 } drop",
        ],
    },
    Case {
        done: "nft 'table ip fw { chain sub { oifname \"pod1\" reject; }; \
               chain passes { type filter hook forward priority -5; iifname vmap { \"eth0\" : jump sub }; }; }'",
        undone: "nft delete table ip fw",
        reason: "Firewall",
        words: &["rejects it: rule of chain sub", "oifname \"pod1\" reject"],
    },
    Case {
        done: "nft 'table ip fw { chain pre { type filter hook prerouting priority raw; \
               ip daddr 10.96.0.0/12 drop; }; }'",
        undone: "nft delete table ip fw",
        reason: "Firewall",
        words: &["packet to tcp 10.96.0.21:80", "ip daddr 10.96.0.0/12 drop"],
    },
    BLACKHOLE,
    Case {
        done: "sysctl -qw net.ipv4.ip_forward=0",
        undone: "sysctl -qw net.ipv4.ip_forward=1",
        reason: "NotForwarded",
        words: &["net.ipv4.ip_forward is 0"],
    },
];

/// The same in mode userspace, where svcproxy makes the connection to the endpoint.
const USERSPACE: [Case; 6] = [
    Case {
        done: "iptables -I INPUT -d 10.96.0.21/32 -p tcp --dport 80 -j DROP",
        undone: "iptables -D INPUT 1",
        reason: "Firewall",
        words: &[
            "packet to tcp 10.96.0.21:80",
            "chain ip filter INPUT",
            "drops it: rule 1 of chain INPUT: -d 10.96.0.21/32",
        ],
    },
    Case {
        done: "iptables -I OUTPUT -d 10.244.0.0/16 -p tcp --dport 8080 -j DROP",
        undone: "iptables -D OUTPUT 1",
        reason: "Firewall",
        words: &[
            "packet to endpoint 10.244.1.1:8080",
            "chain ip filter OUTPUT",
        ],
    },
    Case {
        done: "iptables -I OUTPUT -s 10.96.0.21/32 -p tcp --sport 80 -j DROP",
        undone: "iptables -D OUTPUT 1",
        reason: "Firewall",
        words: &["answer of tcp 10.96.0.21:80", "chain ip filter OUTPUT"],
    },
    DROPPED_FIRST,
    Case {
        done: "nft 'table ip fw { chain post { type filter hook postrouting priority 5; \
               ip daddr 10.244.1.1 tcp dport 8080 drop; }; }'",
        undone: "nft delete table ip fw",
        reason: "Firewall",
        words: &["packet to endpoint 10.244.1.1:8080", "ip daddr 10.244.1.1"],
    },
    BLACKHOLE,
];

const MODE_USERSPACE: &str = "--mode=userspace";

/// The explanation of a connection of the client, and the exit code.
fn explain(lab: &Lab, mode: &str) -> (String, i32) {
    let from = format!("--from={}", lab.client().v4);
    let mut command = lab.svcproxy(&["explain", "10.96.0.21:80", &from, "--interface=eth0"]);
    command.args([mode, "--against=kernel"]);
    if mode != MODE_USERSPACE {
        command.arg("--metrics-bind-address=");
    }
    let output = command.args(lab.settings()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    (format!("{text}{error}"), output.status.code().unwrap())
}

fn is_explained(mode: &str) {
    let topology = testbed::Topology::new("way", &[1]).unwrap();
    let lab = Lab::over(topology);
    lab.write("web.yaml", &manifest("web", "10.96.0.21", "10.244.1.1"));
    let _backend = lab.serve(Protocol::Tcp, ([10, 244, 1, 1], 8080).into());
    let is_proxied = mode == MODE_USERSPACE;
    let running = is_proxied.then(|| crate::load::start(&lab, &[mode]));
    if !is_proxied {
        let mut once = lab.svcproxy(&[mode, "--once"]);
        let once = once.args(lab.settings()).output();
        assert!(once.unwrap().status.success());
    }
    let is_answered = || {
        let ask = client(Protocol::Tcp, ([10, 96, 0, 21], 80).into());
        ask.ask(lab.client()).is_ok()
    };
    let run = |script: &str| lab.node().run(["sh", "-c", script]).unwrap();
    for Case {
        done,
        undone,
        reason,
        words,
    } in if is_proxied { &USERSPACE[..] } else { &CASES }
    {
        let (text, code) = explain(&lab, mode);
        assert_eq!(code, 0, "before {done}: {text}");
        assert!(!text.contains("\nWhy"), "before {done}: {text}");
        assert!(is_answered(), "before {done}");
        run(done);
        let (text, code) = explain(&lab, mode);
        assert!(!is_answered(), "{done}");
        assert_eq!(code, 1, "{done}: {text}");
        let mut found = text.lines();
        let is_it = |line: &str| {
            line.trim_start().starts_with(reason) && words.iter().all(|word| line.contains(word))
        };
        assert!(found.any(is_it), "{words:?}: {text}");
        assert!(text.contains("lost on the way"), "{done}: {text}");
        run(undone);
    }
    // A rule that drops other packets, and one whose condition cannot be judged.
    let chain = if is_proxied { "INPUT" } else { "FORWARD" };
    run(&format!("iptables -I {chain} -d 10.245.0.0/16 -j DROP"));
    let (text, code) = explain(&lab, mode);
    assert!(code == 0 && !text.contains("\nWhy"), "{text}");
    let length = "-m length --length 2000:3000 -j DROP";
    run(&format!("iptables -I {chain} {length}"));
    let (text, code) = explain(&lab, mode);
    assert!(
        code == 0 && text.contains("may drop it: rule 1 of"),
        "{text}"
    );
    assert!(is_answered());
    if let Some(running) = running {
        // A node that lets only its own packets in, and answers.
        run("iptables -F INPUT; iptables -A INPUT -i lo -j ACCEPT; \
             iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -P INPUT DROP");
        let mut command = lab.svcproxy(&["explain", "10.96.0.21:80"]);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !text.contains("\nWhy"), "{text}");
        let (text, code) = explain(&lab, mode);
        assert!(code == 1 && text.contains("its policy"), "{text}");
        running.terminate();
    }
}

#[test]
#[ignore = "netns: needs root"]
fn what_others_drop_is_explained_in_mode_iptables() {
    is_explained("--mode=iptables");
}

#[test]
#[ignore = "netns: needs root"]
fn what_others_drop_is_explained_in_mode_nftables() {
    is_explained("--mode=nftables");
}

#[test]
#[ignore = "netns: needs root"]
fn what_others_drop_is_explained_in_mode_userspace() {
    is_explained(MODE_USERSPACE);
}
