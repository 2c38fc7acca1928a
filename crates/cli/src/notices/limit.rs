//! Rate limits of notices. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proxier::notice::Subject;

/// For one object: the burst, then one per pause. client-go's recorder has a burst of 25.
const OF_ONE: Rate = Rate {
    burst: 10,
    pause: Duration::from_secs(300),
};
/// For all Services together: every node of a cluster may report the same Services.
const OF_ALL: Rate = Rate {
    burst: 30,
    pause: Duration::from_secs(10),
};
/// For the notice that counts the suppressed ones.
const OF_LEFT_OUT: Rate = Rate {
    burst: 1,
    pause: Duration::from_secs(60),
};
/// Above this number of objects, those with a full bucket are forgotten.
const REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    pause: Duration,
}

/// Limits repeated notices of one object, and floods. Notices of the Node have a limit of their
/// own.
#[derive(Debug)]
pub(super) struct Limit {
    of: HashMap<Subject, Bucket>,
    all: Bucket,
    left_out: u64,
    of_left_out: Bucket,
}

/// A token bucket. It gains one token per pause.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: u32,
    /// The time of the last token.
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            left: rate.burst,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        while self.left < self.rate.burst && now >= self.filled + self.rate.pause {
            self.filled += self.rate.pause;
            self.left += 1;
        }
        if self.left == self.rate.burst {
            self.filled = now;
        }
    }

    fn has_some(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left > 0
    }

    fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            of: HashMap::new(),
            all: Bucket::new(OF_ALL, now),
            left_out: 0,
            of_left_out: Bucket::new(OF_LEFT_OUT, now),
        }
    }

    /// Whether a notice of this object may be sent now. Counts it as sent or suppressed.
    pub(super) fn allows(&mut self, about: &Subject, now: Instant) -> bool {
        let is_of_node = *about == Subject::Node;
        if self.of.len() >= REMEMBERED {
            self.of.retain(|_, bucket| {
                bucket.fill(now);
                bucket.left < bucket.rate.burst
            });
        }
        let known = self.of.get_mut(about);
        let own = known.is_none_or(|bucket| bucket.has_some(now));
        if !own || !(is_of_node || self.all.has_some(now)) {
            self.left_out += 1;
            return false;
        }
        let bucket = self.of.entry(about.clone());
        bucket.or_insert_with(|| Bucket::new(OF_ONE, now)).take();
        if !is_of_node {
            self.all.take();
        }
        true
    }

    /// The number of suppressed notices since the last call, if it may be reported now.
    pub(super) fn left_out(&mut self, now: Instant) -> Option<u64> {
        if self.left_out == 0 || !self.of_left_out.has_some(now) {
            return None;
        }
        self.of_left_out.take();
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use proxier::model::ObjectName;

    use super::*;

    fn service(name: &str) -> Subject {
        Subject::Service(ObjectName::new("default", name).unwrap())
    }

    fn allowed(limit: &mut Limit, about: &Subject, times: u32, now: Instant) -> u32 {
        (0..times)
            .map(|_| u32::from(limit.allows(about, now)))
            .sum()
    }

    #[test]
    fn one_service_does_not_flood_and_leaves_room_for_others() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let flaps = service("flaps");
        assert_eq!(allowed(&mut limit, &flaps, 1000, start), OF_ONE.burst);
        assert_eq!(allowed(&mut limit, &service("other"), 1, start), 1);
        let later = start + OF_ONE.pause * 3;
        assert_eq!(allowed(&mut limit, &flaps, 1000, later), 3);
    }

    #[test]
    fn a_flood_is_cut_and_suppressed_notices_are_counted() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let reported: u32 = (0..10_000)
            .map(|n| allowed(&mut limit, &service(&format!("s{n}")), 1, start))
            .sum();
        assert_eq!(reported, OF_ALL.burst);
        assert_eq!(limit.left_out(start), Some(10_000 - u64::from(reported)));
        assert_eq!(allowed(&mut limit, &service("one-more"), 1, start), 0);
        assert_eq!(limit.left_out(start), None);
        assert_eq!(limit.left_out(start + OF_LEFT_OUT.pause), Some(1));
        assert_eq!(limit.left_out(start + OF_LEFT_OUT.pause * 2), None);
        // Does not delay the Node's notices.
        assert_eq!(allowed(&mut limit, &Subject::Node, 1, start), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        for n in 0..5000 {
            now += OF_ALL.pause;
            assert!(limit.allows(&service(&format!("s{n}")), now));
            assert!(limit.of.len() <= REMEMBERED);
        }
    }
}
