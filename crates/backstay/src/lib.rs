//! Backstay for programs that embed it: the engine, its contracts and its plug-ins behind one door.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cx = backstay::context();
//! let mut registry = backstay::core::Registry::empty();
//! backstay::register_enabled(&mut registry)?;
//! let sink = registry.open_sink(&"/srv/backup".parse()?)?;
//! let repo = backstay::open_or_make(&cx, sink, "/root/backup.key".as_ref()).await?;
//! let source = backstay::source_files::FilesSource::new(
//!     backstay::source_files::FilesConfig::of_roots(["/etc"]),
//! );
//! let job = backstay::engine::SnapshotJob::new("etc", backstay::core::HostId("web1".into()));
//! let report = backstay::engine::snapshot(&repo, &cx, Arc::new(source), &job).await?;
//! println!("{} {}", report.meta.id, report.root);
//! # Ok(())
//! # }
//! ```

mod keyed;
mod surroundings;

use std::sync::Arc;

pub use backup_cold as cold;
pub use backup_conformance as conformance;
pub use backup_core as core;
pub use backup_engine as engine;
pub use backup_export as export;
pub use backup_format as format;
pub use backup_integrity as integrity;
pub use backup_parity as parity;
pub use backup_retention as retention;
#[cfg(feature = "sink-local")]
pub use backup_sink_local as sink_local;
#[cfg(feature = "sink-object")]
pub use backup_sink_object as sink_object;
#[cfg(feature = "sink-rclone")]
pub use backup_sink_rclone as sink_rclone;
#[cfg(feature = "sink-sftp")]
pub use backup_sink_sftp as sink_sftp;
#[cfg(feature = "source-command")]
pub use backup_source_command as source_command;
#[cfg(feature = "source-files")]
pub use backup_source_files as source_files;

pub use backup_throttle as throttle;

pub use keyed::{KeyedError, open_or_make};
pub use surroundings::Surroundings;

use backup_core::{Clock, OpContext, Registry, registry::RegistryError};

/// The option of a location that names a second place, for packs of content: `/srv/hot?cold=s3://bucket/packs`.
pub const COLD_OPTION: &str = "cold";

/// Registers every plug-in whose feature is on, and tells none of them anything of the process: the location of an SSH
/// server has to name the user, the key and the file of known hosts, and object stores find no credentials. See
/// [`register_enabled_in`].
///
/// # Errors
/// [`RegistryError::Twice`] when a name is taken already.
pub fn register_enabled(registry: &mut Registry) -> Result<(), RegistryError> {
    register_enabled_in(registry, &Surroundings::none())
}

/// Registers every plug-in whose feature is on, one line for each, with what they are told of the process.
///
/// # Errors
/// [`RegistryError::Twice`] when a name is taken already.
#[cfg_attr(
    not(any(feature = "sink-sftp", feature = "sink-object")),
    allow(unused_variables, reason = "only some plug-ins are told something")
)]
pub fn register_enabled_in(
    registry: &mut Registry,
    around: &Surroundings,
) -> Result<(), RegistryError> {
    registry.add_join(COLD_OPTION, |hot, cold| {
        match backup_cold::ColdSink::new(hot, cold) {
            Ok(both) => Ok(Arc::new(both)),
            Err(error) => Err(error.to_string()),
        }
    })?;
    #[cfg(feature = "sink-local")]
    backup_sink_local::register(registry)?;
    #[cfg(feature = "sink-sftp")]
    backup_sink_sftp::register(registry, &around.for_sftp())?;
    #[cfg(feature = "sink-object")]
    backup_sink_object::register(registry, &around.for_object_stores())?;
    #[cfg(feature = "sink-rclone")]
    backup_sink_rclone::register(registry)?;
    #[cfg(feature = "source-files")]
    backup_source_files::register(registry)?;
    #[cfg(feature = "source-command")]
    backup_source_command::register(registry)?;
    Ok(())
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place where the clock is read"
    )]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// Surroundings with the system's clock, default limits, and nobody watching.
#[must_use]
pub fn context() -> OpContext {
    OpContext::new(Arc::new(SystemClock))
}
