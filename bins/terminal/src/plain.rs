//! Failures of exports and imports as people see them.

use backstay::engine::EngineError;
use backstay::export::ExportError;

use crate::exit::Exit;
use crate::failure::Failure;

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let what = error.to_string();
        match error {
            ExportError::Engine(EngineError::Cancelled) => Self::new(
                Exit::Interrupted,
                "interrupted",
                "nothing that looks finished is left; run the command again",
            ),
            ExportError::Engine(EngineError::TargetFull(_)) => Self::new(
                Exit::Failed,
                what,
                "make room, or choose another place with --to; then run it again",
            ),
            ExportError::Engine(error) => error.into(),
            ExportError::File { op, path, source } => Self::file(op, &path, &source),
            ExportError::Exists(_) => Self::new(
                Exit::Conflict,
                what,
                "use it, or move it away and export again",
            ),
            ExportError::InTheWay { .. } => Self::new(
                Exit::Conflict,
                what,
                "look what is there, or choose another place",
            ),
            ExportError::Damaged { .. } => Self::new(
                Exit::Damage,
                format!("{what}; there is no export"),
                "`snapshot repair --dry-run` tells what can be mended; `restore run --salvage` brings back the rest",
            ),
            ExportError::NotWritten { .. } => Self::new(
                Exit::Failed,
                format!("{what}; there is no export"),
                "choose a place that takes it with --to, or an archive (--layout tar.zst)",
            ),
            ExportError::NotWhole { .. } => Self::new(
                Exit::Damage,
                what,
                "take another copy of it; nothing of it was imported",
            ),
            ExportError::Invalid(_) => Self::usage(what, "see --help for what can be asked for"),
            ExportError::Encrypt { .. } => Self::new(
                Exit::Failed,
                format!("{what}; there is no export"),
                "mend that, then run the command again",
            ),
        }
    }
}
