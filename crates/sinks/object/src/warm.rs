//! Objects in an archive: whether they can be read now, and asking for them.
//!
//! `object_store` knows neither the question nor the request, so both are made and signed here and travel over the same
//! [wire](crate::wire). S3 is asked with `RestoreObject`, one request for each object: a copy that can be read lies
//! beside the archived object for so many days (`warm-days`), and comes sooner or later (`warm-tier`). Google's classes
//! can all be read at once. Azure's archive is another matter: there an object has to change its tier, which is not done
//! here; it is said what does it.

use std::sync::Arc;
use std::time::Duration;

use backup_core::{ErrorKind, ObjectKey, OpContext, SinkError, Temperature, Warmth};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Method, StatusCode};
use object_store::GetOptions;
use object_store::GetRange;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
};
use tokio::time::Instant;

use crate::lock;
use crate::place::{Place, Provider};
use crate::refused::Refused;
use crate::sink::{Failed, ObjectSink};
use crate::store::PATIENCE;
use crate::trouble::{Trouble, found, ours};

/// Classes whose objects have to be asked for.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Longest pause between two tries.
const MOST_PAUSE: Duration = Duration::from_secs(15);

/// How soon objects are to be readable, as S3 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tier {
    /// Cheapest, within half a day to two days.
    #[default]
    Bulk,
    /// Within hours.
    Standard,
    /// Within minutes, where there is capacity; not from the deep archive.
    Expedited,
}

impl Tier {
    pub(crate) fn read(text: &str) -> Option<Self> {
        [Self::Bulk, Self::Standard, Self::Expedited]
            .into_iter()
            .find(|tier| tier.word() == text)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Bulk => "Bulk",
            Self::Standard => "Standard",
            Self::Expedited => "Expedited",
        }
    }

    /// How long it takes at most, as the provider says.
    const fn takes(self, is_deep: bool) -> Duration {
        match (self, is_deep) {
            (Self::Expedited, _) => Duration::from_mins(5),
            (Self::Standard, false) => Duration::from_hours(5),
            (Self::Standard, true) | (Self::Bulk, false) => Duration::from_hours(12),
            (Self::Bulk, true) => Duration::from_hours(48),
        }
    }
}

/// How objects are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warming {
    pub(crate) days: u32,
    pub(crate) tier: Tier,
    /// Whether the location says anything of it.
    pub(crate) is_named: bool,
}

impl Default for Warming {
    fn default() -> Self {
        Self {
            days: 7,
            tier: Tier::default(),
            is_named: false,
        }
    }
}

impl Place {
    /// Whether objects may have to be warmed, as far as the location tells. Rules of the bucket may archive others.
    pub(crate) fn is_cold(&self) -> bool {
        let class = self.storage_class.as_deref();
        self.warming.is_named || class.is_some_and(|class| ARCHIVES.contains(&class))
    }

    /// The body of a `RestoreObject`.
    fn request(&self) -> String {
        let days = match self.storage_class.as_deref() {
            // There an object becomes readable for good, and a number of days is refused.
            Some("INTELLIGENT_TIERING") => String::new(),
            _ => format!("<Days>{}</Days>", self.warming.days),
        };
        let tier = self.warming.tier.word();
        format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{days}<GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
        )
    }

    fn takes(&self) -> Duration {
        let is_deep = self.storage_class.as_deref() == Some("DEEP_ARCHIVE");
        self.warming.tier.takes(is_deep)
    }
}

/// What requests are made and signed with that `object_store` does not know.
pub(crate) struct Signer {
    pub(crate) http: HttpClient,
    pub(crate) credentials: AwsCredentialProvider,
    pub(crate) region: String,
    /// The address of the bucket, without a slash at its end.
    pub(crate) bucket: String,
    pub(crate) tries: usize,
}

impl Signer {
    /// Sends a request until it is answered, refused for good, or patience is over.
    pub(crate) async fn send(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &str,
    ) -> Result<HttpResponse, Failed> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(100);
        let mut tries = self.tries;
        loop {
            let request = self.signed(method, path, query, body).await?;
            let error = match self.http.execute(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if tries == 0 || begun.elapsed() > PATIENCE || !can_pass(&error) {
                return Err(Failed::Wire(error));
            }
            tries -= 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    async fn signed(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &str,
    ) -> Result<HttpRequest, Failed> {
        let unmade = |error: &dyn std::fmt::Display| {
            let trouble = Trouble::Other(format!("the request cannot be made: {error}"));
            Failed::Ours(ErrorKind::Other, trouble)
        };
        // Keys and prefixes hold nothing that would have to be escaped.
        let uri = format!("{}/{path}{query}", self.bucket);
        let request = http::Request::builder().method(method).uri(uri);
        let request = match body.is_empty() {
            true => request.body(HttpRequestBody::empty()),
            false => request
                .header("content-type", "application/xml")
                .header("content-md5", lock::sum(body))
                .body(HttpRequestBody::from(body.to_owned())),
        };
        let mut request = request.map_err(|error| unmade(&error))?;
        let credential = self.credentials.get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| unmade(&error))?;
        Ok(request)
    }

    async fn temperature(&self, path: &str) -> Result<Temperature, Failed> {
        let answer = self.send(&Method::HEAD, path, "", "").await?;
        Ok(told(answer.headers()))
    }

    /// Asks for one object; whether it can be read already.
    async fn ask(&self, path: &str, body: &str) -> Result<bool, Failed> {
        let error = match self.send(&Method::POST, path, "?restore", body).await {
            Ok(answer) => return Ok(answer.status() != StatusCode::ACCEPTED),
            Err(Failed::Wire(error)) => error,
            Err(other) => return Err(other),
        };
        match found::<Refused>(&error) {
            Some(refused) if refused.has_code(&["RestoreAlreadyInProgress"]) => Ok(false),
            // Its class is none that has to be asked for.
            Some(refused) if refused.has_code(&["InvalidObjectState"]) => Ok(true),
            _ => Err(Failed::Wire(error)),
        }
    }
}

/// Whether the same request may be answered otherwise in a moment.
fn can_pass(error: &HttpError) -> bool {
    match found::<Refused>(error) {
        Some(refused) => refused.can_pass(),
        None => !matches!(error.kind(), HttpErrorKind::Unknown | HttpErrorKind::Decode),
    }
}

/// What the answer to a HEAD says.
fn told(headers: &HeaderMap) -> Temperature {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let class = header("x-amz-storage-class").unwrap_or_default();
    if !ARCHIVES.contains(&class) && header("x-amz-archive-status").is_none() {
        return Temperature::Warm;
    }
    match header("x-amz-restore") {
        Some(restore) if restore.contains("ongoing-request=\"true\"") => Temperature::Warming,
        Some(restore) if restore.contains("ongoing-request=\"false\"") => Temperature::Warm,
        _ => Temperature::Cold,
    }
}

impl ObjectSink {
    /// Whether an object can be read now.
    pub(crate) async fn temperature_of(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
    ) -> Result<Temperature, SinkError> {
        let path = self.path(key.as_str());
        match self.place().provider {
            Provider::Gcs => Ok(Temperature::Warm),
            Provider::Azure => self.azure_is_readable(cx, key).await,
            Provider::S3 => {
                self.with(cx, "head", key.as_str(), |store| async move {
                    match &store.signer {
                        Some(signer) => signer.temperature(path.as_ref()).await,
                        None => Ok(Temperature::Warm),
                    }
                })
                .await
            }
        }
    }

    /// Asks for objects.
    pub(crate) async fn ask_for(
        &self,
        cx: &OpContext,
        keys: &[ObjectKey],
    ) -> Result<Warmth, SinkError> {
        match self.place().provider {
            Provider::Gcs => Ok(Warmth::Ready),
            Provider::Azure => {
                for key in keys {
                    self.azure_is_readable(cx, key).await?;
                }
                Ok(Warmth::Ready)
            }
            Provider::S3 => {
                let body: Arc<str> = self.place().request().into();
                let asked =
                    stream::iter(keys.to_vec()).map(|key| self.ask_for_one(cx, key, body.clone()));
                let asked = asked.buffer_unordered(self.place().connections);
                let are_ready = asked.try_fold(true, |all, one| async move { Ok(all && one) });
                Ok(match are_ready.await? {
                    true => Warmth::Ready,
                    false => Warmth::ReadyIn(self.place().takes()),
                })
            }
        }
    }

    async fn ask_for_one(
        &self,
        cx: &OpContext,
        key: ObjectKey,
        body: Arc<str>,
    ) -> Result<bool, SinkError> {
        let path = self.path(key.as_str());
        self.with(cx, "warm", key.as_str(), |store| async move {
            match &store.signer {
                Some(signer) => signer.ask(path.as_ref(), &body).await,
                None => Ok(true),
            }
        })
        .await
    }

    /// One byte is asked for: what is in the archive is refused.
    async fn azure_is_readable(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
    ) -> Result<Temperature, SinkError> {
        let path = self.path(key.as_str());
        let options = GetOptions {
            range: Some(GetRange::Bounded(0..1)),
            ..GetOptions::default()
        };
        let read = self.with(cx, "warm", key.as_str(), |store| async move {
            store.client.get_opts(&path, options).await?;
            Ok::<_, Failed>(())
        });
        match read.await {
            Ok(()) => Ok(Temperature::Warm),
            // An empty object has no first byte.
            Err(error) if error.kind == ErrorKind::Damaged => Ok(Temperature::Warm),
            Err(error) if error.kind == ErrorKind::Cold => {
                let (kind, trouble) = (ErrorKind::Unsupported, Trouble::AzureArchive);
                Err(ours(kind, "warm", key.as_str(), trouble))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = of.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn the_answer_to_a_head_tells_whether_an_object_can_be_read() {
        let of = |all: &[_]| told(&headers(all));
        let glacier = ("x-amz-storage-class", "GLACIER");
        assert_eq!(of(&[]), Temperature::Warm);
        assert_eq!(
            of(&[("x-amz-storage-class", "GLACIER_IR")]),
            Temperature::Warm
        );
        assert_eq!(of(&[glacier]), Temperature::Cold);
        assert_eq!(
            of(&[glacier, ("x-amz-restore", "ongoing-request=\"true\"")]),
            Temperature::Warming
        );
        let back = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        assert_eq!(of(&[glacier, ("x-amz-restore", back)]), Temperature::Warm);
        let tiering = ("x-amz-archive-status", "DEEP_ARCHIVE_ACCESS");
        assert_eq!(of(&[tiering]), Temperature::Cold);
    }

    #[test]
    fn a_request_says_how_long_and_how_soon() {
        let place = |options: &str| {
            let location = format!("s3://b?{options}").parse().unwrap();
            Place::read(Provider::S3, &location).unwrap()
        };
        let sent = place("storage_class=DEEP_ARCHIVE&warm-days=3&warm-tier=Standard");
        assert!(sent.is_cold());
        assert_eq!(sent.takes(), Duration::from_hours(12));
        assert_eq!(
            sent.request(),
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>3</Days><GlacierJobParameters><Tier>Standard</Tier></GlacierJobParameters></RestoreRequest>"
        );
        let sent = place("storage_class=INTELLIGENT_TIERING");
        assert!(!sent.is_cold() && !sent.request().contains("Days"));
        assert!(!place("storage_class=GLACIER_IR").is_cold());
    }
}
