//! How much is told. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proxier::notice::Subject;

/// Of one object: so many at once, and later one each time. client-go's recorder allows 25.
const OF_ONE: Rate = Rate {
    burst: 10,
    pause: Duration::from_secs(300),
};
/// Of all Services: every node of a cluster may have the same to tell of the same Services.
const OF_ALL: Rate = Rate {
    burst: 30,
    pause: Duration::from_secs(10),
};
/// How often it is told how many were left out.
const OF_LEFT_OUT: Rate = Rate {
    burst: 1,
    pause: Duration::from_secs(60),
};
/// Above so many objects those are forgotten that could be told of as if for the first time.
const REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    pause: Duration,
}

/// Holds back what repeats itself, and floods. What is told of the node waits for nothing but
/// itself.
#[derive(Debug)]
pub(super) struct Limit {
    of: HashMap<Subject, Bucket>,
    all: Bucket,
    left_out: u64,
    of_left_out: Bucket,
}

/// What may be told at once; it fills by one each pause.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: u32,
    /// Up to when it has been filled.
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

    /// Whether something about this object is to be told now; it counts as told or left out.
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

    /// How many were left out since this was asked last, if that is to be told now.
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
    fn a_flood_is_cut_and_what_was_cut_is_counted_now_and_then() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let told: u32 = (0..10_000)
            .map(|n| allowed(&mut limit, &service(&format!("s{n}")), 1, start))
            .sum();
        assert_eq!(told, OF_ALL.burst);
        assert_eq!(limit.left_out(start), Some(10_000 - u64::from(told)));
        assert_eq!(allowed(&mut limit, &service("one-more"), 1, start), 0);
        assert_eq!(limit.left_out(start), None);
        assert_eq!(limit.left_out(start + OF_LEFT_OUT.pause), Some(1));
        assert_eq!(limit.left_out(start + OF_LEFT_OUT.pause * 2), None);
        // The node's own are not held up by it.
        assert_eq!(allowed(&mut limit, &Subject::Node, 1, start), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        for n in 0..5000 {
            now += OF_ALL.pause;
            assert!(limit.allows(&service(&format!("s{n}")), now));
            assert!(limit.of.len() <= REMEMBERED);
        }
    }
}
