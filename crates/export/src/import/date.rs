//! When a dump was made: by a date in its name, or by the time of its file.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

/// Where the time of a dump comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateFrom {
    /// From a date in its name; where there is none, from its file.
    Name,
    /// From the time of its file.
    File,
}

/// A date that was found in a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    /// When.
    pub at: Timestamp,
    /// Where in the name it stands, with the letters around it that only part it from the rest.
    pub place: Range<usize>,
}

/// The first date in a name: `2026-01-31`, `20260131`, with `.` or `_` too; a time of day may follow, as
/// `T235959`, `_23-59-59`, `-2359`, and `Z` behind it means UTC. Others are times of the zone.
#[must_use]
pub fn of_name(name: &str, zone: &TimeZone) -> Option<Dated> {
    let bytes = name.as_bytes();
    let starts = (0..bytes.len()).filter(|at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        !before.is_some_and(u8::is_ascii_digit)
    });
    for start in starts {
        let mut at = Reader { bytes, at: start };
        let Some(date) = at.date() else {
            continue;
        };
        let end = at.at;
        let time = at.time();
        if time.is_none() {
            at.at = end;
        }
        let utc = time.is_some() && at.letter(b"Zz");
        let zone = if utc { &TimeZone::UTC } else { zone };
        let civil = DateTime::from_parts(date, time.unwrap_or_default());
        let Ok(zoned) = civil.to_zoned(zone.clone()) else {
            continue;
        };
        let is_parting = |at: usize| matches!(bytes.get(at), Some(b'-' | b'_' | b' '));
        let mut from = start;
        while from > 0 && (is_parting(from - 1) || bytes.get(from - 1) == Some(&b'.')) {
            from -= 1;
        }
        let mut to = at.at;
        while is_parting(to) {
            to += 1;
        }
        return Some(Dated {
            at: zoned.timestamp(),
            place: from..to,
        });
    }
    None
}

struct Reader<'n> {
    bytes: &'n [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes over one of these letters.
    fn letter(&mut self, letters: &[u8]) -> bool {
        let is = self.peek().is_some_and(|letter| letters.contains(&letter));
        self.at += usize::from(is);
        is
    }

    fn number(&mut self, digits: usize) -> Option<i16> {
        let text = self.bytes.get(self.at..self.at + digits)?;
        let text = std::str::from_utf8(text).ok()?;
        if !text.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        self.at += digits;
        text.parse().ok()
    }

    fn date(&mut self) -> Option<Date> {
        let year = self.number(4)?;
        let parted = self.letter(b"-_.");
        let month = self.number(2)?;
        if parted && !self.letter(b"-_.") {
            return None;
        }
        let day = self.number(2)?;
        if !(1970..2200).contains(&year) {
            return None;
        }
        let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
        // A longer number is none: but a time may follow without anything between.
        let rest = self.bytes.get(self.at..)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        matches!(digits, 0 | 4 | 6).then_some(date)
    }

    fn time(&mut self) -> Option<Time> {
        self.letter(b"Tt-_. ");
        let hour = self.number(2)?;
        let parted = self.letter(b"-:_.");
        let minute = self.number(2)?;
        let before = self.at;
        let is_more = !parted || self.letter(b"-:_.");
        let second = if is_more { self.number(2) } else { None };
        if second.is_none() {
            self.at = before;
        }
        if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let small = |number: i16| i8::try_from(number).ok();
        Time::new(small(hour)?, small(minute)?, small(second.unwrap_or(0))?, 0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_found_as_people_write_them() {
        for (name, at, rest) in [
            ("shop-2026-01-31.sql", "2026-01-31T00:00:00Z", "shop.sql"),
            ("shop_20260131.sql", "2026-01-31T00:00:00Z", "shop.sql"),
            (
                "shop-20260131T235958Z.sql",
                "2026-01-31T23:59:58Z",
                "shop.sql",
            ),
            (
                "shop-20260131235958.sql",
                "2026-01-31T23:59:58Z",
                "shop.sql",
            ),
            (
                "shop.2026-01-31_23-59.sql",
                "2026-01-31T23:59:00Z",
                "shop.sql",
            ),
            ("2026.01.31-shop.dump", "2026-01-31T00:00:00Z", "shop.dump"),
            ("2026-01-31.sql", "2026-01-31T00:00:00Z", ".sql"),
        ] {
            let found = of_name(name, &TimeZone::UTC).expect(name);
            assert_eq!(found.at, at.parse().unwrap(), "{name}");
            let mut left = name.to_owned();
            left.replace_range(found.place, "");
            assert_eq!(left, rest, "{name}");
        }
    }

    #[test]
    fn other_numbers_are_no_dates() {
        for name in [
            "shop.sql",
            "123456789012345",
            "v2026-13-01",
            "2026-1-1",
            "20260131123",
            "x",
        ] {
            assert_eq!(of_name(name, &TimeZone::UTC), None, "{name}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_one_of_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::Offset::from_hours(2).unwrap());
        let at = |name| of_name(name, &zone).unwrap().at.to_string();
        assert_eq!(at("a-2026-01-31"), "2026-01-30T22:00:00Z");
        assert_eq!(at("a-20260131T120000Z"), "2026-01-31T12:00:00Z");
    }
}
