//! How the server fails.

use std::time::Duration;

/// What it does with puts that must not overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conditions {
    /// As it is asked to.
    #[default]
    Kept,
    /// It overwrites in silence, as Garage does.
    Ignored,
    /// It refuses to be asked, as Backblaze B2 does.
    Refused,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It answers this and does nothing.
    Answer {
        /// The status.
        status: u16,
        /// The name of the reason.
        code: &'static str,
        /// What it says of it.
        message: &'static str,
        /// Further headers.
        headers: Vec<(&'static str, String)>,
    },
    /// It closes the connection and does nothing.
    Cut,
    /// It does what it was asked and closes the connection instead of answering.
    LoseAnswer,
    /// It closes the connection after so many bytes of the body.
    CutBody(usize),
    /// It waits before it does anything.
    Wait(Duration),
    /// It adds a header to its answer.
    Add(&'static str, &'static str),
}

impl Fault {
    /// An answer without further headers.
    #[must_use]
    pub const fn answer(status: u16, code: &'static str, message: &'static str) -> Self {
        let headers = Vec::new();
        Self::Answer {
            status,
            code,
            message,
            headers,
        }
    }

    /// Too many requests.
    #[must_use]
    pub const fn busy() -> Self {
        Self::answer(503, "SlowDown", "Please reduce your request rate.")
    }
}

/// Which requests fail, how, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(crate) fault: Fault,
    method: Option<&'static str>,
    part: Option<String>,
    times: Option<usize>,
    every: usize,
    seen: usize,
}

impl Rule {
    /// Every request fails.
    #[must_use]
    pub const fn of(fault: Fault) -> Self {
        Self {
            fault,
            method: None,
            part: None,
            times: None,
            every: 1,
            seen: 0,
        }
    }

    /// Only those of a method.
    #[must_use]
    pub const fn on(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only those whose path and query have this part.
    #[must_use]
    pub fn at(mut self, part: &str) -> Self {
        self.part = Some(part.to_owned());
        self
    }

    /// Only the first so many.
    #[must_use]
    pub const fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// Only each so-manieth.
    #[must_use]
    pub const fn every(mut self, every: usize) -> Self {
        self.every = every;
        self
    }

    /// Whether it is this request's turn.
    pub(crate) fn takes(&mut self, method: &str, target: &str) -> bool {
        let is_meant = self.method.is_none_or(|wanted| wanted == method)
            && self
                .part
                .as_ref()
                .is_none_or(|part| target.contains(part.as_str()));
        if !is_meant || self.times == Some(0) {
            return false;
        }
        self.seen += 1;
        if !self.seen.is_multiple_of(self.every) {
            return false;
        }
        self.times = self.times.map(|left| left - 1);
        true
    }
}
