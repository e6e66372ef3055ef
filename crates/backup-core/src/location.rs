//! Where a source, a target or a sink is: a URL whose scheme names the plug-in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A text that is not a location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a location: {why}")]
pub struct ParseLocationError {
    /// The text, without any password in it.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The option that names a second place, for packs of content. It alone may stand behind a plain path.
const COLD: &str = "cold";

/// A location: `scheme://authority/path?option=value` or a plain path, which is of the scheme
/// `file`. `scheme:rest` without slashes keeps `rest` as its path. A plain path has no options but `?cold=URL`.
///
/// Displayed and debugged without the password of its authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    scheme: String,
    authority: String,
    path: String,
    options: BTreeMap<String, String>,
}

impl Location {
    /// The location of a plain path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        Self {
            scheme: "file".into(),
            authority: String::new(),
            path: path.into(),
            options: BTreeMap::new(),
        }
    }

    /// The plug-in's name.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// User, host and port as written; may hold a password, so never show it.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, percent escapes resolved.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// An option behind the `?`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// The same location without an option.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let mut out = self.clone();
        out.options.remove(name);
        out
    }

    /// All options, sorted by name.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// What is wrong where options of the second place look like those of the first.
const CUT: &str = "the place behind `cold=` has options of its own, and others follow it: write %26 for each `&` that belongs to it, or put `cold=` last";

/// Whether something follows the options of a second place, so that nobody can tell whose it is.
fn is_cut(query: &str) -> bool {
    let mut pairs = query.split('&');
    let has_options = |pair: &str| {
        let value = pair
            .strip_prefix(COLD)
            .and_then(|rest| rest.strip_prefix('='));
        value.is_some_and(|value| value.contains('?'))
    };
    pairs.any(has_options) && pairs.next().is_some()
}

/// A path, as it is written, and perhaps a second place behind it.
fn plain(text: &str) -> Result<Location, &'static str> {
    let Some((path, cold)) = text.split_once("?cold=") else {
        return Ok(Location::of_path(text));
    };
    if path.is_empty() {
        return Err("it names a second place and no first one");
    }
    if cold.contains('&') {
        return Err(CUT);
    }
    let cold = unescape(cold).ok_or("a % escape is malformed")?;
    let mut out = Location::of_path(path);
    out.options.insert(COLD.to_owned(), cold);
    Ok(out)
}

/// A text that is no location as it may be shown: a second place in it may be spelled in many ways, and hold a password
/// in any of them.
fn shown(text: &str) -> String {
    match text.split_once("cold=") {
        Some((first, _)) => format!("{}cold=…", without_password(first)),
        None => without_password(text),
    }
}

fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split_once(':').map_or(user, |(name, _)| name);
            format!("{scheme}://{name}@{host}{tail}")
        }
        None => text.to_owned(),
    }
}

fn is_scheme(text: &str) -> bool {
    // One letter before a colon is a drive of another system, not a scheme.
    text.len() > 1
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

impl FromStr for Location {
    type Err = ParseLocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| ParseLocationError {
            text: shown(text),
            why,
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        let Some((scheme, rest)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme))
        else {
            return plain(text).map_err(wrong);
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        if is_cut(query) {
            return Err(wrong(CUT));
        }
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = unescape(name).ok_or_else(|| wrong("a % escape is malformed"))?;
            let value = unescape(value).ok_or_else(|| wrong("a % escape is malformed"))?;
            if options.insert(name, value).is_some() {
                return Err(wrong("an option is given twice"));
            }
        }
        let path = unescape(path).ok_or_else(|| wrong("a % escape is malformed"))?;
        Ok(Self {
            scheme: scheme.into(),
            authority: authority.into(),
            path,
            options,
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_more = self.options.keys().any(|name| name != COLD);
        if self.scheme == "file" && self.authority.is_empty() && !has_more {
            return f.write_str(&self.path);
        }
        // Without a host, and with a path that begins nowhere in particular, no slashes were written.
        if self.authority.is_empty() && !self.path.starts_with('/') {
            return write!(f, "{}:{}", self.scheme, self.path);
        }
        let full = format!("{}://{}{}", self.scheme, self.authority, self.path);
        f.write_str(&without_password(&full))
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_a_file_location() {
        for text in ["/srv/backup", "backup", "./a:b", "C:thing"] {
            let location: Location = text.parse().unwrap();
            assert_eq!((location.scheme(), location.path()), ("file", text));
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        let text = "postgres://me:secret@db:5432/app,billing?mode=logical&host=%2Ftmp";
        let location: Location = text.parse().unwrap();
        assert_eq!(location.scheme(), "postgres");
        assert_eq!(location.authority(), "me:secret@db:5432");
        assert_eq!(location.path(), "/app,billing");
        assert_eq!(location.option("host"), Some("/tmp"));
    }

    #[test]
    fn a_location_is_shown_as_it_was_written() {
        for text in [
            "rclone:cloud:backups/web 1",
            "rclone:cloud:/srv",
            "sftp://me@host:22/srv",
            "s3://bucket",
            "local:folder",
            "local:///srv",
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), text);
            let again: Location = format!("{text}?a=b").parse().unwrap();
            assert_eq!(
                (again.path(), again.to_string()),
                (location.path(), text.to_owned())
            );
        }
    }

    #[test]
    fn a_second_place_stands_behind_any_location() {
        let cold = |text: &str| {
            let location: Location = text.parse().unwrap();
            let first = location.without("cold");
            assert_eq!(first.option("cold"), None);
            let cold = location.option("cold").map(str::to_owned);
            (first.scheme().to_owned(), first.path().to_owned(), cold)
        };
        let is = |scheme: &str, path: &str, cold: &str| {
            (scheme.to_owned(), path.to_owned(), Some(cold.to_owned()))
        };
        assert_eq!(
            cold("/srv/hot?cold=/srv/cold"),
            is("file", "/srv/hot", "/srv/cold")
        );
        assert_eq!(
            cold("s3://b/p?region=x&cold=s3://c/p?storage_class=GLACIER%26region=y"),
            is("s3", "/p", "s3://c/p?storage_class=GLACIER&region=y")
        );
        // A question mark alone belongs to a path.
        assert_eq!(cold("/srv/what?").2, None);
    }

    #[test]
    fn it_is_not_guessed_whose_an_option_is() {
        for text in [
            "s3://b?cold=s3://c?region=x&storage_class=GLACIER",
            "/srv/hot?cold=s3://c?region=x&storage_class=GLACIER",
            "?cold=/srv/cold",
            "/srv/hot?cold=%2",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
        let last = "s3://b?region=y&cold=s3://c?region=x".parse::<Location>();
        assert_eq!(last.unwrap().option("cold"), Some("s3://c?region=x"));
    }

    #[test]
    fn a_password_is_never_shown() {
        let location: Location = "s3://key:secret@host/bucket".parse().unwrap();
        assert_eq!(
            format!("{location} {location:?}").matches("secret").count(),
            0
        );
        for text in [
            "s3://key:secret@host/%zz",
            "s3://b?cold=s3://key:secret@host?a=b&c=d",
            "/srv/hot?cold=s3://key%3Asecret@host/%zz",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let cold: Location = "s3://b?cold=s3://key:secret@host/p".parse().unwrap();
        assert!(!format!("{cold} {cold:?}").contains("secret"));
    }

    #[test]
    fn malformed_locations_are_refused() {
        for text in ["", "s3://b/%2", "s3://b/?a=1&a=2"] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }
}
