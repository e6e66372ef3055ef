//! The command line of `snapshot key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(crate) const KEY_EXAMPLES: &str = "\
Examples:
  snapshot key list
  snapshot key add --new-key-file writer.key --role writer --host web1
  snapshot key add --passphrase-file-new ~/passphrase --role reader --label 'me, at home'
  snapshot key add --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  snapshot key passphrase --passphrase-file old --passphrase-file-new new
  snapshot key remove 2aa6834b
  snapshot key rotate --new-key-file new.key --recovery-sheet new-sheet.txt --dry-run
  snapshot key sheet --recovery-sheet sheet.txt";

/// `snapshot key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List key slots
    #[command(after_help = KEY_EXAMPLES)]
    List,
    /// Add a key, or put it in the place of another
    Add(KeyAddArgs),
    /// Change the passphrase that the repository is opened with
    Passphrase(KeyPassphraseArgs),
    /// Remove a key slot
    Remove(KeyRemoveArgs),
    /// Begin a new generation of keys: older keys cannot read what is saved from then on
    Rotate(KeyRotateArgs),
    /// Make a further recovery sheet
    Sheet(KeySheetArgs),
}

const ADD_EXAMPLES: &str = "\
Examples:
  snapshot key add --new-key-file second.key
  snapshot key add --new-key-file writer.key --role writer --host web1
  snapshot key add --passphrase-file-new ~/passphrase --role reader --label 'me, at home'

Let Anna and Ben read by their age identities, and later Anna and Cleo:
  snapshot key add --role reader --recipient age1anna… --recipient age1ben…
  snapshot key add --role reader --recipient age1anna… --recipient age1cleo… --replaces 2aa6834b
Ben can still read what was saved until then if he kept what the slot held: see `snapshot key rotate`.";

/// `snapshot key add`.
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLES)]
pub(crate) struct KeyAddArgs {
    /// What opens it.
    #[command(flatten)]
    pub(crate) way: KeyWay,
    /// What the key may do: full, writer, reader, maintenance or verifier
    #[arg(long, default_value = "full", value_name = "ROLE")]
    pub(crate) role: backstay::format::keys::Role,
    /// The host that a writer or maintenance key signs for; this one if not given
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// What the slot says of itself, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) label: String,
    /// Remove this slot when the new one is there and was tried
    #[arg(long, value_name = "ID")]
    pub(crate) replaces: Option<String>,
}

/// What opens a new key slot.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct KeyWay {
    /// A file whose first line is the passphrase of the new key
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file_new: Option<PathBuf>,
    /// A key file to be made
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// An age recipient (age1…) whose identity will open it; may be given several times
    #[arg(long = "recipient", value_name = "AGE1…")]
    pub(crate) recipients: Vec<String>,
}

const PASSPHRASE_EXAMPLES: &str = "\
Example:
  snapshot key passphrase --passphrase-file old --passphrase-file-new new

The new one is stored and tried before the old one goes. Whoever knows the old one and has a copy of the
repository from before can still open that copy.";

/// `snapshot key passphrase`.
#[derive(Debug, Args)]
#[command(after_help = PASSPHRASE_EXAMPLES)]
pub(crate) struct KeyPassphraseArgs {
    /// A file whose first line is the new passphrase
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file_new: PathBuf,
}

const REMOVE_EXAMPLES: &str = "\
Example:
  snapshot key remove 2aa6834b

It no longer opens the repository. Who has kept the keys that were in it, and can read the repository's
files, can still read what was saved until now, and what is saved later until `snapshot key rotate`.";

/// `snapshot key remove`.
#[derive(Debug, Args)]
#[command(after_help = REMOVE_EXAMPLES)]
pub(crate) struct KeyRemoveArgs {
    /// The slot's id or its beginning, as `snapshot key list` shows it
    #[arg(value_name = "ID")]
    pub(crate) slot: String,
    /// Remove it though the repository is open by it
    #[arg(long)]
    pub(crate) force: bool,
}

const ROTATE_EXAMPLES: &str = "\
Examples:
  snapshot key rotate --new-key-file new.key --recovery-sheet new-sheet.txt --dry-run
  snapshot key rotate --new-key-file new.key --recovery-sheet new-sheet.txt --remove-old

From then on hosts with a writer key save under the new generation by themselves; everybody who reads
needs a new key (`snapshot key add`). What was saved before stays as readable for older keys as it was,
until `snapshot prune --reseal` has sealed it anew.";

/// `snapshot key rotate`.
#[derive(Debug, Args)]
#[command(after_help = ROTATE_EXAMPLES)]
pub(crate) struct KeyRotateArgs {
    /// What opens the new full key.
    #[command(flatten)]
    pub(crate) way: KeyWay,
    /// Write the new recovery sheet into a new file instead of to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_sheet: Option<PathBuf>,
    /// What the slot of the new key says of itself, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) label: String,
    /// Remove the slots of older keys that read, as far as can be told which these are
    #[arg(long)]
    pub(crate) remove_old: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

const SHEET_EXAMPLES: &str = "\
Examples:
  snapshot key sheet --recovery-sheet sheet.txt
  snapshot key sheet --recovery-sheet sheet.txt --replaces 9f8e7d6c

A sheet cannot be printed a second time: its code is not kept anywhere. This makes a new code.";

/// `snapshot key sheet`.
#[derive(Debug, Args)]
#[command(after_help = SHEET_EXAMPLES)]
pub(crate) struct KeySheetArgs {
    /// Write the sheet into a new file instead of to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_sheet: Option<PathBuf>,
    /// Remove this slot, such as that of an older sheet, when the new one is there and was tried
    #[arg(long, value_name = "ID")]
    pub(crate) replaces: Option<String>,
}
