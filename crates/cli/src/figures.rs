//! Numbers and durations, for people.

use std::fmt::{self, Display, Formatter};

use jiff::Timestamp;

/// A duration in its two largest units.
pub(crate) struct Age(u64);

impl Age {
    pub(crate) fn between(then: Timestamp, now: Timestamp) -> Self {
        let seconds = now.as_second().saturating_sub(then.as_second());
        Self(u64::try_from(seconds).unwrap_or(0))
    }

    pub(crate) const fn of_seconds(seconds: u64) -> Self {
        Self(seconds)
    }
}

impl Display for Age {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let Self(seconds) = *self;
        match seconds {
            ..MINUTE => write!(f, "{seconds} s"),
            MINUTE..HOUR => write!(f, "{} min {} s", seconds / MINUTE, seconds % MINUTE),
            HOUR..DAY => write!(f, "{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
            _ => write!(f, "{} d {} h", seconds / DAY, seconds % DAY / HOUR),
        }
    }
}

/// A number in at most six characters: `950`, `12.3k`, `4.5M`.
pub(crate) fn short(number: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1000, "k"),
    ];
    match UNITS.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{}.{}{name}", number / unit, number % unit * 10 / unit),
        None => number.to_string(),
    }
}

/// A rate; a slow one with a digit after the point.
pub(crate) fn rate(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates; a rate is not negative"
    )]
    match rate {
        rate if rate <= 0.0 => "0".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => short(rate as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn ages_have_two_units() {
        let text = |seconds| Age(seconds).to_string();
        assert_eq!(text(0), "0 s");
        assert_eq!(text(59), "59 s");
        assert_eq!(text(60), "1 min 0 s");
        assert_eq!(text(3_599), "59 min 59 s");
        assert_eq!(text(3_661), "1 h 1 min");
        assert_eq!(text(90_000), "1 d 1 h");
        // A clock that was set back.
        let (then, now) = (at("2026-01-01T00:00:09Z"), at("2026-01-01T00:00:00Z"));
        assert_eq!(Age::between(then, now).to_string(), "0 s");
    }

    #[test]
    fn numbers_are_short() {
        let short = [0, 999, 1000, 12_345, 999_999, 4_500_000, u64::MAX].map(short);
        assert_eq!(
            short,
            ["0", "999", "1.0k", "12.3k", "999.9k", "4.5M", "18446744.0T"]
        );
        assert_eq!(
            [0.0, 0.25, 9.5, 10.0, 12_345.0].map(rate),
            ["0", "0.2", "9.5", "10", "12.3k"]
        );
    }
}
