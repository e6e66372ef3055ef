//! Locks of objects, as the documentation of S3 has them: who may lock can lock for longer, and for less only with a right of
//! its own. The bucket keeps versions, so a deletion only hides what is locked.

use std::collections::BTreeMap;

use s3s::dto::{ObjectLockRetention, ObjectLockRetentionMode, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

/// Until when objects are locked, as they were put or locked last.
#[derive(Debug, Default)]
pub(crate) struct Locks(BTreeMap<String, Timestamp>);

impl Locks {
    /// An object was put, locked until then.
    pub(crate) fn put(&mut self, key: &str, until: Option<Timestamp>) {
        match until {
            Some(until) => drop(self.0.insert(key.to_owned(), until)),
            None => drop(self.0.remove(key)),
        }
    }

    /// Until when, in seconds since 1970.
    pub(crate) fn until(&self, key: &str) -> Option<i64> {
        let mut text = Vec::new();
        let until = self.0.get(key)?;
        until
            .format(TimestampFormat::EpochSeconds, &mut text)
            .ok()?;
        let text = String::from_utf8(text).ok()?;
        text.split('.').next()?.parse().ok()
    }

    /// What is answered to who asks.
    pub(crate) fn told(&self, key: &str) -> S3Result<ObjectLockRetention> {
        let Some(until) = self.0.get(key) else {
            return Err(s3_error!(
                NoSuchObjectLockConfiguration,
                "The specified object does not have a ObjectLock configuration"
            ));
        };
        let mode = ObjectLockRetentionMode::from_static(ObjectLockRetentionMode::GOVERNANCE);
        Ok(ObjectLockRetention {
            mode: Some(mode),
            retain_until_date: Some(until.clone()),
        })
    }

    /// Locks an object that is there.
    pub(crate) fn extend(&mut self, key: &str, asked: Option<ObjectLockRetention>) -> S3Result<()> {
        let malformed = || s3_error!(MalformedXML);
        let asked = asked.ok_or_else(malformed)?;
        let mode = asked.mode.ok_or_else(malformed)?;
        let until = asked.retain_until_date.ok_or_else(malformed)?;
        if mode.as_str() != ObjectLockRetentionMode::GOVERNANCE {
            return Err(malformed());
        }
        if self.0.get(key).is_some_and(|last| until < *last) {
            return Err(s3_error!(
                AccessDenied,
                "Access Denied because object protected by object lock."
            ));
        }
        self.0.insert(key.to_owned(), until);
        Ok(())
    }
}
