//! The decoder `lineage_layer` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(lineage_layer);
