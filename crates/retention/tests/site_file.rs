//! Policies as people write them into files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use backup_retention::{Count, KeepPolicy, VersionPolicy, WeekStart};

#[test]
fn a_policy_is_written_with_the_names_of_its_rules() {
    let text = r#"
label = "nightly"
last = 3
hourly = 24
daily = 7
weekly = 4
monthly = "all"
quarterly = 8
yearly = 10
within = "36h"
within-daily = "1y6m"
tags = ["best"]
week-start = "sunday"
"#;
    let policy: KeepPolicy = toml::from_str(text).unwrap();
    assert_eq!(policy.monthly, Some(Count::All));
    assert_eq!(policy.week_start, WeekStart::Sunday);
    assert_eq!(policy.within_daily.unwrap().to_string(), "1y6m");
    assert_eq!(toml::to_string(&policy).unwrap().trim(), text.trim());
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<KeepPolicy>(&json).unwrap(), policy);
    assert_eq!(serde_json::to_string(&KeepPolicy::default()).unwrap(), "{}");
    assert!(
        toml::from_str::<KeepPolicy>("forever = true")
            .unwrap()
            .forever
    );
}

#[test]
fn mistakes_in_a_policy_are_told() {
    let told = |text| toml::from_str::<KeepPolicy>(text).unwrap_err().to_string();
    assert!(told("dayly = 7").contains("unknown field `dayly`"));
    assert!(told("daily = -1").contains("`-1` is not a count"));
    assert!(told("daily = 1.5").contains("a number, or \"all\""));
    assert!(told("daily = \"many\"").contains("`many` is not a count"));
    assert!(told("within = \"soon\"").contains("such as 30d, 1y6m or 36h"));
    assert!(told("within = 30").contains("string"));
    assert!(told("week-start = \"someday\"").contains("monday"));
    assert!(toml::from_str::<VersionPolicy>("versions = 0").is_err());
    assert_eq!(
        toml::from_str::<VersionPolicy>("versions = 10")
            .unwrap()
            .versions
            .get(),
        10
    );
}
