//! The decoder `snapshot_object` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(snapshot_object);
