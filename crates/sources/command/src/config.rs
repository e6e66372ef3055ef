//! Which command to run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use backup_core::StreamProfile;
use serde::Deserialize;

/// The command whose output a [`crate::CommandSource`] saves.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The program and its arguments. No shell is between; name one to have one. They are shown
    /// in plans, manifests and errors, so a secret does not belong here but into `env`.
    pub argv: Vec<String>,
    /// The path of the stream in the snapshot, components separated by `/`.
    pub name: String,
    /// Variables that are added to the environment. Their values are never shown.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The folder to run in; none: that of this process.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// How the stream is cut.
    #[serde(default)]
    pub profile: StreamProfile,
    /// Whether a command that writes nothing is as it should be; otherwise that is a warning.
    #[serde(default)]
    pub allow_empty: bool,
}

impl CommandConfig {
    /// A command without further settings.
    #[must_use]
    pub fn new(name: impl Into<String>, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            name: name.into(),
            env: BTreeMap::new(),
            cwd: None,
            profile: StreamProfile::Auto,
            allow_empty: false,
        }
    }

    /// The command as a line for people: arguments that hold more than plain characters quoted.
    #[must_use]
    pub fn shown(&self) -> String {
        let plain = |arg: &str| {
            !arg.is_empty()
                && arg
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c))
        };
        let quote = |arg: &String| match plain(arg) {
            true => arg.clone(),
            false => format!(
                "'{}'",
                arg.escape_debug().to_string().replace('\'', "'\\''")
            ),
        };
        self.argv.iter().map(quote).collect::<Vec<_>>().join(" ")
    }
}

/// Shows the names of variables and none of their values.
impl fmt::Debug for CommandConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandConfig")
            .field("argv", &self.argv)
            .field("name", &self.name)
            .field("env", &self.env.keys())
            .field("cwd", &self.cwd)
            .field("profile", &self.profile)
            .field("allow_empty", &self.allow_empty)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_never_shown() {
        let mut config = CommandConfig::new("dump", ["pg_dump", "-h", "db host"]);
        config.env.insert("PGPASSWORD".into(), "hunter2".into());
        let shown = format!("{config:?} {}", config.shown());
        assert!(
            shown.contains("PGPASSWORD") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert_eq!(config.shown(), "pg_dump -h 'db host'");
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let good = r#"{"argv":["date"],"name":"now","profile":{"Pages":4096}}"#;
        assert_eq!(
            serde_json::from_str::<CommandConfig>(good).unwrap().argv,
            ["date"]
        );
        let bad = r#"{"argv":["date"],"name":"now","enviroment":{}}"#;
        assert!(serde_json::from_str::<CommandConfig>(bad).is_err());
    }
}
