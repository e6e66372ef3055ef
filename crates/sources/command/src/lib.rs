//! The output of a command or standard input as one stream.
