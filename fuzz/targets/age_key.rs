//! The decoder `age_key` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(age_key);
