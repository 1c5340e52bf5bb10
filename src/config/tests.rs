use std::path::Path;

use super::*;

/// A folder with the files that the configurations of `config/` name.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    for name in ["accounts", "ops", "dashboard"] {
        write(
            &format!("secrets/{name}"),
            &format!("{name}: a secret that only this test knows, and long enough for HS512\n"),
        );
    }
    write("accounts.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    write("partners.json", r#"{"keys": []}"#);
    folder
}

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

#[test]
fn the_quickstart_loads() {
    let folder = folder();
    let path = folder.path().join("quickstart.yaml");
    std::fs::write(&path, shipped("quickstart.yaml")).unwrap();
    let loaded = load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(loaded.config.issuers[0].require, ["sub"]);
    assert_eq!(loaded.config.routes.len(), 3);
    assert_eq!(loaded.config.session.unwrap().exchange, [0]);
    assert_eq!(loaded.digest.len(), 64);
}
