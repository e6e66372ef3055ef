//! Who a repository is, as a host remembers it. Whoever may write to a tier can put another repository
//! in the place of one, with keys sealed to the same age recipient: it opens, and what is saved into
//! it can be read by whoever made it. So a program that opens a repository at a place again compares
//! it with what it remembers of that place. Where that is kept is the program's business.

use std::fmt;
use std::str::FromStr;

use backup_core::RepoId;
use backup_format::layout::hex;

use crate::error::{EngineError, Result};
use crate::repository::Repository;

/// What stays the same of a repository, whatever key opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub repo: RepoId,
    /// The fingerprint of its keys.
    pub fingerprint: [u8; 8],
    /// The public key of its authority.
    pub authority: [u8; 32],
}

impl Known {
    /// What is to be remembered of a repository.
    ///
    /// # Errors
    /// [`EngineError::Key`].
    pub fn of(repo: &Repository) -> Result<Self> {
        let keys = repo.keys();
        Ok(Self {
            repo: keys.repo(),
            fingerprint: keys.fingerprint()?,
            authority: *keys.authority(),
        })
    }

    /// Whether the repository is one of those that are remembered of its place; none are before it
    /// was first opened.
    ///
    /// # Errors
    /// [`EngineError::Swapped`].
    pub fn check(&self, remembered: &[Self], place: &str) -> Result<()> {
        if remembered.is_empty() || remembered.contains(self) {
            return Ok(());
        }
        Err(EngineError::Swapped {
            place: place.to_owned(),
            found: *self,
        })
    }
}

impl fmt::Display for Known {
    /// `<repository> <fingerprint> <authority>` in hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repo = hex(self.repo.as_bytes());
        write!(
            f,
            "{repo} {} {}",
            hex(&self.fingerprint),
            hex(&self.authority)
        )
    }
}

/// A text that is not what a host remembers of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this does not name a repository and its keys")]
pub struct UnknownText;

impl FromStr for Known {
    type Err = UnknownText;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split_ascii_whitespace();
        let mut next = || parts.next().ok_or(UnknownText);
        let known = Self {
            repo: RepoId(unhex(next()?)?),
            fingerprint: unhex(next()?)?,
            authority: unhex(next()?)?,
        };
        match parts.next() {
            None => Ok(known),
            Some(_) => Err(UnknownText),
        }
    }
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], UnknownText> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(UnknownText);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(pairs) {
        let pair = std::str::from_utf8(pair).map_err(|_| UnknownText)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| UnknownText)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_repository_at_a_place_is_told() {
        let known = |byte: u8| Known {
            repo: RepoId([byte; 16]),
            fingerprint: [1; 8],
            authority: [2; 32],
        };
        let (one, two) = (known(1), known(2));
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!(one.to_string()[1..].parse::<Known>().is_err());
        assert!(one.check(&[], "here").is_ok());
        assert!(one.check(&[two, one], "here").is_ok());
        let other_keys = Known {
            fingerprint: [3; 8],
            ..one
        };
        for found in [two, other_keys] {
            let refused = found.check(&[one], "here");
            assert!(matches!(refused, Err(EngineError::Swapped { .. })));
        }
    }
}
