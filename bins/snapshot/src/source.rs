//! What is to be saved, from the command line.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay::core::{Location, Source};
use backstay::retention::Span;
use backstay::source_command::{CommandConfig, CommandSource, StdinSource};
use backstay::source_files::{FilesConfig, FilesSource, config_of, without_parents};
use backup_terminal::access::{parse_location, registry};
use backup_terminal::{Failure, Outcome, parse_entry_path, surroundings, text};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::{LeaveOut, SaveArgs};

/// Longest name that is made up, in bytes.
const MAX_MADE_UP_NAME: usize = 200;
/// Longest name of a file that file systems take, in bytes.
const MAX_FILE_NAME: usize = 255;

/// A source and the name that its snapshots have if none is given.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The source.
    pub(crate) source: Arc<dyn Source>,
    /// The name.
    pub(crate) name: String,
    /// Of files: what of them. They may be counted without reading content.
    pub(crate) files: Option<FilesConfig>,
    /// The folder of the repository itself, where it lies in what is saved and is left out.
    pub(crate) left_out: Option<PathBuf>,
}

impl Chosen {
    fn of_files(config: FilesConfig, name: String, left_out: Option<&Path>) -> Self {
        Self {
            source: Arc::new(FilesSource::new(config.clone())),
            name,
            left_out: left_out.map(Path::to_path_buf),
            files: Some(config),
        }
    }

    /// Leaves further folders out.
    pub(crate) fn leave_out(&mut self, folders: Vec<PathBuf>) {
        if let Some(config) = &mut self.files {
            config.left_out.extend(folders);
            self.source = Arc::new(FilesSource::new(config.clone()));
        }
    }
}

/// Chooses the source. A repository in a folder that is saved would be saved into itself, more of it
/// each time, so `repository` is left out.
pub(crate) fn choose(
    args: &SaveArgs,
    now: Timestamp,
    repository: Option<&Path>,
) -> Outcome<Chosen> {
    if args.command.is_some() || args.stdin.is_some() {
        if args.leave_out.is_given() {
            return Err(no_excludes());
        }
        return stream(args);
    }
    let registry = registry(None)?;
    let url = |path: &OsString| {
        let text = path.to_str()?;
        let (scheme, rest) = text.split_once(':')?;
        // What looks like a URL and is no file gets the answer which sources there are.
        let is_url = rest.starts_with("//") && !Path::new(path).exists();
        (is_url || registry.has_source(scheme)).then(|| text.to_owned())
    };
    let urls: Vec<String> = args.paths.iter().filter_map(url).collect();
    match (&urls[..], args.paths.len()) {
        ([], _) => files(args, now, repository),
        ([url], 1) => {
            if args.leave_out.is_given() {
                return Err(Failure::usage(
                    "options that leave something out do not go with a URL",
                    "write them into the URL: files:///srv?exclude=*.tmp",
                ));
            }
            let location = parse_location(url)?;
            if location.scheme() == backstay::source_files::KIND {
                return files_url(&location, repository);
            }
            Ok(Chosen {
                source: registry.open_source(&location)?,
                name: name_of_url(&location),
                files: None,
                left_out: None,
            })
        }
        _ => Err(Failure::usage(
            "a URL is saved by itself",
            "make one snapshot for each URL, and one for the paths",
        )),
    }
}

fn no_excludes() -> Failure {
    Failure::usage(
        "options that leave something out go with paths only",
        "take them off the command line",
    )
}

/// Whether a folder lies in one of the roots and is none itself, by whatever way they are reached.
fn lies_in(folder: &Path, roots: &[PathBuf]) -> bool {
    let folder = surroundings::real_path(folder);
    let mut roots = roots.iter().map(|root| surroundings::real_path(root));
    let is_below = roots.clone().any(|root| folder.starts_with(root));
    is_below && roots.all(|root| root != folder)
}

/// The absolute path under which a root is stored.
fn stored_path(root: &Path) -> PathBuf {
    let absolute = surroundings::absolute(root);
    // What cannot be resolved cannot be saved either, and its source says why.
    without_parents(&absolute).unwrap_or(absolute)
}

fn files_url(location: &Location, repository: Option<&Path>) -> Outcome<Chosen> {
    let mut config = config_of(location)?;
    let roots: Vec<PathBuf> = config.roots.iter().map(|root| stored_path(root)).collect();
    config.left_out.extend(repository.map(Path::to_path_buf));
    let left_out = repository.filter(|folder| lies_in(folder, &roots));
    Ok(Chosen::of_files(config, name_of_url(location), left_out))
}

fn files(args: &SaveArgs, now: Timestamp, repository: Option<&Path>) -> Outcome<Chosen> {
    let roots: Vec<PathBuf> = args.paths.iter().map(PathBuf::from).collect();
    let absolute: Vec<PathBuf> = roots.iter().map(|root| stored_path(root)).collect();
    let leave_out = &args.leave_out;
    for file in &leave_out.exclude_files {
        File::open(file).map_err(|error| {
            Failure::usage(
                format!("read excludes from {}: {error}", text::path(file)),
                "check the path of --exclude-file",
            )
        })?;
    }
    let left_out = repository.filter(|folder| lies_in(folder, &absolute));
    let age = |span: Span| now.duration_since(span.before(now, &TimeZone::system()));
    let config = FilesConfig {
        roots,
        base: surroundings::current_folder(),
        excludes: leave_out.excludes.clone(),
        left_out: repository.map(Path::to_path_buf).into_iter().collect(),
        exclude_files: leave_out.exclude_files.clone(),
        ignore_files: leave_out.ignore_files.clone(),
        exclude_caches: leave_out.exclude_caches,
        exclude_if_present: leave_out.exclude_if_present.clone(),
        one_file_system: leave_out.one_file_system,
        exclude_larger_than: leave_out.exclude_larger_than,
        exclude_smaller_than: leave_out.exclude_smaller_than,
        exclude_older_than: leave_out.exclude_older_than.map(age),
        exclude_newer_than: leave_out.exclude_newer_than.map(age),
        ..FilesConfig::default()
    };
    let name = name_of(absolute.iter().map(PathBuf::as_path));
    Ok(Chosen::of_files(config, name, left_out))
}

fn stream(args: &SaveArgs) -> Outcome<Chosen> {
    if let Some(name) = &args.stdin {
        if std::io::stdin().is_terminal() {
            return Err(Failure::usage(
                "standard input is a terminal",
                "pipe something in: pg_dump -Fc -Z0 shop | snapshot save --stdin shop.dump",
            ));
        }
        let file = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)?;
        return Ok(Chosen {
            source: Arc::new(StdinSource::of_file(file, entry_name(name)?)),
            name: name_of([Path::new(name)]),
            files: None,
            left_out: None,
        });
    }
    let command = args.command.as_deref().unwrap_or_default();
    let first = command.split_whitespace().next().ok_or_else(|| {
        Failure::usage(
            "the command is empty",
            "write it in quotes: --command 'pg_dump -Fc shop'",
        )
    })?;
    let program = name_of([Path::new(first.rsplit('/').next().unwrap_or(first))]);
    let entry = entry_name(args.name.as_ref().unwrap_or(&program))?;
    let config = CommandConfig::new(entry, shell(command));
    Ok(Chosen {
        source: Arc::new(CommandSource::new(config)),
        name: format!("{program}-{}", digest_of(command)),
        files: None,
        left_out: None,
    })
}

/// The name of a stream, which must be a path that can stand in a snapshot.
fn entry_name(name: &str) -> Outcome<String> {
    let path = parse_entry_path(name.as_bytes())?;
    if path.is_root() {
        return Err(Failure::usage(
            "the name of the stream is empty",
            "write one such as shop.dump",
        ));
    }
    if path.components().any(|part| part.len() > MAX_FILE_NAME) {
        return Err(Failure::usage(
            format!(
                "the stream is stored as a file of its name, and none has more than {MAX_FILE_NAME} bytes"
            ),
            "choose a shorter name, such as shop.dump",
        ));
    }
    Ok(name.to_owned())
}

/// The shell that runs a command: one that lets a pipeline fail with any of its parts, where there
/// is one, for otherwise `pg_dump | gzip` succeeds with half a dump.
fn shell(command: &str) -> Vec<&str> {
    if Path::new("/bin/bash").exists() {
        vec!["/bin/bash", "-o", "pipefail", "-c", command]
    } else {
        vec!["/bin/sh", "-c", command]
    }
}

impl LeaveOut {
    fn is_given(&self) -> bool {
        !self.excludes.is_empty()
            || !self.exclude_files.is_empty()
            || !self.ignore_files.is_empty()
            || !self.exclude_if_present.is_empty()
            || self.exclude_caches
            || self.exclude_larger_than.is_some()
            || self.exclude_smaller_than.is_some()
            || self.exclude_older_than.is_some()
            || self.exclude_newer_than.is_some()
            || self.one_file_system
    }
}

/// The name of a snapshot of these paths: the paths themselves without the slash in front, so that
/// `/srv/a/data` and `/srv/b/data` are lines of their own.
fn name_of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> String {
    let mut names: Vec<String> = Vec::new();
    for path in paths {
        let name = one_name(path.as_os_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let name = names.join("+");
    if name.len() <= MAX_MADE_UP_NAME {
        return name;
    }
    let head: String = name.chars().take(100).collect();
    format!("{head}…{}", digest_of(&name))
}

/// The name of a snapshot of a URL: that of its stream, or else of its path.
fn name_of_url(location: &Location) -> String {
    let stream = (location.scheme() == backstay::source_command::KIND)
        .then(|| location.option("name"))
        .flatten();
    name_of([Path::new(stream.unwrap_or(location.path()))])
}

/// What tells one text from others: of a command line it shows nothing.
fn digest_of(text: &str) -> String {
    let digest = backstay::integrity::digest::ContentDigest::of(text.as_bytes());
    digest.to_string().chars().take(12).collect()
}

fn one_name(path: &OsStr) -> String {
    let bytes = path.as_bytes();
    let parts: Vec<String> = bytes
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(text::escape)
        .collect();
    if parts.is_empty() {
        "system".into()
    } else {
        parts.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(paths: &[&str]) -> String {
        name_of(paths.iter().map(Path::new))
    }

    #[test]
    fn a_folder_lies_in_roots_that_are_not_itself() {
        let lies = |folder: &str, roots: &[&str]| {
            let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
            lies_in(Path::new(folder), &roots)
        };
        assert!(lies("/no/a b/[x]", &["/no", "/other"]));
        assert!(!lies("/nothing", &["/no", "/other"]));
        assert!(!lies("/no/repo", &["/no/repo", "/no/repo/below"]));
        assert!(!lies("/no/repo", &["/no", "/no/repo"]));
    }

    #[test]
    fn names_tell_folders_of_equal_names_apart() {
        assert_eq!(name(&["/etc"]), "etc");
        assert_eq!(name(&["/srv/a/data/"]), "srv/a/data");
        assert_eq!(name(&["/etc", "/home/me"]), "etc+home/me");
        assert_eq!(name(&["/"]), "system");
        let long = format!("/{}", "x".repeat(300));
        assert!(name(&[&long]).len() < MAX_MADE_UP_NAME);
        assert_ne!(name(&[&long]), name(&[&format!("{long}y")]));
    }
}
