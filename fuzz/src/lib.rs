//! The fuzz targets call what `tests/decoders` says; there it is tried on random and damaged bytes in every run of
//! the tests. Under a fuzzer a target is what libFuzzer wants; without one it decodes the files that it is given, so
//! that an input that crashed can be looked at with any compiler.

use std::path::Path;
use std::{fs, io};

pub use backup_decoders::*;

/// The one target of a program, by the name of its decoder.
#[macro_export]
macro_rules! target {
    ($decoder:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$decoder(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::decode_files($crate::$decoder, std::env::args_os().skip(1))
        }
    };
}

/// Decodes each of the files.
///
/// # Errors
/// The first file that cannot be read, with its name.
pub fn decode_files<P: AsRef<Path>>(
    decode: Decoder,
    files: impl Iterator<Item = P>,
) -> io::Result<()> {
    for file in files {
        let path = file.as_ref();
        let bytes = fs::read(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        decode(&bytes);
    }
    Ok(())
}
