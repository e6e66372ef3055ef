//! Pages of a manifest that cannot be read, and what is lost with them.
//!
//! The pages above a damaged page say where the keys in it begin and end, and how many there are. So
//! a walk goes on behind it, and what is lost can be told.

use backup_core::{EntryPath, Finding, FindingKind, Severity};
use backup_format::page::Gap;

use crate::error::EngineError;
use crate::view::{SnapshotView, manifest_key};

/// A page that cannot be read.
#[derive(Debug)]
pub struct LostPage {
    /// What it held.
    pub gap: Gap,
    /// Why it cannot be read.
    pub why: EngineError,
}

impl LostPage {
    /// Whether what the snapshot has at this path, if anything, is lost with the page.
    #[must_use]
    pub fn covers(&self, component: u8, path: &EntryPath) -> bool {
        self.begins_before(component, path) && !self.ends_before(component, path)
    }

    /// Whether the page begins at this path or before it.
    #[must_use]
    pub fn begins_before(&self, component: u8, path: &EntryPath) -> bool {
        self.gap.from <= manifest_key(component, path)
    }

    /// Whether the page ends before this path.
    #[must_use]
    pub fn ends_before(&self, component: u8, path: &EntryPath) -> bool {
        let key = manifest_key(component, path);
        self.gap.to.as_ref().is_some_and(|to| *to <= key)
    }

    /// What to tell: the page's chunk, and the paths that are lost.
    #[must_use]
    pub fn finding(&self, view: &SnapshotView<'_>) -> Finding {
        let kind = match self.why {
            EngineError::Missing { .. } => FindingKind::Missing,
            _ => FindingKind::Damaged,
        };
        let subject = format!("snapshot {}", view.meta().id);
        Finding::new(Severity::Error, kind, subject, self.detail(view))
    }

    fn detail(&self, view: &SnapshotView<'_>) -> String {
        let gap = &self.gap;
        let to = gap.to.as_ref().map_or_else(
            || "to the end".to_owned(),
            |to| format!("up to {}, which is not", place(view, to)),
        );
        format!(
            "the page of the manifest in chunk {} cannot be read ({}): lost with it is every entry \
             from {} {to} ({} in number)",
            gap.page,
            self.why,
            place(view, &gap.from),
            gap.entries
        )
    }
}

/// A key of the manifest for people: keys are untrusted and may be no paths.
fn place(view: &SnapshotView<'_>, key: &[u8]) -> String {
    let (component, stored) = key.split_first().unwrap_or((&0, &[]));
    let path = match EntryPath::from_stored(stored) {
        Ok(path) if path.is_root() => "the root".to_owned(),
        Ok(path) => path.to_string(),
        Err(_) => format!("{:?}", String::from_utf8_lossy(stored)),
    };
    if view.components().len() > 1 {
        let name = view.component_name(*component);
        return format!("{path} of component {name:?}");
    }
    path
}
