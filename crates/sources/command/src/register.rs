//! A command as a location: `command:///usr/bin/pg_dump?name=app.sql&arg1=-Fc&arg2=app`.

use std::path::PathBuf;
use std::sync::Arc;

use backup_core::Registry;
use backup_core::location::Location;
use backup_core::registry::RegistryError;

use crate::config::CommandConfig;
use crate::{CommandSource, KIND};

/// Adds the source to a registry, as `command`.
///
/// The path of a location is the program. Options: `name` (the path of the stream; needed), `arg1`,
/// `arg2`, … (its arguments), `cwd`, `allow-empty`. Variables have no place in a location, for
/// locations are shown.
///
/// # Errors
/// [`RegistryError::Twice`] when the name is taken.
pub fn register(registry: &mut Registry) -> Result<(), RegistryError> {
    registry.add_source(KIND, |location| {
        Ok(Arc::new(CommandSource::new(config(location)?)))
    })
}

fn config(location: &Location) -> Result<CommandConfig, RegistryError> {
    let wrong = |why: String| RegistryError::config(location, why);
    if !location.authority().is_empty() || location.path().is_empty() {
        return Err(wrong(
            "name a program of this host: command:///usr/bin/program".into(),
        ));
    }
    let Some(name) = location.option("name").filter(|name| !name.is_empty()) else {
        return Err(wrong(
            "`name` is missing: the path of the stream in the snapshot".into(),
        ));
    };
    let mut config = CommandConfig::new(name, [location.path()]);
    let mut arguments = 0;
    while let Some(argument) = location.option(&format!("arg{}", arguments + 1)) {
        config.argv.push(argument.to_owned());
        arguments += 1;
    }
    let is_argument = |option: &str| {
        let number = option
            .strip_prefix("arg")
            .and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| (1..=arguments).contains(&number))
    };
    for (option, value) in location.options() {
        match (option, value) {
            ("name", _) => {}
            ("cwd", folder) => config.cwd = Some(PathBuf::from(folder)),
            ("allow-empty", "" | "yes") => config.allow_empty = true,
            ("allow-empty", "no") => config.allow_empty = false,
            ("allow-empty", _) => return Err(wrong("`allow-empty` is yes or no".into())),
            (option, _) if is_argument(option) => {}
            (option, _) => {
                return Err(wrong(format!(
                    "there is no option `{option}` (or one before it)"
                )));
            }
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_makes_a_command() {
        let mut registry = Registry::empty();
        register(&mut registry).unwrap();
        let text = "command:///bin/echo?name=a/b&arg1=one%20two&arg2=&cwd=/tmp&allow-empty";
        let location = text.parse().unwrap();
        let made = config(&location).unwrap();
        assert_eq!(made.argv, ["/bin/echo", "one two", ""]);
        assert_eq!((made.name.as_str(), made.allow_empty), ("a/b", true));
        let source = registry.open_source(&location).unwrap();
        assert_eq!(source.info().origin, ["/bin/echo 'one two' ''"]);
    }

    #[test]
    fn what_a_location_cannot_mean_is_refused_with_a_reason() {
        for (text, word) in [
            ("command:///bin/date", "`name` is missing"),
            ("command://host/bin/date?name=x", "this host"),
            ("command:///bin/date?name=x&arg2=-u", "arg2"),
            ("command:///bin/date?name=x&arg01=-u", "arg01"),
            ("command:///bin/date?name=x&allow-empty=maybe", "yes or no"),
        ] {
            let error = config(&text.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
