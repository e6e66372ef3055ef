//! `snapshot`: saves, lists, copies, forgets and verifies snapshots.

mod ahead;
mod analyze;
mod check_tier;
mod choice;
mod cli;
mod copy;
mod coverage;
mod forget;
mod hold;
mod import;
mod init;
mod keys;
mod ledger;
mod look;
mod prune;
mod repair;
mod room;
mod save;
mod source;
mod sync;
mod verify;
mod versions;

use backup_terminal::{Console, Outcome, extras, start};
use clap::CommandFactory as _;
use cli::{Cli, Command, LedgerCommand};

fn main() -> std::process::ExitCode {
    start::<Cli>("snapshot", |cli| cli.common.clone(), run)
}

async fn run(cli: Cli, console: &mut Console) -> Outcome {
    if matches!(
        cli.command,
        Command::List(_)
            | Command::Ledger(LedgerCommand::List(_))
            | Command::Completion { .. }
            | Command::Man { .. }
    ) {
        console.end_with_reader();
    }
    match cli.command {
        Command::Init(args) => init::init(console, &args).await,
        Command::Save(args) => save::save(console, &args).await,
        Command::Import(args) => import::import(console, &args).await,
        Command::List(args) => look::list(console, &args).await,
        Command::Show(args) => look::show(console, &args).await,
        Command::Analyze(args) => analyze::analyze(console, &args).await,
        Command::Copy(args) => copy::copy(console, &args).await,
        Command::Sync(args) => sync::sync(console, &args).await,
        Command::Forget(args) => forget::forget(console, &args).await,
        Command::Prune(args) => prune::prune(console, &args).await,
        Command::Repair(args) => repair::repair(console, &args).await,
        Command::Hold(args) => hold::hold(console, &args).await,
        Command::Release(args) => hold::release(console, &args).await,
        Command::Verify(args) => verify::verify(console, &args).await,
        Command::Key(command) => keys::run(console, command).await,
        Command::Ledger(LedgerCommand::List(args)) => ledger::list(console, &args).await,
        Command::Ledger(LedgerCommand::Accept(args)) => ledger::accept(console, &args).await,
        Command::Ledger(LedgerCommand::Verify) => verify::ledger(console).await,
        Command::CheckTier(args) => check_tier::check_tier(console, &args).await,
        Command::Stats => look::stats(console).await,
        Command::Completion { shell } => extras::completion(console, shell, Cli::command()),
        Command::Man { folder } => extras::manual(console, folder.as_deref(), Cli::command()),
    }
}
