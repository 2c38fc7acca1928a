//! Times in the API.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment after 1970, to the nanosecond, in 8 bytes with or without `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// `None` for a moment that is not after 1970, or in the year 2554 or later.
    ///
    /// ```
    /// use std::time::Duration;
    /// use proxier::model::Timestamp;
    ///
    /// let moment = Timestamp::after_epoch(Duration::from_millis(1500)).unwrap();
    /// assert_eq!(moment.since_epoch(), Duration::from_millis(1500));
    /// assert_eq!(Timestamp::after_epoch(Duration::ZERO), None);
    /// ```
    pub fn after_epoch(time: Duration) -> Option<Self> {
        let nanoseconds = u64::try_from(time.as_nanos()).ok()?;
        NonZeroU64::new(nanoseconds).map(Self)
    }

    /// How long after 1970 it is.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + timestamp.since_epoch()
    }
}
