//! The decoder `ledger_line` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(ledger_line);
