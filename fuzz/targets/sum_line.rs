//! The decoder `sum_line` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(sum_line);
