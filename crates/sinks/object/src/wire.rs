//! What lies between the client of `object_store` and the network: every try of every request goes through here.
//! It waits for the [gate](crate::gate), is counted, has its time, and its answer is kept within bounds. What the
//! server refuses becomes a [`Refused`], with what it says of the reason, and whether it is tried again is said
//! by the kind of the error around it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::Traffic;
use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::time::{Instant, Sleep};

use crate::gate::{Gate, Pass};
use crate::listing;
use crate::refused::Refused;

/// A page of a listing has at most 5,000 names of at most a kilobyte and what is said of them.
const MOST_PAGE: usize = 32 << 20;

/// What a server says of a refusal is shorter.
const MOST_REASON: usize = 64 << 10;

/// Slower than this a connection counts as dead.
const LEAST_PER_SECOND: u64 = 16 << 10;

/// How often it is tried to reach a server that never answered: what is misspelt stays so.
const FIRST_TRIES: u64 = 3;

/// No answer within its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} seconds", .0.as_secs())]
pub(crate) struct Late(pub(crate) Duration);

/// More came than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer has more than {0} bytes")]
pub(crate) struct TooMuch(pub(crate) u64);

#[derive(Debug, Default)]
struct Counters {
    lists: AtomicU64,
    heads: AtomicU64,
    gets: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    others: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The wire of one sink; clones are the same wire.
#[derive(Debug, Clone)]
pub(crate) struct Wire(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    counters: Counters,
    /// Host and port of the store: what is asked elsewhere (tokens) is nobody's object.
    authority: String,
    timeout: Duration,
    most_object: u64,
    has_answered: AtomicBool,
    unreached: AtomicU64,
    leaves_markers: AtomicBool,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Wire {
    pub(crate) fn new(
        authority: String,
        connections: usize,
        timeout: Duration,
        most_object: u64,
    ) -> Self {
        Self(Arc::new(Inner {
            gate: Gate::new(connections),
            counters: Counters::default(),
            authority,
            timeout,
            most_object,
            has_answered: AtomicBool::new(false),
            unreached: AtomicU64::new(0),
            leaves_markers: AtomicBool::new(false),
        }))
    }

    /// What was asked so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        Traffic {
            lists: of(&counters.lists),
            heads: of(&counters.heads),
            gets: of(&counters.gets),
            puts: of(&counters.puts),
            deletes: of(&counters.deletes),
            others: of(&counters.others),
            failed: of(&counters.failed),
            sent_bytes: of(&counters.sent),
            received_bytes: of(&counters.received),
        }
    }

    /// Whether a deletion left a marker behind and the object's bytes below it: the bucket keeps versions.
    pub(crate) fn leaves_markers(&self) -> bool {
        self.0.leaves_markers.load(Ordering::Relaxed)
    }

    fn counter(&self, ask: &Ask) -> &AtomicU64 {
        let counters = &self.0.counters;
        match ask {
            Ask::List => &counters.lists,
            Ask::Head => &counters.heads,
            Ask::Get => &counters.gets,
            Ask::Put => &counters.puts,
            Ask::Delete => &counters.deletes,
            Ask::Other => &counters.others,
        }
    }

    /// The server did not answer, or broke off.
    fn unanswered(&self, error: HttpError) -> HttpError {
        count(&self.0.counters.failed, 1);
        // None of our requests does harm when it is made twice: objects do not change, and of a create that has won
        // already the engine finds out by its bytes. A server that was never reached is misspelt rather than down.
        let mut kind = HttpErrorKind::Request;
        if !self.0.has_answered.load(Ordering::Relaxed)
            && self.0.unreached.fetch_add(1, Ordering::Relaxed) >= FIRST_TRIES
        {
            kind = HttpErrorKind::Unknown;
        }
        HttpError::new(kind, error)
    }

    async fn refused(&self, ask: &Ask, answer: HttpResponse) -> HttpError {
        let (parts, body) = answer.into_parts();
        let pause = pause_of(&parts.headers);
        let text = match Limited::new(body, MOST_REASON).collect().await {
            Ok(text) => String::from_utf8_lossy(&text.to_bytes()).into_owned(),
            Err(_) => String::new(),
        };
        let refused = Refused::read(
            parts.status,
            &parts.headers,
            &text,
            matches!(ask, Ask::Head),
        );
        if refused.is_busy() {
            self.0.gate.was_refused(pause);
        }
        let kind = if refused.can_pass() {
            count(&self.0.counters.failed, 1);
            HttpErrorKind::Request
        } else {
            HttpErrorKind::Unknown
        };
        HttpError::new(kind, refused)
    }

    /// The whole page, without what is not ours.
    async fn page(&self, answer: HttpResponse, pass: Pass) -> Result<HttpResponse, HttpError> {
        let (parts, body) = answer.into_parts();
        let collected =
            tokio::time::timeout(self.0.timeout, Limited::new(body, MOST_PAGE).collect());
        let page = match collected.await {
            Ok(Ok(page)) => page.to_bytes(),
            Ok(Err(error)) => return Err(HttpError::new_boxed(HttpErrorKind::Request, error)),
            Err(_) => return Err(HttpError::new(HttpErrorKind::Request, Late(self.0.timeout))),
        };
        drop(pass);
        count(&self.0.counters.received, page.len() as u64);
        let text = listing::without_strangers(&String::from_utf8_lossy(&page));
        Ok(HttpResponse::from_parts(parts, text.into()))
    }
}

/// Clients of `object_store` whose requests go over a wire.
impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service {
            inner: ReqwestConnector::default().connect(options)?,
            wire: self.clone(),
        }))
    }
}

struct Service {
    inner: HttpClient,
    wire: Wire,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    List,
    Head,
    Get,
    Put,
    Delete,
    Other,
}

impl Ask {
    fn of(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        let is_listing = query
            .split('&')
            .any(|pair| matches!(pair, "list-type=2" | "comp=list"));
        match *method {
            Method::GET if is_listing => Self::List,
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}

fn pause_of(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let wire = &self.wire;
        let uri = request.uri();
        let is_ours = uri
            .authority()
            .is_some_and(|authority| authority.as_str() == wire.0.authority);
        if !is_ours {
            count(&wire.0.counters.others, 1);
            return self.inner.execute(request).await;
        }
        let ask = Ask::of(request.method(), uri);
        let pass = wire.0.gate.enter().await;
        count(wire.counter(&ask), 1);
        let size = request.body().content_length() as u64;
        count(&wire.0.counters.sent, size);
        let time = wire.0.timeout + Duration::from_secs(size / LEAST_PER_SECOND);
        let answer = match tokio::time::timeout(time, self.inner.execute(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(wire.unanswered(error)),
            Err(_) => {
                return Err(wire.unanswered(HttpError::new(HttpErrorKind::Timeout, Late(time))));
            }
        };
        wire.0.has_answered.store(true, Ordering::Relaxed);
        if !answer.status().is_success() {
            return Err(wire.refused(&ask, answer).await);
        }
        wire.0.gate.went_well();
        if ask == Ask::Delete && answer.headers().contains_key("x-amz-delete-marker") {
            wire.0.leaves_markers.store(true, Ordering::Relaxed);
        }
        if ask == Ask::List {
            return wire.page(answer, pass).await;
        }
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(answer);
        }
        let (parts, body) = answer.into_parts();
        let watched = Watched {
            body,
            left: wire.0.most_object,
            idle: Box::pin(tokio::time::sleep(wire.0.timeout)),
            wire: wire.clone(),
            _pass: pass,
        };
        Ok(HttpResponse::from_parts(
            parts,
            HttpResponseBody::new(watched),
        ))
    }
}

/// A body that is counted, may not be longer than any object of ours, and may not pause for ever.
struct Watched {
    body: HttpResponseBody,
    left: u64,
    idle: Pin<Box<Sleep>>,
    wire: Wire,
    _pass: Pass,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let timeout = this.wire.0.timeout;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                count(&this.wire.0.counters.received, length);
                let Some(left) = this.left.checked_sub(length) else {
                    let too_much = TooMuch(this.wire.0.most_object);
                    return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, too_much))));
                };
                this.left = left;
                this.idle.as_mut().reset(Instant::now() + timeout);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                count(&this.wire.0.counters.failed, 1);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.idle.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    count(&this.wire.0.counters.failed, 1);
                    let late = HttpError::new(HttpErrorKind::Timeout, Late(timeout));
                    Poll::Ready(Some(Err(late)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
