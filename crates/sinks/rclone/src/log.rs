//! What the child says beside its answers: lines of JSON on its standard error, one of which says on which port it
//! listens, and others why something failed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::Notify;

/// So many lines are kept.
const KEPT: usize = 64;

/// Of a line so many bytes are looked at.
const LONGEST: u64 = 16 << 10;

/// Of what rclone says so many signs are shown.
const SHOWN: usize = 600;

/// What stands before the address at which the child listens.
const LISTENS: &str = "Serving remote control on ";

/// The child answers behind what it says of a failure, but over another pipe.
const LAG: Duration = Duration::from_millis(500);

/// A line, as far as it counts.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    object: String,
}

impl Line {
    fn is_failure(&self) -> bool {
        matches!(
            self.level.as_str(),
            "error" | "critical" | "fatal" | "alert" | "emergency" | "panic"
        )
    }

    fn tells_of_configuration(&self) -> bool {
        self.is_failure() && self.msg.to_ascii_lowercase().contains("save config")
    }
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    address: Option<String>,
    has_ended: bool,
    unsaved: Option<String>,
}

/// What a child has said so far. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what a child says until it ends.
    pub(crate) async fn follow(&self, out: impl AsyncRead + Unpin) {
        let mut out = BufReader::new(out);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut out).take(LONGEST).read_until(b'\n', &mut line).await;
            match read {
                Ok(0) | Err(_) => break,
                Ok(_) => self.take(&String::from_utf8_lossy(&line)),
            }
        }
        self.state().has_ended = true;
        self.news.notify_waiters();
    }

    fn take(&self, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        // Before it knows that it is to write JSON, and when it falls over, rclone writes plain lines.
        let line = serde_json::from_str(text).unwrap_or_else(|_| Line {
            level: "error".to_owned(),
            msg: text.to_owned(),
            object: String::new(),
        });
        let mut state = self.state();
        if state.address.is_none()
            && let Some((_, rest)) = line.msg.split_once(LISTENS)
            && let Some((_, rest)) = rest.split_once("http://")
        {
            let end = rest.find(['/', ']', ' ']).unwrap_or(rest.len());
            state.address = Some(rest[..end].to_owned());
        }
        if line.tells_of_configuration() {
            state.unsaved = Some(shown(&line.msg));
        }
        if state.lines.len() == KEPT {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
        drop(state);
        self.news.notify_waiters();
    }

    /// Waits for something of the log, for a while.
    async fn wait_for<T>(&self, limit: Duration, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let found = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                // What comes between the look and the wait wakes too.
                news.as_mut().enable();
                {
                    let state = self.state();
                    if let Some(found) = look(&state) {
                        return Some(found);
                    }
                    if state.has_ended {
                        return None;
                    }
                }
                news.await;
            }
        };
        tokio::time::timeout(limit, found).await.ok().flatten()
    }

    /// Where the child listens; nothing if it ends before it says so.
    pub(crate) async fn address(&self, limit: Duration) -> Option<String> {
        self.wait_for(limit, |state| state.address.clone()).await
    }

    /// Whether the child has closed its standard error, as it does when it ends.
    pub(crate) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    /// What was said of an object last, when something on it has failed.
    pub(crate) async fn reason(&self, object: &str) -> Option<String> {
        let told = |state: &State| {
            let lines = state.lines.iter().rev();
            let mut ours = lines.filter(|line| line.is_failure() && line.object == object);
            ours.next().map(|line| shown(&line.msg))
        };
        self.wait_for(LAG, told).await
    }

    /// The last failure that was told, when the child has ended or is about to.
    pub(crate) async fn last_words(&self) -> Option<String> {
        let _ = self
            .wait_for(LAG, |state| state.has_ended.then_some(()))
            .await;
        let state = self.state();
        let mut failures = state.lines.iter().rev().filter(|line| line.is_failure());
        failures.next().map(|line| shown(&line.msg))
    }

    /// That the configuration could not be written, once.
    pub(crate) fn unsaved(&self) -> Option<String> {
        self.state().unsaved.take()
    }
}

/// What rclone says, as it may be shown: bounded, on one line, and without what stands behind the `?` of addresses, where
/// providers have tickets, and without names and passwords in them.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&plain_word(word));
        if out.len() > SHOWN {
            break;
        }
    }
    out.chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect()
}

fn plain_word(word: &str) -> String {
    const SECRETS: [&str; 4] = ["access_token", "refresh_token", "client_secret", "bearer"];
    let lower = word.to_ascii_lowercase();
    if SECRETS.iter().any(|secret| lower.contains(secret)) {
        return "…".to_owned();
    }
    let Some((before, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    let (address, query) = match rest.find('?') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host_end = address.find('/').unwrap_or(address.len());
    let (host, path) = address.split_at(host_end);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let cut = if query.is_empty() { "" } else { "?…" };
    // The punctuation behind an address stays.
    let behind = query.trim_start_matches(|c: char| !"\":,;)".contains(c));
    format!("{before}://{host}{path}{cut}{behind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn the_log_tells_where_the_child_listens_and_why_something_failed() {
        let text = "{\"level\":\"warning\",\"msg\":\"Serving remote control on http://127.0.0.1:36695/\"}\n\
             {\"level\":\"error\",\"msg\":\"Post request rcat error: full\",\"object\":\".tmp/a\",\"objectType\":\"string\"}\n\
             {\"level\":\"error\",\"msg\":\"other\",\"object\":\".tmp/b\"}\n\
             panic: it fell over\n";
        let log = Log::default();
        log.follow(text.as_bytes()).await;
        assert_eq!(log.address(LIMIT).await, Some("127.0.0.1:36695".to_owned()));
        let reason = log.reason(".tmp/a").await;
        assert_eq!(reason, Some("Post request rcat error: full".to_owned()));
        assert_eq!(log.reason(".tmp/c").await, None);
        let last = log.last_words().await;
        assert_eq!(last, Some("panic: it fell over".to_owned()));
        assert!(log.has_ended());
    }

    #[tokio::test]
    async fn newer_versions_write_the_address_in_brackets() {
        let text =
            "{\"level\":\"notice\",\"msg\":\"Serving remote control on [http://127.0.0.1:7/]\"}\n";
        let log = Log::default();
        log.follow(text.as_bytes()).await;
        assert_eq!(log.address(LIMIT).await, Some("127.0.0.1:7".to_owned()));
    }

    #[tokio::test]
    async fn a_flood_is_bounded() {
        let log = Log::default();
        let mut flood = vec![b'x'; 1 << 20];
        flood.push(b'\n');
        log.follow(&flood[..]).await;
        let state = log.state();
        let kept: usize = state.lines.iter().map(|line| line.msg.len()).sum();
        assert!(kept <= (KEPT * 16) << 10, "{kept}");
    }

    #[test]
    fn tickets_in_addresses_are_not_shown() {
        let text = "Put \"https://me:pw@up.example/a/b?tempauth=s3cret&x=y\": 507 full";
        assert_eq!(shown(text), "Put \"https://up.example/a/b?…\": 507 full");
        assert!(!shown("{\"access_token\":\"s3cret\"} refused").contains("s3cret"));
        assert_eq!(shown("a\n b\u{7}").as_str(), "a b");
    }
}
