//! The engine: snapshot, restore, verify.
