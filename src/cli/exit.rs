//! How a command ends.

use std::io;
use std::process::ExitCode;

/// Exit statuses, after `sysexits.h` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was not done, for a reason that has no status of its own.
    Failed,
    /// The arguments make no sense (`EX_USAGE`).
    Usage,
    /// What was given is not what it should be, or some of it is lost (`EX_DATAERR`).
    Data,
    /// The gateway cannot be reached or cannot do it now (`EX_UNAVAILABLE`).
    Unavailable,
    /// The credential is missing, wrong or may not do this (`EX_NOPERM`).
    Denied,
    /// The configuration has problems (`EX_CONFIG`).
    Config,
}

impl Exit {
    /// The status as a number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Denied => 77,
            Self::Config => 78,
        }
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    quiet: bool,
}

impl Failure {
    /// A failure with a status, and a message of one or more lines for standard error.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), quiet: false }
    }

    /// A failure whose message is the chain of `error`'s causes.
    #[must_use]
    pub fn of(exit: Exit, what: &str, error: &dyn std::error::Error) -> Self {
        let mut message = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::new(exit, message)
    }

    /// The status that the process should end with.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Says why on `stderr`, and turns into the process's status.
    pub(super) fn report(self, stderr: &mut dyn io::Write) -> ExitCode {
        if self.quiet {
            return ExitCode::SUCCESS;
        }
        // Where even this cannot be written, the exit status has to do.
        drop(writeln!(stderr, "error: {}", self.message.trim_end()));
        ExitCode::from(self.exit.code())
    }
}

/// Standard output that cannot be written. A reader that has seen enough (`| head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        Self { exit: Exit::Failed, message: format!("cannot write: {error}"), quiet }
    }
}
