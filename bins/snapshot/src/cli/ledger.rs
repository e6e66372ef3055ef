//! The command line of `snapshot ledger`.

use backup_terminal::text;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(crate) const LEDGER_EXAMPLES: &str = "\
Examples:
  snapshot ledger list --since 7d
  snapshot ledger list --op restore --op cat --host web1 --json
  snapshot ledger verify
  snapshot ledger accept --dry-run
  snapshot ledger accept

`verify` ends with exit code 13 if the ledger does not match.";

/// `snapshot ledger`.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Show what was done: when, by whom, on which host, and how it ended
    List(LedgerListArgs),
    /// Check its chain, its signatures, this host's copy, and whether it knows every snapshot
    #[command(after_help = LEDGER_EXAMPLES)]
    Verify,
    /// Accept that records are lost for good, so that verify and prune go on
    Accept(LedgerAcceptArgs),
}

/// `snapshot ledger accept`.
#[derive(Debug, Args)]
#[command(after_help = LEDGER_EXAMPLES)]
pub(crate) struct LedgerAcceptArgs {
    /// Only show what would be accepted
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `snapshot ledger list`.
#[derive(Debug, Args)]
#[command(after_help = LEDGER_EXAMPLES)]
pub(crate) struct LedgerListArgs {
    /// Only from this time or day on, or so long ago, such as 7d or 12h
    #[arg(long, value_name = "TIME|SPAN", value_parser = parse_since)]
    pub(crate) since: Option<Since>,
    /// Only what was done of this kind, such as restore; may be given several times
    #[arg(long = "op", value_name = "OPERATION")]
    pub(crate) ops: Vec<String>,
    /// Only what this host did
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Only what concerns a snapshot whose id begins or ends so
    #[arg(long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
}

/// From when on records are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Since {
    /// This moment.
    Moment(Timestamp),
    /// So long before now.
    Ago(backstay::retention::Span),
}

impl Since {
    /// The moment that it means now.
    pub(crate) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Moment(moment) => moment,
            Self::Ago(span) => span.before(now, &TimeZone::system()),
        }
    }
}

pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(span) = text.parse() {
        return Ok(Since::Ago(span));
    }
    let moment = text::beginning(text);
    moment.map(Since::Moment).ok_or_else(|| {
        format!("`{text}` is neither a time such as 2026-11-21 nor a span such as 7d or 12h")
    })
}
