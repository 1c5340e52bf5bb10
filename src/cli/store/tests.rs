use std::path::Path;

use crate::cli::tests::{Outcome, portcullis};
use crate::revocation::{Form, Lift, Reason, Revocation, Source, Target, TargetKind};
use crate::store::{
    AcceptLoss, Body, Document, DocumentKind, DocumentWrite, Entry, MAX_LINE_BYTES, SqliteStore, Store,
};
use crate::time::Timestamp;

fn revocation(n: u64) -> Revocation {
    Revocation {
        id: format!("id-{n}").parse().unwrap(),
        target: Target::new(TargetKind::Subject, "https://a.example/", format!("sub-{n}")),
        form: Form::Before { issued: Some(Timestamp::from_secs(7)), authenticated: None },
        reason: Reason::PasswordChanged,
        source: Source::Admin,
        actor: "ops".to_owned(),
        note: (n == 1).then(|| "two\nlines".to_owned()),
        at: Timestamp::from_millis(8_001),
        forget_at: None,
    }
}

/// A closed store of three revocations, a lift and a document.
fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), AcceptLoss::No).unwrap();
    let lifted = revocation(2);
    let lift = Lift {
        id: "lift".parse().unwrap(),
        of: lifted.id,
        target: lifted.target,
        leaves: None,
        actor: "ops".to_owned(),
        note: None,
        at: Timestamp::from_secs(9),
        forget_at: None,
    };
    let bodies = (1..=3).map(|n| Body::Revocation(revocation(n))).chain([Body::Lift(lift)]);
    let entry = |(origin_seq, body)| Entry { origin: store.store_id().to_owned(), origin_seq, version: 1, body };
    store.append((1..).zip(bodies).map(entry).collect()).blocking_recv().unwrap().unwrap();
    let body = "{\"a\": 1}".to_owned();
    let document = Document { kind: DocumentKind::Session, key: "s".to_owned(), revision: 1, body, forget_at: None };
    store.put(vec![DocumentWrite { document, expects: Some(0) }]).blocking_recv().unwrap().unwrap();
    folder
}

fn store(command: &str, folder: &Path, stdin: &str) -> Outcome {
    portcullis(&["store", command, "--path", folder.to_str().unwrap()], stdin)
}

fn damage(folder: &Path, sql: &str) {
    rusqlite::Connection::open(folder.join("revocations.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn an_export_is_imported_whole_and_once() {
    let folder = filled();
    let lines = store("export", folder.path(), "").exits(0).stdout;
    assert_eq!(lines.lines().count(), 6, "{lines}");
    assert!(lines.starts_with("{\"type\":\"store\",\"version\":1,"), "{lines}");
    let new = tempfile::tempdir().unwrap();
    let said = store("import", new.path(), &lines).exits(0).stdout;
    assert!(said.contains("4 records are new, 0 were there; 1 documents took their place, 0 did not"), "{said}");
    let said = store("import", new.path(), &lines).exits(0).stdout;
    assert!(said.contains("0 records are new, 4 were there; 0 documents took their place, 1 did not"), "{said}");
    let again = store("export", new.path(), "").exits(0).stdout;
    let said = |text: &str| text.lines().skip(1).map(ToOwned::to_owned).collect::<Vec<_>>();
    assert_eq!(said(&again), said(&lines), "origins and numbers are kept");
    let copy = SqliteStore::open(new.path(), AcceptLoss::No).unwrap();
    assert!(copy.find(&revocation(2).id).unwrap().unwrap().lifted.is_some());
    assert_eq!(copy.own_sequence(), 0);
    let said = store("import", folder.path(), &lines).exits(0).stdout;
    assert!(said.contains("0 records are new, 4 were there"), "{said}");
}

#[test]
fn lines_are_judged_before_any_is_taken_in() {
    let folder = filled();
    let lines: Vec<_> = store("export", folder.path(), "").exits(0).stdout.lines().map(ToOwned::to_owned).collect();
    let with = |place: usize, line: String| {
        let mut lines = lines.clone();
        lines[place] = line;
        lines.join("\n")
    };
    let free = |text: String| text.replacen(",\"lines\":5", "", 1);
    let long = format!("{{\"type\":\"{}\"}}", "x".repeat(MAX_LINE_BYTES));
    for (input, says) in [
        (String::new(), "line 1: "),
        (lines[1..].join("\n"), "line 1: not the header"),
        (with(0, lines[0].replace("\"version\":1", "\"version\":2")), "line 1: written by a later release"),
        (with(5, "{".to_owned()), "line 6: not a line of a store"),
        (with(3, lines[3].replace("password_changed", "because")), "line 4: the reason `because`"),
        (with(4, lines[4].replace("\"number\":4", "\"number\":0")), "line 5: the number"),
        (with(2, lines[0].clone()), "line 3: a second header"),
        (with(2, String::new()), "line 3: not a line"),
        (with(1, long), "line 2: longer than"),
        (lines[..5].join("\n"), "4 lines follow the header, which says 5"),
    ] {
        let new = tempfile::tempdir().unwrap();
        let outcome = store("import", &new.path().join("store"), &input).exits(65);
        assert!(outcome.stderr.contains(says) && outcome.stderr.contains("nothing was imported"), "{}", outcome.stderr);
        assert!(!new.path().join("store").exists(), "{says}: not even a store");
    }
    let new = tempfile::tempdir().unwrap();
    store("import", new.path(), &free(lines[..5].join("\n"))).exits(0);
}

#[test]
fn a_store_is_verified() {
    let folder = filled();
    let said = store("verify", folder.path(), "").exits(0).stdout;
    assert!(said.contains("whole") && said.contains("sequence 5, 5 rows"), "{said}");
    damage(folder.path(), "UPDATE revocations SET issued = NULL WHERE seq = 1");
    let said = store("verify", folder.path(), "").exits(65).stderr;
    for word in ["revocations.db", "entry 1", "store rebuild", "--accept-loss"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let exported = store("export", folder.path(), "").exits(65);
    assert_eq!(exported.stdout, "", "half of it would look like all of it");
    store("import", folder.path(), "{\"type\":\"store\",\"version\":1,\"store_id\":\"x\",\"format\":3,\"sequence\":0}")
        .exits(65);
    store("verify", &folder.path().join("nowhere"), "").exits(1);
}

#[test]
fn a_damaged_store_is_rebuilt_and_the_status_says_what_was_lost() {
    let folder = filled();
    assert!(store("rebuild", folder.path(), "").exits(0).stdout.contains("nothing was changed"));
    damage(folder.path(), "DROP INDEX revocations_by_id");
    let said = store("rebuild", folder.path(), "").exits(0).stdout;
    assert!(said.contains("kept 5 rows") && said.contains("revocations.db.damaged-1"), "{said}");
    damage(folder.path(), "DELETE FROM revocations WHERE seq = 1");
    let outcome = store("rebuild", folder.path(), "").exits(65);
    assert!(
        outcome.stdout.contains("kept 4 rows") && outcome.stderr.contains("1 rows were lost"),
        "{}",
        outcome.stderr
    );
    store("verify", folder.path(), "").exits(0);
    damage(folder.path(), "UPDATE state SET digest = 1");
    let outcome = store("rebuild", folder.path(), "").exits(65);
    assert!(outcome.stderr.contains("it cannot be told how many"), "{}", outcome.stderr);
}

#[test]
fn a_store_that_is_in_use_is_only_looked_at() {
    let folder = filled();
    let lines = store("export", folder.path(), "").exits(0).stdout;
    let _in_use = SqliteStore::open(folder.path(), AcceptLoss::No).unwrap();
    store("verify", folder.path(), "").exits(0);
    assert_eq!(store("export", folder.path(), "").exits(0).stdout, lines);
    for command in ["import", "rebuild"] {
        let said = store(command, folder.path(), &lines).exits(69).stderr;
        assert!(said.contains("in use by another process"), "{said}");
    }
}

#[test]
fn the_store_of_a_configuration_is_found() {
    let folder = filled();
    let file = folder.path().join("gate.yaml");
    let config = |store: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nupstreams: {{ shop: {{ servers: [http://127.0.0.1:3000] }} }}\nroutes: \
             [{{ match: {{ path: / }}, upstream: shop, auth: none }}]\nrevocation: {{ store: {{ {store} }} }}\n"
        )
    };
    let verify = || portcullis(&["store", "verify", "--config", file.to_str().unwrap()], "");
    std::fs::write(&file, config(&format!("path: {}", folder.path().display()))).unwrap();
    assert!(verify().exits(0).stdout.contains("5 rows"));
    std::fs::write(&file, config("memory: true")).unwrap();
    assert!(verify().exits(78).stderr.contains("memory"));
}
