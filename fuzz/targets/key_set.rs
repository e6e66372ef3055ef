//! The decoder `key_set` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(key_set);
