//! The decoder `lineage_head` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(lineage_head);
