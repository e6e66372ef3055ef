//! The frame of a program: command line, runtime, signals, end.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use backstay::core::{CancellationToken, Clock as _, at_limit};
use clap::{ColorChoice, Parser};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::console::{Console, show_failure};
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
    crate::memory::keep_few_arenas();
    crate::limits::raise_open_files();
    let cli = match parse::<C>(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // A reader that has gone away is no failure of the help.
            let _ = match exit {
                Exit::Usage if is_given("--json") => say_as_json(program, &error),
                _ => error.print(),
            };
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
            let limit = error.raw_os_error().and_then(at_limit);
            let hint = limit.unwrap_or("check the limits of the system");
            let failure = Failure::new(Exit::Failed, what, hint);
            return console.end(Err(failure)).into();
        }
    };
    let cancel = console.cx.cancel.clone();
    let outcome = runtime.block_on(async {
        if let Err(error) = crate::limits::survive_file_size().and_then(|()| watch_signals(cancel))
        {
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

/// Whether an option is on the command line, where the command line itself could not be read.
fn is_given(option: &str) -> bool {
    std::env::args_os()
        .take_while(|arg| arg != "--")
        .any(|arg| arg == option)
}

/// The line that programs read of a command line that is wrong.
fn say_as_json(program: &str, error: &clap::Error) -> std::io::Result<()> {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let what = lines.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let failure = Failure::usage(what, "see --help");
    let now = backstay::SystemClock.now().to_string();
    let line = show_failure(program, &failure, true, &now);
    writeln!(std::io::stderr().lock(), "{line}")
}

fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, clap::Error> {
    let color = if surroundings::no_color() || is_given("--no-color") {
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
    // Whoever starts it with `nohup` wants it to go on when the terminal is gone.
    let mut hang_up = match is_hang_up_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    tokio::spawn(async move {
        for number in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                Some(_) = heard(&mut hang_up) => {}
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

async fn heard(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// Whether whoever started this program let it ignore SIGHUP (proc(5), `SigIgn`: the lowest bit is signal 1).
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[allow(clippy::exit, reason = "the second signal asks for just that")]
fn at_once() -> ! {
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
