//! The command line, run to its end.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `portcullis` with these arguments in a folder.
pub(crate) fn portcullis(folder: &Path, arguments: &[&str]) -> Finished {
    portcullis_with(folder, arguments, &[], "")
}

/// The same, with environment variables and standard input.
pub(crate) fn portcullis_with(folder: &Path, arguments: &[&str], env: &[(&str, &str)], stdin: &str) -> Finished {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(folder)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
