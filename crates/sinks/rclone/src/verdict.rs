//! What a failure is that rclone tells in words: its remotes have as many words as there are providers.

use backup_core::ErrorKind;

use crate::fault::Wrong;
use crate::log::shown;

/// Too many requests; also how Google calls a quota of requests.
const BUSY: [&str; 9] = [
    "ratelimitexceeded",
    "rate limit",
    "too many requests",
    "too_many_requests",
    "too_many_write_operations",
    "quota exceeded for quota metric",
    "throttl",
    "slow down",
    "slowdown",
];
const FULL: [&str; 11] = [
    "no space left",
    "not enough space",
    "insufficient storage",
    "insufficient_space",
    "insufficientstorage",
    "storagequotaexceeded",
    "quotalimitreached",
    "quota exceeded",
    "quota has been exceeded",
    "storage limit",
    "disk quota",
];
const DENIED: [&str; 14] = [
    "unauthorized",
    "unauthenticated",
    "forbidden",
    "access denied",
    "accessdenied",
    "permission denied",
    "read-only file system",
    "operation not permitted",
    "invalid_grant",
    "invalid_client",
    "expired_access_token",
    "couldn't fetch token",
    "empty token",
    "invalid credentials",
];
const AWAY: [&str; 14] = [
    "connection refused",
    "connection reset",
    "no such host",
    "name resolution",
    "timeout",
    "timed out",
    "deadline exceeded",
    "broken pipe",
    "network is unreachable",
    "no route to host",
    "unexpected eof",
    "tls handshake",
    "use of closed network connection",
    "bad gateway",
];
const NOT_SUPPORTED: [&str; 3] = ["not supported", "doesn't support", "not implemented"];

/// What it is, and how to say it.
pub(crate) fn verdict(text: &str, remote: &str) -> (ErrorKind, Wrong) {
    let lower = text.to_ascii_lowercase();
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    // Numbers count as whole words only: names of objects have digits too.
    let words = || lower.split(|c: char| !c.is_ascii_alphanumeric());
    let has_word = |wanted: &[&str]| words().any(|word| wanted.contains(&word));
    let told = shown(text);
    if lower.contains("didn't find section") {
        (ErrorKind::Invalid, Wrong::NoRemote(remote.to_owned()))
    } else if has(&[
        "decrypt configuration",
        "config password",
        "configuration password",
    ]) {
        (ErrorKind::Denied, Wrong::Encrypted(told))
    } else if has(&BUSY) || has_word(&["429", "503"]) {
        (ErrorKind::Unavailable, Wrong::Busy(told))
    } else if has(&FULL) || has_word(&["507"]) {
        (ErrorKind::NoSpace, Wrong::Full(told))
    } else if has(&DENIED) || has_word(&["401", "403"]) {
        (ErrorKind::Denied, Wrong::Denied(told, remote.to_owned()))
    } else if has(&AWAY) || has_word(&["eof", "500", "502", "504"]) {
        (ErrorKind::Unavailable, Wrong::Unreachable(told))
    } else if has(&NOT_SUPPORTED) {
        (ErrorKind::Unsupported, Wrong::Said(told))
    } else {
        (ErrorKind::Other, Wrong::Said(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_providers_are_known() {
        let cases = [
            ("didn't find section in config file", ErrorKind::Invalid),
            (
                "googleapi: Error 403: User Rate Limit Exceeded, userRateLimitExceeded",
                ErrorKind::Unavailable,
            ),
            (
                "googleapi: Error 403: Quota exceeded for quota metric 'Queries'",
                ErrorKind::Unavailable,
            ),
            (
                "googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded",
                ErrorKind::NoSpace,
            ),
            ("quotaLimitReached: Insufficient Space", ErrorKind::NoSpace),
            ("path/insufficient_space/..", ErrorKind::NoSpace),
            ("Insufficient Storage: 507", ErrorKind::NoSpace),
            ("write x: no space left on device", ErrorKind::NoSpace),
            ("read metadata failed: 401 Unauthorized", ErrorKind::Denied),
            (
                "couldn't fetch token - maybe it has expired?",
                ErrorKind::Denied,
            ),
            ("mkdir /x: permission denied", ErrorKind::Denied),
            (
                "Propfind: dial tcp 127.0.0.1:1: connect: connection refused",
                ErrorKind::Unavailable,
            ),
            ("unexpected EOF", ErrorKind::Unavailable),
            ("EOF", ErrorKind::Unavailable),
            ("Service Unavailable: 503", ErrorKind::Unavailable),
            ("fs does not do that: not supported", ErrorKind::Unsupported),
            (
                "data/ab/429f503 is a directory not a file",
                ErrorKind::Other,
            ),
        ];
        for (text, kind) in cases {
            assert_eq!(verdict(text, "cloud").0, kind, "{text}");
        }
    }
}
