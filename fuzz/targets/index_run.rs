//! The decoder `index_run` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(index_run);
