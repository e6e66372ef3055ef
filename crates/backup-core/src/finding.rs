//! What is wrong with data, as a value: a finding stands in a report and a manifest, it is not an
//! error. A report with findings is exit code 3, never success.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::path::EntryPath;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know; does not change the exit code.
    Note,
    /// Something was degraded; what is stored is whole in itself.
    Warning,
    /// Something is missing or wrong.
    Error,
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingKind {
    /// It could not be read: permission, I/O error.
    Unreadable,
    /// It was there when listed and gone when opened.
    Vanished,
    /// It changed while it was read, twice.
    ChangedWhileRead,
    /// Some of its metadata could not be read or set.
    Metadata,
    /// Left out by a limit of the request.
    Skipped,
    /// Done in a lesser way than asked for (full instead of incremental, copy instead of link).
    Degraded,
    /// An object is missing from the tier.
    Missing,
    /// An object or a part of it does not match its checksum or cannot be decoded.
    Damaged,
    /// A signature, a chain or a root does not match.
    Mismatch,
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "unreadable",
            Self::Vanished => "vanished",
            Self::ChangedWhileRead => "changed while read",
            Self::Metadata => "metadata",
            Self::Skipped => "skipped",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Mismatch => "mismatch",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of thing.
    pub kind: FindingKind,
    /// What it happened to: a path, an object, a table.
    pub subject: String,
    /// What happened, in one sentence.
    pub detail: String,
}

impl Finding {
    /// A finding of the given severity.
    #[must_use]
    pub fn new(
        severity: Severity,
        kind: FindingKind,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            kind,
            subject: subject.into(),
            detail: detail.into(),
        }
    }

    /// An error about an entry of a snapshot. The subject is its path from the slash of the root on.
    #[must_use]
    pub fn entry(kind: FindingKind, path: &EntryPath, detail: impl Into<String>) -> Self {
        Self::new(Severity::Error, kind, format!("/{path}"), detail)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.kind, self.detail)
    }
}
