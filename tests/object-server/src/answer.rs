//! Answers of our own, and answers that are spoilt.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use s3s::StdError;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, StdError>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A refusal as S3 has it: a HEAD is told nothing.
pub(crate) fn refusal(
    is_head: bool,
    status: u16,
    code: &str,
    message: &str,
    headers: &[(&'static str, String)],
) -> Result<Response<Body>, StdError> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, value);
    }
    Ok(answer.body(if is_head { full("") } else { full(text) })?)
}

/// The first bytes of an answer, then nothing although more was promised.
pub(crate) async fn cut(answer: Response<Body>, after: usize) -> Result<Response<Body>, StdError> {
    let (parts, body) = answer.into_parts();
    let whole = body.collect().await?.to_bytes();
    let begun = whole.slice(..after.min(whole.len()));
    let frames = stream::once(std::future::ready(Ok(Frame::data(begun))));
    // What was begun is to be on its way before it ends.
    let end = stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(StdError::from("cut as a test asked for"))
    });
    let mut answer = Response::from_parts(parts, StreamBody::new(frames.chain(end)).boxed_unsync());
    answer
        .headers_mut()
        .insert("content-length", whole.len().into());
    Ok(answer)
}
