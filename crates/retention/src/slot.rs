//! Slots: the hours, days, weeks … of a calendar, of which rules keep one snapshot each.

use jiff::civil::{Date, Weekday};
use jiff::{ToSpan, Zoned};
use serde::{Deserialize, Serialize};

/// The day with which weeks begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeekStart {
    /// Weeks are those of ISO 8601.
    #[default]
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

impl WeekStart {
    const fn weekday(self) -> Weekday {
        match self {
            Self::Monday => Weekday::Monday,
            Self::Tuesday => Weekday::Tuesday,
            Self::Wednesday => Weekday::Wednesday,
            Self::Thursday => Weekday::Thursday,
            Self::Friday => Weekday::Friday,
            Self::Saturday => Weekday::Saturday,
            Self::Sunday => Weekday::Sunday,
        }
    }

    /// The first day of the week in which `date` lies.
    fn of(self, date: Date) -> Date {
        date.saturating_sub(i64::from(date.weekday().since(self.weekday())).days())
    }
}

/// What a rule keeps one snapshot of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// Each hour. The hour that comes twice when clocks go back is two hours.
    Hour,
    /// Each day.
    Day,
    /// Each week.
    Week,
    /// Each month.
    Month,
    /// Each quarter of a year.
    Quarter,
    /// Each year.
    Year,
}

impl Period {
    /// All periods, shortest first.
    pub const ALL: [Self; 6] = [
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Quarter,
        Self::Year,
    ];

    /// The name of its rule: `hourly`, ….
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Quarter => "quarterly",
            Self::Year => "yearly",
        }
    }

    /// The slot in which a moment lies, such as `2026-11-21T04+01`, `2026-11-21`, `2026-W47`
    /// (the first day, `2026-11-15`, where weeks do not begin on Monday), `2026-11`, `2026-Q4`,
    /// `2026`. Two moments lie in one slot if and only if these are equal.
    #[must_use]
    pub fn slot(self, moment: &Zoned, week_start: WeekStart) -> String {
        let date = moment.date();
        let (year, month) = (date.year(), date.month());
        match self {
            Self::Hour => format!("{date}T{:02}{}", moment.hour(), moment.offset()),
            Self::Day => date.to_string(),
            Self::Week if week_start == WeekStart::Monday => {
                let week = date.iso_week_date();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Week => week_start.of(date).to_string(),
            Self::Month => format!("{year:04}-{month:02}"),
            Self::Quarter => format!("{year:04}-Q{}", (month - 1) / 3 + 1),
            Self::Year => format!("{year:04}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(period: Period, moment: &str) -> String {
        period.slot(&moment.parse().unwrap(), WeekStart::Monday)
    }

    fn week(moment: &str, start: WeekStart) -> String {
        Period::Week.slot(&format!("{moment}T12:00[UTC]").parse().unwrap(), start)
    }

    #[test]
    fn each_period_names_its_slots() {
        let moment = "2026-11-21T04:59:59+01:00[Europe/Berlin]";
        let slots = Period::ALL.map(|period| slot(period, moment));
        assert_eq!(
            slots,
            [
                "2026-11-21T04+01",
                "2026-11-21",
                "2026-W47",
                "2026-11",
                "2026-Q4",
                "2026"
            ]
        );
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours_of_one_day() {
        let first = "2026-10-25T02:30+02:00[Europe/Berlin]";
        let second = "2026-10-25T02:30+01:00[Europe/Berlin]";
        assert_eq!(slot(Period::Hour, first), "2026-10-25T02+02");
        assert_eq!(slot(Period::Hour, second), "2026-10-25T02+01");
        assert_eq!(slot(Period::Day, first), slot(Period::Day, second));
        // Clocks go back by half an hour there, so that half of an hour comes twice.
        let (early, late) = ("2026-04-05T01:45+11:00", "2026-04-05T01:45+10:30");
        let at = |text: &str| slot(Period::Hour, &format!("{text}[Australia/Lord_Howe]"));
        assert_ne!(at(early), at(late));
    }

    #[test]
    fn days_begin_at_midnight_of_the_zone() {
        let utc = "2026-03-01T00:30:00+00:00[UTC]";
        let los_angeles = "2026-02-28T16:30:00-08:00[America/Los_Angeles]";
        assert_eq!(slot(Period::Month, utc), "2026-03");
        assert_eq!(slot(Period::Month, los_angeles), "2026-02");
        assert_eq!(slot(Period::Day, "2024-02-29T12:00[UTC]"), "2024-02-29");
    }

    #[test]
    fn a_week_belongs_to_the_year_of_its_thursday() {
        assert_eq!(week("2026-12-31", WeekStart::Monday), "2026-W53");
        assert_eq!(week("2027-01-03", WeekStart::Monday), "2026-W53");
        assert_eq!(week("2027-01-04", WeekStart::Monday), "2027-W01");
        assert_eq!(week("2024-12-30", WeekStart::Monday), "2025-W01");
    }

    #[test]
    fn weeks_begin_where_they_are_told_to() {
        assert_eq!(week("2026-11-21", WeekStart::Sunday), "2026-11-15");
        assert_eq!(week("2026-11-22", WeekStart::Sunday), "2026-11-22");
        assert_eq!(week("2026-11-21", WeekStart::Saturday), "2026-11-21");
        assert_eq!(week("2027-01-01", WeekStart::Sunday), "2026-12-27");
        assert_eq!(week("2026-12-31", WeekStart::Sunday), "2026-12-27");
    }

    #[test]
    fn quarters_are_of_three_months() {
        let quarters = [
            (1, 1),
            (3, 1),
            (4, 2),
            (6, 2),
            (7, 3),
            (9, 3),
            (10, 4),
            (12, 4),
        ];
        for (month, quarter) in quarters {
            let moment = format!("2026-{month:02}-28T12:00[UTC]");
            assert_eq!(slot(Period::Quarter, &moment), format!("2026-Q{quarter}"));
        }
    }

    #[test]
    fn the_ends_of_time_have_slots_too() {
        for moment in [jiff::Timestamp::MIN, jiff::Timestamp::MAX] {
            let moment = moment.to_zoned(jiff::tz::TimeZone::UTC);
            for period in Period::ALL {
                assert!(!period.slot(&moment, WeekStart::Sunday).is_empty());
            }
        }
    }
}
