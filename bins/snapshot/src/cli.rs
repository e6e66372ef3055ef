//! The command line.

mod copy;
mod keys;
mod ledger;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use backstay::core::PackId;
use backstay::engine::prune::Unused;
use backstay::engine::verify::ReadBudget;
use backstay::integrity::statement::MAX_NAME_BYTES;
use backstay::parity::Share;
use backstay::retention::{Count, Span, WeekStart};
use backup_terminal::text::parse_bytes;
use backup_terminal::{Common, Filter};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::check_tier::CheckTierArgs;
use crate::import::ImportArgs;
pub(crate) use copy::{ChoiceArgs, CopyArgs, SendArgs, SyncArgs};
pub(crate) use keys::{
    KEY_EXAMPLES, KeyAddArgs, KeyCommand, KeyPassphraseArgs, KeyRemoveArgs, KeyRotateArgs,
    KeySheetArgs, KeyWay,
};
pub(crate) use ledger::{
    LEDGER_EXAMPLES, LedgerAcceptArgs, LedgerCommand, LedgerListArgs, Since, parse_since,
};

const EXAMPLES: &str = "\
Examples:
  snapshot init --repo /mnt/nas/backup --key-file ~/backup.key
  snapshot save /etc /home --repo /mnt/nas/backup --key-file ~/backup.key
  pg_dump -Fc -Z0 shop | snapshot save --stdin shop.dump --name shop
  snapshot list
  snapshot copy --to /mnt/second-disk/backup
  snapshot forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  snapshot verify --level full --slice 1/30

BACKSTAY_REPO, BACKSTAY_KEY_FILE, BACKSTAY_PASSPHRASE_FILE, BACKSTAY_CACHE_DIR and
BACKSTAY_STATE_DIR stand for the options of those names.";

/// Saves, lists, copies, forgets and verifies snapshots
#[derive(Debug, Parser)]
#[command(name = "snapshot", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a repository with its keys
    Init(InitArgs),
    /// Make a snapshot of files, of a command's output, of standard input, or of a URL
    Save(Box<SaveArgs>),
    /// Import exports, archives and dumps of other tools, each with its own time
    Import(Box<ImportArgs>),
    /// List snapshots
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what is known of a snapshot
    Show(ShowArgs),
    /// Explain what a snapshot takes, shares and changed
    Analyze(AnalyzeArgs),
    /// Copy snapshots to another place, where the same keys open them
    Copy(Box<CopyArgs>),
    /// Copy all that another place lacks, and say what it has beyond that
    Sync(Box<SyncArgs>),
    /// Forget snapshots by rules or by name
    Forget(Box<ForgetArgs>),
    /// Give back the space of what no snapshot names any more
    Prune(PruneArgs),
    /// Mend what is damaged, from parity, what is whole, or a copy
    Repair(RepairArgs),
    /// Hold snapshots: nothing forgets them until they are released
    Hold(HoldArgs),
    /// Release snapshots that are held
    Release(HoldArgs),
    /// Look whether snapshots are whole
    Verify(VerifyArgs),
    /// List, add, change, rotate and remove keys
    #[command(subcommand, after_help = KEY_EXAMPLES)]
    Key(KeyCommand),
    /// List and check the record of everything that was done
    #[command(subcommand, after_help = LEDGER_EXAMPLES)]
    Ledger(LedgerCommand),
    /// Try whether a folder or a server does what a repository needs, and how fast it is
    CheckTier(CheckTierArgs),
    /// Show sizes and counts of the repository
    #[command(after_help = STATS_EXAMPLES)]
    Stats,
    /// Write completions for a shell to standard output
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual page to standard output, or those of all commands into a folder
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

const INIT_EXAMPLES: &str = "\
Examples:
  snapshot init --repo /mnt/nas/backup --key-file ~/backup.key
  snapshot init --repo /mnt/nas/backup --passphrase-file ~/passphrase --recovery-sheet sheet.txt

The key file is written before the repository is made and never overwrites a file. Print the
recovery sheet and keep it away from this machine: without it and without a key nothing can be
read back.";

/// `snapshot init`.
#[derive(Debug, Args)]
#[command(after_help = INIT_EXAMPLES)]
pub(crate) struct InitArgs {
    /// Write the recovery sheet into a new file instead of to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_sheet: Option<PathBuf>,
    /// What the key slots say of themselves, for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    /// How much is stored beside each pack to mend it with, in percent of it (1 to 50), or off
    /// [default: 6 on disks and over SFTP, off elsewhere]
    #[arg(long, value_name = "PERCENT|off", value_parser = crate::repair::parse_parity)]
    pub(crate) parity: Option<Parity>,
}

/// What `--parity` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parity(pub(crate) Option<Share>);

const LIST_EXAMPLES: &str = "\
Examples:
  snapshot list
  snapshot list --name shop --tag release
  snapshot list --json | jq -r .id";

const SHOW_EXAMPLES: &str = "\
Examples:
  snapshot show latest
  snapshot show latest:shop
  snapshot show 2026-11-21";

const STATS_EXAMPLES: &str = "\
Example:
  snapshot stats --json";

const COMPLETION_EXAMPLES: &str = "\
Example:
  snapshot completion bash > ~/.local/share/bash-completion/completions/snapshot";

const MAN_EXAMPLES: &str = "\
Example:
  snapshot man ~/.local/share/man/man1";

const SAVE_EXAMPLES: &str = "\
Examples:
  snapshot save /etc /home --exclude '*.tmp' --exclude '/home/*/.cache' --one-file-system
  snapshot save --command 'mysqldump --single-transaction shop' --name shop
  pg_dump -Fc -Z0 shop | snapshot save --stdin shop.dump --name shop
  snapshot save 'files:///srv/data?exclude-caches'

Do not compress what is piped in: equal parts of compressed streams cannot be found again.
A repository that does not exist yet is made, with a key file in the folder of the user's
configuration.";

/// A name that a snapshot can be signed and shown with.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a name is not empty".into());
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(format!("a name has at most {MAX_NAME_BYTES} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("a name has no control characters".into());
    }
    if text.starts_with('/') || text.contains(":/") {
        let why =
            "a name does not begin with / and has no :/, which divides a snapshot from a path";
        return Err(why.into());
    }
    Ok(text.to_owned())
}

/// A tag or a label.
pub(crate) fn parse_tag(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return Err(format!(
            "it has 1 to {MAX_NAME_BYTES} bytes and no control characters"
        ));
    }
    Ok(text.to_owned())
}

/// `snapshot save`.
#[derive(Debug, Args)]
#[command(after_help = SAVE_EXAMPLES)]
pub(crate) struct SaveArgs {
    /// Files and folders, or one URL
    #[arg(value_name = "PATH|URL", required_unless_present_any = ["command", "stdin"])]
    pub(crate) paths: Vec<OsString>,
    /// Save the output of a shell command; if any part of a pipeline fails there is no snapshot
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["paths", "stdin"])]
    pub(crate) command: Option<String>,
    /// Save standard input as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    pub(crate) stdin: Option<String>,
    /// Name of the snapshot; snapshots of one name and host follow each other
    #[arg(long, short = 'n', value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// Mark the snapshot; may be given several times
    #[arg(long = "tag", short = 't', value_name = "TAG", value_parser = parse_tag)]
    pub(crate) tags: Vec<String>,
    /// The schedule that it is made under, such as daily
    #[arg(long, value_name = "LABEL", value_parser = parse_tag)]
    pub(crate) label: Option<String>,
    /// The host to sign for; the name of this one if not given
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Read every file, also those that look unchanged
    #[arg(long)]
    pub(crate) reread: bool,
    /// Level of compression (zstd, 1 to 19)
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) compression: i32,
    /// Warn when so much of the tier's room is used, in percent; 100: never
    #[arg(long, value_name = "PERCENT", default_value_t = 80, env = "BACKSTAY_WARN_FULL", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) warn_full: u8,
    /// Show what would be saved, and save nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    // Last, for its heading counts for every option behind it.
    /// What to leave out.
    #[command(flatten)]
    pub(crate) leave_out: LeaveOut,
}

/// What is left out of a snapshot of files.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to leave out")]
pub(crate) struct LeaveOut {
    /// Leave out what matches a line of gitignore syntax; may be given several times
    #[arg(long = "exclude", short = 'e', value_name = "PATTERN")]
    pub(crate) excludes: Vec<String>,
    /// Leave out what matches the lines of a file
    #[arg(long = "exclude-file", value_name = "FILE")]
    pub(crate) exclude_files: Vec<PathBuf>,
    /// Obey files of such lines wherever they stand, such as .gitignore
    #[arg(long = "ignore-file", value_name = "NAME")]
    pub(crate) ignore_files: Vec<String>,
    /// Leave out the content of folders with a CACHEDIR.TAG
    #[arg(long)]
    pub(crate) exclude_caches: bool,
    /// Leave out the content of folders that hold something of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude_if_present: Vec<String>,
    /// Leave out files larger than this, such as 1G
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) exclude_larger_than: Option<u64>,
    /// Leave out files smaller than this
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) exclude_smaller_than: Option<u64>,
    /// Leave out files last modified longer ago than this, such as 2y or 36h
    #[arg(long, value_name = "SPAN")]
    pub(crate) exclude_older_than: Option<Span>,
    /// Leave out files last modified more recently than this
    #[arg(long, value_name = "SPAN")]
    pub(crate) exclude_newer_than: Option<Span>,
    /// Do not go down into other file systems
    #[arg(long, short = 'x')]
    pub(crate) one_file_system: bool,
}

/// `snapshot list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// `snapshot show`.
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(crate) struct ShowArgs {
    /// An id or its beginning or end, latest, latest:NAME, latest:HOST:NAME, or a time
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
}

const ANALYZE_EXAMPLES: &str = "\
Examples:
  snapshot analyze latest
  snapshot analyze latest:shop --top 50
  snapshot analyze latest --json | jq '.content.unique + .description.unique'";

/// `snapshot analyze`.
#[derive(Debug, Args)]
#[command(after_help = ANALYZE_EXAMPLES)]
pub(crate) struct AnalyzeArgs {
    /// An id or its beginning or end, latest, latest:NAME, latest:HOST:NAME, or a time
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
    /// How many of the largest files, folders, changes and other snapshots to show
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub(crate) top: u16,
}

const FORGET_EXAMPLES: &str = "\
Examples:
  snapshot forget --keep-last 3 --keep-daily 7 --keep-within 30d --dry-run
  snapshot forget --name shop --keep-monthly 12 --keep-tag release
  snapshot forget --keep-daily 30 --keep-versions 5 --versions-of /home/me/thesis.tex
  snapshot forget 7Q2M0XVA

A snapshot stays if any rule keeps it. Rules count for each line of snapshots (same name and host)
by itself. The newest complete snapshot of a line is never forgotten by a rule, and what is held
(`snapshot hold`) not at all.";

/// `snapshot forget`.
#[derive(Debug, Args)]
#[command(after_help = FORGET_EXAMPLES)]
pub(crate) struct ForgetArgs {
    /// Forget just these
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,
    /// Decide only on snapshots of this name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Decide only on snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Decide only on snapshots that carry this tag; several: those that carry all of them
    #[arg(long = "tag", value_name = "TAG", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) tags: Vec<String>,
    /// Decide only on snapshots that were made under this label (`snapshot save --label`)
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Option<String>,
    /// Show what would be forgotten and why, and forget nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Give the space back as well, as `snapshot prune` does without options
    #[arg(long)]
    pub(crate) prune: bool,
    /// Forget what is named although it is the last good snapshot of its name and host, or gone from the tier for good
    #[arg(long, requires = "snapshots")]
    pub(crate) force: bool,
    /// Go by this machine's clock although the ledger tells of later times: it is right, and the clocks of others are not
    #[arg(long)]
    pub(crate) despite_clock: bool,
    // Last, for its heading counts for every option behind it.
    /// The rules.
    #[command(flatten)]
    pub(crate) keep: Keep,
}

const PRUNE_EXAMPLES: &str = "\
Examples:
  snapshot prune --dry-run
  snapshot prune --max-unused 10% --max-repack 20G
  snapshot prune --revoke-after 2
  snapshot prune --reseal --max-repack 100G

Others may go on saving meanwhile. What they may still build on stays until they have ended; the next
prune goes on. No key that reads data is needed, but for --reseal.";

/// `snapshot prune`.
#[derive(Debug, Default, Args)]
#[command(after_help = PRUNE_EXAMPLES)]
pub(crate) struct PruneArgs {
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How much unused space may stay in packs that are used in part: a share of what is used, a size,
    /// or unlimited (nothing is written anew) [default: 5%]
    #[arg(long, value_name = "PERCENT|SIZE|unlimited", value_parser = parse_unused)]
    pub(crate) max_unused: Option<MaxUnused>,
    /// Read at most so much in order to write it anew
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) max_repack: Option<u64>,
    /// Seal anew for the newest generation of keys what older ones can read, as much as --max-repack allows
    /// (behind `key rotate`; takes a full key)
    #[arg(long)]
    pub(crate) reseal: bool,
    /// Take who has no end and stood still for so many hours, by at least three prunes of this host, for
    /// dead; if they are not, they find out and at worst save again; 0 waits for nobody [default: 24]
    #[arg(long, value_name = "HOURS")]
    pub(crate) revoke_after: Option<u32>,
    /// Wait so many seconds for those who are saving [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u64>,
    /// Delete at most this share of all at once [default: 80%]
    #[arg(long, value_name = "PERCENT", value_parser = parse_max_drop)]
    pub(crate) max_drop: Option<MaxDrop>,
    /// As --max-drop 100%; it turns off nothing else
    #[arg(long, conflicts_with = "max_drop")]
    pub(crate) force: bool,
    /// Write packs of content anew also where they are kept cold: all of them that are used in part must be warm
    /// [default: they stay until nothing uses them]
    #[arg(long)]
    pub(crate) repack_cold: bool,
    /// Go on although a snapshot is gone from the tier that nobody forgot: what it used is deleted, unless its sidecar
    /// gives it back whole
    #[arg(long)]
    pub(crate) despite_gone: bool,
    /// Go on although the ledger lacks records or holds false ones that this host has no copy of, so that nobody
    /// can tell whether a snapshot was taken away
    #[arg(long)]
    pub(crate) despite_ledger: bool,
}

/// What `--max-drop` says, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxDrop(pub(crate) f64);

fn parse_max_drop(text: &str) -> Result<MaxDrop, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    let share = number.filter(|percent| (0.0..=100.0).contains(percent));
    share
        .map(|percent| MaxDrop(percent / 100.0))
        .ok_or_else(|| "a share is a number from 0 to 100 and %".into())
}

/// What `--max-unused` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxUnused(pub(crate) Unused);

fn parse_unused(text: &str) -> Result<MaxUnused, String> {
    if text == "unlimited" {
        return Ok(MaxUnused(Unused::Unlimited));
    }
    match text.strip_suffix('%') {
        None => parse_bytes(text).map(|bytes| MaxUnused(Unused::Bytes(bytes))),
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if (0.0..=1000.0).contains(&percent) => {
                Ok(MaxUnused(Unused::Percent(percent)))
            }
            _ => Err("a share is a number from 0 to 1000 and %".into()),
        },
    }
}

/// The rules of retention.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to keep")]
pub(crate) struct Keep {
    /// The newest N; all: every one, for ever
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_last: Option<Count>,
    /// The newest of each of N hours
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_hourly: Option<Count>,
    /// The newest of each of N days
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_daily: Option<Count>,
    /// The newest of each of N weeks
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_weekly: Option<Count>,
    /// The newest of each of N months
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_monthly: Option<Count>,
    /// The newest of each of N quarters
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_quarterly: Option<Count>,
    /// The newest of each of N years
    #[arg(long, value_name = "N|all")]
    pub(crate) keep_yearly: Option<Count>,
    /// All within a span before the newest, such as 30d or 1y6m
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within: Option<Span>,
    /// The newest of each hour within a span
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within_hourly: Option<Span>,
    /// The newest of each day within a span
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within_daily: Option<Span>,
    /// The newest of each week within a span
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within_weekly: Option<Span>,
    /// The newest of each month within a span
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within_monthly: Option<Span>,
    /// The newest of each quarter within a span
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within_quarterly: Option<Span>,
    /// The newest of each year within a span
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_within_yearly: Option<Span>,
    /// Those that carry a tag; may be given several times
    #[arg(long, value_name = "TAG")]
    pub(crate) keep_tag: Vec<String>,
    /// The newest N versions of each file that --versions-of names
    #[arg(long, value_name = "N", requires = "versions_of")]
    pub(crate) keep_versions: Option<NonZeroU32>,
    /// A file whose versions are kept; may be given several times
    #[arg(long, value_name = "PATH", requires = "keep_versions")]
    pub(crate) versions_of: Vec<OsString>,
    /// The day with which weeks begin
    #[arg(long, value_name = "DAY", default_value = "monday", value_parser = parse_week_start)]
    pub(crate) week_start: WeekStart,
}

fn parse_week_start(text: &str) -> Result<WeekStart, String> {
    serde_json::from_value(text.to_ascii_lowercase().into())
        .map_err(|_| format!("`{text}` is not a day of the week"))
}

const HOLD_EXAMPLES: &str = "\
Examples:
  snapshot hold latest:shop --reason 'before the migration'
  snapshot release latest:shop";

/// `snapshot hold` and `release`.
#[derive(Debug, Args)]
#[command(after_help = HOLD_EXAMPLES)]
pub(crate) struct HoldArgs {
    /// An id or its beginning or end, latest, latest:NAME, latest:HOST:NAME, or a time
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub(crate) snapshots: Vec<String>,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

const REPAIR_EXAMPLES: &str = "\
Examples:
  snapshot repair --dry-run
  snapshot repair
  snapshot repair --from /mnt/second-disk/backup
  snapshot repair index
  snapshot repair packs --pack data/3f/3f0a…
  snapshot repair --parity 6

Exit code 0 if all is well behind it, 3 if something is left. Nothing is made worse: what is replaced is kept
aside until its successor was read back, and a pack that cannot be mended is moved there, where what is whole of it
is still read, so that the next save stores anew what its source still has.";

/// `snapshot repair`.
#[derive(Debug, Args)]
#[command(after_help = REPAIR_EXAMPLES)]
pub(crate) struct RepairArgs {
    /// Only this: packs (and their parity), the index, or refs (and snapshots); all if none is named
    #[arg(value_name = "STEP", value_enum)]
    pub(crate) steps: Vec<RepairStep>,
    /// Another copy of this repository, byte by byte and opened by the same key, to fetch from what cannot be mended
    /// otherwise; may be given several times
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) from: Vec<String>,
    /// Read only this pack, as `snapshot verify` names it; may be given several times
    #[arg(long = "pack", value_name = "PACK", value_parser = crate::repair::parse_pack)]
    pub(crate) packs: Vec<PackId>,
    /// From now on store so much beside each pack to mend it with, in percent of it (1 to 50), and beside
    /// those that have none; off: store none any more
    #[arg(long, value_name = "PERCENT|off", value_parser = crate::repair::parse_parity)]
    pub(crate) parity: Option<Parity>,
    /// Read packs of content also where they are kept cold; they must be warm
    #[arg(long)]
    pub(crate) read_cold: bool,
    /// Show what is damaged and what it would be mended from, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A part of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RepairStep {
    /// Read every pack, and mend those that are damaged
    Packs,
    /// Make index runs anew that cannot be read
    Index,
    /// Make refs anew that are missing or cannot be read
    Refs,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  snapshot verify
  snapshot verify latest --level full
  snapshot verify --level full --budget 10min    (every night; over time that covers everything)
  snapshot verify --level full --slice 1/30    (a thirtieth; thirty of them cover everything)
  snapshot verify --level checksum --sample 5%
  snapshot verify --coverage

What was covered is remembered in the local cache. Exit code 13 if anything is damaged or missing.";

/// `snapshot verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Snapshots to verify; all if none is named
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,
    /// How deep to look
    #[arg(long, value_enum, default_value_t = Level::Metadata)]
    pub(crate) level: Level,
    /// Read only a random share of the content, such as 5%
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, conflicts_with = "slice")]
    pub(crate) sample: Option<f64>,
    /// Read only a slice of the content, such as 1/30
    #[arg(long, value_name = "N/OF", value_parser = parse_slice)]
    pub(crate) slice: Option<(u32, u32)>,
    /// Read for so long (30s, 10min, 2h) or so much (50G) only: first what was never checked, then what was
    /// checked longest ago
    #[arg(long, value_name = "TIME|SIZE", value_parser = parse_budget, conflicts_with_all = ["sample", "slice"])]
    pub(crate) budget: Option<ReadBudget>,
    /// Hash every file's content anew, also those that were hashed before, and as many as there are
    #[arg(long, conflicts_with = "budget")]
    pub(crate) rehash: bool,
    /// Read packs of content also where they are kept cold; they must be warm
    #[arg(long)]
    pub(crate) read_cold: bool,
    /// Read nothing, and show what was covered up to now
    #[arg(long, conflicts_with_all = ["snapshots", "level", "sample", "slice", "budget", "rehash"])]
    pub(crate) coverage: bool,
}

/// A time with its unit, or a size.
fn parse_budget(text: &str) -> Result<ReadBudget, String> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit.trim() {
        "s" | "sec" => 1,
        "min" => 60,
        "h" => 3600,
        "m" => {
            return Err(format!(
                "`{text}` may be a time or a size: write {number}min or {number}M"
            ));
        }
        _ => {
            let wrong = |_| {
                format!(
                    "`{text}` is no budget: write a time such as 10min or 2h, or a size such as 50G"
                )
            };
            return parse_bytes(text).map(ReadBudget::Bytes).map_err(wrong);
        }
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale));
    // Nobody waits longer, and nothing that is counted from now on overflows.
    let seconds = seconds.filter(|seconds| *seconds <= 366 * 24 * 3600);
    match seconds {
        Some(seconds) if seconds > 0 => Ok(ReadBudget::Time(Duration::from_secs(seconds))),
        _ => Err(format!("`{text}` is no time to read for")),
    }
}

/// How deep a verification looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    /// Signatures, manifests and roots; every chunk is known and every pack is there
    Metadata,
    /// And the bytes of every pack hash to its name
    Checksum,
    /// And every chunk opens, and the content of every file has its SHA-256
    Full,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    match number {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err(format!(
            "`{text}` is not a share: write a percentage such as 5%"
        )),
    }
}

fn parse_slice(text: &str) -> Result<(u32, u32), String> {
    let slice = text
        .split_once('/')
        .and_then(|(n, of)| Some((n.parse().ok()?, of.parse().ok()?)));
    match slice {
        Some((n, of)) if n >= 1 && n <= of => Ok((n, of)),
        _ => Err(format!("`{text}` is not a slice: write one such as 1/30")),
    }
}
