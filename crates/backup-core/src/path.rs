//! Paths inside a snapshot: bytes, not text, and never able to leave their root.

use std::fmt;

/// Why a path cannot stand in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is empty, `.` or `..`, or holds a NUL byte or a slash.
    #[error("path component {0:?} is not allowed in a snapshot")]
    Component(String),
    /// The path is longer than [`EntryPath::MAX_BYTES`].
    #[error("a path of {0} bytes is too long for a snapshot")]
    TooLong(usize),
}

/// A path of an entry: components of arbitrary bytes other than NUL and `/`, never empty, `.` or
/// `..`. The empty path is the root of its component of the snapshot.
///
/// The order is that of a walk that lists a folder, then everything in it, before its next
/// sibling: components compare one by one, as bytes. To get it from a plain comparison of bytes,
/// components are joined by a NUL byte, which sorts before any byte of a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Longest path in bytes that a snapshot takes (Linux itself takes 4,096 in one call).
    pub const MAX_BYTES: usize = 65_535;

    /// The root: no component at all.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads a path whose components are separated by `/`; leading, trailing and doubled slashes
    /// are passed over.
    ///
    /// # Errors
    /// [`PathError`] when a component is `.` or `..`, holds a NUL byte, or the path is too long.
    pub fn from_slashed(path: &[u8]) -> Result<Self, PathError> {
        let mut out = Self::root();
        for component in path
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
        {
            out.push(component)?;
        }
        Ok(out)
    }

    /// Reads the stored form: components joined by NUL bytes.
    ///
    /// # Errors
    /// [`PathError`] as for [`EntryPath::push`]; stored bytes are untrusted.
    pub fn from_stored(stored: &[u8]) -> Result<Self, PathError> {
        if stored.is_empty() {
            return Ok(Self::root());
        }
        if stored.len() > Self::MAX_BYTES {
            return Err(PathError::TooLong(stored.len()));
        }
        stored
            .split(|&byte| byte == 0)
            .try_for_each(check_component)?;
        Ok(Self(stored.to_vec()))
    }

    /// The stored form: components joined by NUL bytes.
    #[must_use]
    pub fn as_stored(&self) -> &[u8] {
        &self.0
    }

    /// Appends one component.
    ///
    /// # Errors
    /// [`PathError`] when the component is empty, `.`, `..`, or holds a NUL byte or a slash.
    pub fn push(&mut self, component: &[u8]) -> Result<(), PathError> {
        check_component(component)?;
        let length = self.0.len() + component.len() + 1;
        if length > Self::MAX_BYTES {
            return Err(PathError::TooLong(length));
        }
        if !self.0.is_empty() {
            self.0.push(0);
        }
        self.0.extend_from_slice(component);
        Ok(())
    }

    /// This path with one more component.
    ///
    /// # Errors
    /// As [`EntryPath::push`].
    pub fn join(&self, component: &[u8]) -> Result<Self, PathError> {
        let mut out = Self(Vec::with_capacity(self.0.len() + component.len() + 1));
        out.0.extend_from_slice(&self.0);
        out.push(component)?;
        Ok(out)
    }

    /// The components in order.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == 0)
            .filter(|part| !part.is_empty())
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The folder that holds this path; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == 0).unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Whether this path is `folder` or lies below it.
    #[must_use]
    pub fn starts_with(&self, folder: &Self) -> bool {
        folder.0.is_empty()
            || (self.0.starts_with(&folder.0)
                && self.0.get(folder.0.len()).is_none_or(|&byte| byte == 0))
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path with `/` between components and none in front.
    #[must_use]
    pub fn to_slashed(&self) -> Vec<u8> {
        self.0
            .iter()
            .map(|&byte| if byte == 0 { b'/' } else { byte })
            .collect()
    }
}

fn check_component(component: &[u8]) -> Result<(), PathError> {
    let forbidden = matches!(component, b"" | b"." | b"..")
        || component.iter().any(|&byte| byte == 0 || byte == b'/');
    if forbidden {
        return Err(PathError::Component(
            String::from_utf8_lossy(component).into_owned(),
        ));
    }
    Ok(())
}

/// Shows the path on one line: control characters and bytes that are not UTF-8 as `\x..`.
impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.to_slashed().utf8_chunks() {
            for letter in chunk.valid().chars() {
                match letter {
                    '\\' => f.write_str("\\\\")?,
                    control if control.is_control() => write!(f, "{}", control.escape_default())?,
                    other => write!(f, "{other}")?,
                }
            }
            chunk
                .invalid()
                .iter()
                .try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::from_slashed(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_folder_sorts_before_its_content_and_its_content_before_the_next_sibling() {
        let mut paths = ["a-b", "a/b", "a", "a/b/c", "a.txt"].map(path);
        paths.sort();
        assert_eq!(
            paths.map(|p| p.to_string()),
            ["a", "a/b", "a/b/c", "a-b", "a.txt"]
        );
    }

    #[test]
    fn no_path_can_leave_its_root() {
        for bad in ["../x", "a/../../x", ".", "a/./b"] {
            assert!(EntryPath::from_slashed(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in [&b"\0a"[..], b"a\0", b"a\0\0b", b"a\0..", b"a/b"] {
            assert!(EntryPath::from_stored(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parents_and_prefixes_follow_components() {
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(EntryPath::root()));
        assert!(path("a/b").starts_with(&path("a")));
        assert!(!path("ab").starts_with(&path("a")));
        assert!(path("a").starts_with(&EntryPath::root()));
    }

    #[test]
    fn odd_names_are_shown_on_one_line() {
        let odd = EntryPath::from_slashed(b"new\nline/\xff").unwrap();
        assert_eq!(odd.to_string(), "new\\nline/\\xff");
    }
}
