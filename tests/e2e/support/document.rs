//! What the documentation shows, run as a reader would.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::site::OPS;
use super::{Gateway, Site};

/// A file of the documentation.
pub(crate) fn read(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The shell blocks of a text.
pub(crate) fn shell_blocks(text: &str) -> Vec<String> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a block with this binary first in `PATH`, as the operator, with these variables besides; what it
/// printed. It must succeed.
pub(crate) fn run(site: &Site, gateway: &Gateway, block: &str, variables: &[(&str, &str)]) -> String {
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap().display().to_string();
    let admin = format!("http://{}", gateway.admin_address);
    let mut shell = Command::new("sh");
    shell.args(["-euc", block]).current_dir(site.path());
    shell.env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()));
    shell.env("GATE", format!("http://{}", gateway.address));
    shell.env("ADMIN", &admin).env("OPS", OPS);
    shell.env("PORTCULLIS_ADMIN", &admin).env("PORTCULLIS_ADMIN_TOKEN", OPS);
    shell.envs(variables.iter().copied());
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{block}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
