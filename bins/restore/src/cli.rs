//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use backstay::integrity::sign::PublicKey;
use backup_terminal::{Common, Filter};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::export::ExportArgs;
use crate::warm::WarmArgs;

const EXAMPLES: &str = "\
Examples:
  restore list --repo /mnt/nas/backup --key-file ~/backup.key
  restore run latest --to /tmp/restored
  restore run latest:/etc/nginx --to /tmp/nginx --verify
  restore ls latest:home/me:/home/me -l
  restore cat latest:/etc/fstab
  restore run latest --to /tmp/restored --also-from sftp://backup@nas/srv/backup
  restore sums latest | (cd /tmp/restored && sha256sum -c --quiet)
  restore export latest --to /mnt/exports --layout tar.zst
  restore warm latest --dry-run

SNAPSHOT is an id, its beginning or end, latest, latest:NAME, latest:HOST:NAME, or a
time or a day (the newest not after it).
A path follows behind a colon and begins with a slash.";

/// Restores snapshots and looks into them
#[derive(Debug, Parser)]
#[command(name = "restore", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Another copy of the repository, opened by the same key: what the repository lacks or has damaged is read there; may be
    /// given several times, the nearest first
    #[arg(long, global = true, value_name = "PATH|URL", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) also_from: Vec<String>,
    /// Options of every command.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List snapshots
    List(ListArgs),
    /// List the entries of a folder of a snapshot
    Ls(LsArgs),
    /// Find entries by name in snapshots
    Find(FindArgs),
    /// Write the content of a file to standard output
    Cat(CatArgs),
    /// Restore a snapshot or a part of it into a folder
    Run(Box<RunArgs>),
    /// Ask an archive for what a restore needs, and say what that comes to
    Warm(WarmArgs),
    /// Export a snapshot as files or archives that need no Backstay to be read
    Export(Box<ExportArgs>),
    /// Show what differs between two snapshots
    Diff(DiffArgs),
    /// Write SHA-256 sums of files, for `sha256sum -c`
    Sums(SumsArgs),
    /// Write a small file that proves one entry to others
    Prove(ProveArgs),
    /// Check such a file; needs neither repository nor key
    CheckProof(CheckProofArgs),
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

const LIST_EXAMPLES: &str = "\
Examples:
  restore list --name shop
  restore list --json | jq -r .id";

const LS_EXAMPLES: &str = "\
Examples:
  restore ls latest:/etc
  restore ls latest:shop -R -l";

const FIND_EXAMPLES: &str = "\
Examples:
  restore find '*.conf'
  restore find '/home/**/thesis.tex' -l --snapshot latest";

const CAT_EXAMPLES: &str = "\
Examples:
  restore cat latest:/etc/fstab
  restore cat latest:shop:/shop.dump | pg_restore -d shop";

const DIFF_EXAMPLES: &str = "\
Examples:
  restore diff 7Q2M0XVA latest
  restore diff 2026-11-20 2026-11-21 /etc";

const SUMS_EXAMPLES: &str = "\
Examples:
  restore sums latest | (cd /tmp/restored && sha256sum -c --quiet)
  restore sums latest:/etc/nginx";

const PROVE_EXAMPLES: &str = "\
Examples:
  restore prove latest:/srv/contract.pdf -o contract.proof
  restore check-proof contract.proof --file contract.pdf";

const COMPLETION_EXAMPLES: &str = "\
Example:
  restore completion bash > ~/.local/share/bash-completion/completions/restore";

const MAN_EXAMPLES: &str = "\
Example:
  restore man ~/.local/share/man/man1";

/// `restore list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// `restore ls`.
#[derive(Debug, Args)]
#[command(after_help = LS_EXAMPLES)]
pub(crate) struct LsArgs {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub(crate) snapshot: OsString,
    /// Everything below, not only the folder itself
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// With mode, owner, size and time
    #[arg(long, short = 'l')]
    pub(crate) long: bool,
}

/// `restore find`.
#[derive(Debug, Args)]
#[command(after_help = FIND_EXAMPLES)]
pub(crate) struct FindArgs {
    /// Glob: of a name, or with a slash in it of a path from the root
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Only in this snapshot; may be given several times
    #[arg(long = "snapshot", short = 's', value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,
    /// With mode, owner, size and time
    #[arg(long, short = 'l')]
    pub(crate) long: bool,
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// `restore cat`.
#[derive(Debug, Args)]
#[command(after_help = CAT_EXAMPLES)]
pub(crate) struct CatArgs {
    /// The snapshot, and the file in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub(crate) file: OsString,
}

const RUN_EXAMPLES: &str = "\
Examples:
  restore run latest --to /tmp/restored                 (/etc/hosts becomes /tmp/restored/etc/hosts)
  restore run latest:/etc/nginx --to /tmp/nginx         (what is in /etc/nginx, into /tmp/nginx)
  restore run latest:/etc/fstab --to /tmp               (/tmp/fstab)
  restore run latest --to / --overwrite if-newer --include /srv
  restore run latest:/srv --to /srv --overwrite always --delete --dry-run
  restore run 2026-11-21T10:00:00Z --to /tmp/then --include '*.conf' --dry-run
  restore run latest --to /mnt --salvage --report /root/lost.jsonl    (from a damaged repository)

Nothing that is there is overwritten unless --overwrite says so. An interrupted restore is
completed by running the command again.";

/// `restore run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub(crate) snapshot: OsString,
    /// The folder to restore into; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Only what matches a glob, and all that is in it; may be given several times. A glob with a
    /// slash counts from the root of the snapshot, also behind a PATH
    #[arg(long = "include", short = 'i', value_name = "GLOB")]
    pub(crate) includes: Vec<String>,
    /// Not what matches a glob, nor what is in it; may be given several times
    #[arg(long = "exclude", short = 'e', value_name = "GLOB")]
    pub(crate) excludes: Vec<String>,
    /// What to do with what is there already
    #[arg(long, value_enum, default_value_t = Overwrite::Never)]
    pub(crate) overwrite: Overwrite,
    /// Write into the files that are to be overwritten, and not beside them: needs no space for
    /// both, but a restore that does not come to its end leaves neither
    #[arg(long)]
    pub(crate) in_place: bool,
    /// Do not wait until everything is on the disk: faster, and a power loss within a minute can take
    /// what was restored and what that replaced
    #[arg(long, env = "BACKSTAY_NO_SYNC", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_sync: bool,
    /// Delete below restored folders what the snapshot does not have
    #[arg(long)]
    pub(crate) delete: bool,
    /// Read what was restored and compare it with its SHA-256
    #[arg(long)]
    pub(crate) verify: bool,
    /// Of files of which a part is lost keep the rest, as NAME.backstay-partial beside their place, with
    /// zeros where bytes are lost. Without it such files fail
    #[arg(long, conflicts_with_all = ["in_place", "verify", "delete"])]
    pub(crate) salvage: bool,
    /// Write what is lost, file by file and range by range, into a new file of JSON lines
    #[arg(long, value_name = "FILE", requires = "salvage")]
    pub(crate) report: Option<PathBuf>,
    /// Whom entries belong to
    #[arg(long, value_enum, default_value_t = Owner::Name)]
    pub(crate) owner: Owner,
    /// Leave holes wherever content is zero, even in files that had none when they were saved
    #[arg(long)]
    pub(crate) sparse: bool,
    /// Fill the holes of all files: what they need of the disk is taken before anything is written
    #[arg(long, conflicts_with = "sparse")]
    pub(crate) no_sparse: bool,
    /// Leave out extended attributes and access control lists
    #[arg(long)]
    pub(crate) no_xattrs: bool,
    /// Show what would be restored and deleted, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What to do with what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Overwrite {
    /// Leave it alone
    Never,
    /// Replace what was modified before the saved one
    IfNewer,
    /// Replace it
    Always,
}

/// Whom entries belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Owner {
    /// The user and group of the saved name, else of the saved number
    Name,
    /// The saved numbers
    Number,
    /// Whoever runs this
    None,
}

/// `restore diff`.
#[derive(Debug, Args)]
#[command(after_help = DIFF_EXAMPLES)]
pub(crate) struct DiffArgs {
    /// The older snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) old: String,
    /// The newer snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) new: String,
    /// Only what is at or below this path
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<OsString>,
}

/// `restore sums`.
#[derive(Debug, Args)]
#[command(after_help = SUMS_EXAMPLES)]
pub(crate) struct SumsArgs {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub(crate) snapshot: OsString,
}

/// `restore prove`.
#[derive(Debug, Args)]
#[command(after_help = PROVE_EXAMPLES)]
pub(crate) struct ProveArgs {
    /// The snapshot, and the entry in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub(crate) entry: OsString,
    /// Write into a new file instead of to standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

const CHECK_EXAMPLES: &str = "\
Example:
  restore prove latest:/srv/contract.pdf -o contract.proof
  restore check-proof contract.proof --file contract.pdf --public-key 3b6a27bc…

Without --public-key the proof only says that somebody signed it. `snapshot show` shows the key.";

/// `restore check-proof`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub(crate) struct CheckProofArgs {
    /// The proof
    #[arg(value_name = "FILE")]
    pub(crate) proof: PathBuf,
    /// A file that is to be the one that was saved
    #[arg(long, value_name = "CONTENT")]
    pub(crate) file: Option<PathBuf>,
    /// The public key of the host, as you know it
    #[arg(long, value_name = "HEX")]
    pub(crate) public_key: Option<PublicKey>,
}
