//! Opening snapshots, and finding paths in them.

use backstay::core::{EntryKind, EntryPath, Finding, FindingKind, Severity};
use backstay::engine::view::{Seen, ViewEntry};
use backstay::engine::{EngineError, Repository, SnapshotView};
use backstay::integrity::sign::PublicKey;
use backup_terminal::{Console, Failure, Outcome, SnapshotPath, text};

/// A part of a snapshot: a component, and where in it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Number of the component.
    pub(crate) component: u8,
    /// The path.
    pub(crate) path: EntryPath,
    /// What stands there; nothing for the root itself, and for a folder whose own entry is lost.
    pub(crate) entry: Option<ViewEntry>,
}

impl Part {
    /// The path that is taken off in front so that this part's content lies at the top: the path of
    /// a folder, the folder of anything else.
    pub(crate) fn strip(&self) -> EntryPath {
        let is_folder = self
            .entry
            .as_ref()
            .is_none_or(|entry| entry.record.meta.kind == EntryKind::Directory);
        if is_folder {
            self.path.clone()
        } else {
            self.path.parent().unwrap_or_default()
        }
    }
}

/// Opens the snapshot that is meant.
pub(crate) async fn open<'r>(
    console: &Console,
    repo: &'r Repository,
    spec: &str,
) -> Outcome<SnapshotView<'r>> {
    let head = console.head(repo, spec).await?;
    Ok(SnapshotView::open(repo, head)?)
}

/// What cannot be vouched for of who wrote a snapshot. It keeps nobody from content that opens, but
/// must be known: an error for a signature that does not hold, a note where the key cannot tell.
pub(crate) fn doubt(view: &SnapshotView<'_>) -> Option<Finding> {
    let subject = format!("snapshot {}", view.meta().id);
    match view.check_signatures() {
        Ok(true) => None,
        Ok(false) => {
            let host = text::escape(view.meta().host.0.as_bytes());
            let key = PublicKey(view.head().object.public_key);
            let detail = format!(
                "this key cannot tell whether host {host} wrote it: compare {key}, the public key it is signed with, with the one that the owner of the host knows, or restore with a full key"
            );
            let (severity, kind) = (Severity::Note, FindingKind::Degraded);
            Some(Finding::new(severity, kind, subject, detail))
        }
        Err(error) => {
            let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
            Some(Finding::new(severity, kind, subject, error.to_string()))
        }
    }
}

/// The parts of a snapshot that a path means: for no path the root of every component, otherwise
/// the path in the first component that has it. A folder of which only its own entry is lost, with a
/// page that cannot be read, still means what is below it.
pub(crate) async fn parts(
    console: &Console,
    view: &SnapshotView<'_>,
    wanted: &SnapshotPath,
) -> Outcome<Vec<Part>> {
    let count = u8::try_from(view.components().len()).unwrap_or(u8::MAX);
    let Some(path) = wanted.path.as_ref().filter(|path| !path.is_root()) else {
        let root = |component| Part {
            component,
            path: EntryPath::root(),
            entry: None,
        };
        return Ok((0..count).map(root).collect());
    };
    let (mut missing, mut damage) = (None, None);
    for component in 0..count {
        match view.entry(&console.cx, component, path).await {
            Ok(entry) => {
                let (path, entry) = (path.clone(), Some(entry));
                return Ok(vec![Part {
                    component,
                    path,
                    entry,
                }]);
            }
            Err(error @ EngineError::NoPath { .. }) => missing = Some(error),
            Err(error) if error.is_damage() => {
                if has_below(console, view, component, path).await? {
                    return Ok(vec![Part {
                        component,
                        path: path.clone(),
                        entry: None,
                    }]);
                }
                damage = damage.or(Some(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    // That it is in no other component does not tell that it is not in the damaged one.
    if let Some(damage) = damage {
        return Err(damage.into());
    }
    let none = || Failure::usage("the snapshot is empty", "choose another one");
    Err(missing.map_or_else(none, Failure::from))
}

/// Whether entries below a path can be read.
async fn has_below(
    console: &Console,
    view: &SnapshotView<'_>,
    component: u8,
    path: &EntryPath,
) -> Outcome<bool> {
    let mut walk = view.entries(component, path);
    loop {
        match walk.step(&console.cx).await? {
            Some(Seen::Entry(_)) => return Ok(true),
            Some(Seen::Lost(_)) => {}
            None => return Ok(false),
        }
    }
}

/// The one entry that a path means.
pub(crate) async fn entry(
    console: &Console,
    view: &SnapshotView<'_>,
    wanted: &SnapshotPath,
) -> Outcome<ViewEntry> {
    let part = parts(console, view, wanted).await?.into_iter().next();
    match part {
        Some(Part {
            entry: Some(entry), ..
        }) => Ok(entry),
        // A folder whose own entry is lost; the error says so.
        Some(part) if !part.path.is_root() => {
            Ok(view.entry(&console.cx, part.component, &part.path).await?)
        }
        _ => Err(Failure::usage(
            "no path is named",
            "write SNAPSHOT:/PATH, such as latest:/etc/fstab",
        )),
    }
}
