//! The command line: parse, put the rig together, run one verb, print, and map what came of it to an exit code.
//!
//! stdout is data, stderr is talk. Nothing prompts when stdin is not a terminal. Errors are printed here and only here.

pub mod arguments;
pub mod drill;
pub mod evidence;
pub mod exit;
mod live;
pub mod print;
pub mod progress;
pub mod run;
pub mod unattended;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::report::Progress;
use arguments::Arguments;
use exit::Exit;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == crate::sandbox::jail::COMMAND) {
        return first_process();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap prints help to stdout and errors to stderr, and knows which is which.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    log(&arguments);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::talk(&format!("error: the runtime could not be started: {error}"));
            return Exit::Bug.into();
        }
    };
    let exit = runtime.block_on(with_signals(arguments));
    // Blocking threads may still wait for a pipe whose other end is gone; the process need not.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    exit.into()
}

/// This process is the first of a sandbox, and no command line at all.
fn first_process() -> ExitCode {
    match crate::sandbox::jail::first_process() {
        Ok(()) => Exit::Done.into(),
        Err(why) => {
            print::talk(&why);
            Exit::NotVerified.into()
        }
    }
}

fn log(arguments: &Arguments) {
    let serves = matches!(arguments.verb, arguments::Verb::Serve);
    let default = match arguments.verbose {
        0 if serves => "lifeboat=info",
        0 => "lifeboat=warn",
        1 => "lifeboat=info",
        _ => "lifeboat=debug",
    };
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let text = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let text = text.with_ansi(std::io::stderr().is_terminal());
    let _ = match arguments.log_format {
        arguments::LogFormat::Json => text.json().try_init(),
        // systemd's journal and a person at a terminal know the time themselves.
        arguments::LogFormat::Text => text.without_time().try_init(),
    };
}

async fn with_signals(arguments: Arguments) -> Exit {
    let cancel = CancellationToken::new();
    let signalled = cancel.clone();
    let serves = matches!(arguments.verb, arguments::Verb::Serve);
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else { return };
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        print::talk(match serves {
            true => "stopping: waiting for what runs (once more to stop at once)",
            false => "interrupted: undoing what was begun (once more to stop at once)",
        });
        signalled.cancel();
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        std::process::exit(Exit::Interrupted.code().into());
    });
    let progress = Progress::default();
    let shown = progress::show(
        progress.clone(),
        arguments.quiet || arguments.json || matches!(arguments.verb, arguments::Verb::Drill(_) | arguments::Verb::Serve),
    );
    let result = run::run(arguments, progress, cancel.clone()).await;
    shown.stop().await;
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            print::failure(&failure);
            // What failed because of the signal failed for that reason, whatever it says itself.
            if cancel.is_cancelled() { Exit::Interrupted } else { exit::of(failure.error.trouble()) }
        }
    }
}
