//! Draining: no new connections, and existing ones may end until the drain timeout is reached.
//!
//! [`Draining`] records what drains and since when, and decides what has ended. Its users are the
//! real servers of removed endpoints (below), IPVS mode as a whole ([`Retiring`](super::Retiring))
//! and kube-proxy's virtual servers ([`takeover`](crate::takeover)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ipvs::{Change, Protocol, RealServerKey, VirtualServerKey};

use crate::desired::FrontendKey;
use crate::mode::Flows;
use crate::mode::ipvs::plan::{NodeState, Plan, Step, VirtualServerState};

/// The number of connections of each real server of a virtual server.
pub(crate) type Connections = HashMap<RealServerKey, u64>;

/// A real server that drains; `None` stands for all real servers of the virtual server.
pub(crate) type Target = (VirtualServerKey, Option<RealServerKey>);

/// The targets that drain.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    since: BTreeMap<Target, Times>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// When the target began to drain; `None` until the first look.
    since: Option<Instant>,
    /// When its connections are due to be counted again.
    due: Option<Instant>,
}

impl Times {
    fn begun(now: Instant) -> Self {
        Self {
            since: Some(now),
            due: None,
        }
    }

    /// What has drained for long is counted less often: its removal is late by at most an eighth of
    /// the time that it has drained.
    fn is_due(self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    fn counted(&mut self, now: Instant) {
        let waited = self.since.map(|since| now.saturating_duration_since(since));
        self.due = waited.map(|waited| now + waited / 8);
    }
}

impl Draining {
    /// Whole virtual servers that begin to drain.
    pub(crate) fn all_of(
        virtual_servers: impl IntoIterator<Item = VirtualServerKey>,
        now: Instant,
    ) -> Self {
        let since = virtual_servers.into_iter();
        Self {
            since: since.map(|key| ((key, None), Times::begun(now))).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// The targets, each with the time that it has drained.
    pub(crate) fn targets(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (&Target, Option<Duration>)> {
        let since = self.since.iter();
        since.map(move |(target, times)| {
            let lasts = times
                .since
                .map(|since| now.saturating_duration_since(since));
            (target, lasts)
        })
    }

    /// Adds a target. If it is known, its time continues.
    pub(crate) fn note(&mut self, target: Target) {
        self.since.entry(target).or_default();
    }

    /// Adds a target. If it is known, its time starts again.
    fn begin(&mut self, target: Target) {
        self.since.insert(target, Times::default());
    }

    /// Forgets targets that no longer drain.
    pub(crate) fn retain(&mut self, mut drains: impl FnMut(&Target) -> bool) {
        self.since.retain(|target, _| drains(target));
    }

    /// The targets without connections, and those that have reached the timeout. They stay known until
    /// [`retain`](Self::retain) forgets them, because their removal may fail.
    ///
    /// # Errors
    ///
    /// Those of `count`.
    pub(crate) fn ended<E>(
        &mut self,
        timeout: Duration,
        now: Instant,
        mut count: impl FnMut(&VirtualServerKey) -> Result<Connections, E>,
    ) -> Result<Vec<Target>, E> {
        let mut ended = Vec::new();
        let mut counted: Option<(VirtualServerKey, Connections)> = None;
        for (target, times) in &mut self.since {
            if has_time(times, timeout, now) {
                if !times.is_due(now) {
                    continue;
                }
                let (virtual_server, _) = *target;
                // Sorted, so one request per virtual server.
                let known = counted.take_if(|(key, _)| *key == virtual_server);
                let connections = match known {
                    Some((_, connections)) => connections,
                    None => count(&virtual_server)?,
                };
                let is_busy = is_busy(target, &connections);
                counted = Some((virtual_server, connections));
                if is_busy {
                    times.counted(now);
                    continue;
                }
            }
            ended.push(*target);
        }
        Ok(ended)
    }

    /// Whether all targets have no connections or have reached the timeout. Those that do are
    /// forgotten, since no new connections come; the first that does not ends the check.
    ///
    /// # Errors
    ///
    /// Those of `count`.
    pub(crate) fn have_all_ended<E>(
        &mut self,
        timeout: Duration,
        now: Instant,
        mut count: impl FnMut(&VirtualServerKey) -> Result<Connections, E>,
    ) -> Result<bool, E> {
        while let Some(mut last) = self.since.last_entry() {
            if has_time(last.get_mut(), timeout, now) {
                let target = last.key();
                if is_busy(target, &count(&target.0)?) {
                    return Ok(false);
                }
            }
            last.remove();
        }
        Ok(true)
    }
}

fn has_time(times: &mut Times, timeout: Duration, now: Instant) -> bool {
    now.saturating_duration_since(*times.since.get_or_insert(now)) < timeout
}

fn is_busy((_, real_server): &Target, connections: &Connections) -> bool {
    match real_server {
        Some(key) => connections.get(key).is_some_and(|count| *count > 0),
        None => connections.values().any(|count| *count > 0),
    }
}

/// The real servers of weight 0, which is what a plan gives a removed endpoint's.
impl Draining {
    /// Adds those of an earlier run of svcproxy.
    pub(crate) fn note_node(&mut self, node: &NodeState) {
        for (virtual_server, state) in &node.virtual_servers {
            self.note_state(*virtual_server, state);
        }
    }

    /// Adds those of one virtual server.
    pub(crate) fn note_state(
        &mut self,
        virtual_server: VirtualServerKey,
        state: &VirtualServerState,
    ) {
        for real_server in state.real_servers.iter().filter(|r| r.weight == 0) {
            self.note((virtual_server, Some(real_server.key)));
        }
    }

    /// Adds those that a plan begins to drain.
    pub(crate) fn note_plan(&mut self, plan: &Plan) {
        for step in plan {
            if let Step::Ipvs(Change::UpdateRealServer {
                virtual_server,
                real_server,
            }) = step
                && real_server.weight == 0
            {
                self.begin((*virtual_server, Some(real_server.key)));
            }
        }
    }

    /// A plan that removes those that have ended, and the frontends whose virtual servers have no real
    /// servers then.
    ///
    /// # Errors
    ///
    /// Those of `count`.
    pub(crate) fn removal<E>(
        &mut self,
        node: &NodeState,
        timeout: Duration,
        now: Instant,
        count: impl FnMut(&VirtualServerKey) -> Result<Connections, E>,
    ) -> Result<Option<(Plan, Vec<FrontendKey>)>, E> {
        // Forget those that came back, or were deleted with their virtual servers.
        self.retain(|(virtual_server, key)| {
            let state = node.virtual_servers.get(virtual_server);
            let real_server = state.zip(key.as_ref());
            let real_server = real_server.and_then(|(state, key)| state.real_server(key));
            real_server.is_some_and(|real_server| real_server.weight == 0)
        });
        let mut ended = BTreeMap::<_, Vec<_>>::new();
        for (virtual_server, real_server) in self.ended(timeout, now, count)? {
            ended.entry(virtual_server).or_default().extend(real_server);
        }
        let (mut removals, mut emptied) = (Vec::new(), Vec::new());
        for (virtual_server, ended) in ended {
            let state = node.virtual_servers.get(&virtual_server);
            let are_all = state.is_some_and(|state| state.real_servers.len() == ended.len());
            match node.frontend_of(&virtual_server) {
                // A virtual server without a frontend is deleted with its last real server.
                None if are_all => {
                    removals.push(Change::DeleteVirtualServer(virtual_server));
                    continue;
                }
                frontend => emptied.extend(frontend.filter(|_| are_all)),
            }
            removals.extend(
                ended
                    .into_iter()
                    .map(|real_server| Change::DeleteRealServer {
                        virtual_server,
                        real_server,
                    }),
            );
        }
        let flows: BTreeSet<_> = removals
            .iter()
            .filter_map(|change| flows_cut(node, change))
            .collect();
        let flows = flows.into_iter().map(Step::DeleteFlows);
        let steps = removals.into_iter().map(Step::Ipvs).chain(flows);
        let plan: Plan = steps.collect();
        Ok((!plan.is_empty()).then_some((plan, emptied)))
    }
}

/// The flows to delete if a real server is removed before its connections have ended. TCP
/// connections end by themselves.
fn flows_cut(node: &NodeState, change: &Change) -> Option<Flows> {
    let Change::DeleteRealServer {
        virtual_server,
        real_server,
    } = change
    else {
        return None;
    };
    let to = node.frontend_of(virtual_server)?;
    let flows = Flows::to(to).answered_by(real_server.address);
    (to.protocol != Protocol::Tcp).then_some(flows)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn server(host: u8) -> VirtualServerKey {
        VirtualServerKey::tcp(([10, 96, 0, host], 80).into())
    }

    fn real_server() -> RealServerKey {
        "10.244.0.1:80".parse().unwrap()
    }

    /// `busy` virtual servers have a connection each; notes those that are asked for.
    fn count<'a>(
        busy: &'a [VirtualServerKey],
        asked: &'a mut Vec<VirtualServerKey>,
    ) -> impl FnMut(&VirtualServerKey) -> Result<Connections, Infallible> + 'a {
        move |key| {
            asked.push(*key);
            Ok([(real_server(), u64::from(busy.contains(key)))].into())
        }
    }

    #[test]
    fn the_time_of_each_begins_at_its_first_look() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let targets = [1, 2].map(|host| (server(host), Some(real_server())));
        let [first, second] = targets;
        let busy = [server(1), server(2)];
        let mut draining = Draining::default();
        let look = |draining: &mut Draining, at| {
            let ended = draining.ended(TIMEOUT, at, count(&busy, &mut Vec::new()));
            ended.unwrap()
        };
        draining.note(first);
        assert_eq!(look(&mut draining, now), []);
        draining.note(first);
        draining.note(second);
        assert_eq!(look(&mut draining, later), []);
        assert_eq!(look(&mut draining, now + TIMEOUT), [first]);
        draining.begin(first);
        assert_eq!(look(&mut draining, later + TIMEOUT), [second]);
    }

    #[test]
    fn what_has_drained_for_long_is_counted_less_often() {
        let timeout = Duration::from_secs(100_000);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let busy = [server(1), server(2)];
        let mut draining = Draining::default();
        let mut asked = Vec::new();
        draining.note((server(1), Some(real_server())));
        for second in 0..1000 {
            if second == 990 {
                draining.note((server(2), Some(real_server())));
            }
            let ended = draining.ended(timeout, at(second), count(&busy, &mut asked));
            assert_eq!(ended.unwrap(), []);
        }
        let count_of = |server| asked.iter().filter(|asked| **asked == server).count();
        // Every second at first, and after an eighth of the time then.
        assert!(count_of(server(1)) < 70, "{}", count_of(server(1)));
        assert_eq!(count_of(server(2)), 10);
        // The timeout is kept.
        let ended = draining.ended(timeout, begin + timeout, count(&busy, &mut Vec::new()));
        assert_eq!(ended.unwrap(), [(server(1), Some(real_server()))]);
    }

    #[test]
    fn real_servers_of_a_virtual_server_cost_one_request() {
        let other = "10.244.0.2:80".parse().unwrap();
        let mut draining = Draining::default();
        draining.note((server(1), Some(real_server())));
        draining.note((server(1), Some(other)));
        let mut asked = Vec::new();
        let ended = draining.ended(TIMEOUT, Instant::now(), count(&[server(1)], &mut asked));
        assert_eq!(ended.unwrap(), [(server(1), Some(other))]);
        assert_eq!(asked, [server(1)]);
    }

    #[test]
    fn the_first_that_is_busy_ends_a_look_and_what_has_ended_is_not_counted_again() {
        let now = Instant::now();
        let mut draining = Draining::all_of([1, 2, 3].map(server), now);
        let mut asked = Vec::new();
        let busy = [server(1), server(2)];
        let ended = draining.have_all_ended(TIMEOUT, now, count(&busy, &mut asked));
        assert!(!ended.unwrap());
        assert_eq!(asked, [server(3), server(2)]);
        asked.clear();
        let ended = draining.have_all_ended(TIMEOUT, now, count(&[server(1)], &mut asked));
        assert!(!ended.unwrap());
        assert_eq!(asked, [server(2), server(1)]);
        asked.clear();
        let ended = draining.have_all_ended(TIMEOUT, now + TIMEOUT, count(&busy, &mut asked));
        assert!(ended.unwrap() && asked.is_empty() && draining.is_empty());
    }

    #[test]
    fn each_virtual_server_has_its_own_connections() {
        let targets = [1, 2].map(|host| (server(host), Some(real_server())));
        let mut draining = Draining::default();
        for target in targets {
            draining.note(target);
        }
        let busy = [server(1)];
        let mut asked = Vec::new();
        let ended = draining.ended(TIMEOUT, Instant::now(), count(&busy, &mut asked));
        assert_eq!(ended.unwrap(), [targets[1]]);
        // What came back is forgotten, the rest is not.
        draining.retain(|target| *target == targets[0]);
        let ended = draining.ended(TIMEOUT, Instant::now(), count(&[], &mut asked));
        assert_eq!(ended.unwrap(), [targets[0]]);
    }

    #[test]
    fn one_busy_real_server_keeps_a_whole_virtual_server_until_the_timeout() {
        let now = Instant::now();
        let other = "10.244.0.2:80".parse().unwrap();
        let connections = || Connections::from([(real_server(), 1), (other, 0)]);
        let mut draining = Draining::all_of([server(1)], now);
        let mut count = |_: &VirtualServerKey| Ok::<_, Infallible>(connections());
        assert!(!draining.have_all_ended(TIMEOUT, now, &mut count).unwrap());
        // The time began with the drain, not with the first look.
        let mut draining = Draining::all_of([server(1)], now);
        let ended = draining.have_all_ended(TIMEOUT, now + TIMEOUT, &mut count);
        assert!(ended.unwrap());
    }
}
