//! The decoder `state_entry` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(state_entry);
