//! The frame of a program: command line, runtime, signals, end.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use backstay::core::CancellationToken;
use clap::{ColorChoice, Parser};
use tokio::signal::unix::{SignalKind, signal};

use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::options::Common;
use crate::surroundings;

/// Runs a program: reads its command line, starts the runtime and the handling of signals, runs the
/// command, ends.
pub fn start<C: Parser>(
    program: &'static str,
    common: impl FnOnce(&C) -> Common,
    run: impl AsyncFnOnce(C, &mut Console) -> Outcome,
) -> ExitCode {
    let cli = match parse::<C>(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // A reader that has gone away is no failure of the help.
            let _ = error.print();
            return exit.into();
        }
    };
    let common = common(&cli).with_environment();
    let mut console = Console::new(program, common);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = format!("start threads: {error}");
            let failure = Failure::new(Exit::Failed, what, "check the limits of the system");
            return console.end(Err(failure)).into();
        }
    };
    let cancel = console.cx.cancel.clone();
    let outcome = runtime.block_on(async {
        if let Err(error) = watch_signals(cancel) {
            console.warn(&format!("signals are not handled: {error}"));
        }
        run(cli, &mut console).await
    });
    let cancelled = console.cx.cancel.is_cancelled();
    let exit = console.end(outcome);
    // Threads that still wait on something must not keep the program.
    runtime.shutdown_background();
    match exit {
        Exit::Failed if cancelled => Exit::Interrupted.into(),
        exit => exit.into(),
    }
}

fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, clap::Error> {
    let color = if surroundings::no_color() {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    };
    let matches = C::command().color(color).try_get_matches_from(args)?;
    C::from_arg_matches(&matches)
}

/// The first signal cancels, so that what was stored is made safe; the second ends at once.
fn watch_signals(cancel: CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        for number in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if number == 0 {
                cancel.cancel();
            }
        }
        let _ = writeln!(std::io::stderr().lock(), "interrupted at once");
        at_once();
    });
    Ok(())
}

#[allow(clippy::exit, reason = "the second signal asks for just that")]
fn at_once() -> ! {
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
