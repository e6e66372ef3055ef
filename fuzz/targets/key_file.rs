//! The decoder `key_file` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(key_file);
