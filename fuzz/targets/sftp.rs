//! The decoder `sftp` under a fuzzer.
#![cfg_attr(fuzzing, no_main)]

backup_fuzz::target!(sftp);
