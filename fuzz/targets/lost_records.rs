//! The decoder `lost_records` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(lost_records);
