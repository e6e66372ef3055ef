//! Suites that every source and sink must pass; sinks that fail on purpose.
