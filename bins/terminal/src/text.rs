//! How numbers, names and times are written for people, and read from them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use backstay::core::FileTime;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::failure::{Failure, Outcome};

/// Bytes of a name on one line of a terminal: control characters, backslashes and what is not
/// UTF-8 are spelled as escapes, so that no name can move the cursor or forge a line.
#[must_use]
pub fn escape(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        for letter in part.valid().chars() {
            match letter {
                '\\' => out.push_str("\\\\"),
                // Format characters that turn the direction of writing hide what a name is.
                control if control.is_control() || is_direction(control) => {
                    out.extend(control.escape_default());
                }
                other => out.push(other),
            }
        }
        for byte in part.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// The name of a snapshot or of one of its parts on one line, as it can be typed: names have been spelled without
/// control characters when they were given, so backslashes stay as they are.
#[must_use]
pub fn name(name: &str) -> String {
    escape(name.as_bytes()).replace("\\\\", "\\")
}

const fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A path of this system on one line.
#[must_use]
pub fn path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// A number of bytes with three digits and a binary unit.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for name in UNITS {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = name;
    }
    if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// A count with its digits in groups of three.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count and what is counted, in the singular for one.
#[must_use]
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A time in the zone of this host, to the second.
#[must_use]
pub fn time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// The time of a file in the zone of this host; its numbers where no calendar has it.
#[must_use]
pub fn file_time(at: FileTime) -> String {
    match Timestamp::from_second(at.seconds) {
        Ok(at) => time(at),
        Err(_) => format!("@{}", at.seconds),
    }
}

/// How a snapshot is named, with times as people write them turned into what the engine reads: a
/// day, or a day and a time, of this host's zone if none is written. A time means the last moment of
/// what is written of it, the day, the minute or the second, as lists show times to the second.
///
/// # Errors
/// [`crate::Exit::Usage`] for a time that no calendar has.
pub fn snapshot_spec(spec: &str) -> Outcome<Cow<'_, str>> {
    let text = spec.trim();
    // Ids hold no hyphens, and names stand behind `latest:`.
    let is_time = text.as_bytes().get(4) == Some(&b'-')
        && text.bytes().take(4).all(|byte| byte.is_ascii_digit());
    if !is_time {
        return Ok(Cow::Borrowed(spec));
    }
    match moment(text, &TimeZone::system()) {
        Some(moment) => Ok(Cow::Owned(moment.to_string())),
        None => Err(Failure::usage(
            format!("`{}` is no time", escape(text.as_bytes())),
            "write a day and a time that there are, such as 2026-11-21 or 2026-11-21T18:02",
        )),
    }
}

/// The first moment of a day, or of what is written of a time, of this host's zone if none is written.
#[must_use]
pub fn beginning(text: &str) -> Option<Timestamp> {
    let tz = TimeZone::system();
    let civil = || {
        Some(
            text.parse::<DateTime>()
                .ok()?
                .to_zoned(tz)
                .ok()?
                .timestamp(),
        )
    };
    text.parse::<Timestamp>().ok().or_else(civil)
}

/// The last moment of a day, or of what is written of a time, of this host's zone if none is written.
#[must_use]
pub fn end(text: &str) -> Option<Timestamp> {
    moment(text, &TimeZone::system())
}

fn moment(text: &str, tz: &TimeZone) -> Option<Timestamp> {
    if text.len() == "2026-11-21".len() {
        let end = text.parse::<Date>().ok()?.at(23, 59, 59, 999_999_999);
        return Some(end.to_zoned(tz.clone()).ok()?.timestamp());
    }
    let begin = match text.parse::<Timestamp>() {
        Ok(begin) => begin,
        Err(_) => {
            let civil = text.parse::<DateTime>().ok()?;
            civil.to_zoned(tz.clone()).ok()?.timestamp()
        }
    };
    // The digits of the time alone: behind them a zone may stand, which has colons too.
    let digits = text.get("2026-11-21T".len()..).unwrap_or_default();
    let end = digits.find(|letter: char| !(letter.is_ascii_digit() || ":.,".contains(letter)));
    let digits = digits
        .get(..end.unwrap_or(digits.len()))
        .unwrap_or_default();
    let seconds = match digits.matches(':').count() {
        _ if digits.contains(['.', ',']) => return Some(begin),
        0 => 3600,
        1 => 60,
        _ => 1,
    };
    let length = SignedDuration::from_secs(seconds) - SignedDuration::from_nanos(1);
    begin.checked_add(length).ok()
}

/// Reads a number of bytes: `512`, `64K`, `1.5G`, `10MiB`. Units are binary.
///
/// # Errors
/// A sentence that says how it is written.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write a number with K, M, G or T");
    let end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit
        .strip_suffix("IB")
        .or_else(|| unit.strip_suffix('B'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let scale = 1u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(wrong);
    }
    let value: f64 = number.parse().map_err(|_| wrong())?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a fraction of a unit needs no more precision"
    )]
    let out = (value * scale as f64) as u64;
    Ok(out)
}

/// Reads a number of bytes a second: a size such as `20M`, also `20M/s`. There is no rate of nothing.
///
/// # Errors
/// A sentence that says how it is written.
pub fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    let rate = parse_bytes(size).ok().and_then(NonZeroU64::new);
    rate.ok_or_else(|| {
        format!("`{text}` is not a rate: write bytes a second with K, M or G, such as 20M")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(escape(b"two\nlines\x1b[2J"), "two\\nlines\\u{1b}[2J");
        assert_eq!(escape(b"back\\slash \xff"), "back\\\\slash \\xff");
        assert_eq!(escape("gnp\u{202e}exe".as_bytes()), "gnp\\u{202e}exe");
        assert_eq!(escape("größe".as_bytes()), "größe");
    }

    #[test]
    fn sizes_are_shown_with_three_digits_and_read_back() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_048_575, "1.00 MiB"),
            (1_610_612_736, "1.50 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
        for (text, value) in [
            ("0", 0),
            ("1k", 1024),
            ("1.5G", 3 << 29),
            ("10 MiB", 10 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(value));
        }
        for text in ["", "K", "-1", "1X", "99999999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_sizes_a_second() {
        for (text, value) in [("20M", 20 << 20), ("20 MiB/s", 20 << 20), ("500", 500)] {
            assert_eq!(parse_rate(text).map(NonZeroU64::get), Ok(value));
        }
        for text in ["", "0", "0.1", "M/s", "20M/min", "-1"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_in_the_zone_of_the_host() {
        let tz = TimeZone::fixed(jiff::tz::offset(2));
        let read = |text: &str| moment(text, &tz).map(|moment| moment.to_string());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("2026-11-21"), some("2026-11-21T21:59:59.999999999Z"));
        for (text, end) in [
            ("2026-11-21T10:30", "2026-11-21T08:30:59.999999999Z"),
            ("2026-11-21 10:30:05", "2026-11-21T08:30:05.999999999Z"),
            ("2026-11-21T10:30:05.25", "2026-11-21T08:30:05.25Z"),
            ("2026-11-21T10:30:05Z", "2026-11-21T10:30:05.999999999Z"),
            ("2026-11-21T10:30+01:00", "2026-11-21T09:30:59.999999999Z"),
        ] {
            assert_eq!(read(text), some(end), "{text}");
        }
        for wrong in ["2026-13-01", "2026-02-30", "2026-", "2026-11-21T25:00"] {
            assert_eq!(snapshot_spec(wrong).unwrap_err().exit, crate::Exit::Usage);
        }
        for other in ["latest", "VYJH49HN", "latest:2026-13-01"] {
            assert_eq!(snapshot_spec(other), Ok(Cow::Borrowed(other)));
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1234), "1,234");
        assert_eq!(count(1_234_567), "1,234,567");
    }
}
