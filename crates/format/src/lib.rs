//! The repository format: pure functions between values and bytes.
