//! The decoder `pack_tail` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(pack_tail);
