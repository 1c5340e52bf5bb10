//! The `portcullis` command. Everything it does is in the library.

use std::io::Write;
use std::process::ExitCode;

use portcullis::cli::{Commands, DemoOptions, Exit, Failure, RunOptions};

/// Bodies and heads are allocated and freed on every request; this allocator is the quicker one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main(&Commands { run, demo })
}

fn run(_: &RunOptions, _: &mut (dyn Write + Send)) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, "this build has no gateway"))
}

fn demo(_: &DemoOptions, _: &mut (dyn Write + Send)) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, "this build has no gateway"))
}
