//! The decoder `entry_path` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(entry_path);
