//! From a location to a sink.

use std::sync::Arc;
use std::time::Duration;

use backup_core::registry::RegistryError;
use backup_core::{Location, Registry};

use crate::create_by::CreateBy;
use crate::sink::LocalSink;

/// Nobody waits longer for a listing, in seconds.
const MOST_SETTLE: u64 = 600;

/// Why a location is not one of a local folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromLocationError {
    /// It names a host.
    #[error(
        "a local folder is on no host, but `{0}` stands where a host would; write three slashes: \
         file:///path"
    )]
    Host(String),
    /// It names no folder.
    #[error("it names no folder; write file:///path or just the path")]
    NoPath,
    /// An option that there is not.
    #[error("there is no option `{0}`; there are `create`, `create-by`, `marker` and `settle`")]
    Option(String),
    /// An option has a value that it cannot have.
    #[error("`{value}` is no value of the option `{option}`: {wanted}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
}

impl TryFrom<&Location> for LocalSink {
    type Error = FromLocationError;

    /// The sink of `/path`, `file:///path` or `local:///path`. Options: `create=yes` makes the
    /// root with the first put if it is missing; `create-by=link|rename|lock` says which way to
    /// keep writers apart is tried first (see [`CreateBy`]); `marker=NAME` names a file that is in the root of the
    /// right disk ([`LocalSink::only_beside`]); `settle=SECONDS` says how long listings may lag
    /// ([`LocalSink::settling`]).
    fn try_from(location: &Location) -> Result<Self, Self::Error> {
        if !matches!(location.authority(), "" | "localhost") {
            // What stands there may hold a password; the host is enough to see the mistake.
            let host = location.authority().rsplit('@').next().unwrap_or_default();
            return Err(FromLocationError::Host(host.to_owned()));
        }
        if location.path().is_empty() {
            return Err(FromLocationError::NoPath);
        }
        let mut sink = Self::new(location.path());
        for (option, value) in location.options() {
            sink = match option {
                "create" => sink.making_root(yes_or_no(value)?),
                "create-by" => sink.creating_by(way(value)?),
                "marker" => sink.only_beside(marker(value)?),
                "settle" => sink.settling(seconds(value)?),
                other => return Err(FromLocationError::Option(other.to_owned())),
            };
        }
        Ok(sink)
    }
}

fn yes_or_no(value: &str) -> Result<bool, FromLocationError> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(FromLocationError::Value {
            option: "create",
            value: other.to_owned(),
            wanted: "`yes` or `no`",
        }),
    }
}

fn way(value: &str) -> Result<CreateBy, FromLocationError> {
    match value {
        "link" => Ok(CreateBy::Link),
        "rename" => Ok(CreateBy::Rename),
        "lock" => Ok(CreateBy::Lock),
        other => Err(FromLocationError::Value {
            option: "create-by",
            value: other.to_owned(),
            wanted: "`link`, `rename` or `lock`",
        }),
    }
}

fn marker(value: &str) -> Result<&str, FromLocationError> {
    match value {
        "" | "." | ".." => {}
        name if name.contains('/') => {}
        name => return Ok(name),
    }
    Err(FromLocationError::Value {
        option: "marker",
        value: value.to_owned(),
        wanted: "the name of a file in the folder itself, as `.backup-disk`",
    })
}

fn seconds(value: &str) -> Result<Duration, FromLocationError> {
    match value.parse() {
        Ok(seconds @ 0..=MOST_SETTLE) => Ok(Duration::from_secs(seconds)),
        _ => Err(FromLocationError::Value {
            option: "settle",
            value: value.to_owned(),
            wanted: "a number of seconds, at most 600",
        }),
    }
}

/// Adds local folders to a registry, under the schemes `file` (which plain paths have) and
/// `local`.
///
/// # Errors
/// [`RegistryError::Twice`] when one of the names is taken.
pub fn register(registry: &mut Registry) -> Result<(), RegistryError> {
    for scheme in ["file", "local"] {
        registry.add_sink(scheme, |location| match LocalSink::try_from(location) {
            Ok(sink) => Ok(Arc::new(sink)),
            Err(error) => Err(RegistryError::config(location, error.to_string())),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<String, RegistryError> {
        let mut registry = Registry::empty();
        register(&mut registry).unwrap();
        registry
            .open_sink(&text.parse().unwrap())
            .map(|sink| sink.info().location)
    }

    #[test]
    fn paths_and_urls_name_the_same_folder() {
        for text in [
            "/srv/b k",
            "file:///srv/b%20k",
            "local:///srv/b%20k",
            "file:/srv/b%20k",
        ] {
            assert_eq!(open(text).unwrap(), "/srv/b k", "{text}");
        }
        assert_eq!(open("backups").unwrap(), "backups");
        assert_eq!(open("file://localhost/srv").unwrap(), "/srv");
    }

    #[test]
    fn mistakes_in_a_location_are_explained() {
        let told = |text| open(text).unwrap_err().to_string();
        assert!(told("file://srv/backup").contains("three slashes"));
        assert!(!told("file://me:secret@srv/backup").contains("secret"));
        assert!(told("local://").contains("names no folder"));
        assert!(told("file:///srv?creat=yes").contains("there is no option `creat`"));
        assert!(told("file:///srv?create=maybe").contains("`yes` or `no`"));
        assert!(told("file:///srv?create-by=luck").contains("`link`, `rename` or `lock`"));
        assert!(told("file:///srv?marker=a/b").contains("in the folder itself"));
        assert!(told("file:///srv?settle=1h").contains("seconds"));
        assert!(open("file:///srv?create=yes&create-by=lock&marker=.disk&settle=60").is_ok());
    }
}
