//! Options that every command knows.

use std::path::PathBuf;

use clap::{Args, ColorChoice};

use crate::text::parse_bytes;

/// Options that every command of both programs knows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// The repository: a folder or a URL
    #[arg(long, short = 'r', global = true, env = "BACKSTAY_REPO", value_name = "PATH|URL")]
    pub repo: Option<String>,
    /// The key file that opens the repository
    #[arg(long, short = 'k', global = true, env = "BACKSTAY_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A file whose first line is the passphrase that opens the repository
    #[arg(long, global = true, env = "BACKSTAY_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Where the local cache is kept; it may be lost at any time
    #[arg(long, global = true, env = "BACKSTAY_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Write JSON lines to standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but results, warnings and errors
    #[arg(long, short = 'q', global = true)]
    pub quiet: bool,
    /// Say more; twice: everything
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Use no colours
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Bytes in flight between reading and writing, such as 96M
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_bytes)]
    pub memory_limit: Option<u64>,
    /// Threads for hashing, compressing and sealing; 0: one for each processor
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
}

impl Common {
    /// Whether colours may be used on a terminal.
    #[must_use]
    pub const fn colors(&self, forbidden_by_environment: bool) -> ColorChoice {
        if self.no_color || forbidden_by_environment {
            ColorChoice::Never
        } else {
            ColorChoice::Auto
        }
    }
}
