//! The objects, in memory, as S3 keeps them: any key beside any other, a range of nothing refused, conditional puts one
//! at a time, sums compared.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use hyper::header::{HeaderMap, HeaderValue};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, ETag, GetObjectInput, GetObjectOutput,
    GetObjectRetentionInput, GetObjectRetentionOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput,
    PutObjectRetentionInput, PutObjectRetentionOutput, Range, RestoreObjectInput,
    RestoreObjectOutput, StorageClass, StreamingBlob, Timestamp,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

use crate::BUCKET;
use crate::archive::Archive;
use crate::locks::Locks;

/// A word to the [server](crate::serve): the protocol's implementation knows one status for this answer, and there are two.
pub(crate) const ACCEPTED: &str = "x-stand-in-accepted";

/// The objects of the one bucket; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    archive: Arc<Mutex<Archive>>,
    locks: Arc<Mutex<Locks>>,
}

impl Shelf {
    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of them are in the archive.
    pub(crate) fn archive(&self) -> MutexGuard<'_, Archive> {
        self.archive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of them are locked.
    pub(crate) fn locks(&self) -> MutexGuard<'_, Locks> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Bytes> {
        must_be_there(bucket)?;
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| s3_error!(NoSuchKey))
    }
}

fn must_be_there(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET {
        return Ok(());
    }
    Err(s3_error!(NoSuchBucket))
}

fn tag(body: &[u8]) -> ETag {
    let sum = Md5::checksum(body);
    let bytes: &[u8] = sum.as_ref();
    ETag::Strong(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn size(body: &Bytes) -> Option<i64> {
    i64::try_from(body.len()).ok()
}

/// No test looks at times.
fn some_time() -> Option<Timestamp> {
    Some(SystemTime::UNIX_EPOCH.into())
}

#[async_trait::async_trait]
impl S3 for Shelf {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        must_be_there(&input.bucket)?;
        let mut body = BytesMut::new();
        let mut sums = ChecksumHasher::default();
        if input.checksum_sha256.is_some() {
            sums.sha256 = Some(s3s::crypto::Sha256::new());
        }
        if let Some(mut parts) = input.body {
            while let Some(part) = parts.next().await {
                let part = part.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
                sums.update(&part);
                body.extend_from_slice(&part);
            }
        }
        if input
            .content_length
            .is_some_and(|told| usize::try_from(told) != Ok(body.len()))
        {
            return Err(s3_error!(IncompleteBody));
        }
        if sums.finalize().checksum_sha256 != input.checksum_sha256 {
            return Err(s3_error!(BadDigest));
        }
        let body = body.freeze();
        let e_tag = Some(tag(&body));
        let mut objects = self.objects();
        let is_new = input
            .if_none_match
            .is_some_and(|condition| condition.is_any());
        if is_new && objects.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let class = input.storage_class.as_ref().map(|class| class.as_str());
        self.archive().put(&input.key, class);
        let until = input.object_lock_retain_until_date;
        self.locks().put(&input.key, until);
        objects.insert(input.key, body);
        Ok(S3Response::new(PutObjectOutput {
            e_tag,
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let whole = self.find(&input.bucket, &input.key)?;
        self.archive().read(&input.key)?;
        let e_tag = Some(tag(&whole));
        let length = whole.len() as u64;
        let (body, content_range) = match input.range {
            None => (whole, None),
            Some(Range::Suffix { .. }) if length == 0 => return Err(s3_error!(InvalidRange)),
            Some(range) => {
                let part = range.check(length)?;
                let told = format!("bytes {}-{}/{length}", part.start, part.end - 1);
                let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
                (whole.slice(at(part.start)..at(part.end)), Some(told))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: size(&body),
            content_range,
            e_tag,
            last_modified: some_time(),
            body: Some(StreamingBlob::from(Body::from(body))),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let whole = self.find(&request.input.bucket, &request.input.key)?;
        let (class, restore) = self.archive().head(&request.input.key);
        Ok(S3Response::new(HeadObjectOutput {
            content_length: size(&whole),
            storage_class: class.map(StorageClass::from),
            restore,
            e_tag: Some(tag(&whole)),
            last_modified: some_time(),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        must_be_there(&input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.max(input.start_after);
        let most = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or(1000);
        let objects = self.objects();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut wanted = objects
            .range((from, Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(&prefix))
            .peekable();
        let mut contents = Vec::new();
        while contents.len() < most
            && let Some((key, body)) = wanted.next()
        {
            contents.push(Object {
                key: Some(key.clone()),
                size: size(body),
                e_tag: Some(tag(body)),
                last_modified: some_time(),
                ..Object::default()
            });
        }
        let last = contents.last().and_then(|object| object.key.clone());
        let is_truncated = wanted.peek().is_some();
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(is_truncated),
            next_continuation_token: last.filter(|_| is_truncated),
            key_count: i32::try_from(contents.len()).ok(),
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn restore_object(
        &self,
        request: S3Request<RestoreObjectInput>,
    ) -> S3Result<S3Response<RestoreObjectOutput>> {
        let input = request.input;
        self.find(&input.bucket, &input.key)?;
        let is_there = self.archive().ask(&input.key, input.restore_request)?;
        let mut headers = HeaderMap::new();
        if !is_there {
            headers.insert(ACCEPTED, HeaderValue::from_static("yes"));
        }
        Ok(S3Response::with_headers(
            RestoreObjectOutput::default(),
            headers,
        ))
    }

    async fn put_object_retention(
        &self,
        request: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<S3Response<PutObjectRetentionOutput>> {
        let input = request.input;
        self.find(&input.bucket, &input.key)?;
        if input.content_md5.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
            ));
        }
        self.locks().extend(&input.key, input.retention)?;
        Ok(S3Response::new(PutObjectRetentionOutput::default()))
    }

    async fn get_object_retention(
        &self,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        let input = request.input;
        self.find(&input.bucket, &input.key)?;
        Ok(S3Response::new(GetObjectRetentionOutput {
            retention: Some(self.locks().told(&input.key)?),
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        must_be_there(&request.input.bucket)?;
        self.objects().remove(&request.input.key);
        self.locks().put(&request.input.key, None);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }
}
