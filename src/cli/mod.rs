//! The command line: parse, build the context, run one command, print, and map the result to an
//! exit code.
//!
//! Results go to stdout, messages to stderr. Nothing prompts when stdin is not a terminal. Errors
//! are printed here and only here.

mod agent;
pub mod arguments;
pub mod drill;
mod drill_view;
pub mod evidence;
pub mod exit;
pub mod print;
pub mod progress;
mod recovery;
mod rekey;
pub mod restore;
pub mod run;
mod sets;
mod thaw;
pub mod unattended;
mod vault_override;
mod volumes;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::progress::ProgressReporter;
use arguments::{Arguments, CliCommand};
use exit::ExitKind;

/// What a program exits with that could not be started in a sandbox, as with `env` and `nohup`.
const NOT_LAUNCHED: u8 = 126;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    no_core_files();
    if let Some(exit) = hidden() {
        return exit;
    }
    // What lifeboat was started with beside its three streams (a lock of cron's, a shell's own) is
    // for nobody that it starts: in a sandbox an open directory of the host would be the way
    // out.
    close_fds::set_fds_cloexec(3, &[]);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap prints help to stdout and errors to stderr, and knows which is which.
            let _ = error.print();
            return if error.use_stderr() { ExitKind::Usage.into() } else { ExitKind::Done.into() };
        }
    };
    let _spans = log(&arguments);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::print_status(&format!("error: the runtime could not be started: {error}"));
            return ExitKind::Bug.into();
        }
    };
    let exit = runtime.block_on(with_signals(arguments));
    // Blocking threads may still wait for a pipe whose other end is gone; the process need not.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    exit.into()
}

/// Neither lifeboat nor anything it starts leaves its memory on a disk when it crashes: there are
/// keys and rows in it. A limit of 1 rather than 0, since a kernel that hands core files to a
/// program asks for no other.
fn no_core_files() {
    let hard =
        rustix::process::getrlimit(rustix::process::Resource::Core).maximum.unwrap_or(1).min(1);
    let none = rustix::process::Rlimit { current: Some(hard), maximum: Some(hard) };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, none) {
        print::print_status(&format!(
            "warning: core files of a crash cannot be prevented: {error}"
        ));
    }
}

/// What lifeboat starts itself as. None is a command of anybody's.
fn hidden() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let command = words.next()?;
    match command.to_str()? {
        crate::sandbox::jail::COMMAND => Some(first_process()),
        crate::sandbox::launch::COMMAND => {
            print::print_status(&crate::sandbox::launch::launch(words));
            Some(ExitCode::from(NOT_LAUNCHED))
        }
        crate::sandbox::probe::COMMAND => Some(probes(words.next())),
        crate::volumes::watchdog::COMMAND => Some(watchdog()),
        _ => None,
    }
}

/// This process is in a sandbox, and tries to get out of it.
fn probes(question: Option<std::ffi::OsString>) -> ExitCode {
    match crate::sandbox::probe::answer(question) {
        Ok(answer) => {
            print::print_output(&answer);
            ExitKind::Done.into()
        }
        Err(why) => {
            print::print_status(&why);
            ExitKind::Usage.into()
        }
    }
}

/// This process is the first of a sandbox, and no command line at all.
fn first_process() -> ExitCode {
    match crate::sandbox::jail::first_process() {
        Ok(()) => ExitKind::Done.into(),
        Err(why) => {
            print::print_status(&why);
            ExitKind::NotVerified.into()
        }
    }
}

/// This process keeps file systems from being frozen for too long, and is no command line at all.
fn watchdog() -> ExitCode {
    let state = std::env::args_os().nth(2).map(std::path::PathBuf::from).unwrap_or_default();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitKind::Bug.into();
    };
    let exit = match runtime.block_on(crate::volumes::watchdog::watch(&state)) {
        Ok(()) => ExitKind::Done,
        Err(_) => ExitKind::SourceFailed,
    };
    // The thread that waits on standard input need not be waited for.
    runtime.shutdown_background();
    exit.into()
}

/// Begins to log, and to send spans if the environment says where. The guard sends the last ones.
fn log(arguments: &Arguments) -> SpanExporter {
    let serves = matches!(arguments.verb, arguments::CliCommand::Serve);
    let default = match arguments.verbose {
        0 if serves => "lifeboat=info",
        0 => "lifeboat=warn",
        1 => "lifeboat=info",
        _ => "lifeboat=debug",
    };
    let filter =
        EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let lines = fmt::layer()
        .with_writer(settled)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match arguments.log_format {
        arguments::LogFormat::Json => lines.json().boxed(),
        // systemd's journal and a person at a terminal know the time themselves.
        arguments::LogFormat::Text => lines.without_time().boxed(),
    };
    let spans = SpanExporter::begin();
    let exported = spans.0.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("lifeboat"));
        layer.with_filter(EnvFilter::new("lifeboat=info"))
    });
    let _ =
        tracing_subscriber::registry().with(lines.with_filter(filter)).with(exported).try_init();
    spans
}

/// Standard error, with the progress that is on it in order.
fn settled() -> std::io::Stderr {
    progress::settle();
    std::io::stderr()
}

/// Spans on their way to a collector, as OpenTelemetry's own environment variables name it.
struct SpanExporter(Option<SdkTracerProvider>);

impl SpanExporter {
    fn begin() -> Self {
        let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        if !named.iter().any(|name| std::env::var(name).is_ok_and(|value| !value.is_empty())) {
            return Self(None);
        }
        match opentelemetry_otlp::SpanExporter::builder().with_http().build() {
            Ok(exporter) => {
                let resource = Resource::builder().with_service_name("lifeboat").build();
                Self(Some(
                    SdkTracerProvider::builder()
                        .with_resource(resource)
                        .with_batch_exporter(exporter)
                        .build(),
                ))
            }
            Err(error) => {
                print::print_status(&format!("warning: no spans are sent: {error}"));
                Self(None)
            }
        }
    }
}

impl Drop for SpanExporter {
    fn drop(&mut self) {
        // A collector that does not answer is no reason for another exit code.
        if let Some(provider) = self.0.take() {
            let _ = provider.shutdown_with_timeout(std::time::Duration::from_secs(3));
        }
    }
}

/// How long a verb may take to stop cleanly: a little less than the ten seconds after which
/// supervisors lose their patience.
const STOPS_WITHIN: Duration = Duration::from_secs(9);

/// Signals that end a verb: SIGINT, SIGTERM, and SIGHUP unless somebody has it ignored (`nohup`),
/// or it reloads (`serve`).
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    fn listen(serves: bool) -> std::io::Result<Self> {
        let hangup = match serves || ignores_hangup() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = self.interrupt.recv() => {} _ = self.terminate.recv() => {} () = hangup => {} }
    }
}

/// Whether this process was started with SIGHUP ignored: bit 0 of what `/proc` tells.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// What a verb leaves that is ended in mid-work, and what goes on from it.
fn what_is_left(verb: &CliCommand) -> &'static str {
    match verb {
        CliCommand::Backup { .. } => {
            "no backup was published unless it was said; what was stored of it is removed by `lifeboat sweep`, what was frozen is let go by its watchdog"
        }
        CliCommand::Restore(_) => "the same command goes on from what is loaded",
        CliCommand::Drill(_) => {
            "`lifeboat drill resume` goes on, `lifeboat drill abort` tears down; a sandbox of this host goes with the process"
        }
        CliCommand::Init { .. }
        | CliCommand::Catalog(_)
        | CliCommand::Copy { .. }
        | CliCommand::Rekey(_)
        | CliCommand::Prune { .. }
        | CliCommand::Thaw(_)
        | CliCommand::Sweep { .. } => "the same command goes on with the rest",
        _ => "nothing was left half done",
    }
}

async fn with_signals(arguments: Arguments) -> ExitKind {
    let cancel = CancellationToken::new();
    let signalled = cancel.clone();
    let serves = matches!(arguments.verb, arguments::CliCommand::Serve);
    let left = what_is_left(&arguments.verb);
    tokio::spawn(async move {
        let Ok(mut signals) = StopSignals::listen(serves) else { return };
        signals.next().await;
        print::print_status(match serves {
            true => "stopping: waiting for what runs (once more to stop at once)",
            false => "interrupted: stopping cleanly (once more to stop at once)",
        });
        signalled.cancel();
        // `serve` waits for what runs as long as `stop_within` says; whoever stops a verb is at the
        // keyboard, or is a host that goes down.
        let patience = if serves { Duration::MAX } else { STOPS_WITHIN };
        tokio::select! {
            () = signals.next() => {}
            () = tokio::time::sleep(patience) => print::print_status(&format!("it did not end within {} seconds and is ended; {left}", STOPS_WITHIN.as_secs())),
        }
        std::process::exit(ExitKind::Interrupted.code().into());
    });
    let progress = ProgressReporter::default();
    let shown = progress::show(
        progress.clone(),
        arguments.quiet
            || arguments.json
            || matches!(
                arguments.verb,
                arguments::CliCommand::Drill(_) | arguments::CliCommand::Serve
            ),
    );
    let span = tracing::info_span!("lifeboat", verb = arguments.verb.name());
    let result = run::run(arguments, progress, cancel.clone()).instrument(span).await;
    crate::work::fence::wait_for_lease_releases().await;
    shown.stop().await;
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            print::failure(&failure);
            // What failed because of the signal failed for that reason, whatever it says itself.
            if cancel.is_cancelled() {
                ExitKind::Interrupted
            } else {
                exit::of(failure.error.class())
            }
        }
    }
}
