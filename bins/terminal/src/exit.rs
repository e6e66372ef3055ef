//! Exit codes: what a script can tell from the end of a program alone.

/// How a program ended. `docs/exit-codes.md` is the page for people; a test compares the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration cannot be carried out.
    Usage = 2,
    /// It was done, and something is not as it should be.
    Findings = 3,
    /// A backup is overdue, or a tier is behind.
    Behind = 4,
    /// There is no repository.
    NoRepository = 10,
    /// Something is there already, or was changed meanwhile.
    Conflict = 11,
    /// The key does not open the repository, or may not do what was asked.
    WrongKey = 12,
    /// Stored data is damaged or missing, or the ledger does not match.
    Damage = 13,
    /// A key file, a passphrase or another secret cannot be had.
    NoSecrets = 14,
    /// A restore drill failed.
    DrillFailed = 15,
    /// A hook said that this run is to be skipped.
    Skipped = 75,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl Exit {
    /// Every code, in ascending order.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Findings,
        Self::Behind,
        Self::NoRepository,
        Self::Conflict,
        Self::WrongKey,
        Self::Damage,
        Self::NoSecrets,
        Self::DrillFailed,
        Self::Skipped,
        Self::Interrupted,
    ];

    /// The end of what was done, with findings or without.
    #[must_use]
    pub const fn done(has_findings: bool) -> Self {
        if has_findings {
            Self::Findings
        } else {
            Self::Ok
        }
    }

    /// The number that the system sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name that `--json` and the page of exit codes give it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Findings => "findings",
            Self::Behind => "behind",
            Self::NoRepository => "no-repository",
            Self::Conflict => "conflict",
            Self::WrongKey => "wrong-key",
            Self::Damage => "damage",
            Self::NoSecrets => "no-secrets",
            Self::DrillFailed => "drill-failed",
            Self::Skipped => "skipped",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
