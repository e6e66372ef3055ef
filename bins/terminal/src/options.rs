//! Options that every command knows.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;

use crate::text::{parse_bytes, parse_rate};

/// Options that every command of both programs knows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// The repository: a folder or a URL [env: BACKSTAY_REPO]
    #[arg(long, short = 'r', global = true, value_name = "PATH|URL")]
    pub repo: Option<String>,
    /// The key file that opens the repository [env: BACKSTAY_KEY_FILE]
    #[arg(long, short = 'k', global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A file whose first line is the passphrase that opens the repository
    /// [env: BACKSTAY_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Where the local cache is kept; it may be lost at any time [env: BACKSTAY_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Where this host's copy of the ledger is kept; losing it loses what tells of a ledger that was cut
    /// off [env: BACKSTAY_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Write JSON lines to standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Write no summaries: only what was asked for, findings, warnings and errors
    #[arg(long, short = 'q', global = true)]
    pub quiet: bool,
    /// Show every finding, notes too, and not only the first ones
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Use no colours
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Bytes in flight between reading and writing, such as 96M [default: 48M a processor, 96M to 512M]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_bytes)]
    pub memory_limit: Option<u64>,
    /// Send at most so many bytes a second to tiers, such as 20M
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub limit_up: Option<NonZeroU64>,
    /// Receive at most so many bytes a second from tiers, such as 20M
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub limit_down: Option<NonZeroU64>,
    /// Threads for hashing, compressing and sealing; 0: one for each processor
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Whether the command line names a key file and a passphrase file.
    #[arg(skip)]
    pub names_two_keys: bool,
}

impl Common {
    /// The same options, with what the command line leaves open taken from the environment. A key
    /// file and a passphrase file stand for each other: naming one on the command line leaves the
    /// other one of the environment alone.
    #[must_use]
    pub fn with_environment(mut self) -> Self {
        use crate::surroundings::variable;
        let path = |name: &str| variable(name).map(PathBuf::from);
        let repo = || variable("BACKSTAY_REPO").and_then(|repo| repo.into_string().ok());
        self.repo = self.repo.or_else(repo);
        self.names_two_keys = self.key_file.is_some() && self.passphrase_file.is_some();
        if self.key_file.is_none() && self.passphrase_file.is_none() {
            self.key_file = path("BACKSTAY_KEY_FILE");
            self.passphrase_file = path("BACKSTAY_PASSPHRASE_FILE");
        }
        self.cache_dir = self.cache_dir.or_else(|| path("BACKSTAY_CACHE_DIR"));
        self.state_dir = self.state_dir.or_else(|| path("BACKSTAY_STATE_DIR"));
        self
    }
}
