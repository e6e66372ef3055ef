//! The decoder `session` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(session);
