//! The `portcullis` command. Everything it does is in the library.

use std::process::ExitCode;

use portcullis::cli::Commands;

/// Bodies and heads are allocated and freed on every request; this allocator is the quicker one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main(&Commands { run: portcullis::app::run, demo: portcullis::demo::run })
}
