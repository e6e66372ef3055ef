//! What plug-ins are told of the process they run in: none of them reads the environment by itself, so whoever fills a
//! registry says what they may know.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The surroundings of a process, as far as plug-ins need them.
#[derive(Clone)]
pub struct Surroundings {
    /// The variables of the environment.
    pub variable: Arc<Lookup>,
    /// The folder of who runs the process, in which `.ssh` and `.aws` lie.
    pub home: Option<PathBuf>,
    /// The name of who runs the process.
    pub user: Option<String>,
    /// OpenSSH's client, which says what its configuration has of a host; `None`: nobody asks it.
    pub ssh: Option<PathBuf>,
    /// A folder in which it is remembered what servers can do.
    pub cache: Option<PathBuf>,
}

impl Surroundings {
    /// Surroundings in which nothing is set: locations have to say everything.
    #[must_use]
    pub fn none() -> Self {
        Self {
            variable: Arc::new(|_| None),
            home: None,
            user: None,
            ssh: None,
            cache: None,
        }
    }

    /// The same as SSH needs it.
    #[cfg(feature = "sink-sftp")]
    #[must_use]
    pub fn for_sftp(&self) -> backup_sink_sftp::Surroundings {
        let variable = self.variable.clone();
        backup_sink_sftp::Surroundings::of(move |name| variable(name))
            .at_home(self.home.clone())
            .as_user(self.user.clone())
            .asking(self.ssh.clone())
    }

    /// The same as object stores need it.
    #[cfg(feature = "sink-object")]
    #[must_use]
    pub fn for_object_stores(&self) -> backup_sink_object::Surroundings {
        let variable = self.variable.clone();
        backup_sink_object::Surroundings::of(move |name| variable(name))
            .at_home(self.home.clone())
            .remembering(self.cache.clone())
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
