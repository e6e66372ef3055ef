//! `restore`: restores snapshots and looks into them.

mod cli;
mod content;
mod descent;
mod diff;
mod export;
mod look;
mod losses;
mod place;
mod proof;
mod run;
mod salvage;
mod verify;
mod warm;

use backup_terminal::{Console, Outcome, extras, start};
use clap::CommandFactory as _;
use cli::{Cli, Command};

fn main() -> std::process::ExitCode {
    start::<Cli>("restore", |cli| cli.common.clone(), run)
}

async fn run(cli: Cli, console: &mut Console) -> Outcome {
    console.read_also_from(cli.also_from);
    // A restore goes on, whoever reads what it says of it.
    if !matches!(
        cli.command,
        Command::Run(_)
            | Command::Warm(_)
            | Command::Export(_)
            | Command::Prove(_)
            | Command::CheckProof(_)
    ) {
        console.end_with_reader();
    }
    match cli.command {
        Command::List(args) => look::list(console, &args).await,
        Command::Ls(args) => look::ls(console, &args).await,
        Command::Find(args) => look::find(console, &args).await,
        Command::Cat(args) => content::cat(console, &args).await,
        Command::Run(args) => run::run(console, &args).await,
        Command::Warm(args) => warm::warm(console, &args).await,
        Command::Export(args) => export::export(console, &args).await,
        Command::Diff(args) => diff::diff(console, &args).await,
        Command::Sums(args) => content::sums(console, &args).await,
        Command::Prove(args) => proof::prove(console, &args).await,
        Command::CheckProof(args) => proof::check(console, &args),
        Command::Completion { shell } => extras::completion(console, shell, Cli::command()),
        Command::Man { folder } => extras::manual(console, folder.as_deref(), Cli::command()),
    }
}
