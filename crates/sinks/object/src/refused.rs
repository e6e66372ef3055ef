//! What a server answers instead of doing what it was asked: read from its status, headers and text, none of which
//! is trusted further than to choose among words of ours.

use http::StatusCode;
use http::header::HeaderMap;

/// So much of what a server says is shown.
const MOST_SHOWN: usize = 300;

/// There is no capacity for what is to come within minutes.
pub(crate) const NO_EXPEDITED: &str = "GlacierExpeditedRetrievalNotAvailable";

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server answers {status}{}{code}{}{message}", if code.is_empty() { "" } else { " " }, if message.is_empty() { "" } else { ": " })]
pub(crate) struct Refused {
    pub(crate) status: u16,
    /// The server's own name of the reason: `SlowDown`. Empty where it says none, as to every HEAD.
    pub(crate) code: String,
    pub(crate) message: String,
    /// Where the bucket is instead.
    pub(crate) region: Option<String>,
    /// Whether the question was a HEAD, whose answers never say why.
    pub(crate) is_head: bool,
}

impl Refused {
    pub(crate) fn read(status: StatusCode, headers: &HeaderMap, text: &str, is_head: bool) -> Self {
        let header = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            Some(shown(value))
        };
        let code = element(text, "Code").or_else(|| header("x-ms-error-code"));
        let region = header("x-amz-bucket-region").or_else(|| element(text, "Region"));
        let is_name = |region: &String| {
            let mut bytes = region.bytes();
            !region.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        Self {
            status: status.as_u16(),
            code: code.unwrap_or_default(),
            message: element(text, "Message").unwrap_or_default(),
            region: region.filter(is_name),
            is_head,
        }
    }

    pub(crate) fn has_code(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }

    fn says(&self, words: &[&str]) -> bool {
        let told = format!("{} {}", self.code, self.message).to_ascii_lowercase();
        words.iter().any(|word| told.contains(word))
    }

    /// Too many requests.
    pub(crate) fn is_busy(&self) -> bool {
        // It will not have capacity in a moment either.
        if self.has_code(&[NO_EXPEDITED]) {
            return false;
        }
        matches!(self.status, 429 | 503)
            || self.has_code(&[
                "SlowDown",
                "ServerBusy",
                "ServiceUnavailable",
                "TooManyRequests",
            ])
    }

    /// Whether the same request may be answered otherwise in a moment.
    pub(crate) fn can_pass(&self) -> bool {
        if self.is_full() {
            return false;
        }
        let passing = [
            "RequestTimeout",
            "InternalError",
            "OperationAborted",
            "ConditionalRequestConflict",
            "OperationTimedOut",
        ];
        self.is_busy() || matches!(self.status, 408 | 500 | 502 | 504) || self.has_code(&passing)
    }

    /// No room, or a quota.
    pub(crate) fn is_full(&self) -> bool {
        self.status == 507 || self.says(&["quota", "storagefull", "storage full", "cap exceeded"])
    }

    /// The clocks are too far apart.
    pub(crate) fn is_skewed(&self) -> bool {
        self.has_code(&["RequestTimeTooSkewed", "RequestExpired"]) || self.says(&["skewed"])
    }

    /// The object is locked, or kept by a rule of the bucket.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self.status, 403 | 405 | 409 | 412)
            && self.says(&[
                "object lock",
                "objectlock",
                "objectlocked",
                "worm",
                "immutable",
                "retention",
                "legal hold",
            ])
    }

    /// What a create is told where something is there already.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.status, 304 | 412)
            || (self.status == 409 && self.has_code(&["BlobAlreadyExists", "PreconditionFailed"]))
    }

    /// The server knows no condition of a put.
    pub(crate) fn knows_no_condition(&self) -> bool {
        self.status == 501
            || (self.status == 400
                && self.says(&[
                    "if-none-match",
                    "not implemented",
                    "unsupported header",
                    "not supported",
                ]))
    }
}

/// What an element of a server's text holds.
pub(crate) fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    Some(shown(value))
}

/// A stranger's text as it may be shown: one short line that moves no cursor.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MOST_SHOWN).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, text: &str) -> Refused {
        let status = StatusCode::from_u16(status).unwrap();
        Refused::read(status, &HeaderMap::new(), text, false)
    }

    #[test]
    fn a_strangers_text_is_kept_short_and_harmless() {
        let text = format!(
            "<Code>A\u{1b}[2J</Code><Message>{}</Message>",
            "x".repeat(9999)
        );
        let refused = refused(400, &text);
        assert_eq!(refused.code, "A [2J");
        assert_eq!(refused.message.len(), MOST_SHOWN);
        let text = "<Code>A</Code><Region>eu; rm -rf</Region>";
        assert_eq!(super::tests::refused(400, text).region, None);
    }

    #[test]
    fn it_is_told_what_can_pass() {
        let code = |code: &str| format!("<Error><Code>{code}</Code></Error>");
        for (status, name) in [
            (503, "SlowDown"),
            (429, ""),
            (500, "InternalError"),
            (400, "RequestTimeout"),
            (409, "ConditionalRequestConflict"),
        ] {
            assert!(refused(status, &code(name)).can_pass(), "{status} {name}");
        }
        for (status, name) in [
            (501, "NotImplemented"),
            (403, "AccessDenied"),
            (404, "NoSuchKey"),
            (412, "PreconditionFailed"),
            (507, "XMinioStorageFull"),
            (503, "QuotaExceeded"),
            (503, NO_EXPEDITED),
        ] {
            assert!(!refused(status, &code(name)).can_pass(), "{status} {name}");
        }
    }
}
