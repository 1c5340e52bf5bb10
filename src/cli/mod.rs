//! The `portcullis` command line: arguments to exit status, and the only place that prints.

mod args;
mod client;
mod control;
mod exit;
mod show;
mod store;
pub mod token;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command};
use crate::time::Clock;

pub use exit::{Exit, Failure};

/// What `portcullis run` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Start although the store or the session keys were lost, and begin anew.
    pub accept_loss: bool,
}

/// What `portcullis demo` was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Run the steps and check their answers, instead of waiting for somebody to try them.
    pub script: bool,
}

/// The commands that need the whole gateway: the composition root brings them. They print to the stream
/// they are given and return when they are done.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    /// Runs the gateway until it is told to stop.
    pub run: fn(&RunOptions, &mut (dyn Write + Send)) -> Result<(), Failure>,
    /// Runs the demonstration.
    pub demo: fn(&DemoOptions, &mut (dyn Write + Send)) -> Result<(), Failure>,
}

/// The streams of a process, or of a test.
struct Streams<'a> {
    stdin: &'a mut dyn BufRead,
    stdout: &'a mut (dyn Write + Send),
    stderr: &'a mut dyn Write,
}

/// Runs the process's command.
#[must_use]
pub fn main(commands: &Commands) -> ExitCode {
    let mut stdin = io::BufReader::new(io::stdin());
    let mut streams = Streams { stdin: &mut stdin, stdout: &mut io::stdout(), stderr: &mut io::stderr() };
    dispatch(commands, std::env::args_os(), &mut streams)
}

fn dispatch(commands: &Commands, arguments: impl IntoIterator<Item = OsString>, streams: &mut Streams<'_>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // Where nothing can be written, the exit status has to do.
        Err(error) if error.use_stderr() => {
            drop(write!(streams.stderr, "{}", error.render()));
            return ExitCode::from(Exit::Usage.code());
        }
        Err(help) => {
            drop(write!(streams.stdout, "{}", help.render()));
            return ExitCode::SUCCESS;
        }
    };
    let done = match arguments.command {
        Command::Run { config, accept_loss } => (commands.run)(&RunOptions { config, accept_loss }, streams.stdout),
        Command::Demo { script } => (commands.demo)(&DemoOptions { script }, streams.stdout),
        Command::Check { file } => check(&file, streams),
        Command::Schema => schema(streams.stdout),
        Command::Token(arguments) => {
            let now = Clock::System.now();
            return token::run(&arguments, now, streams.stdin, streams.stdout, streams.stderr);
        }
        Command::Explain { admin, explain } => control::explain(&admin, &explain, streams),
        Command::Revoke { admin, revoke } => control::revoke(&admin, &revoke, streams),
        Command::Revocations { admin, command } => control::revocations(&admin, &command, streams),
        Command::Subjects { admin, command } => control::subjects(&admin, &command, streams),
        Command::Sessions { admin, command } => control::sessions(&admin, &command, streams),
        Command::Keys { admin, command } => control::keys(&admin, &command, streams),
        Command::Store { command } => store::run(&command, streams),
        Command::Status { admin } => control::status(&admin, streams),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(streams.stderr),
    }
}

fn check(file: &Path, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let loaded = crate::app::check(file)?;
    for warning in &loaded.warnings {
        writeln!(streams.stderr, "{warning}")?;
    }
    writeln!(streams.stdout, "{}: ok ({})", file.display(), loaded.digest)?;
    Ok(())
}

fn schema(stdout: &mut dyn Write) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&crate::config::schema())
        .map_err(|error| Failure::of(Exit::Failed, "cannot write the schema", &error))?;
    writeln!(stdout, "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests;
