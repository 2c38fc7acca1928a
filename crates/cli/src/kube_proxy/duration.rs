//! Durations as Go's `time.ParseDuration` reads them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration as in Go: nanoseconds, possibly negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct GoDuration(i64);

/// The text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration (30s, 1m30s, 2h)")]
pub(crate) struct InvalidDuration;

/// Nanoseconds of each unit. A longer unit precedes its prefix (`ms` before `m`).
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5
    ("μs", 1_000), // U+03BC
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

impl GoDuration {
    /// The same as a `std` duration; none if it is negative.
    pub(crate) fn duration(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// The seconds, if they are whole and not negative.
    pub(crate) fn whole_seconds(self) -> Option<u32> {
        let seconds = u32::try_from(self.0 / 1_000_000_000).ok()?;
        (self.0 % 1_000_000_000 == 0).then_some(seconds)
    }

    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    pub(crate) const fn from_secs(seconds: i32) -> Self {
        Self(seconds as i64 * 1_000_000_000)
    }
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(InvalidDuration);
        }
        let mut sum = 0u64;
        while !rest.is_empty() {
            let (nanos, behind) = part(rest)?;
            sum = sum.checked_add(nanos).ok_or(InvalidDuration)?;
            rest = behind;
        }
        let sum = i128::from(sum) * if negative { -1 } else { 1 };
        i64::try_from(sum).map(Self).map_err(|_| InvalidDuration)
    }
}

/// A number with its unit, in nanoseconds, and the rest of the text.
fn part(text: &str) -> Result<(u64, &str), InvalidDuration> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(InvalidDuration);
    }
    let unit = |(name, nanos): &(&str, u64)| Some((*nanos, rest.strip_prefix(name)?));
    let (unit, rest) = UNITS.iter().find_map(unit).ok_or(InvalidDuration)?;
    let whole: u64 = match whole {
        "" => 0,
        whole => whole.parse().map_err(|_| InvalidDuration)?,
    };
    let nanos = whole.checked_mul(unit).ok_or(InvalidDuration)?;
    let nanos = nanos.checked_add(nanos_of_fraction(fraction, unit));
    Ok((nanos.ok_or(InvalidDuration)?, rest))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// Rounded down, digit by digit: Go computes with floats here, and may be a nanosecond off.
fn nanos_of_fraction(digits: &str, unit: u64) -> u64 {
    // More than 13 digits cannot change the result for any unit.
    let (value, scale) = digits
        .bytes()
        .take(18)
        .fold((0u128, 1u128), |(value, scale), digit| {
            (value * 10 + u128::from(digit - b'0'), scale * 10)
        });
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(u64::MAX)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let mut rest = self.0.unsigned_abs();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, nanos) in UNITS.iter().rev().filter(|(name, _)| name.is_ascii()) {
            if rest >= *nanos {
                write!(f, "{}{name}", rest / nanos)?;
                rest %= nanos;
            }
        }
        Ok(())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| de::Error::custom(format!("{text:?} is {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Nanoseconds, from the table of Go's own tests (src/time/time_test.go,
    /// parseDurationTests).
    #[test]
    fn as_go_reads_them() {
        const S: i64 = 1_000_000_000;
        let cases = [
            ("0", 0),
            ("-0", 0),
            ("5s", 5 * S),
            ("5.0s", 5 * S),
            ("5.6s", 5 * S + 600_000_000),
            ("5.s", 5 * S),
            (".5s", S / 2),
            ("1.004s", S + 4_000_000),
            ("-.5s", -S / 2),
            ("+5s", 5 * S),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("3h30m", 12_600 * S),
            ("10.5s4m", 250 * S + S / 2),
            ("39h9m14.425s", 140_954 * S + 425_000_000),
            ("0.3333333333333333333h", 1_200 * S - 1),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ];
        for (text, nanos) in cases {
            assert_eq!(text.parse(), Ok(GoDuration(nanos)), "{text}");
        }
        let bad = [
            "",
            "3",
            "-",
            "s",
            ".",
            "-.",
            ".s",
            "+.s",
            "1d",
            "5 s",
            "5S",
            "1h ",
            "ns",
            "--5s",
            "9223372036854775808ns",
            "9223372036.854775808s",
            "3000000h",
            "1e3s",
            "٣s",
        ];
        for text in bad {
            assert_eq!(text.parse::<GoDuration>(), Err(InvalidDuration), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(nanos: i64) {
            let duration = GoDuration(nanos);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        /// In any order, with any signs of units and fractions, the parts add up.
        #[test]
        fn parts_add_up(
            negative: bool,
            parts in prop::collection::vec((0..1_000_000i128, 0..8usize, 0..1_000i128), 1..6),
        ) {
            let mut text = String::from(if negative { "-" } else { "" });
            let mut sum = 0i128;
            for (whole, unit, thousandths) in parts {
                let (name, nanos) = UNITS[unit];
                text += &format!("{whole}.{thousandths:03}{name}");
                let nanos = i128::from(nanos);
                sum += whole * nanos + thousandths * nanos / 1000;
            }
            if negative {
                sum = -sum;
            }
            let sum = i64::try_from(sum).map(GoDuration);
            prop_assert_eq!(text.parse(), sum.map_err(|_| InvalidDuration));
        }

        #[test]
        fn no_text_panics(text in "[-+.0-9a-zµ]{0,40}") {
            if let Ok(duration) = text.parse::<GoDuration>() {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }
    }
}
