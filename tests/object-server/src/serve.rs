//! The server's loop, and what happens to one request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::StdError;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::answer::{self, Body};
use crate::fault::{Conditions, Fault};
use crate::shelf::{ACCEPTED, Shelf};
use crate::{ACCESS_KEY, Asked, BUCKET, SECRET_KEY, State};

/// What the requests share.
struct Shared {
    service: S3Service,
    shelf: Shelf,
    state: Arc<Mutex<State>>,
}

#[allow(
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]
pub(crate) async fn serve(
    shelf: Shelf,
    state: Arc<Mutex<State>>,
    started: std::sync::mpsc::Sender<SocketAddr>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut builder = S3ServiceBuilder::new(shelf.clone());
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let shared = Arc::new(Shared {
        service: builder.build(),
        shelf,
        state,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    started.send(address).expect("whoever started it waits");
    loop {
        let socket = tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(_) => continue,
            },
        };
        let _ = socket.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| shared.clone().answer(request));
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn cut_off() -> StdError {
    StdError::from("cut as a test asked for")
}

impl Shared {
    /// Answers a request and writes it down.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<Body>, std::io::Error>> {
        Box::pin(async move { self.noted(request).await.map_err(std::io::Error::other) })
    }

    async fn noted(&self, request: Request<Incoming>) -> Result<Response<Body>, StdError> {
        let text = |value: &hyper::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        let headers = request.headers().iter();
        let mut asked = Asked {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            status: 0,
        };
        let (fault, conditions) = self.meant_for(&asked);
        let answer = self.carry_out(request, &asked, fault, conditions).await;
        asked.status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asked
            .push(asked);
        answer
    }

    fn meant_for(&self, asked: &Asked) -> (Option<Fault>, Conditions) {
        let target = format!("{}?{}", asked.path, asked.query);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = state.rules.iter_mut().find_map(|rule| {
            rule.takes(&asked.method, &target)
                .then(|| rule.fault.clone())
        });
        (rule, state.conditions)
    }

    async fn carry_out(
        &self,
        mut request: Request<Incoming>,
        asked: &Asked,
        fault: Option<Fault>,
        conditions: Conditions,
    ) -> Result<Response<Body>, StdError> {
        let is_head = asked.method == "HEAD";
        let is_conditional = asked.header("if-none-match").is_some() && asked.method == "PUT";
        match &fault {
            Some(Fault::Answer {
                status,
                code,
                message,
                headers,
            }) => {
                // As real servers do: a client that is still sending would see a broken connection.
                let _ = request.body_mut().collect().await;
                return answer::refusal(is_head, *status, code, message, headers);
            }
            Some(Fault::Cut) => return Err(cut_off()),
            Some(Fault::Wait(time)) => tokio::time::sleep(*time).await,
            _ => {}
        }
        if is_conditional && conditions == Conditions::Refused {
            let _ = request.body_mut().collect().await;
            let message = "A header you provided implies functionality that is not implemented";
            return answer::refusal(is_head, 501, "NotImplemented", message, &[]);
        }
        if is_conditional && conditions == Conditions::Ignored {
            self.forget(asked);
        }
        let answer = self.pass_on(request).await?;
        match fault {
            Some(Fault::LoseAnswer) => Err(cut_off()),
            Some(Fault::CutBody(after)) => answer::cut(answer, after).await,
            Some(Fault::Add(name, value)) => {
                let mut answer = answer;
                answer.headers_mut().insert(name, value.parse()?);
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    /// The condition is part of what was signed, so it stays; what it would find is taken away.
    fn forget(&self, asked: &Asked) {
        let key = asked.path.strip_prefix(&format!("/{BUCKET}/"));
        key.and_then(|key| self.shelf.objects().remove(key));
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<Response<Body>, StdError> {
        let answer = self.service.call(request.map(s3s::Body::from)).await;
        let answer = answer.map_err(|error| StdError::from(format!("{error:?}")))?;
        let mut answer = answer.map(|body| body.boxed_unsync());
        if answer.headers_mut().remove(ACCEPTED).is_some() {
            *answer.status_mut() = StatusCode::ACCEPTED;
        }
        Ok(answer)
    }
}
