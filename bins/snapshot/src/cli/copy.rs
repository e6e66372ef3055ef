//! `snapshot copy` and `snapshot sync`.

use std::num::NonZeroUsize;

use backstay::retention::{NewestPer, WeekStart};
use backup_terminal::{Filter, text};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use jiff::Timestamp;

use super::{Since, parse_since, parse_week_start};

const COPY_EXAMPLES: &str = "\
Examples:
  snapshot copy --to /mnt/second-disk/backup
  snapshot copy latest:shop --to /mnt/second-disk/backup
  snapshot copy --name shop --newest 7 --to /mnt/second-disk/backup
  snapshot copy --newest-per week=8 --newest-per month --to s3://offsite/backup --limit-up 20M
  snapshot copy --repo /mnt/second-disk/backup --to /mnt/nas/backup    (back again)
  snapshot copy --to /mnt/second-disk/backup --dry-run

An empty place becomes a repository of the same family: the same keys open it, and what is copied restores from it
alone. Only what it lacks is sent, sealed as it is. It forgets and prunes for itself; what was forgotten there is not
copied again without --again. No key that reads data is needed.";

const SYNC_EXAMPLES: &str = "\
Examples:
  snapshot sync --to /mnt/second-disk/backup
  snapshot sync --name shop --since 30d --to sftp://backup@nas/srv/backup --limit-up 20M
  snapshot sync --to /mnt/second-disk/backup --remove-vanished --dry-run

Copies as `snapshot copy` does, and says which snapshots the other place has that this one has not. They stay: it has a
retention of its own. With --remove-vanished those are forgotten there that were forgotten here, as the ledger of this
place says; never what was lost here, is held there, or is the last good one of its name and host; and nothing unless
all could be copied.";

/// Which snapshots are copied.
#[derive(Debug, Args)]
pub(crate) struct ChoiceArgs {
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only snapshots that were made under this label (`snapshot save --label`)
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Option<String>,
    /// Only those made from this time or day on, or so long ago, such as 7d or 12h
    #[arg(long, value_name = "TIME|SPAN", value_parser = parse_since)]
    pub(crate) since: Option<Since>,
    /// Only those made up to this time or day
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    pub(crate) until: Option<Timestamp>,
    /// Of these only the newest N of each name and host
    #[arg(long, value_name = "N")]
    pub(crate) newest: Option<NonZeroUsize>,
    /// Of these only the newest of each hour, day, week, month, quarter or year, of each name and host, or of the newest
    /// N of them; may be given several times: what any of them and --newest takes
    #[arg(long, value_name = "PERIOD[=N]")]
    pub(crate) newest_per: Vec<NewestPer>,
    /// The day with which weeks begin
    #[arg(long, value_name = "DAY", default_value = "monday", value_parser = parse_week_start)]
    pub(crate) week_start: WeekStart,
}

fn parse_until(text: &str) -> Result<Timestamp, String> {
    text::end(text)
        .ok_or_else(|| format!("`{text}` is no time such as 2026-11-21 or 2026-11-21T18:02"))
}

/// How snapshots are copied.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// Where to copy to
    #[arg(long, value_name = "PATH|URL", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) to: String,
    /// Copy also what was forgotten at the place that is copied to
    #[arg(long)]
    pub(crate) again: bool,
    /// Warn when so much of the room there is used, in percent; 100: never
    #[arg(long, value_name = "PERCENT", default_value_t = 80, env = "BACKSTAY_WARN_FULL", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) warn_full: u8,
    /// Go on although there seems to be too little room; what did not go in goes with the next run
    #[arg(long)]
    pub(crate) despite_room: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `snapshot copy`.
#[derive(Debug, Args)]
#[command(after_help = COPY_EXAMPLES)]
pub(crate) struct CopyArgs {
    /// Copy just these: an id or its beginning or end, latest, latest:NAME, latest:HOST:NAME, or a time; all if none
    /// is named
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,
    /// Where and how.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Which of all.
    #[command(flatten)]
    pub(crate) choice: ChoiceArgs,
}

/// `snapshot sync`.
#[derive(Debug, Args)]
#[command(after_help = SYNC_EXAMPLES)]
pub(crate) struct SyncArgs {
    /// Forget there what was forgotten here
    #[arg(long)]
    pub(crate) remove_vanished: bool,
    /// Where and how.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Which of all.
    #[command(flatten)]
    pub(crate) choice: ChoiceArgs,
}
