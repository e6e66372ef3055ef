//! Sources and targets from locations: `files:///srv/data?exclude=*.tmp&one-file-system`.

use std::path::PathBuf;
use std::sync::Arc;

use backup_core::Registry;
use backup_core::location::Location;
use backup_core::registry::RegistryError;
use jiff::SignedDuration;

use crate::config::FilesConfig;
use crate::target::{FilesTarget, FilesTargetConfig, Holes, Overwrite, Ownership};
use crate::{FilesSource, KIND};

/// Adds the source and the target to a registry, both as `files`.
///
/// The path of a location is the root to save or the folder to restore into: absolute. Options of
/// the source: `exclude` (one line of gitignore syntax), `exclude-file`, `ignore-file`,
/// `exclude-if-present`, `exclude-caches`, `one-file-system`, `exclude-larger-than` and
/// `exclude-smaller-than` (bytes), `exclude-older-than` and `exclude-newer-than` (such as `720h`);
/// of the target: `overwrite`
/// (`never`, `if-newer`, `always`), `owner` (`name`, `number`, `none`), `holes` (`as-saved`, `everywhere`, `nowhere`), `delete`,
/// `xattrs`. Switches are `yes` (or nothing) and `no`.
///
/// # Errors
/// [`RegistryError::Twice`] when the name is taken.
pub fn register(registry: &mut Registry) -> Result<(), RegistryError> {
    registry.add_source(KIND, |location| {
        Ok(Arc::new(FilesSource::new(config_of(location)?)))
    })?;
    registry.add_target(KIND, |location| {
        Ok(Arc::new(FilesTarget::new(target(location)?)))
    })
}

/// What a location asks to be saved; see [`register`].
///
/// # Errors
/// [`RegistryError`] for a path that is not absolute, an option that there is not and a value that
/// it does not take.
pub fn config_of(location: &Location) -> Result<FilesConfig, RegistryError> {
    if !location.path().starts_with('/') {
        return Err(RegistryError::config(
            location,
            "the path of what to save must be absolute",
        ));
    }
    let mut config = FilesConfig::of_roots([location.path()]);
    for (name, value) in location.options() {
        match name {
            "exclude" => config.excludes.push(value.to_owned()),
            "exclude-file" => config.exclude_files.push(PathBuf::from(value)),
            "ignore-file" => config.ignore_files.push(value.to_owned()),
            "exclude-if-present" => config.exclude_if_present.push(value.to_owned()),
            "exclude-caches" => config.exclude_caches = switch(location, name, value)?,
            "one-file-system" => config.one_file_system = switch(location, name, value)?,
            "exclude-larger-than" => config.exclude_larger_than = Some(size(location, value)?),
            "exclude-smaller-than" => config.exclude_smaller_than = Some(size(location, value)?),
            "exclude-older-than" => config.exclude_older_than = Some(age(location, value)?),
            "exclude-newer-than" => config.exclude_newer_than = Some(age(location, value)?),
            _ => return Err(unknown(location, name)),
        }
    }
    only_a_path(location)?;
    Ok(config)
}

fn target(location: &Location) -> Result<FilesTargetConfig, RegistryError> {
    let mut config = FilesTargetConfig::of_folder(location.path());
    for (name, value) in location.options() {
        let wrong = |known: &str| {
            let why = format!("`{name}` is one of {known}, not `{value}`");
            RegistryError::config(location, why)
        };
        match name {
            "overwrite" => {
                config.overwrite = match value {
                    "never" => Overwrite::Never,
                    "if-newer" => Overwrite::IfNewer,
                    "always" => Overwrite::Always,
                    _ => return Err(wrong("never, if-newer, always")),
                }
            }
            "owner" => {
                config.owner = match value {
                    "name" => Ownership::Name,
                    "number" => Ownership::Number,
                    "none" => Ownership::None,
                    _ => return Err(wrong("name, number, none")),
                }
            }
            "delete" => config.delete = switch(location, name, value)?,
            "holes" => {
                config.holes = match value {
                    "as-saved" => Holes::AsSaved,
                    "everywhere" => Holes::Everywhere,
                    "nowhere" => Holes::Nowhere,
                    _ => return Err(wrong("as-saved, everywhere, nowhere")),
                }
            }
            "xattrs" => config.xattrs = switch(location, name, value)?,
            _ => return Err(unknown(location, name)),
        }
    }
    only_a_path(location)?;
    Ok(config)
}

fn only_a_path(location: &Location) -> Result<(), RegistryError> {
    if location.authority().is_empty() {
        return Ok(());
    }
    Err(RegistryError::config(
        location,
        "files are on this host: write files:///path",
    ))
}

fn unknown(location: &Location, name: &str) -> RegistryError {
    RegistryError::config(location, format!("there is no option `{name}`"))
}

fn size(location: &Location, value: &str) -> Result<u64, RegistryError> {
    let why = || format!("`{value}` is not a number of bytes");
    let parsed = value.parse();
    parsed.map_err(|_| RegistryError::config(location, why()))
}

fn age(location: &Location, value: &str) -> Result<SignedDuration, RegistryError> {
    let why = || format!("`{value}` is not an age: write hours or less, such as 720h");
    let parsed = value.parse();
    parsed.map_err(|_| RegistryError::config(location, why()))
}

fn switch(location: &Location, name: &str, value: &str) -> Result<bool, RegistryError> {
    match value {
        "" | "yes" => Ok(true),
        "no" => Ok(false),
        _ => {
            let why = format!("`{name}` is yes or no, not `{value}`");
            Err(RegistryError::config(location, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::empty();
        register(&mut registry).unwrap();
        registry
    }

    #[test]
    fn a_location_makes_a_source_and_a_target() {
        let registry = registry();
        let source = registry
            .open_source(
                &"files:///srv/data?exclude=*.tmp&one-file-system"
                    .parse()
                    .unwrap(),
            )
            .unwrap();
        assert_eq!(source.info().origin, ["/srv/data"]);
        let limits = "files:///srv?exclude-larger-than=10&exclude-older-than=720h";
        let limits = super::config_of(&limits.parse().unwrap()).unwrap();
        assert_eq!(limits.exclude_larger_than, Some(10));
        let month = SignedDuration::from_hours(720);
        assert_eq!(limits.exclude_older_than, Some(month));
        let location = "files:///srv/restored?overwrite=always&delete"
            .parse()
            .unwrap();
        let target = target(&location).unwrap();
        assert_eq!((target.overwrite, target.delete), (Overwrite::Always, true));
        assert!(registry.open_target(&location).is_ok());
    }

    #[test]
    fn what_a_location_cannot_mean_is_refused_with_a_reason() {
        let registry = registry();
        for (text, word) in [
            ("files:data", "absolute"),
            ("files://host/data", "files:///path"),
            ("files:///data?exlude=a", "exlude"),
            ("files:///data?one-file-system=maybe", "yes or no"),
            ("files:///data?exclude-larger-than=big", "bytes"),
            ("files:///data?exclude-older-than=30d", "720h"),
        ] {
            let error = registry.open_source(&text.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = registry.open_target(&"files:///x?overwrite=maybe".parse().unwrap());
        assert!(error.unwrap_err().to_string().contains("if-newer"));
    }
}
