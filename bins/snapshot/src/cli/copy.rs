//! `snapshot copy`.

use backup_terminal::Filter;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::num::NonZeroUsize;

const COPY_EXAMPLES: &str = "\
Examples:
  snapshot copy --to /mnt/second-disk/backup
  snapshot copy latest:shop --to /mnt/second-disk/backup
  snapshot copy --name shop --newest 7 --to /mnt/second-disk/backup
  snapshot copy --repo /mnt/second-disk/backup --to /mnt/nas/backup    (back again)
  snapshot copy --to /mnt/second-disk/backup --dry-run

An empty place becomes a repository of the same family: the same keys open it, and what is copied restores from it
alone. Only what it lacks is sent, sealed as it is. It forgets and prunes for itself; what was forgotten there is not
copied again without --again. No key that reads data is needed.";

/// `snapshot copy`.
#[derive(Debug, Args)]
#[command(after_help = COPY_EXAMPLES)]
pub(crate) struct CopyArgs {
    /// Copy just these: an id or its beginning or end, latest, latest:NAME, latest:HOST:NAME, or a time; all if none
    /// is named
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,
    /// Where to copy to
    #[arg(long, value_name = "PATH|URL", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) to: String,
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only the newest N of each name and host
    #[arg(long, value_name = "N", conflicts_with = "snapshots")]
    pub(crate) newest: Option<NonZeroUsize>,
    /// Copy also what was forgotten at the place that is copied to
    #[arg(long)]
    pub(crate) again: bool,
    /// Show what would be copied, and copy nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
