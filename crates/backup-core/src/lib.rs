//! The words and the contracts of Backstay.
//!
//! Everything that two crates must agree on stands here and nothing else: identifiers, what a
//! source hands over ([`entry`]), what a sink promises ([`sink`]), how a restore is written
//! ([`target`]), what a retention policy decides ([`retention`]), what a verifier reports
//! ([`verify`]), the surroundings of an operation ([`context`]) and the table of plug-ins
//! ([`registry`]). There is no I/O in this crate, no clock, no environment, no global state; it
//! depends on no other crate of the workspace.
//!
//! The way of the data is `plan → capture → chunk → seal → store → commit → record`; a source
//! takes part in the first two, a sink in `store` and `commit`.

pub mod context;
pub mod entry;
pub mod error;
pub mod finding;
pub mod id;
pub mod location;
pub mod path;
pub mod plan;
pub mod registry;
pub mod retention;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod target;
pub mod verify;

pub use context::{CancellationToken, Clock, Event, Limits, Observer, OpContext, Stage};
pub use entry::{
    Body, Entry, EntryKind, EntryMeta, FileTime, Fingerprint, OpenContent, Owner, Segment,
    SegmentStream, StreamProfile,
};
pub use error::{
    ErrorKind, Retry, SinkError, SourceError, TargetError, VerifyError, at_limit, place_remedy,
};
pub use finding::{Finding, FindingKind, Severity};
pub use id::{ChunkId, HostId, PackId, RepoId, SessionId, SnapshotId};
pub use location::Location;
pub use path::EntryPath;
pub use plan::{CaptureMode, CapturePlan, CaptureReport, Outcome, PlannedEntry, SizeHint};
pub use registry::Registry;
pub use retention::{Decision, Reason, RetentionInput, RetentionPolicy, Verdict};
pub use sink::{
    ByteRange, KeyRange, ObjectKey, ObjectMeta, PutMode, Room, Sink, SinkCaps, SinkInfo,
    Temperature, Traffic, Version, Warmth,
};
pub use snapshot::{ComponentMeta, SnapshotMeta, SnapshotStats};
pub use source::{
    Capture, CaptureRequest, Consistency, ConsistentPoint, ParentHint, Source, SourceCaps,
    SourceInfo,
};
pub use target::{
    EntryOutcome, EntryWriter, PositionalWriter, Rehearsal, Rehearsed, Restore, RestoreEntry,
    RestoreMode, RestorePlan, RestoreReport, RestoreRequest, StreamWriter, Target,
};
pub use verify::{NamedChunk, Sample, SnapshotReader, Verifier, VerifyLevel, VerifyReport};
