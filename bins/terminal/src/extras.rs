//! What both programs can write about themselves: completions for shells, and manual pages.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Writes the completions of a program for a shell to standard output.
///
/// # Errors
/// Output that cannot be written.
pub fn completion(console: &mut Console, shell: Shell, mut command: Command) -> Outcome {
    let name = command.get_name().to_owned();
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut out);
    console.raw(&out)?;
    Ok(Exit::Ok)
}

/// Writes manual pages: that of the program to standard output, or those of all its commands into a
/// folder.
///
/// # Errors
/// Output that cannot be written.
pub fn manual(console: &mut Console, folder: Option<&Path>, command: Command) -> Outcome {
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, &error))?;
        clap_mangen::generate_to(command, folder)
            .map_err(|error| Failure::file("write into", folder, &error))?;
        return Ok(Exit::Ok);
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(command).render(&mut out)?;
    console.raw(&out)?;
    Ok(Exit::Ok)
}
