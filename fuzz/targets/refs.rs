//! The decoder `refs` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(refs);
