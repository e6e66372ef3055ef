//! From a location to what is known of a bucket before anything is asked of it. Secrets never stand in a
//! location: it ends up in lists of processes, logs and ledgers.

use std::path::PathBuf;
use std::time::Duration;

use backup_core::{Location, ObjectKey};

use crate::endpoint::{Endpoint, EndpointError};
use crate::warm::{Tier, Warming};

/// Nobody waits longer for a listing, in seconds.
const MOST_SETTLE: u64 = 600;

/// Longest prefix in bytes: with the longest key of ours it stays below the 1024 bytes of S3.
const MOST_PREFIX: usize = 400;

/// The options that each provider takes, for the message on one that there is not.
const OPTIONS: &str = "`endpoint`, `region`, `profile`, `credentials`, `account`, `storage_class`, `warm-days`, `warm-tier`, `object_lock`, `style`, `checksum`, `ca`, \
     `http`, `connections`, `timeout` and `settle`";

/// Names under which people write secrets into a location.
const SECRETS: [&str; 14] = [
    "access_key",
    "access_key_id",
    "access-key",
    "aws_access_key_id",
    "aws_secret_access_key",
    "key",
    "password",
    "sas",
    "secret",
    "secret_access_key",
    "secret_key",
    "sig",
    "token",
    "account_key",
];

/// Why a location is not one of an object store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FromLocationError {
    /// It names no bucket.
    #[error("it names no bucket; write {0}://BUCKET/PREFIX")]
    NoBucket(&'static str),
    /// Its bucket cannot be one.
    #[error(
        "`{0}` cannot be the name of a bucket: letters, digits, `-`, `_` and `.` only; the address of the server goes behind it: \
         s3://BUCKET/PREFIX?endpoint=https://HOST"
    )]
    Bucket(String),
    /// Its prefix is none.
    #[error(
        "`{0}` cannot be a prefix: parts of letters, digits, `-`, `_` and `.`, none of them led by a dot, 400 bytes at most"
    )]
    Prefix(String),
    /// It holds a secret.
    #[error(
        "`{0}` belongs to the credentials, and they never stand in a location, where lists of processes and logs would show \
         them: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AZURE_…, GOOGLE_…), or name a profile of ~/.aws with \
         `profile=NAME`, or a file that only you can read with `credentials=FILE`; make keys anew that were shown"
    )]
    Secret(String),
    /// No storage account.
    #[error(
        "it names no storage account; write az://CONTAINER/PREFIX?account=NAME, or set AZURE_STORAGE_ACCOUNT_NAME"
    )]
    NoAccount,
    /// The address of the server is none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// An option that there is not.
    #[error("there is no option `{0}` here; there are {OPTIONS}")]
    Option(String),
    /// An option that this provider does not take.
    #[error("`{option}` means nothing to {provider}; leave it out")]
    NotHere {
        /// The option.
        option: &'static str,
        /// The scheme.
        provider: &'static str,
    },
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

/// Whose protocol a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// S3 and all that speak it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Provider {
    pub(crate) const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// Where credentials are, if the location says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of the form of `~/.aws/credentials` (S3), or of a service account (Google).
    File(PathBuf),
    /// The service of the machine that this runs on.
    Instance,
}

/// A bucket and how it is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) provider: Provider,
    pub(crate) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) credentials: Option<Source>,
    pub(crate) account: Option<String>,
    pub(crate) storage_class: Option<String>,
    /// How objects of an archive are asked for.
    pub(crate) warming: Warming,
    /// How long objects are locked.
    pub(crate) lock: Option<Duration>,
    /// Whether the bucket stands before the host's name and not in the path.
    pub(crate) virtual_host: bool,
    pub(crate) checksum: bool,
    /// Certificates that are trusted beside those of the system.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) connections: usize,
    /// How long a request may take, beside the time for its bytes.
    pub(crate) timeout: Duration,
    pub(crate) settle: Duration,
}

impl Place {
    /// The place without secrets, so that it is another text for another server.
    pub(crate) fn shown(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        let base = format!(
            "{}://{}{slash}{}",
            self.provider.scheme(),
            self.bucket,
            self.prefix
        );
        match (&self.endpoint, &self.account) {
            (Some(endpoint), _) => format!("{base}?endpoint={endpoint}"),
            (None, Some(account)) => format!("{base}?account={account}"),
            (None, None) => base,
        }
    }

    /// Whether the server is one that is known to refuse to overwrite when it is asked to.
    pub(crate) const fn creates_for_certain(&self) -> bool {
        self.endpoint.is_none()
    }

    /// Reads a location.
    pub(crate) fn read(provider: Provider, location: &Location) -> Result<Self, FromLocationError> {
        if location.authority().contains('@') {
            return Err(FromLocationError::Secret("user@".to_owned()));
        }
        for (option, _) in location.options() {
            if SECRETS.contains(&option.to_ascii_lowercase().as_str()) {
                return Err(FromLocationError::Secret(option.to_owned()));
            }
        }
        let mut place = Self {
            provider,
            bucket: bucket(provider, location.authority())?,
            prefix: prefix(location.path())?,
            endpoint: None,
            region: None,
            profile: None,
            credentials: None,
            account: None,
            storage_class: None,
            warming: Warming::default(),
            lock: None,
            virtual_host: false,
            checksum: true,
            ca: None,
            connections: 8,
            timeout: Duration::from_mins(1),
            settle: Duration::ZERO,
        };
        for (option, value) in location.options() {
            place.take(option, value)?;
        }
        let may_be_plain = match location.option("http") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => return Err(wrong("http", other, "`yes` or `no`")),
        };
        if let Some(endpoint) = &place.endpoint {
            endpoint.must_be_safe(may_be_plain)?;
        }
        place.must_fit()?;
        Ok(place)
    }

    fn take(&mut self, option: &str, value: &str) -> Result<(), FromLocationError> {
        let text = || Some(value.to_owned());
        match option {
            "endpoint" => self.endpoint = Some(value.parse()?),
            "region" => self.region = Some(word("region", value)?),
            "profile" => self.profile = text(),
            "credentials" => {
                self.credentials = Some(match value {
                    "instance" => Source::Instance,
                    path if path.starts_with('/') => Source::File(path.into()),
                    other => {
                        let wanted = "`instance`, or the path of a file from the root";
                        return Err(wrong("credentials", other, wanted));
                    }
                });
            }
            "account" => self.account = Some(word("account", value)?),
            "storage_class" => self.storage_class = Some(word("storage_class", value)?),
            "warm-days" => {
                self.warming.days = warm_days(value)?;
                self.warming.is_named = true;
            }
            "warm-tier" => {
                let tier = Tier::read(value);
                let wanted = "`Bulk`, `Standard` or `Expedited`";
                self.warming.tier = tier.ok_or_else(|| wrong("warm-tier", value, wanted))?;
                self.warming.is_named = true;
            }
            "object_lock" => self.lock = Some(days(value)?),
            "style" => {
                self.virtual_host = match value {
                    "path" => false,
                    "virtual" => true,
                    other => return Err(wrong("style", other, "`path` or `virtual`")),
                }
            }
            "checksum" => {
                self.checksum = match value {
                    "sha256" => true,
                    "none" => false,
                    other => return Err(wrong("checksum", other, "`sha256` or `none`")),
                }
            }
            "ca" => self.ca = Some(value.into()),
            "http" => {}
            "connections" => self.connections = connections(value)?,
            "timeout" => self.timeout = seconds("timeout", value, 1)?,
            "settle" => self.settle = seconds("settle", value, 0)?,
            other => return Err(FromLocationError::Option(other.to_owned())),
        }
        Ok(())
    }

    /// Options that would be passed over in silence are mistakes.
    fn must_fit(&self) -> Result<(), FromLocationError> {
        let of_s3 = [
            ("region", self.region.is_some()),
            ("profile", self.profile.is_some()),
            ("storage_class", self.storage_class.is_some()),
            ("warm-days", self.warming.is_named),
            ("object_lock", self.lock.is_some()),
            ("style", self.virtual_host),
            ("checksum", !self.checksum),
        ];
        let provider = self.provider.scheme();
        let not_here = |option| Err(FromLocationError::NotHere { option, provider });
        for (option, is_there) in of_s3 {
            if is_there && self.provider != Provider::S3 {
                return not_here(option);
            }
        }
        if self.lock.is_some() && !self.checksum {
            return Err(wrong(
                "checksum",
                "none",
                "`sha256`: no server locks without it",
            ));
        }
        if self.account.is_some() && self.provider != Provider::Azure {
            return not_here("account");
        }
        if matches!(self.credentials, Some(Source::File(_))) && self.provider == Provider::Azure {
            return not_here("credentials");
        }
        Ok(())
    }
}

fn wrong(option: &'static str, value: &str, wanted: &'static str) -> FromLocationError {
    FromLocationError::Value {
        option,
        value: value.to_owned(),
        wanted,
    }
}

fn bucket(provider: Provider, text: &str) -> Result<String, FromLocationError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match text {
        "" => Err(FromLocationError::NoBucket(provider.scheme())),
        text if text.bytes().all(is_plain) && text.len() <= 222 => Ok(text.to_owned()),
        other => Err(FromLocationError::Bucket(other.to_owned())),
    }
}

fn prefix(path: &str) -> Result<String, FromLocationError> {
    let bare = path.trim_matches('/');
    if !bare.is_empty() && (ObjectKey::new(bare).is_err() || bare.len() > MOST_PREFIX) {
        return Err(FromLocationError::Prefix(bare.to_owned()));
    }
    Ok(bare.to_owned())
}

/// A value that goes into a header or an address.
fn word(option: &'static str, value: &str) -> Result<String, FromLocationError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if value.is_empty() || !value.bytes().all(is_plain) {
        return Err(wrong(option, value, "letters, digits, `-` and `_`"));
    }
    Ok(value.to_owned())
}

fn days(value: &str) -> Result<Duration, FromLocationError> {
    let number = value.strip_suffix('d').and_then(|days| days.parse().ok());
    match number {
        Some(days @ 1..=36_500) => Ok(Duration::from_hours(24 * days)),
        _ => Err(wrong("object_lock", value, "a number of days, as `30d`")),
    }
}

fn warm_days(value: &str) -> Result<u32, FromLocationError> {
    match value.parse() {
        Ok(days @ 1..=3650) => Ok(days),
        _ => Err(wrong("warm-days", value, "a number of days, as `7`")),
    }
}

fn seconds(option: &'static str, value: &str, least: u64) -> Result<Duration, FromLocationError> {
    match value.parse() {
        Ok(seconds) if (least..=MOST_SETTLE).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong(option, value, "a number of seconds, at most 600")),
    }
}

fn connections(value: &str) -> Result<usize, FromLocationError> {
    match value.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err(wrong("connections", value, "a number from 1 to 64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Place, FromLocationError> {
        let location: Location = text.parse().unwrap();
        let provider = match location.scheme() {
            "gs" => Provider::Gcs,
            "az" => Provider::Azure,
            _ => Provider::S3,
        };
        Place::read(provider, &location)
    }

    #[test]
    fn a_place_is_shown_with_its_server_and_no_options() {
        let shown = |text| read(text).unwrap().shown();
        assert_eq!(shown("s3://b"), "s3://b");
        assert_eq!(shown("s3://b/"), "s3://b");
        let text = "s3://b/a/c/?region=x&endpoint=https://h:9000/&object_lock=30d";
        assert_eq!(shown(text), "s3://b/a/c?endpoint=https://h:9000");
        assert_eq!(shown("az://c/p?account=me"), "az://c/p?account=me");
    }

    #[test]
    fn secrets_are_refused_and_not_told_again() {
        let texts = [
            "s3://AKIA:hidden@b/p",
            "s3://b/p?secret_access_key=hidden",
            "s3://b/p?Token=hidden",
            "s3://b/p?endpoint=https://u:hidden@h",
        ];
        for text in texts {
            let told = read(text).unwrap_err().to_string();
            assert!(
                told.contains("credentials") && !told.contains("hidden"),
                "{told}"
            );
        }
    }

    #[test]
    fn mistakes_in_a_location_are_explained() {
        let told = |text| read(text).unwrap_err().to_string();
        assert!(told("s3:///p").contains("s3://BUCKET/PREFIX"));
        assert!(told("s3://host:9000/b").contains("?endpoint="));
        assert!(told("s3://b/.hidden").contains("led by a dot"));
        assert!(told("s3://b?reigon=x").contains("`region`"));
        assert!(told("s3://b?object_lock=30").contains("`30d`"));
        assert!(told("s3://b?object_lock=1d&checksum=none").contains("`sha256`"));
        assert!(told("s3://b?object_lock=0d").contains("`30d`"));
        assert!(told("s3://b?storage_class=a%20b").contains("letters"));
        assert!(told("s3://b?warm-days=0").contains("number of days"));
        assert!(told("s3://b?warm-tier=fast").contains("`Bulk`"));
        assert!(told("gs://b?warm-days=3").contains("leave it out"));
        assert!(told("s3://b?credentials=x").contains("`instance`"));
        assert!(told("s3://b?connections=0").contains("1 to 64"));
        assert!(told("gs://b?region=x").contains("leave it out"));
        assert!(told("s3://b?account=x").contains("leave it out"));
    }

    #[test]
    fn plain_http_only_leads_to_this_machine_unless_it_is_asked_for() {
        for good in [
            "s3://b?endpoint=http://127.0.0.1:9000",
            "s3://b?endpoint=http://localhost",
            "s3://b?endpoint=http://[::1]:9000",
            "s3://b?endpoint=http://nas:9000&http=yes",
            "s3://b?endpoint=https://nas",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        let told = read("s3://b?endpoint=http://nas:9000").unwrap_err();
        assert!(told.to_string().contains("http=yes"));
        let told = read("s3://b?endpoint=http://127.0.0.1.evil.example").unwrap_err();
        assert!(told.to_string().contains("http=yes"));
    }
}
