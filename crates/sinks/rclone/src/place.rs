//! Which remote, and how it is used: what a location says.

use std::time::Duration;

use backup_core::Location;

/// Why a location is not one of an rclone remote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromLocationError {
    /// It is not of the form that it should have.
    #[error("write rclone:REMOTE:PATH; `rclone listremotes` shows the remotes that there are")]
    Form,
    /// A remote that is described instead of named.
    #[error(
        "name a remote of rclone's configuration (`rclone config` makes one); a description like `:webdav,pass=…:` would \
         show its secrets to everybody on this host"
    )]
    Described,
    /// A name that rclone does not take.
    #[error("`{0}` is no name of a remote; `rclone listremotes` shows those that there are")]
    Name(String),
    /// A path that cannot be used.
    #[error("the path `{0}` cannot be used: {1}")]
    Path(String, &'static str),
    /// An option that there is not.
    #[error(
        "there is no option `{0}`; there are `check`, `config`, `connections`, `create`, `retries`, `settle`, `timeout` \
         and `tpslimit`"
    )]
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

/// What is looked at before an object gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Its size.
    Size,
    /// Its size, and its hash where the remote has one.
    Hash,
    /// All of its bytes.
    Read,
}

/// A remote, a path on it, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) remote: String,
    pub(crate) path: String,
    pub(crate) makes_root: bool,
    /// The file of rclone's configuration, where it is named.
    pub(crate) config: Option<String>,
    pub(crate) connections: usize,
    /// How many requests rclone may make of the remote in a second, where that is bounded.
    pub(crate) tps: Option<u32>,
    /// How often rclone tries a request.
    pub(crate) retries: u32,
    pub(crate) timeout: Duration,
    pub(crate) settle: Duration,
    pub(crate) check: Check,
}

impl Place {
    pub(crate) fn read(location: &Location) -> Result<Self, FromLocationError> {
        if !location.authority().is_empty() {
            return Err(FromLocationError::Form);
        }
        if location.path().starts_with(':') {
            return Err(FromLocationError::Described);
        }
        let (remote, path) = location
            .path()
            .split_once(':')
            .ok_or(FromLocationError::Form)?;
        if remote.contains([',', '=']) {
            return Err(FromLocationError::Described);
        }
        if !is_name(remote) {
            return Err(FromLocationError::Name(remote.to_owned()));
        }
        let mut place = Self {
            remote: remote.to_owned(),
            path: path_of(path)?,
            makes_root: false,
            config: None,
            connections: 4,
            tps: None,
            retries: 10,
            timeout: Duration::from_secs(300),
            settle: Duration::from_secs(5),
            check: Check::Hash,
        };
        for (option, value) in location.options() {
            place.take(option, value)?;
        }
        Ok(place)
    }

    fn take(&mut self, option: &str, value: &str) -> Result<(), FromLocationError> {
        let wrong = |option, wanted| FromLocationError::Value {
            option,
            value: value.to_owned(),
            wanted,
        };
        let number = |option, range: std::ops::RangeInclusive<u32>, wanted| match value.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(wrong(option, wanted)),
        };
        match option {
            "config" if value.is_empty() => return Err(wrong("config", "the path of a file")),
            "config" => self.config = Some(value.to_owned()),
            "create" => {
                self.makes_root = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(wrong("create", "`yes` or `no`")),
                }
            }
            "check" => {
                self.check = match value {
                    "size" => Check::Size,
                    "hash" => Check::Hash,
                    "read" => Check::Read,
                    _ => return Err(wrong("check", "`size`, `hash` or `read`")),
                }
            }
            "connections" => {
                let number = number("connections", 1..=32, "a number from 1 to 32")?;
                self.connections = number as usize;
            }
            "tpslimit" => {
                self.tps = Some(number("tpslimit", 1..=10_000, "a number from 1 to 10000")?);
            }
            "retries" => self.retries = number("retries", 1..=100, "a number from 1 to 100")?,
            "timeout" => {
                let wanted = "a number of seconds, at most 3600";
                let seconds = number("timeout", 1..=3600, wanted)?;
                self.timeout = Duration::from_secs(seconds.into());
            }
            "settle" => {
                let wanted = "a number of seconds, at most 3600";
                let seconds = number("settle", 0..=3600, wanted)?;
                self.settle = Duration::from_secs(seconds.into());
            }
            other => return Err(FromLocationError::Option(other.to_owned())),
        }
        Ok(())
    }

    /// The remote and the path as rclone writes them.
    pub(crate) fn fs(&self) -> String {
        format!("{}:{}", self.remote, self.path)
    }

    /// The place, for people.
    pub(crate) fn shown(&self) -> String {
        format!("rclone:{}", self.fs())
    }
}

/// What rclone takes for a name: it may not look like an option, and what is not in these signs means something else.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || "_.+@- ".contains(c);
    !text.is_empty()
        && text.chars().all(fits)
        && !text.starts_with(['-', ' '])
        && !text.ends_with(' ')
}

fn path_of(path: &str) -> Result<String, FromLocationError> {
    let wrong = |why| FromLocationError::Path(path.to_owned(), why);
    if path.contains(['[', ']']) {
        // rclone's own way to name an object for reading is `[remote:path]/object`.
        return Err(wrong("rclone cannot read below brackets"));
    }
    if path.chars().any(char::is_control) {
        return Err(wrong("it has control characters"));
    }
    if path.split('/').any(|part| part == "." || part == "..") {
        return Err(wrong("write it without `.` and `..`"));
    }
    let trimmed = path.trim_end_matches('/');
    Ok(match trimmed {
        "" if !path.is_empty() => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Place, FromLocationError> {
        Place::read(&text.parse().unwrap())
    }

    #[test]
    fn a_location_names_remote_path_and_options() {
        let place = read("rclone:my cloud:a/b/?create=yes&tpslimit=4&check=read&settle=0").unwrap();
        assert_eq!(place.fs(), "my cloud:a/b");
        assert_eq!(place.shown(), "rclone:my cloud:a/b");
        assert!(place.makes_root);
        assert_eq!((place.tps, place.check), (Some(4), Check::Read));
        assert_eq!(place.settle, Duration::ZERO);
        assert_eq!(read("rclone:a:").unwrap().fs(), "a:");
        assert_eq!(read("rclone:a:/").unwrap().fs(), "a:/");
        assert_eq!(
            read("rclone:a:b?config=%2Fetc%2Fr.conf").unwrap().config,
            Some("/etc/r.conf".to_owned())
        );
    }

    #[test]
    fn secrets_cannot_stand_in_a_location() {
        for text in ["rclone::webdav,pass=x:a", "rclone:cloud,token=x:a"] {
            let error = read(text).unwrap_err();
            assert_eq!(error, FromLocationError::Described, "{text}");
            assert!(!error.to_string().contains("=x"), "{error}");
        }
    }

    #[test]
    fn what_is_no_location_of_a_remote_is_refused() {
        for text in [
            "rclone://remote/path",
            "rclone:remote",
            "rclone:--rc-no-auth:x",
            "rclone: a:x",
            "rclone:a/b:x",
            "rclone:a:x/../y",
            "rclone:a:x[1]",
            "rclone:a:x%0Ay",
            "rclone:a:x?tpslimit=0",
            "rclone:a:x?check=none",
            "rclone:a:x?password=p",
            "rclone:a:x?connections=99",
            "rclone:a:x?config=",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
