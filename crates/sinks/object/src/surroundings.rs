//! What the sink is told of the process it runs in: it reads no environment by itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The surroundings of a process, as far as object stores need them.
#[derive(Clone)]
pub struct Surroundings {
    variable: Arc<Lookup>,
    home: Option<PathBuf>,
    memory: Option<PathBuf>,
}

impl Surroundings {
    /// Surroundings in which nothing is set. Credentials can come from a file that the location names, or from
    /// the service of the machine.
    #[must_use]
    pub fn none() -> Self {
        Self::of(|_| None)
    }

    /// Surroundings whose variables a function tells.
    pub fn of(variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            variable: Arc::new(variable),
            home: None,
            memory: None,
        }
    }

    /// The same, with the folder in which `.aws` lies.
    #[must_use]
    pub fn at_home(mut self, home: Option<PathBuf>) -> Self {
        self.home = home;
        self
    }

    /// The same, with a folder in which it is remembered what servers can do, so that it is tried once and not in each
    /// run. Nothing is lost with it.
    #[must_use]
    pub fn remembering(mut self, memory: Option<PathBuf>) -> Self {
        self.memory = memory;
        self
    }

    /// A variable; empty is as if it were not set.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The first of some variables that is set.
    pub(crate) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.variable(name))
    }

    pub(crate) const fn home(&self) -> Option<&PathBuf> {
        self.home.as_ref()
    }

    pub(crate) const fn memory(&self) -> Option<&PathBuf> {
        self.memory.as_ref()
    }
}

/// Without the variables: some of them are secrets.
impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("home", &self.home)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
