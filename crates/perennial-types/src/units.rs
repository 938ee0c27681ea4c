//! Durations and sizes in Flink's syntax.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is neither a duration nor a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct ParseUnitError {
    /// The form wanted.
    pub expected: &'static str,
}

/// Splits `10 min` into 10 and `min`.
fn split_number(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim().to_ascii_lowercase()))
}

/// A duration as Flink writes it: an integer and a unit of `ns us ms s min h d` or its long name; no unit is ms.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    let error = ParseUnitError { expected: "a duration such as `100 ms`, `10 s`, `5 min`, `1 h`" };
    let (number, unit) = split_number(text).ok_or_else(|| error.clone())?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs).ok_or_else(|| error.clone());
    match unit.as_str() {
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => Ok(Duration::from_nanos(number)),
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => Ok(Duration::from_micros(number)),
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => Ok(Duration::from_millis(number)),
        "s" | "sec" | "secs" | "second" | "seconds" => Ok(Duration::from_secs(number)),
        "m" | "min" | "mins" | "minute" | "minutes" => seconds(60),
        "h" | "hour" | "hours" => seconds(3600),
        "d" | "day" | "days" => seconds(86_400),
        _ => Err(error),
    }
}

/// The shortest form [`parse_duration`] reads back.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, size) in
        [("h", 3_600_000_000_000), ("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)]
    {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{} {unit}", nanos / size);
        }
    }
    if nanos == 0 { "0 ms".to_owned() } else { format!("{nanos} ns") }
}

/// A number of bytes; reads and prints Flink's `MemorySize` (1024-based, no unit is bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let error = ParseUnitError { expected: "a size such as `32 kb`, `64 mb`, `1 g`" };
        let (number, unit) = split_number(text).ok_or_else(|| error.clone())?;
        let shift = match unit.as_str() {
            "" | "b" | "bytes" => 0,
            "k" | "kb" | "kib" | "kibibytes" => 10,
            "m" | "mb" | "mib" | "mebibytes" => 20,
            "g" | "gb" | "gib" | "gibibytes" => 30,
            "t" | "tb" | "tib" | "tebibytes" => 40,
            _ => return Err(error),
        };
        number.checked_mul(1 << shift).map(ByteSize).ok_or(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("gb", 30), ("mb", 20), ("kb", 10)] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_flinks_forms() {
        for (text, ms) in [
            ("100", 100),
            ("100 ms", 100),
            ("10s", 10_000),
            ("5 min", 300_000),
            ("1 h", 3_600_000),
            ("2 d", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(parse_duration(&format_duration(Duration::from_millis(ms))), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "-1 s", "1 fortnight", "1.5 s", "99999999999999999999 s", "18446744073709551615 d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print_flinks_forms() {
        for (text, bytes) in [("1024", 1024), ("32 kb", 32 << 10), ("64m", 64 << 20), ("1 gb", 1 << 30)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        assert!("1 parsec".parse::<ByteSize>().is_err());
        assert!("18446744073709551615 t".parse::<ByteSize>().is_err());
    }
}
