//! The table of plug-ins: a value that a binary fills and hands down. Nothing registers itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::location::Location;
use crate::sink::Sink;
use crate::source::Source;
use crate::target::Target;

/// Why nothing could be made from a location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No plug-in of that name is built in.
    #[error("no {role} of kind `{kind}` is built in; there are: {available}")]
    Unknown {
        /// `source`, `target` or `sink`.
        role: &'static str,
        /// The kind that was asked for.
        kind: String,
        /// Those that are built in.
        available: String,
    },
    /// The plug-in cannot use the location.
    #[error("{location}: {why}")]
    Config {
        /// The location, without secrets.
        location: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// Two plug-ins claim one name.
    #[error("two plug-ins are registered as {role} `{kind}`")]
    Twice {
        /// `source`, `target` or `sink`.
        role: &'static str,
        /// The name.
        kind: String,
    },
}

impl RegistryError {
    /// A location that a plug-in cannot use.
    #[must_use]
    pub fn config(location: &Location, why: impl Into<String>) -> Self {
        Self::Config {
            location: location.to_string(),
            why: why.into(),
        }
    }
}

type Open<T> = Box<dyn Fn(&Location) -> Result<Arc<T>, RegistryError> + Send + Sync>;

/// Makes one sink of two, or says why not.
type Join =
    Box<dyn Fn(Arc<dyn Sink>, Arc<dyn Sink>) -> Result<Arc<dyn Sink>, String> + Send + Sync>;

/// Opens sources, targets and sinks by the scheme of their location. Opening does no I/O.
#[derive(Default)]
pub struct Registry {
    sources: BTreeMap<String, Open<dyn Source>>,
    targets: BTreeMap<String, Open<dyn Target>>,
    sinks: BTreeMap<String, Open<dyn Sink>>,
    joins: BTreeMap<&'static str, Join>,
}

fn add<T: ?Sized>(
    table: &mut BTreeMap<String, Open<T>>,
    role: &'static str,
    kind: &str,
    open: Open<T>,
) -> Result<(), RegistryError> {
    if table.insert(kind.to_owned(), open).is_some() {
        return Err(RegistryError::Twice {
            role,
            kind: kind.to_owned(),
        });
    }
    Ok(())
}

fn open<T: ?Sized>(
    table: &BTreeMap<String, Open<T>>,
    role: &'static str,
    location: &Location,
) -> Result<Arc<T>, RegistryError> {
    let kind = location.scheme();
    let open = table.get(kind).ok_or_else(|| RegistryError::Unknown {
        role,
        kind: kind.to_owned(),
        available: table
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    })?;
    open(location)
}

impl Registry {
    /// A registry that knows nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds a source under the name of its scheme.
    ///
    /// # Errors
    /// [`RegistryError::Twice`] when the name is taken.
    pub fn add_source(
        &mut self,
        scheme: &str,
        open: impl Fn(&Location) -> Result<Arc<dyn Source>, RegistryError> + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        add(&mut self.sources, "source", scheme, Box::new(open))
    }

    /// Adds a target under the kind that manifests name.
    ///
    /// # Errors
    /// [`RegistryError::Twice`] when the name is taken.
    pub fn add_target(
        &mut self,
        kind: &str,
        open: impl Fn(&Location) -> Result<Arc<dyn Target>, RegistryError> + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        add(&mut self.targets, "target", kind, Box::new(open))
    }

    /// Adds a sink under the name of its scheme.
    ///
    /// # Errors
    /// [`RegistryError::Twice`] when the name is taken.
    pub fn add_sink(
        &mut self,
        scheme: &str,
        open: impl Fn(&Location) -> Result<Arc<dyn Sink>, RegistryError> + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        add(&mut self.sinks, "sink", scheme, Box::new(open))
    }

    /// Adds an option that the location of any sink may have, and whose value is the location of a second sink: both are
    /// opened, and made one.
    ///
    /// # Errors
    /// [`RegistryError::Twice`] when the name is taken.
    pub fn add_join(
        &mut self,
        option: &'static str,
        join: impl Fn(Arc<dyn Sink>, Arc<dyn Sink>) -> Result<Arc<dyn Sink>, String>
        + Send
        + Sync
        + 'static,
    ) -> Result<(), RegistryError> {
        if self.joins.insert(option, Box::new(join)).is_some() {
            return Err(RegistryError::Twice {
                role: "option",
                kind: option.to_owned(),
            });
        }
        Ok(())
    }

    /// Whether a source of that scheme is built in.
    #[must_use]
    pub fn has_source(&self, scheme: &str) -> bool {
        self.sources.contains_key(scheme)
    }

    /// Makes a source.
    ///
    /// # Errors
    /// [`RegistryError`] when the scheme is unknown or the location wrong.
    pub fn open_source(&self, location: &Location) -> Result<Arc<dyn Source>, RegistryError> {
        open(&self.sources, "source", location)
    }

    /// Makes a target.
    ///
    /// # Errors
    /// [`RegistryError`] when the kind is unknown or the location wrong.
    pub fn open_target(&self, location: &Location) -> Result<Arc<dyn Target>, RegistryError> {
        open(&self.targets, "target", location)
    }

    /// Makes a sink.
    ///
    /// # Errors
    /// [`RegistryError`] when the scheme is unknown or the location wrong.
    pub fn open_sink(&self, location: &Location) -> Result<Arc<dyn Sink>, RegistryError> {
        let mut joins = self.joins.iter();
        let joined = joins.find_map(|(name, join)| Some((name, join, location.option(name)?)));
        let Some((name, join, second)) = joined else {
            return open(&self.sinks, "sink", location);
        };
        let wrong = |why: String| RegistryError::config(location, why);
        let second: Location = second.parse().map_err(|error| wrong(format!("{error}")))?;
        if second.option(name).is_some() {
            return Err(wrong(format!(
                "the place behind `{name}=` has a `{name}=` of its own"
            )));
        }
        let first = self.open_sink(&location.without(name))?;
        join(first, self.open_sink(&second)?).map_err(wrong)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("sources", &self.sources.keys())
            .field("targets", &self.targets.keys())
            .field("sinks", &self.sinks.keys())
            .finish()
    }
}
