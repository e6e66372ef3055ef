//! Roots: made absolute, checked, and laid into one tree, so that the walk of several roots is
//! one walk in the order of their paths.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use backup_core::{EntryPath, ErrorKind, SourceError};
use ignore::gitignore::Gitignore;
use rustix::fs::{Stat, lstat, stat};

use crate::config::FilesConfig;
use crate::exclude::Lines;

/// One root as the request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootSpec {
    /// As it was given.
    pub(crate) given: PathBuf,
    /// Its absolute path.
    pub(crate) path: EntryPath,
    /// Whether a link in its place is followed.
    pub(crate) follow: bool,
}

impl RootSpec {
    /// The absolute path to give to the operating system.
    pub(crate) fn absolute(&self) -> PathBuf {
        let mut bytes = vec![b'/'];
        bytes.extend_from_slice(&self.path.to_slashed());
        if self.follow && !self.path.is_root() {
            bytes.push(b'/');
        }
        PathBuf::from(OsStr::from_bytes(&bytes))
    }

    /// What stands there now.
    pub(crate) fn stat(&self) -> Result<Stat, SourceError> {
        let path = self.absolute();
        let found = if self.follow {
            stat(&path)
        } else {
            lstat(&path)
        };
        found.map_err(|cause| {
            SourceError::io("open", self.given.display().to_string(), cause.into())
        })
    }
}

/// The roots of a configuration that `select` names (all, when it names none).
///
/// # Errors
/// `Invalid` for a relative root without a base, for a root that cannot be an entry's path, for
/// no root at all and for a selection that is none of the roots.
pub(crate) fn resolve(
    config: &FilesConfig,
    select: &[String],
) -> Result<Vec<RootSpec>, SourceError> {
    let invalid = |subject: String, why: &str| {
        SourceError::new(ErrorKind::Invalid, "plan", subject).because(why.to_owned())
    };
    if config.roots.is_empty() {
        return Err(invalid("files".into(), "no root is given"));
    }
    let mut specs = Vec::new();
    for given in &config.roots {
        if given.as_os_str().is_empty() {
            return Err(invalid("root".into(), "it is empty"));
        }
        let joined = config.base.join(given);
        if !joined.is_absolute() {
            let why = "it is relative, and no absolute base is given";
            return Err(invalid(given.display().to_string(), why));
        }
        let bytes = given.as_os_str().as_bytes();
        let follow = bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b".";
        let plain = without_parents(&joined)
            .map_err(|cause| SourceError::io("open", given.display().to_string(), cause))?;
        let path = entry_path(&plain)
            .map_err(|why| invalid(given.display().to_string(), &why.to_string()))?;
        specs.push(RootSpec {
            given: given.clone(),
            path,
            follow,
        });
    }
    if let Some(unknown) = select
        .iter()
        .find(|name| !specs.iter().any(|s| s.is_named(name)))
    {
        return Err(invalid(unknown.clone(), "it is none of the roots"));
    }
    if !select.is_empty() {
        specs.retain(|spec| select.iter().any(|name| spec.is_named(name)));
    }
    specs.sort_by(|a, b| a.path.cmp(&b.path));
    // Of two that differ in the slash at the end only, the one that follows says more.
    specs.dedup_by(|next, kept| {
        let same = next.path == kept.path;
        kept.follow |= same && next.follow;
        same
    });
    Ok(specs)
}

impl RootSpec {
    fn is_named(&self, name: &str) -> bool {
        let absolute = self.path.to_string();
        self.given.as_os_str() == OsStr::new(name) || format!("/{absolute}") == name
    }
}

/// The path under which a root is stored that is written with `..`.
///
/// `a/link/..` is the folder above what the link leads to, so everything up to the last `..` is
/// resolved by the operating system; what follows it is kept as given.
///
/// # Errors
/// What the system says of a folder on the way.
pub fn without_parents(path: &Path) -> std::io::Result<PathBuf> {
    let components: Vec<Component<'_>> = path.components().collect();
    let Some(last) = components.iter().rposition(|c| *c == Component::ParentDir) else {
        return Ok(path.to_owned());
    };
    let (before, after) = components.split_at(last + 1);
    let mut resolved = before.iter().collect::<PathBuf>().canonicalize()?;
    resolved.extend(after);
    Ok(resolved)
}

fn entry_path(absolute: &Path) -> Result<EntryPath, backup_core::path::PathError> {
    let mut out = EntryPath::root();
    for component in absolute.components() {
        if let Component::Normal(name) = component {
            out.push(name.as_bytes())?;
        }
    }
    Ok(out)
}

/// A root that the walk has reached.
#[derive(Debug)]
pub(crate) struct RootContext {
    /// Length of its path with slashes: what stands behind it is relative to the root.
    pub(crate) base_len: usize,
    /// The configuration's excludes as they count in this root.
    pub(crate) excludes: Gitignore,
    /// Whether a link in its place is followed.
    pub(crate) follow: bool,
}

/// A place in the tree of roots: a root, or on the way to one, or both.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Set where a root begins.
    pub(crate) root: Option<Arc<RootContext>>,
    /// The next names on the way to further roots.
    pub(crate) below: BTreeMap<Vec<u8>, Arc<Wanted>>,
}

/// The tree of all roots, from `/`.
///
/// # Errors
/// `Invalid` for a line of the excludes that is no pattern.
pub(crate) fn tree(specs: &[RootSpec], lines: &Lines) -> Result<Wanted, SourceError> {
    let paths: Vec<EntryPath> = specs.iter().map(|spec| spec.path.clone()).collect();
    let mut top = Wanted::default();
    for spec in specs {
        let context = RootContext {
            base_len: spec.path.to_slashed().len(),
            excludes: lines.compile(&spec.path, &paths)?,
            follow: spec.follow,
        };
        insert(&mut top, &spec.path, context);
    }
    Ok(top)
}

fn insert(top: &mut Wanted, path: &EntryPath, context: RootContext) {
    let mut place = top;
    for name in path.components() {
        let next = place.below.entry(name.to_vec()).or_default();
        // Nobody else holds the tree while it is built.
        let Some(next) = Arc::get_mut(next) else {
            return;
        };
        place = next;
    }
    place.root = Some(Arc::new(context));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(roots: &[&str], base: &str) -> Vec<(String, bool)> {
        let config = FilesConfig {
            base: base.into(),
            ..FilesConfig::of_roots(roots.iter().copied())
        };
        let specs = resolve(&config, &[]).unwrap();
        specs
            .into_iter()
            .map(|spec| (spec.path.to_string(), spec.follow))
            .collect()
    }

    #[test]
    fn roots_become_absolute_sorted_and_single() {
        let got = paths(&["b", "/a", "./b/", ".", "/a//x/./y"], "/home/me");
        let want = [
            ("a", false),
            ("a/x/y", false),
            ("home/me", true),
            ("home/me/b", true),
        ];
        assert_eq!(got, want.map(|(path, follow)| (path.to_owned(), follow)));
    }

    #[test]
    fn parents_are_resolved_as_the_operating_system_does() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("far/inner")).unwrap();
        std::os::unix::fs::symlink("far/inner", real.join("link")).unwrap();
        let got = paths(&["link/../x"], real.to_str().unwrap());
        assert_eq!(
            got,
            [(format!("{}/far/x", &real.to_str().unwrap()[1..]), false)]
        );
    }

    #[test]
    fn a_relative_root_needs_a_base_and_a_selection_needs_a_root() {
        let config = FilesConfig::of_roots(["a"]);
        assert_eq!(resolve(&config, &[]).unwrap_err().kind, ErrorKind::Invalid);
        assert!(resolve(&FilesConfig::default(), &[]).is_err());
        let config = FilesConfig::of_roots(["/a", "/b"]);
        assert_eq!(resolve(&config, &["/b".into()]).unwrap().len(), 1);
        let error = resolve(&config, &["/c".into()]).unwrap_err();
        assert!(error.to_string().contains("/c"), "{error}");
    }
}
