//! Locks of objects that are there: with requests that `object_store` does not know (Amazon S3 API Reference,
//! `PutObjectRetention` and `GetObjectRetention`).
//!
//! Whoever may lock can make a lock last longer; to let it end sooner takes a right of its own, which a host has no use
//! for. So an object that is locked for longer already is refused like one that may not be locked at all, and the server
//! is asked for how long it is.

use std::time::Duration;

use backup_core::{ErrorKind, ObjectKey, OpContext, SinkError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use object_store::client::HttpError;

use crate::refused::{Refused, element};
use crate::sink::{Failed, ObjectSink};
use crate::trouble::{Trouble, found};
use crate::warm::Signer;

/// The mode of our locks: a thief with the key of a host cannot undo it, and an administrator can.
pub(crate) const MODE: &str = "GOVERNANCE";

/// So long one date of a lock is used for puts, and so much longer than asked for objects are locked at most.
pub(crate) const STEP: Duration = Duration::from_hours(1);

/// A retention has two elements.
const MOST_ANSWER: usize = 16 << 10;

/// When a lock of so long ends that begins then.
pub(crate) fn end(from: Timestamp, lock: Duration) -> Timestamp {
    from.saturating_add(lock).unwrap_or(Timestamp::MAX)
}

/// A date as locks have it: whole seconds.
pub(crate) fn date(until: Timestamp) -> String {
    until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The sum that a body has to have beside it: of those that servers take, the one that the oldest know.
pub(crate) fn sum(body: &str) -> String {
    STANDARD.encode(Md5::digest(body.as_bytes()))
}

fn retention(until: Timestamp) -> String {
    format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{MODE}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        date(until)
    )
}

/// Whether a retention lasts at least until then.
fn lasts(text: &str, until: Timestamp) -> bool {
    let told = element(text, "RetainUntilDate").and_then(|told| told.parse::<Timestamp>().ok());
    told.is_some_and(|told| told.as_second() >= until.as_second())
}

impl Signer {
    /// Locks an object until then at least.
    async fn retain(&self, path: &str, until: Timestamp) -> Result<(), Failed> {
        let body = retention(until);
        let error = match self.send(&Method::PUT, path, "?retention", &body).await {
            Ok(_) => return Ok(()),
            Err(Failed::Wire(error)) => error,
            Err(other) => return Err(other),
        };
        let Some(refused) = found::<Refused>(&error) else {
            return Err(Failed::Wire(error));
        };
        // The newest version of it is the marker of a deletion.
        if refused.status == 405 {
            self.send(&Method::HEAD, path, "", "").await?;
        }
        if !refused.has_code(&["AccessDenied"]) && !refused.is_locked() {
            return Err(Failed::Wire(error));
        }
        match self.is_retained(path, until).await {
            true => Ok(()),
            false => Err(not_extended(&error)),
        }
    }

    /// What cannot be told counts as no.
    async fn is_retained(&self, path: &str, until: Timestamp) -> bool {
        let Ok(answer) = self.send(&Method::GET, path, "?retention", "").await else {
            return false;
        };
        let body = Limited::new(answer.into_body(), MOST_ANSWER);
        let Ok(text) = body.collect().await else {
            return false;
        };
        lasts(&String::from_utf8_lossy(&text.to_bytes()), until)
    }
}

fn not_extended(error: &HttpError) -> Failed {
    let told = found::<Refused>(error).map(ToString::to_string);
    let trouble = Trouble::NotExtended(told.unwrap_or_default());
    Failed::Ours(ErrorKind::Denied, trouble)
}

impl ObjectSink {
    /// Locks an object that is there as if it were put then.
    pub(crate) async fn lock_again(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        from: Timestamp,
    ) -> Result<(), SinkError> {
        let Some(lock) = self.place().lock else {
            return Ok(());
        };
        // Puts of the hour before may have been given that much more, and no lock can be made shorter.
        let until = end(end(from, STEP), lock);
        let path = self.path(key.as_str());
        self.with(cx, "lock", key.as_str(), |store| async move {
            match &store.signer {
                Some(signer) => signer.retain(path.as_ref(), until).await,
                None => Ok(()),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_asked_for_with_a_date_and_the_sum_of_the_question() {
        let until = "2026-12-27T08:09:10.987Z".parse().unwrap();
        let body = retention(until);
        assert_eq!(
            body,
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>GOVERNANCE</Mode><RetainUntilDate>2026-12-27T08:09:10Z</RetainUntilDate></Retention>"
        );
        // RFC 1864, of the three letters of RFC 1321, A.5.
        assert_eq!(sum("abc"), "kAFQmDzST7DWlj99KOF/cg==");
    }

    #[test]
    fn it_is_told_whether_a_lock_lasts() {
        let told = "<?xml version=\"1.0\"?><Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2026-12-27T08:09:10.000Z</RetainUntilDate></Retention>";
        let until = |text: &str| text.parse().unwrap();
        assert!(lasts(told, until("2026-12-27T08:09:10.9Z")));
        assert!(!lasts(told, until("2026-12-27T08:09:11Z")));
        for nothing in [
            "",
            "<RetainUntilDate>soon</RetainUntilDate>",
            "<RetainUntilDate>",
        ] {
            assert!(!lasts(nothing, Timestamp::MIN), "{nothing}");
        }
    }
}
