//! The fuzz targets call what `tests/decoders` says; there it is compiled with the workspace and tried on
//! random and damaged bytes in every run of the tests.

pub use backup_decoders::*;
