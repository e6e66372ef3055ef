//! Files and folders: capture and restore.
