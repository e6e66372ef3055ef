//! Spans of time as people write them: `30d`, `1y6m`, `36h`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// A text that is not a span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a span: write numbers with their units, largest first: y(ears), m(onths), \
     w(eeks), d(ays), h(ours), such as 30d, 1y6m or 36h"
)]
pub struct ParseSpanError(pub String);

/// A span of time longer than nothing. Years, months, weeks and days are those of the calendar,
/// hours are hours: `1d` before noon is noon the day before, whatever the clocks did in the night.
///
/// Written as numbers with their units, largest first, each unit once: `1y6m`, `2w`, `1d12h`. It is
/// shown as it was written, zeros left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    counts: [u32; UNITS.len()],
}

/// The units with the largest number of each, which is about ten thousand years.
const UNITS: [(char, u32); 5] = [
    ('y', 9_999),
    ('m', 119_988),
    ('w', 521_722),
    ('d', 3_652_058),
    ('h', 87_649_416),
];

impl Span {
    /// So many days of the calendar, at least one.
    #[must_use]
    pub fn days(count: u32) -> Self {
        Self {
            counts: [0, 0, 0, count.clamp(1, UNITS[3].1), 0],
        }
    }

    /// So many hours, at least one.
    #[must_use]
    pub fn hours(count: u32) -> Self {
        Self {
            counts: [0, 0, 0, 0, count.clamp(1, UNITS[4].1)],
        }
    }

    /// The moment that lies this span before another one; the beginning of time if that is
    /// earlier still.
    #[must_use]
    pub fn before(&self, moment: Timestamp, tz: &TimeZone) -> Timestamp {
        let [years, months, weeks, days, hours] = self.counts.map(i64::from);
        let span = 0.years().try_years(years).and_then(|span| {
            span.try_months(months)?
                .try_weeks(weeks)?
                .try_days(days)?
                .try_hours(hours)
        });
        let before = span.and_then(|span| moment.to_zoned(tz.clone()).checked_sub(span));
        before.map_or(Timestamp::MIN, |before| before.timestamp())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self
            .counts
            .iter()
            .zip(UNITS)
            .filter(|(count, _)| **count > 0);
        counts
            .into_iter()
            .try_for_each(|(count, (unit, _))| write!(f, "{count}{unit}"))
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text)
            .map(|counts| Self { counts })
            .ok_or_else(|| ParseSpanError(text.to_owned()))
    }
}

fn read(text: &str) -> Option<[u32; UNITS.len()]> {
    let mut counts = [0; UNITS.len()];
    let mut slots = counts.iter_mut().zip(UNITS);
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, tail) = rest.split_at(end);
        let letter = tail.chars().next()?;
        // Only units smaller than the last one are left to be found.
        let (count, (_, most)) = slots.find(|(_, (unit, _))| *unit == letter)?;
        *count = digits.parse().ok().filter(|count| *count <= most)?;
        rest = tail.get(letter.len_utf8()..)?;
    }
    counts.iter().any(|count| *count > 0).then_some(counts)
}

impl TryFrom<String> for Span {
    type Error = ParseSpanError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(span: &str, moment: &str, zone: &str) -> String {
        let tz = TimeZone::get(zone).unwrap();
        let moment: Timestamp = moment.parse().unwrap();
        let before = span.parse::<Span>().unwrap().before(moment, &tz);
        before.to_zoned(tz).strftime("%F %R %Z").to_string()
    }

    #[test]
    fn a_span_is_shown_as_it_was_written() {
        for text in ["30d", "1y6m", "36h", "2w", "1y2m3w4d5h", "9999y"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("0y007d".parse::<Span>().unwrap().to_string(), "7d");
        assert_eq!(
            (Span::days(0), Span::hours(3).to_string()),
            (Span::days(1), "3h".into())
        );
    }

    #[test]
    fn what_is_not_a_span_is_refused() {
        for text in [
            "", "0d", "d", "30", "-1d", "1d1d", "1d1y", "1.5d", "1 d", "1D", "1s", "10000y", "1é",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert!("99999999999999999999d".parse::<Span>().is_err());
    }

    #[test]
    fn days_are_of_the_calendar_and_hours_are_hours() {
        // Clocks went forward on 2026-03-29 in Berlin: that day had 23 hours.
        let noon = "2026-03-29T10:00:00Z";
        assert_eq!(before("1d", noon, "Europe/Berlin"), "2026-03-28 12:00 CET");
        assert_eq!(before("24h", noon, "Europe/Berlin"), "2026-03-28 11:00 CET");
        assert_eq!(before("1d", noon, "UTC"), "2026-03-28 10:00 UTC");
    }

    #[test]
    fn months_and_years_end_where_the_calendar_does() {
        let on = |date: &str, span: &str| before(span, &format!("{date}T12:00:00Z"), "UTC");
        assert_eq!(on("2026-03-31", "1m"), "2026-02-28 12:00 UTC");
        assert_eq!(on("2024-03-31", "1m"), "2024-02-29 12:00 UTC");
        assert_eq!(on("2024-02-29", "1y"), "2023-02-28 12:00 UTC");
        assert_eq!(on("2026-01-15", "1y1m1w1d1h"), "2024-12-07 11:00 UTC");
    }

    #[test]
    fn a_span_longer_than_time_reaches_its_beginning() {
        let span: Span = "9999y119988m".parse().unwrap();
        let moment = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(span.before(moment, &TimeZone::UTC), Timestamp::MIN);
    }
}
