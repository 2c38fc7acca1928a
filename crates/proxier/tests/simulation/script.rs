//! What happens in a simulated life: a list of happenings from a seed. Any part of a list is a list
//! too, so a failing one can be cut down.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// The number of Services and of addresses of pods: few, so that they collide.
pub(crate) const SERVICES: u8 = 6;
pub(crate) const HOSTS: u8 = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Happening {
    /// A Service is created or changed; the number decides its fields.
    Service(u8, u64),
    /// A Service and its slices are deleted.
    Gone(u8),
    /// A Service has pods with these addresses, one bit each.
    Scale(u8, u8),
    /// One pod terminates, another one starts.
    Roll(u8),
    /// A pod's conditions, node or hints change.
    Pod(u8, u8, u64),
    /// This node's Node is in a zone, or is deleted.
    Zone(Option<u8>),
    /// The watch brings so many events at once.
    Deliver(Kind, u8),
    /// The watch begins again at an older version: events come twice.
    Replay(Kind, u8),
    /// The watch ends with 410: a list, as of so many events ago, and then a watch.
    Relist(Kind, u8),
    /// Another program changes the node. It may be noticed.
    Drift(Drift, bool),
    /// Something fails during so many of the next turns of the loop.
    Fault(Fault, u8),
    /// So many connections to a real server.
    Connect(u16, u8),
    /// Milliseconds pass.
    Wait(u32),
    /// svcproxy is killed and starts again.
    Restart,
    /// The drain timeout in seconds changes.
    DrainTimeout(u8),
    /// svcproxy starts in another mode.
    Switch(Mode),
    /// Faults end, all events arrive, and time passes until nothing is left to do.
    Settle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Service,
    Slice,
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    Ipvs,
    Nftables,
    Iptables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Drift {
    /// All rules are removed.
    Rules,
    /// A part of them is.
    SomeRules(u8),
    Routes,
    VirtualServer(u8),
    RealServer(u8),
    Weight(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The nth step fails with this errno.
    Step(u8, i32),
    /// The nth request of IPVS does, also one that reads.
    Request(u8, i32),
    /// The answer to the nth request of IPVS is lost.
    LostReply(u8),
    /// Listings report that the table has changed.
    Interrupted(u8),
    /// The node cannot be read.
    Unreadable(i32),
    /// All steps for a virtual server fail.
    VirtualServer(u8, i32),
    /// A program is killed in the middle.
    Killed(u8),
}

/// EPERM, ENOENT, ESRCH, EINTR, EAGAIN, ENOMEM, EBUSY, EEXIST, EINVAL, ENOSPC, ENOBUFS.
pub(crate) const ERRNOS: [i32; 11] = [1, 2, 3, 4, 11, 12, 16, 17, 22, 28, 105];

/// Whether the errno says that something is missing. The kernel says so only if it is, so a request of
/// IPVS, which may be one that reads, does not fail with it.
pub(crate) fn is_answer(errno: i32) -> bool {
    matches!(errno, 2 | 3)
}

/// The life of a seed. In every second one nothing fails, so all that happens is checked exactly.
pub(crate) struct Script(Rng, bool);

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed), seed.is_multiple_of(2))
    }

    fn kind(&mut self) -> Kind {
        match self.0.u8(..20) {
            0 => Kind::Node,
            1..8 => Kind::Service,
            _ => Kind::Slice,
        }
    }

    fn fault(&mut self) -> Fault {
        let rng = &mut self.0;
        let nth = match rng.bool() {
            true => 1,
            false => rng.u8(1..24),
        };
        let errno = ERRNOS[rng.usize(..ERRNOS.len())];
        match rng.u8(..10) {
            0..3 => Fault::Step(nth, errno),
            3..5 if !is_answer(errno) => Fault::Request(nth, errno),
            3..5 => Fault::LostReply(nth),
            5 => Fault::LostReply(nth),
            6 => Fault::Interrupted(rng.u8(1..4)),
            7 => Fault::Unreadable(errno),
            8 => Fault::VirtualServer(rng.u8(..32), errno),
            _ => Fault::Killed(nth),
        }
    }

    fn drift(&mut self) -> Drift {
        let rng = &mut self.0;
        let nth = rng.u8(..40);
        match rng.u8(..8) {
            0 => Drift::Rules,
            1..3 => Drift::SomeRules(nth),
            3 => Drift::Routes,
            4 => Drift::VirtualServer(nth),
            5 | 6 => Drift::RealServer(nth),
            _ => Drift::Weight(nth),
        }
    }
}

impl Iterator for Script {
    type Item = Happening;

    fn next(&mut self) -> Option<Happening> {
        let which = self.0.u16(..1_000);
        let kind = self.kind();
        let n = self.0.u8(..SERVICES);
        let number = self.0.u64(..);
        let back = self.0.u8(1..6);
        Some(match which {
            0..280 => Happening::Deliver(kind, self.0.u8(1..8)),
            280..360 => Happening::Service(n, number),
            360..385 => Happening::Gone(n),
            385..460 => Happening::Scale(n, self.0.u8(..) & self.0.u8(..)),
            460..560 => Happening::Roll(n),
            560..640 => Happening::Pod(n, self.0.u8(..HOSTS), number),
            640..655 => {
                let zone = self.0.u8(..3);
                Happening::Zone((zone < 2).then_some(zone))
            }
            655..675 => Happening::Replay(kind, back),
            675..695 => Happening::Relist(kind, back),
            695..765 if self.1 => Happening::Wait(self.0.u32(..400)),
            695..715 => Happening::Drift(self.drift(), self.0.bool()),
            715..765 => Happening::Fault(self.fault(), self.0.u8(1..6)),
            765..835 => Happening::Connect(self.0.u16(..64), self.0.u8(..3)),
            835..965 => Happening::Wait(match self.0.u8(..4) {
                0 => self.0.u32(..20_000),
                _ => self.0.u32(..400),
            }),
            965..972 => Happening::Restart,
            972..978 => Happening::DrainTimeout([0, 5, 30, 60][self.0.usize(..4)]),
            978..984 => Happening::Switch(
                [Mode::Ipvs, Mode::Ipvs, Mode::Nftables, Mode::Iptables][self.0.usize(..4)],
            ),
            _ => Happening::Settle,
        })
    }
}
