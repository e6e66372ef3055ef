//! The address of a server.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Why a text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It has no scheme that is spoken.
    #[error("`{0}` is no endpoint: write https://HOST or https://HOST:PORT")]
    Form(String),
    /// It has a user or a password.
    #[error(
        "credentials never stand in an endpoint; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, or name a \
         `profile=`"
    )]
    User,
    /// It is not encrypted and leads away from this machine.
    #[error(
        "{0} is not encrypted: everybody on the way would see which objects are read, and could answer in the server's name; \
         write https://, or `http=yes` beside it if that is meant"
    )]
    Plain(String),
}

/// Scheme, host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    is_plain: bool,
    authority: String,
}

impl Endpoint {
    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) const fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Whether it leads nowhere else.
    pub(crate) fn is_this_machine(&self) -> bool {
        let host = match self.authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.authority.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Plain HTTP has to be asked for, unless it stays on this machine.
    pub(crate) fn must_be_safe(&self, may_be_plain: bool) -> Result<(), EndpointError> {
        if self.is_plain && !may_be_plain && !self.is_this_machine() {
            return Err(EndpointError::Plain(self.to_string()));
        }
        Ok(())
    }

    /// The same server with a bucket before its host's name.
    pub(crate) fn of_bucket(&self, bucket: &str) -> Self {
        Self {
            is_plain: self.is_plain,
            authority: format!("{bucket}.{}", self.authority),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err(EndpointError::User);
        }
        let malformed = || EndpointError::Form(text.to_owned());
        let (is_plain, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(malformed()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(is_good) {
            return Err(malformed());
        }
        Ok(Self {
            is_plain,
            authority: authority.to_ascii_lowercase(),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_plain { "http" } else { "https" };
        write!(f, "{scheme}://{}", self.authority)
    }
}
