//! From what went wrong below to what an operator can act on: the thing is named, and what to do.

use std::error::Error as StdError;

use backup_core::{ErrorKind, SinkError};
use object_store::client::{HttpError, HttpErrorKind};

use crate::credentials::NoCredentials;
use crate::place::{Place, Provider};
use crate::refused::{NO_EXPEDITED, Refused, shown};
use crate::wire::{Late, TooMuch};

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(
        "the server does not accept the signature: the secret is not that of the access key; both come from {0}; check that \
         they were copied whole"
    )]
    WrongSecret(String),
    #[error(
        "the server does not know the access key; it comes from {0}; check that it was not deleted, and that it belongs to this server"
    )]
    UnknownKey(String),
    #[error(
        "the token of the credentials has expired; it comes from {0}; get a new one and run the command again"
    )]
    Expired(String),
    #[error(
        "access denied ({code}): the key of {origin} may not do this in the bucket `{bucket}`; it needs the rights to list \
         the bucket and to get, put and delete objects"
    )]
    Denied {
        code: String,
        origin: String,
        bucket: String,
    },
    #[error(
        "access denied, and to this question servers never say why: either the secret is wrong, or the key lacks rights in the \
         bucket `{bucket}`; the key comes from {origin}; `snapshot check-tier` asks in ways that are answered"
    )]
    DeniedUnsaid { origin: String, bucket: String },
    #[error("there is no bucket `{bucket}`; {remedy}")]
    NoBucket { bucket: String, remedy: String },
    #[error(
        "this machine's clock and the server's are too far apart: look at the clock (`timedatectl`), then run the command again"
    )]
    Skewed,
    #[error(
        "it lies in an archive: `restore warm SNAPSHOT` asks for what a restore needs, and says when it can be read"
    )]
    Archived,
    #[error(
        "it lies in Azure's archive tier, from which Backstay does not fetch: give it the tier Hot or Cool (`az storage blob set-tier`, or a batch of them), and go on when that is done"
    )]
    AzureArchive,
    #[error(
        "the provider has no capacity for what is to be read within minutes; write `warm-tier=Standard` behind the location, or run the command again later"
    )]
    NoExpedited,
    #[error(
        "the server has no room left, or a quota is full ({0}); make room with `snapshot forget` and `snapshot prune`, or raise the quota"
    )]
    Full(String),
    #[error("the bucket `{bucket}` is in another region; write {wanted} behind the location")]
    Region { bucket: String, wanted: String },
    #[error(
        "it is locked against deletion, or kept by a rule of the bucket, for the time being ({0}); a prune behind that time takes it"
    )]
    Locked(String),
    #[error(
        "the server is too busy ({0}); it was asked again for a while; run the command again later, or lower `connections=`"
    )]
    Busy(String),
    #[error(
        "{endpoint} cannot be reached ({why}); check the address, the network and the name server"
    )]
    Unreachable { endpoint: String, why: String },
    #[error(
        "the certificate of {endpoint} is not trusted ({why}); name the file of the authority that signed it with `ca=FILE` \
         behind the location"
    )]
    Untrusted { endpoint: String, why: String },
    #[error(
        "the server broke off or was silent ({0}); it was asked again for a while; run the command again when the network is back"
    )]
    Broken(String),
    #[error(
        "object lock is asked for, and the bucket has none ({0}); it can only be had by a bucket that keeps versions: make one with object lock, or leave `object_lock=` out"
    )]
    NoLock(String),
    #[error(
        "its lock could not be made to last longer ({0}); the key needs the rights s3:PutObjectRetention and s3:GetObjectRetention, see docs/tiers-s3.md"
    )]
    NotExtended(String),
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    #[error("{0}; see docs/tiers-s3.md for what a server must be able to do")]
    Unexpected(Refused),
    #[error("it has {size} bytes; {length} from {offset} on were asked for")]
    Short { size: u64, offset: u64, length: u64 },
    #[error("it has {0} bytes, more than any object of ours")]
    Huge(u64),
    #[error("{found} of {wanted} bytes came")]
    Ended { found: u64, wanted: u64 },
    #[error("{0}")]
    Answer(TooMuch),
    #[error("objects may have up to {limit} bytes, this one has {size}")]
    TooLarge { size: u64, limit: u64 },
    #[error("a version of an object cannot be replaced here: not every server keeps that promise")]
    NoVersions,
    #[error("there is an object of that name already")]
    Taken,
    #[error("a prefix is empty, or whole parts of a key that end in `/`")]
    Prefix,
    #[error("{0}")]
    Other(String),
}

/// What is said of a place in errors.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) provider: Provider,
    pub(crate) bucket: String,
    /// The server, as an address.
    pub(crate) server: String,
    /// Whether the server was named by the location.
    pub(crate) has_endpoint: bool,
    /// Where the credentials come from.
    pub(crate) origin: String,
    /// Whether objects are locked.
    pub(crate) locks: bool,
}

impl Names {
    pub(crate) fn of(place: &Place, server: &str, origin: &str) -> Self {
        Self {
            provider: place.provider,
            bucket: place.bucket.clone(),
            server: server.to_owned(),
            has_endpoint: place.endpoint.is_some(),
            origin: origin.to_owned(),
            locks: place.lock.is_some(),
        }
    }

    fn make_bucket(&self) -> String {
        let bucket = &self.bucket;
        match self.provider {
            Provider::S3 if self.has_endpoint => {
                let server = &self.server;
                format!(
                    "check its name, or make it (`aws --endpoint-url {server} s3 mb s3://{bucket}`)"
                )
            }
            Provider::S3 => format!("check its name, or make it (`aws s3 mb s3://{bucket}`)"),
            Provider::Gcs => {
                format!(
                    "check its name, or make it (`gcloud storage buckets create gs://{bucket}`)"
                )
            }
            Provider::Azure => {
                format!(
                    "check its name, or make it (`az storage container create --name {bucket}`)"
                )
            }
        }
    }

    /// What failed below as the contract has it. What can pass was asked for again already, so that nobody above
    /// has to.
    pub(crate) fn explain(
        &self,
        op: &'static str,
        subject: &str,
        error: &(dyn StdError + 'static),
    ) -> SinkError {
        let (kind, trouble) = match found::<Refused>(error) {
            Some(refused) => self.of_refusal(refused),
            None => self.of_silence(error),
        };
        SinkError::new(kind, op, subject).because(trouble)
    }

    fn of_refusal(&self, refused: &Refused) -> (ErrorKind, Trouble) {
        let origin = || self.origin.clone();
        let bucket = || self.bucket.clone();
        let told = || match refused.code.as_str() {
            "" => refused.status.to_string(),
            code => code.to_owned(),
        };
        let lock = |words: &[&str]| {
            let told = format!("{} {}", refused.code, refused.message);
            self.locks && words.iter().any(|word| told.contains(word))
        };
        if refused.has_code(&["NoSuchBucket", "ContainerNotFound"]) {
            let (bucket, remedy) = (bucket(), self.make_bucket());
            return (ErrorKind::Invalid, Trouble::NoBucket { bucket, remedy });
        }
        if refused.is_skewed() {
            return (ErrorKind::Denied, Trouble::Skewed);
        }
        if refused.has_code(&[
            "SignatureDoesNotMatch",
            "AuthenticationFailed",
            "InvalidSecurity",
        ]) {
            return (ErrorKind::Denied, Trouble::WrongSecret(origin()));
        }
        if refused.has_code(&["InvalidAccessKeyId", "NotSignedUp", "UnknownAccessKey"]) {
            return (ErrorKind::Denied, Trouble::UnknownKey(origin()));
        }
        if refused.has_code(&["ExpiredToken", "TokenRefreshRequired", "InvalidToken"]) {
            return (ErrorKind::Denied, Trouble::Expired(origin()));
        }
        if matches!(refused.status, 301 | 307 | 400)
            && (refused.region.is_some()
                || refused.has_code(&["PermanentRedirect", "AuthorizationHeaderMalformed"]))
        {
            let wanted = match &refused.region {
                Some(region) => format!("`region={region}`"),
                None => "its `region=`, and the `endpoint=` of that region".to_owned(),
            };
            let bucket = bucket();
            return (ErrorKind::Invalid, Trouble::Region { bucket, wanted });
        }
        if lock(&[
            "missing ObjectLockConfiguration",
            "ObjectLockConfigurationNotFound",
            "without Object Lock",
            "InvalidBucketObjectLockConfiguration",
        ]) {
            return (ErrorKind::Invalid, Trouble::NoLock(told()));
        }
        if refused.has_code(&["InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"]) {
            return (ErrorKind::Cold, Trouble::Archived);
        }
        if refused.has_code(&[NO_EXPEDITED]) {
            return (ErrorKind::Unavailable, Trouble::NoExpedited);
        }
        if refused.is_full() {
            return (ErrorKind::NoSpace, Trouble::Full(told()));
        }
        if refused.is_locked() {
            return (ErrorKind::Denied, Trouble::Locked(told()));
        }
        if refused.is_taken() {
            return (ErrorKind::Conflict, Trouble::Taken);
        }
        match refused.status {
            404 => (ErrorKind::NotFound, Trouble::Other("not found".to_owned())),
            416 => (ErrorKind::Damaged, Trouble::Unexpected(refused.clone())),
            401 | 403 if refused.is_head && refused.code.is_empty() => {
                let (origin, bucket) = (origin(), bucket());
                (ErrorKind::Denied, Trouble::DeniedUnsaid { origin, bucket })
            }
            401 | 403 => {
                let (code, origin, bucket) = (told(), origin(), bucket());
                let denied = Trouble::Denied {
                    code,
                    origin,
                    bucket,
                };
                (ErrorKind::Denied, denied)
            }
            _ if refused.is_busy() => (ErrorKind::Unavailable, Trouble::Busy(told())),
            _ if refused.can_pass() => {
                (ErrorKind::Unavailable, Trouble::Broken(refused.to_string()))
            }
            501 | 405 => (ErrorKind::Unsupported, Trouble::Unexpected(refused.clone())),
            400..=499 => (ErrorKind::Invalid, Trouble::Unexpected(refused.clone())),
            _ => (ErrorKind::Other, Trouble::Unexpected(refused.clone())),
        }
    }

    fn of_silence(&self, error: &(dyn StdError + 'static)) -> (ErrorKind, Trouble) {
        let endpoint = self.server.clone();
        if let Some(much) = found::<TooMuch>(error) {
            return (ErrorKind::Damaged, Trouble::Answer(*much));
        }
        if let Some(late) = found::<Late>(error) {
            return (ErrorKind::Unavailable, Trouble::Broken(late.to_string()));
        }
        let why = shown(&deepest(error).to_string());
        let lower = why.to_ascii_lowercase();
        if lower.contains("certificate") || lower.contains("unknownissuer") {
            return (ErrorKind::Denied, Trouble::Untrusted { endpoint, why });
        }
        match found::<HttpError>(error).map(HttpError::kind) {
            Some(HttpErrorKind::Unknown) | Some(HttpErrorKind::Connect) => (
                ErrorKind::Unavailable,
                Trouble::Unreachable { endpoint, why },
            ),
            Some(_) => (ErrorKind::Unavailable, Trouble::Broken(why)),
            None => (ErrorKind::Other, Trouble::Other(shown(&error.to_string()))),
        }
    }
}

/// An error of ours.
pub(crate) fn ours(
    kind: ErrorKind,
    op: &'static str,
    subject: &str,
    trouble: Trouble,
) -> SinkError {
    SinkError::new(kind, op, subject).because(trouble)
}

/// The cause of a type, however deep.
pub(crate) fn found<'a, T: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(wanted) = cause.downcast_ref() {
            return Some(wanted);
        }
        next = cause.source();
    }
    None
}

fn deepest<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last
}
