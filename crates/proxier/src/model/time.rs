//! Times in the API.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time after 1970 in nanoseconds. It takes 8 bytes, also in an `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The time this long after 1970. `None` if it is zero, or too long for 64 bits (year 2554).
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

    /// The duration since 1970.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + timestamp.since_epoch()
    }
}
