//! What is left out by name: lines of gitignore syntax, ignore files on the way, cache tags.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use backup_core::{EntryPath, ErrorKind, Finding, FindingKind, Severity, SourceError};
use globset::GlobBuilder;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};

use crate::config::FilesConfig;
use crate::roots::RootContext;

/// The name of the tag of the Cache Directory Tagging Specification.
pub(crate) const CACHE_TAG: &CStr = c"CACHEDIR.TAG";

/// What such a tag begins with.
const CACHE_SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Largest ignore file that is read.
const MAX_IGNORE_FILE: u64 = 1 << 20;

/// All lines of the excludes of a configuration, in order, with where each stands.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Vec<(String, String)>,
    wrong: Vec<Finding>,
}

/// A builder to which a line that means nothing is an error.
fn builder() -> GitignoreBuilder {
    let mut builder = GitignoreBuilder::new("");
    builder.allow_unclosed_class(false);
    builder
}

impl Lines {
    /// Gathers the lines of the files and then those of the configuration itself, which so win. A
    /// line of a file that means nothing is a finding, and the others count.
    ///
    /// # Errors
    /// When a file cannot be read or is not UTF-8; `Invalid` for a line of the configuration that
    /// means nothing.
    pub(crate) fn read(config: &FilesConfig) -> Result<Self, SourceError> {
        let (mut lines, mut wrong) = (Vec::new(), Vec::new());
        for file in &config.exclude_files {
            let shown = file.display().to_string();
            let text = std::fs::read_to_string(config.base.join(file))
                .map_err(|cause| SourceError::io("read excludes from", shown.clone(), cause))?;
            for (line, number) in text.lines().zip(1..) {
                let (place, line) = (format!("{shown}:{number}"), line.trim_end_matches('\r'));
                match builder().add_line(None, line) {
                    Ok(_) => lines.push((place, line.to_owned())),
                    Err(cause) => wrong.push(Finding::new(
                        Severity::Warning,
                        FindingKind::Degraded,
                        place,
                        format!("a line that means nothing was passed over: {cause}"),
                    )),
                }
            }
        }
        for line in &config.excludes {
            let place = "excludes".to_owned();
            builder()
                .add_line(None, line)
                .map_err(|cause| no_pattern(&place, line, cause))?;
            lines.push((place, line.clone()));
        }
        Ok(Self { lines, wrong })
    }

    /// The lines of files that mean nothing.
    pub(crate) fn wrong(&self) -> &[Finding] {
        &self.wrong
    }

    /// The matcher for one root of `all`.
    ///
    /// # Errors
    /// `Invalid` for a line that is no pattern.
    pub(crate) fn compile(
        &self,
        root: &EntryPath,
        all: &[EntryPath],
    ) -> Result<Gitignore, SourceError> {
        let mut builder = builder();
        for (place, line) in &self.lines {
            let leads_into_a_root = all.iter().any(|other| below_root(line, other).is_some());
            let here = if leads_into_a_root {
                below_root(line, root)
            } else {
                Some(line.clone())
            };
            let Some(here) = here else { continue };
            builder
                .add_line(None, &here)
                .map_err(|cause| no_pattern(place, line, cause))?;
        }
        builder.build().map_err(|cause| {
            SourceError::new(ErrorKind::Invalid, "read", "excludes").because(cause)
        })
    }
}

fn no_pattern(place: &str, line: &str, cause: ignore::Error) -> SourceError {
    let subject = format!("{place}: {line}");
    SourceError::new(ErrorKind::Invalid, "read", subject).because(cause)
}

/// What an absolute pattern says below a root, if it leads there: `/home/*/.cache` is `/.cache`
/// below `/home/me`.
fn below_root(line: &str, root: &EntryPath) -> Option<String> {
    let (bang, pattern) = line
        .strip_prefix('!')
        .map_or(("", line), |rest| ("!", rest));
    let mut rest = pattern.strip_prefix('/')?;
    for name in root.components() {
        let (first, behind) = rest.split_once('/')?;
        if first == "**" {
            return Some(format!("{bang}/{rest}"));
        }
        let glob = GlobBuilder::new(first)
            .literal_separator(true)
            .build()
            .ok()?;
        if !glob
            .compile_matcher()
            .is_match(Path::new(OsStr::from_bytes(name)))
        {
            return None;
        }
        rest = behind;
    }
    (!rest.is_empty()).then(|| format!("{bang}/{rest}"))
}

/// The ignore files that count for a folder: its own and those above.
#[derive(Debug)]
pub(crate) struct IgnoreNode {
    /// Length of the folder's path with slashes.
    base_len: usize,
    matcher: Gitignore,
    above: Option<Arc<IgnoreNode>>,
}

impl IgnoreNode {
    /// Reads an ignore file of an open folder. Lines that are no pattern come back as text; the
    /// others count.
    pub(crate) fn read(
        folder: impl AsFd,
        name: &str,
        base_len: usize,
        above: Option<Arc<Self>>,
    ) -> io::Result<(Self, Vec<String>)> {
        let file = open_plain(folder, name)?;
        let mut bytes = Vec::new();
        let read = file.take(MAX_IGNORE_FILE + 1).read_to_end(&mut bytes)?;
        if u64::try_from(read).is_ok_and(|read| read > MAX_IGNORE_FILE) {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        let mut builder = builder();
        let mut wrong = Vec::new();
        for line in bytes.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let added = str::from_utf8(line)
                .map_err(|cause| cause.to_string())
                .and_then(|line| {
                    builder
                        .add_line(None, line)
                        .map(|_| ())
                        .map_err(|cause| cause.to_string())
                });
            if let Err(cause) = added {
                wrong.push(format!("{}: {cause}", String::from_utf8_lossy(line)));
            }
        }
        let matcher = builder.build().map_err(io::Error::other)?;
        Ok((
            Self {
                base_len,
                matcher,
                above,
            },
            wrong,
        ))
    }
}

/// Opens a regular file in a folder, without following a link or waiting for anybody.
fn open_plain(folder: impl AsFd, name: impl rustix::path::Arg) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd: OwnedFd = openat(folder, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(File::from(fd))
}

/// Whether the `CACHEDIR.TAG` in an open folder is one.
pub(crate) fn has_cache_signature(folder: impl AsFd) -> bool {
    let mut start = [0; CACHE_SIGNATURE.len()];
    open_plain(folder, CACHE_TAG)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && start == *CACHE_SIGNATURE
}

/// Whether something is left out by the lines that count where it stands. `path` is its whole
/// path with slashes and none in front.
pub(crate) fn is_left_out(
    root: &RootContext,
    ignores: Option<&Arc<IgnoreNode>>,
    path: &[u8],
    is_dir: bool,
) -> bool {
    let verdict = |matcher: &Gitignore, base_len: usize| {
        if matcher.is_empty() {
            return None;
        }
        match matcher.matched(behind(path, base_len), is_dir) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        }
    };
    if let Some(out) = verdict(&root.excludes, root.base_len) {
        return out;
    }
    let mut next = ignores;
    while let Some(node) = next {
        if let Some(out) = verdict(&node.matcher, node.base_len) {
            return out;
        }
        next = node.above.as_ref();
    }
    false
}

/// What stands behind the first `base_len` bytes of a path and the slash after them.
fn behind(path: &[u8], base_len: usize) -> &Path {
    let skipped = if base_len == 0 { 0 } else { base_len + 1 };
    Path::new(OsStr::from_bytes(path.get(skipped..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::from_slashed(text.as_bytes()).unwrap()
    }

    fn left_out(lines: &[&str], root: &str, roots: &[&str], name: &str, is_dir: bool) -> bool {
        let lines = Lines::read(&FilesConfig {
            excludes: lines.iter().map(ToString::to_string).collect(),
            ..FilesConfig::default()
        })
        .unwrap();
        let all: Vec<EntryPath> = roots.iter().map(|root| path(root)).collect();
        let context = RootContext {
            base_len: path(root).to_slashed().len(),
            excludes: lines.compile(&path(root), &all).unwrap(),
            follow: false,
        };
        is_left_out(&context, None, &path(name).to_slashed(), is_dir)
    }

    #[test]
    fn a_line_that_leads_into_a_root_is_an_absolute_path() {
        let here = |lines: &[&str], name| left_out(lines, "/home/me", &["/home/me"], name, false);
        assert!(here(&["/home/me/tmp"], "/home/me/tmp"));
        assert!(here(&["/home/*/tmp"], "/home/me/tmp"));
        assert!(here(&["/home/**/tmp"], "/home/me/a/tmp"));
        assert!(!here(&["/home/you/tmp"], "/home/me/tmp"));
        assert!(here(&["/tmp"], "/home/me/tmp"));
        assert!(!here(&["/tmp"], "/home/me/a/tmp"));
        assert!(!here(&["/home/*/tmp", "!/home/me/tmp"], "/home/me/tmp"));
        assert!(left_out(&["/etc/ssl"], "/", &["/"], "/etc/ssl", true));
    }

    #[test]
    fn an_absolute_line_for_one_root_says_nothing_in_another() {
        let roots = ["/etc", "/srv"];
        assert!(left_out(&["/etc/ssl"], "/etc", &roots, "/etc/ssl", true));
        assert!(!left_out(
            &["/etc/ssl"],
            "/srv",
            &roots,
            "/srv/etc/ssl",
            true
        ));
    }

    #[test]
    fn a_line_that_is_no_pattern_is_named() {
        let read = |line: &str| {
            let excludes = vec![line.to_owned()];
            let config = FilesConfig {
                excludes,
                ..FilesConfig::default()
            };
            Lines::read(&config).map(|_| ())
        };
        for line in ["a[z-a]", "[bad"] {
            let error = read(line).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.to_string().contains(line), "{error}");
        }
        assert!(read("\\[good").is_ok());
    }
}
