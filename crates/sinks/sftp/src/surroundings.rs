//! What the sink is told of the process it runs in: it reads no environment by itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The surroundings of a process, as far as SSH needs them.
#[derive(Clone)]
pub struct Surroundings {
    variable: Arc<Lookup>,
    home: Option<PathBuf>,
    user: Option<String>,
    ssh: Option<PathBuf>,
}

impl Surroundings {
    /// Surroundings in which nothing is set: no agent, no home. Then a location has to name the user, the key file and
    /// the file of known hosts.
    #[must_use]
    pub fn none() -> Self {
        Self::of(|_| None)
    }

    /// Surroundings whose variables a function tells.
    pub fn of(variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            variable: Arc::new(variable),
            home: None,
            user: None,
            ssh: None,
        }
    }

    /// The same, with the folder in which `.ssh` lies.
    #[must_use]
    pub fn at_home(mut self, home: Option<PathBuf>) -> Self {
        self.home = home;
        self
    }

    /// The same, with the user that logs in where a location names none.
    #[must_use]
    pub fn as_user(mut self, user: Option<String>) -> Self {
        self.user = user;
        self
    }

    /// The same, with OpenSSH's client, which is asked what its configuration has of a host.
    #[must_use]
    pub fn asking(mut self, ssh: Option<PathBuf>) -> Self {
        self.ssh = ssh;
        self
    }

    pub(crate) fn ssh(&self) -> Option<&Path> {
        self.ssh.as_deref()
    }

    /// A variable; empty is as if it were not set.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

/// Without the variables: some of them are secrets.
impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("home", &self.home)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
