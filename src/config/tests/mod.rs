//! The whole way from text to configuration.

mod brokers;
mod credentials;
mod mutations;
mod robust;
mod shipped;
mod upgrades;

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A folder with the files that the configurations of the tests and of `config/` name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    let write = |name: &str, mode: u32, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["accounts", "ops", "legacy", "viewer", "base", "cluster"] {
        write(&format!("secrets/{name}"), 0o600, &format!("only this test knows the secret of {name}\n"));
    }
    write("secrets/copy", 0o600, "only this test knows the secret of ops\n");
    write("secrets/short", 0o600, "0123456789012345678901234567890\n");
    write("secrets/sample", 0o600, "a-string-secret-at-least-256-bits-long\n");
    write("secrets/open", 0o644, "everybody can read this but nobody should\n");
    write("secrets/wide", 0o666, "everybody can change this and nobody should\n");
    write("secrets/database", 0o600, "postgres://portcullis:hunter2@db.internal:5432/users\n");
    write("accounts.pem", 0o644, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    write("private.pem", 0o600, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    write("partners.json", 0o644, r#"{"keys": []}"#);
    write("noise", 0o644, "noise");
    folder
}

/// Parses with the environment of the tests.
fn read(text: &str, base: &Path) -> Result<Loaded, Problems> {
    parse_in(text, "portcullis.yaml", base, &|name| {
        (name == "PORTCULLIS_DASHBOARD_TOKEN").then(|| "the dashboard has this token, and nobody else".to_owned())
    })
    .outcome
}
