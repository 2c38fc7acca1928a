//! What svcproxy is doing when it is killed.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use testbed::eventually;

use crate::follower::{Follower, PATIENCE};
use crate::lab::run_logged;
use crate::node::{Mode, Node, PROGRAM};
use crate::ports::SHOP;
use crate::shop::{FIRST, Lasting, SECOND, shop};
use crate::state::State;
use crate::trace::{Kill, Trace, Traced};
use crate::traffic::{self, Seen};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    ColdStart,
    Apply,
    Drain,
    Audit,
    Reload,
    Switch(Mode),
    TakeOver,
    Cleanup,
}

impl Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ColdStart => f.write_str("cold start"),
            Self::Apply => f.write_str("apply"),
            Self::Drain => f.write_str("drain"),
            Self::Audit => f.write_str("audit"),
            Self::Reload => f.write_str("configuration reload"),
            Self::Switch(from) => write!(f, "switch from {from}"),
            Self::TakeOver => f.write_str("take-over from kube-proxy"),
            Self::Cleanup => f.write_str("cleanup"),
        }
    }
}

impl Phase {
    /// The phases in which svcproxy of a mode can be killed.
    pub(crate) fn of(mode: Mode) -> Vec<Self> {
        let mut phases = vec![Self::ColdStart, Self::Apply, Self::Drain, Self::Audit];
        phases.push(Self::Reload);
        phases.extend(match mode {
            Mode::Ipvs => vec![Self::Switch(Mode::Nftables), Self::Switch(Mode::Iptables)],
            Mode::Iptables | Mode::Userspace => vec![Self::Switch(Mode::Nftables)],
            Mode::Nftables => vec![Self::Switch(Mode::Iptables)],
        });
        phases.extend([Self::TakeOver, Self::Cleanup]);
        phases
    }

    /// Whether it leaves other Services or settings than a start.
    pub(crate) fn changes(self) -> bool {
        matches!(
            self,
            Self::Apply | Self::Drain | Self::Reload | Self::Cleanup
        )
    }

    /// How svcproxy runs in this phase.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            // Connections to kube-proxy's node ports end with the drain timeout, which a machine that is
            // slow enough would reach before the phase is over.
            Self::TakeOver => &["--audit-interval=2s", "--drain-timeout=90"],
            _ => &["--audit-interval=2s"],
        }
    }

    /// Whether clients are served before, while and after svcproxy is killed.
    fn has_connections(self, mode: Mode) -> bool {
        match self {
            Self::ColdStart | Self::Cleanup => false,
            // With the process of mode userspace, its connections end.
            _ => mode.is_in_the_kernel(),
        }
    }
}

/// The result of a phase.
pub(crate) struct Outcome {
    pub(crate) traced: Traced,
    pub(crate) seen: Seen,
    /// The node after svcproxy has been started again and has settled.
    pub(crate) state: State,
    pub(crate) sysctls: BTreeMap<String, String>,
}

impl Node {
    /// The node after a program's start on an empty node, with what the phase leaves of Services and
    /// settings.
    pub(crate) fn fresh(&self, program: &str, phase: Phase) -> State {
        if phase == Phase::Cleanup {
            return self.pristine.clone();
        }
        self.write_services();
        self.write_config(false);
        self.change(phase);
        let svcproxy = self.start_with(program, self.mode, &["--audit-interval=1s"]);
        // What a start leaves for later, an audit has done.
        let audits = || match svcproxy.syncs() {
            count @ 0..3 => Err(count),
            _ => Ok(()),
        };
        eventually(PATIENCE, audits).unwrap();
        let state = self.state();
        svcproxy.terminate();
        self.start_afresh();
        state
    }

    /// Kills svcproxy in a phase, starts it again, and waits until the node is as `expected`.
    pub(crate) fn run(&self, phase: Phase, kill: Kill, expected: &State) -> Outcome {
        self.write_services();
        self.write_config(false);
        let running = self.prepare(phase);
        let has_connections = phase.has_connections(self.mode);
        let mut lasting = has_connections.then(|| Lasting::open(&self.lab, SHOP));
        let action = || {
            let traced = self.killed(phase, kill, running);
            (traced, self.again(phase))
        };
        let ((traced, again), mut seen) = match phase {
            Phase::Cleanup => (action(), Seen::default()),
            _ => {
                // Packets to an address that nobody serves are lost.
                let patience = Duration::from_secs(if has_connections { 10 } else { 1 });
                traffic::during(&self.lab, patience, lasting.as_mut(), action)
            }
        };
        if !has_connections {
            // Refused while nobody served.
            seen.failed.clear();
        }
        drop(lasting);
        let state = self.settled(expected);
        if phase != Phase::Cleanup {
            self.all_clients_are_served();
        }
        if let Some(svcproxy) = again {
            svcproxy.terminate();
        }
        Outcome {
            traced,
            seen,
            state,
            sysctls: self.changed_sysctls(),
        }
    }

    /// Brings the node to where the phase begins.
    fn prepare(&self, phase: Phase) -> Option<Follower> {
        match phase {
            Phase::ColdStart => None,
            Phase::Apply | Phase::Drain | Phase::Audit | Phase::Reload => {
                Some(self.start(self.mode))
            }
            Phase::Switch(from) => {
                self.start(from).terminate();
                None
            }
            Phase::TakeOver => {
                self.write_kube_proxy();
                None
            }
            Phase::Cleanup => {
                self.start(self.mode).terminate();
                None
            }
        }
    }

    /// Begins what the phase is, and kills it.
    fn killed(&self, phase: Phase, kill: Kill, running: Option<Follower>) -> Traced {
        let trace = Trace::new(kill);
        let Some(svcproxy) = running else {
            let command = match phase {
                Phase::Cleanup => self.lab.svcproxy(&["cleanup", "--log-format=json"]),
                _ => self.svcproxy(PROGRAM, self.mode, phase.arguments()),
            };
            let began = Instant::now();
            let svcproxy = Follower::start(&mut trace.over(&command));
            return trace.ends(svcproxy, 0, began);
        };
        let tracer = trace.attach(&svcproxy);
        let (syncs, began) = (svcproxy.syncs(), Instant::now());
        match phase {
            Phase::Audit => self.disturb(),
            _ => self.change(phase),
        }
        let traced = trace.ends(svcproxy, syncs, began);
        drop(tracer);
        traced
    }

    /// Changes the Services or the settings, if that is the phase.
    fn change(&self, phase: Phase) {
        match phase {
            Phase::Apply => self.change_services(),
            Phase::Drain => {
                let shop = shop(&[FIRST, SECOND], "", "");
                self.lab.write("shop.yaml", &shop);
            }
            Phase::Reload => self.write_config(true),
            _ => {}
        }
    }

    /// Another program undoes what has no traffic: IPv6.
    fn disturb(&self) {
        let commands: &[&str] = match self.mode {
            Mode::Ipvs => &[
                "ipvsadm -D -t 10.97.0.5:80",
                "ipvsadm -a -t 10.97.0.6:80 -r 10.245.9.9:80 -m",
                "ip -6 route del local fd00:10:96::/112 dev lo table local",
            ],
            Mode::Iptables => &[
                "ip6tables-nft -t nat -F SVCPROXY-SERVICES",
                "ip6tables-nft -t nat -A SVCPROXY-SERVICES -p udp -j RETURN",
            ],
            Mode::Nftables => &["nft delete table ip6 svcproxy"],
            Mode::Userspace => &["ip -6 route del local fd00:10:96::/112 dev lo table local"],
        };
        for command in commands {
            self.lab.node().run(["sh", "-c", command]).unwrap();
        }
    }

    /// Runs svcproxy again, as its supervisor does.
    fn again(&self, phase: Phase) -> Option<Follower> {
        if phase != Phase::Cleanup {
            return Some(self.start_with(PROGRAM, self.mode, phase.arguments()));
        }
        let cleanup = &mut self.lab.svcproxy(&["cleanup", "--log-format=json"]);
        let (log, code) = run_logged(cleanup);
        assert_eq!(code, 0, "{log:#?}");
        None
    }

    /// Draining ends with the connections or its time, and audits come every two seconds.
    pub(crate) fn settled(&self, expected: &State) -> State {
        let settles = || match self.state() {
            now if now == *expected => Ok(now),
            now => Err(now),
        };
        eventually(3 * PATIENCE, settles).unwrap_or_else(|state| state)
    }

    fn all_clients_are_served(&self) {
        for from in [self.lab.probe(), self.lab.node(), self.lab.client()] {
            for port in SHOP {
                self.lab
                    .ask(from, port)
                    .unwrap_or_else(|error| panic!("{} to {port:?}: {error}", from.name()));
            }
        }
    }
}
