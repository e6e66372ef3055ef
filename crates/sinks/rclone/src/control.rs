//! What is asked of a child over its remote control: one connection on the loopback interface for each question.

use std::time::Duration;

use backup_core::ErrorKind;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, RANGE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::child::{Running, deepest};
use crate::fault::{Fault, Outcome, Wrong, ours};
use crate::items::{Item, Items};
use crate::sink::MAX_PUT_BYTES;

/// No answer that is taken whole is longer.
const LONGEST_ANSWER: u64 = 8 << 20;

/// What rclone answers when it does not do what was asked.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// What is looked at in answers.
#[derive(Deserialize)]
struct Found {
    item: Option<Item>,
}

/// What a remote can do.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Abilities {
    #[serde(rename = "Hashes", default)]
    pub(crate) hashes: Vec<String>,
    #[serde(rename = "Features", default)]
    pub(crate) features: Features,
}

/// Of all that a remote may do, what is asked for here.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Features {
    #[serde(rename = "About", default)]
    pub(crate) about: bool,
    /// Whether it moves files by itself.
    #[serde(rename = "Move", default)]
    pub(crate) moves: bool,
    /// Whether it copies them by itself; rclone moves by that and by deleting the old one.
    #[serde(rename = "Copy", default)]
    pub(crate) copies: bool,
}

impl Features {
    /// Whether a file gets another name without being sent once more. Otherwise rclone's move is an upload straight to
    /// the new name, and who looks there meanwhile, or after it was broken off, finds a torn object.
    pub(crate) const fn renames(&self) -> bool {
        self.moves || self.copies
    }
}

/// The room of a remote.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct About {
    pub(crate) total: Option<u64>,
    pub(crate) used: Option<u64>,
    pub(crate) free: Option<u64>,
}

/// Questions to one child about one place.
#[derive(Clone, Copy)]
pub(crate) struct Control<'a> {
    pub(crate) running: &'a Running,
    pub(crate) fs: &'a str,
}

fn strange(error: impl std::fmt::Display) -> Fault {
    Fault::Ours(ErrorKind::Other, Wrong::Strange(error.to_string()))
}

/// Nothing is below an object; a disk says that in its own way.
fn below(fault: Fault) -> Fault {
    match fault {
        Fault::Said(text) if text.contains("not a directory") => Fault::Absent,
        fault => fault,
    }
}

impl Control<'_> {
    async fn send(&self, request: Request<Full<Bytes>>) -> Outcome<Response<Incoming>> {
        let running = self.running;
        let sent = async {
            let stream = TcpStream::connect(running.address).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(std::io::Error::other)?;
            tokio::spawn(async move {
                // Whoever reads the answer is told.
                let _ = connection.await;
            });
            let answer = sender.send_request(request).await;
            answer.map_err(std::io::Error::other)
        };
        match sent.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(running.lost(deepest(&error)).await),
        }
    }

    /// The answer, if it is one: what is refused is an error.
    async fn granted(&self, request: Request<Full<Bytes>>) -> Outcome<Response<Incoming>> {
        let answer = self.send(request).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = self.whole(answer.into_body(), LONGEST_ANSWER).await?;
        if status == StatusCode::NOT_FOUND {
            return Err(Fault::Absent);
        }
        Err(match serde_json::from_slice::<Refusal>(&text) {
            // A folder is no object, so there is none of that name.
            Ok(refusal) if refusal.error.contains("is a directory not a file") => Fault::Absent,
            Ok(refusal) => Fault::Said(refusal.error),
            Err(_) => Fault::Said(format!("{status} {}", String::from_utf8_lossy(&text))),
        })
    }

    /// A body of bounded length.
    async fn whole(&self, mut body: Incoming, limit: u64) -> Outcome<Bytes> {
        let mut out = BytesMut::new();
        while let Some(part) = self.next_part(&mut body).await? {
            if (out.len() + part.len()) as u64 > limit {
                return Err(strange(format!("an answer of more than {limit} bytes")));
            }
            out.extend_from_slice(&part);
        }
        Ok(out.freeze())
    }

    async fn next_part(&self, body: &mut Incoming) -> Outcome<Option<Bytes>> {
        loop {
            match body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(self.running.lost(deepest(&error)).await),
            }
        }
    }

    fn question(&self, command: &str, question: &Value) -> Outcome<Request<Full<Bytes>>> {
        let running = self.running;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{command}"))
            .header(HOST, running.address.to_string())
            .header(AUTHORIZATION, running.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(question.to_string())));
        request.map_err(strange)
    }

    async fn ask(&self, command: &str, question: &Value) -> Outcome<Bytes> {
        let answer = self.granted(self.question(command, question)?).await?;
        self.whole(answer.into_body(), LONGEST_ANSWER).await
    }

    /// What the remote can do.
    pub(crate) async fn abilities(&self) -> Outcome<Abilities> {
        let answer = self
            .ask("operations/fsinfo", &json!({"fs": self.fs}))
            .await?;
        serde_json::from_slice(&answer).map_err(strange)
    }

    /// Whether the path is there.
    pub(crate) async fn has_root(&self) -> Outcome<bool> {
        let opt = json!({"dirsOnly": true, "noModTime": true, "noMimeType": true});
        let mut listing = match self.listing("", opt).await {
            Err(Fault::Absent) => return Ok(false),
            listing => listing?,
        };
        while self.more(&mut listing).await?.is_some() {}
        Ok(true)
    }

    /// Makes the path.
    pub(crate) async fn make_root(&self) -> Outcome<()> {
        let question = json!({"fs": self.fs, "remote": ""});
        self.ask("operations/mkdir", &question).await?;
        Ok(())
    }

    /// What is known of a file, with a hash if one is named.
    pub(crate) async fn head(&self, name: &str, hash: Option<&str>) -> Outcome<Option<Item>> {
        let mut opt = json!({"filesOnly": true, "noModTime": true, "noMimeType": true});
        if let Some(hash) = hash {
            opt["showHash"] = json!(true);
            opt["hashTypes"] = json!([hash]);
        }
        let question = json!({"fs": self.fs, "remote": name, "opt": opt});
        let answer = match self.ask("operations/stat", &question).await.map_err(below) {
            Err(Fault::Absent) => return Ok(None),
            answer => answer?,
        };
        let found: Found = serde_json::from_slice(&answer).map_err(strange)?;
        Ok(found.item.filter(|item| !item.is_folder))
    }

    /// Gives a file another name, whatever had that name before. Only where [`Features::renames`].
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Outcome<()> {
        let fs = self.fs;
        let question = json!({"srcFs": fs, "srcRemote": from, "dstFs": fs, "dstRemote": to});
        self.ask("operations/movefile", &question).await?;
        Ok(())
    }

    /// Deletes a file.
    pub(crate) async fn delete(&self, name: &str) -> Outcome<()> {
        let question = json!({"fs": self.fs, "remote": name});
        let deleted = self.ask("operations/deletefile", &question).await;
        deleted.map_err(below)?;
        Ok(())
    }

    /// The room of the remote.
    pub(crate) async fn about(&self) -> Outcome<About> {
        let answer = self
            .ask("operations/about", &json!({"fs": self.fs}))
            .await?;
        serde_json::from_slice(&answer).map_err(strange)
    }

    /// Begins a listing of what is below a folder.
    pub(crate) async fn listing(&self, folder: &str, opt: Value) -> Outcome<Listing> {
        let question = json!({"fs": self.fs, "remote": folder, "opt": opt});
        let question = self.question("operations/list", &question)?;
        let answer = self.granted(question).await?;
        Ok(Listing {
            body: answer.into_body(),
            items: Items::default(),
            bytes: 0,
        })
    }

    /// Some more of a listing; nothing at its end.
    pub(crate) async fn more(&self, listing: &mut Listing) -> Outcome<Option<Vec<Item>>> {
        match self.next_part(&mut listing.body).await? {
            Some(part) => {
                listing.bytes += part.len() as u64;
                listing.items.take(&part).map(Some).map_err(strange)
            }
            None if listing.items.is_whole() => Ok(None),
            None => {
                let wrong = Wrong::Broken("a listing ended early".to_owned());
                Err(Fault::Lost(wrong))
            }
        }
    }

    /// All of a file, or `length` bytes from `offset` on.
    pub(crate) async fn read(&self, name: &str, span: Option<(u64, u64)>) -> Outcome<Bytes> {
        let running = self.running;
        let mut request = Request::builder()
            .uri(format!("/%5B{}%5D/{}", escaped(self.fs), escaped(name)))
            .header(HOST, running.address.to_string())
            .header(AUTHORIZATION, running.authorization.clone());
        if let Some((offset, length)) = span {
            let last = offset.saturating_add(length).saturating_sub(1);
            request = request.header(RANGE, format!("bytes={offset}-{last}"));
        }
        let request = request.body(Full::default()).map_err(strange)?;
        let answer = self.granted(request).await.map_err(below)?;
        let told = total(&answer);
        let wanted = match (span, told) {
            (Some((_, length)), _) => length,
            (None, Some(size)) => size,
            (None, None) => return Err(strange("rclone does not say how long it is")),
        };
        if wanted > MAX_PUT_BYTES {
            return ours(ErrorKind::Damaged, Wrong::Huge(wanted));
        }
        if let (Some((offset, length)), Some(size)) = (span, told)
            && offset.saturating_add(length) > size
        {
            let wrong = Wrong::Short {
                size,
                offset,
                length,
            };
            return ours(ErrorKind::Damaged, wrong);
        }
        let found = self.gather(answer.into_body(), wanted).await;
        match found {
            Ok(found) if found.len() as u64 == wanted => Ok(found),
            Ok(found) => self.ended_early(name, found.len() as u64, wanted).await,
            // The child lives on: what broke off is the remote behind it, and the log may say why.
            Err(Fault::Lost(wrong)) if self.running.is_alive() => {
                match self.running.log.reason(name).await {
                    Some(reason) => Err(Fault::Said(reason)),
                    None => Err(Fault::Lost(wrong)),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    async fn gather(&self, mut body: Incoming, wanted: u64) -> Outcome<Bytes> {
        let mut out = BytesMut::with_capacity(usize::try_from(wanted).unwrap_or(0));
        while let Some(part) = self.next_part(&mut body).await? {
            out.extend_from_slice(&part);
            if out.len() as u64 > wanted {
                break;
            }
        }
        Ok(out.freeze())
    }

    async fn ended_early<T>(&self, name: &str, found: u64, wanted: u64) -> Outcome<T> {
        let why = self.running.log.reason(name).await;
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let kind = match why.is_empty() {
            true => ErrorKind::Damaged,
            false => ErrorKind::Unavailable,
        };
        ours(kind, Wrong::EndedEarly { found, wanted, why })
    }
}

/// A listing that comes in.
#[derive(Debug)]
pub(crate) struct Listing {
    body: Incoming,
    items: Items,
    pub(crate) bytes: u64,
}

/// How long the file is, by an answer.
fn total(answer: &Response<Incoming>) -> Option<u64> {
    let header = |name| answer.headers().get(name)?.to_str().ok();
    match header(CONTENT_RANGE) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => header(CONTENT_LENGTH)?.parse().ok(),
    }
}

/// A text as a part of an address.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// So long a question may take, when `bytes` go with it: what rclone tries again and holds back is in it.
pub(crate) fn limit(timeout: Duration, bytes: u64) -> Duration {
    let slowest = Duration::from_secs(bytes / (16 << 10));
    timeout.saturating_mul(3) + slowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("my cloud:a/ü"), "my%20cloud%3Aa/%C3%BC");
    }

    #[test]
    fn what_a_remote_can_do_is_read_and_what_is_not_told_it_cannot() {
        let of = |text: &str| serde_json::from_str::<Abilities>(text).unwrap();
        let renames = |text: &str| of(text).features.renames();
        assert!(renames(
            r#"{"Features":{"Move":true,"Copy":false},"Hashes":[]}"#
        ));
        assert!(renames(r#"{"Features":{"Move":false,"Copy":true}}"#));
        assert!(!renames(
            r#"{"Features":{"Move":false,"Copy":false,"About":true}}"#
        ));
        assert!(!renames(r#"{"Features":{"DirMove":true}}"#));
        assert!(!renames("{}"));
    }

    #[test]
    fn more_bytes_may_take_longer() {
        let hour = Duration::from_secs(3600);
        assert_eq!(limit(hour, 0), 3 * hour);
        assert_eq!(limit(hour, 1 << 20), 3 * hour + Duration::from_secs(64));
    }
}
