use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;
use std::thread;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_732_406_400_250);
const AT_ONCE: Terms = Terms { algorithm: Algorithm::ES256, publish_before: Duration::ZERO };
const EDDSA: Terms = Terms { algorithm: Algorithm::EdDSA, ..AT_ONCE };
const LATER: Timestamp = Timestamp::from_millis(1_732_406_500_000);

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("state").join("keys");
    (scratch, path)
}

fn open(path: &Path) -> Result<Contents, OpenError> {
    Folder::open(path, AT_ONCE, NOW).map(|(_, contents, _)| contents)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pem_of(path: &Path, marker: &Marker) -> PathBuf {
    path.join(format!("{}.pem", marker.current))
}

#[test]
fn the_first_start_makes_a_private_folder_and_the_second_changes_nothing() {
    let (_scratch, path) = scratch();
    let (_, first, secret) = Folder::open(&path, AT_ONCE, NOW).unwrap();
    assert_eq!(mode(&path), 0o700);
    let pem = format!("{}.pem", first.marker.current);
    let mut expected = vec!["current".to_owned(), "session.secret".to_owned(), pem];
    expected.sort();
    assert_eq!(names(&path), expected);
    for name in &expected {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
    let (_, second, again) = Folder::open(&path, AT_ONCE, LATER).unwrap();
    assert_eq!(second.marker.current, first.marker.current);
    assert_eq!((second.marker.since, second.keys[0].created), (NOW, NOW));
    assert!(secret.matches(again.expose()));
    assert_eq!(names(&path), expected);
}

#[test]
fn many_that_start_on_an_empty_folder_at_once_end_with_the_same_key_and_secret() {
    for _ in 0..8 {
        let (_scratch, path) = scratch();
        let start = Barrier::new(6);
        let seen: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let (_, contents, secret) = Folder::open(&path, AT_ONCE, NOW).unwrap();
                        assert_eq!(contents.keys.len(), 1);
                        (contents.marker.current, secret.expose().to_vec())
                    })
                })
                .collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|it| *it == seen[0]));
        assert_eq!(names(&path).len(), 3, "{:?}", names(&path));
    }
}

#[test]
fn a_file_that_others_may_read_or_change_is_refused_with_the_way_out() {
    for name in ["current", "session.secret", "pem", "store.id"] {
        for bits in [0o644, 0o640, 0o604, 0o660, 0o601] {
            let (_scratch, path) = scratch();
            let (folder, contents, _) = Folder::open(&path, AT_ONCE, NOW).unwrap();
            folder.bind_store_id("store-1").unwrap();
            let file = if name == "pem" { pem_of(&path, &contents.marker) } else { path.join(name) };
            set_mode(&file, bits);
            let result = if name == "store.id" { folder.store_id().map(|_| ()) } else { open(&path).map(|_| ()) };
            let error = result.unwrap_err();
            assert!(matches!(error, OpenError::FileTooOpen { mode, .. } if mode == bits), "{name} {bits:o}: {error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
            set_mode(&file, 0o400);
            assert!(open(&path).is_ok(), "{name}: read by its owner alone is enough");
        }
    }
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    for (bits, refused) in [(0o770, true), (0o702, true), (0o777, true), (0o755, false), (0o750, false)] {
        let (_scratch, path) = scratch();
        open(&path).unwrap();
        set_mode(&path, bits);
        let is_refused = matches!(open(&path), Err(OpenError::FolderTooOpen { mode, .. }) if mode == bits);
        assert_eq!(is_refused, refused, "{bits:o}");
    }
}

#[test]
fn damage_is_refused_by_name() {
    type Damage = fn(&Path, &Path);
    type Expected = fn(&OpenError) -> bool;
    let cases: [(&str, Damage, Expected); 12] = [
        ("no key in the file", |_, pem| put(pem, b""), |e| matches!(e, OpenError::BadKey { .. })),
        ("a key cut short", |_, pem| cut(pem, 120), |e| matches!(e, OpenError::BadKey { .. })),
        ("not text", |_, pem| put(pem, b"\xff\xfe"), |e| matches!(e, OpenError::BadPreamble { .. })),
        ("an unknown algorithm", |_, pem| edit(pem, "ES256", "ES257"), |e| matches!(e, OpenError::BadPreamble { .. })),
        ("another algorithm", |_, pem| edit(pem, "ES256", "ES384"), |e| matches!(e, OpenError::BadKey { .. })),
        ("no time", |_, pem| edit(pem, "created: 20", "created: x"), |e| matches!(e, OpenError::BadPreamble { .. })),
        ("an unknown line", |_, pem| edit(pem, "created: ", "made: "), |e| matches!(e, OpenError::BadPreamble { .. })),
        ("far too long", |_, pem| put(pem, &[b'a'; 70_000]), |e| matches!(e, OpenError::FileTooLong { .. })),
        (
            "another name",
            |path, pem| fs::rename(pem, path.join("mine.pem")).unwrap(),
            |e| matches!(e, OpenError::Misnamed { .. }),
        ),
        ("no key", |_, pem| fs::remove_file(pem).unwrap(), |e| matches!(e, OpenError::CurrentKeyMissing { .. })),
        ("a damaged marker", |path, _| put(&path.join("current"), b"{"), |e| matches!(e, OpenError::BadMarker { .. })),
        (
            "a short secret",
            |path, _| put(&path.join("session.secret"), &[7; 31]),
            |e| matches!(e, OpenError::BadSecret { .. }),
        ),
    ];
    for (name, damage, expected) in cases {
        let (_scratch, path) = scratch();
        let contents = open(&path).unwrap();
        let pem = pem_of(&path, &contents.marker);
        let private = String::from_utf8(fs::read(&pem).unwrap()).unwrap();
        let body = private.lines().nth(3).unwrap().to_owned();
        damage(&path, &pem);
        let error = open(&path).err().unwrap_or_else(|| panic!("{name}: accepted"));
        assert!(expected(&error), "{name}: {error:?}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains(&body), "{name}: the key is in {text}");
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, length: usize) {
    put(path, &fs::read(path).unwrap()[..length]);
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    put(path, text.replace(from, to).as_bytes());
}

#[test]
fn a_secret_that_is_gone_is_not_replaced_while_keys_are_in_use() {
    let (_scratch, path) = scratch();
    open(&path).unwrap();
    fs::remove_file(path.join("session.secret")).unwrap();
    let error = open(&path).err().unwrap();
    assert!(matches!(error, OpenError::SecretMissing { .. }), "{error}");
    assert!(error.to_string().contains("remove `current`"), "{error}");
    fs::remove_file(path.join("current")).unwrap();
    assert_eq!(open(&path).unwrap().keys.len(), 2, "afresh: a new key, and the old one verifies");
}

#[test]
fn a_start_that_died_half_way_is_completed() {
    let (_scratch, path) = scratch();
    let first = open(&path).unwrap();
    fs::remove_file(path.join("current")).unwrap();
    put(&path.join(".tmp-0123"), b"half a key");
    let second = open(&path).unwrap();
    assert_ne!(second.marker.current, first.marker.current);
    assert_eq!(second.keys.len(), 2);
    assert!(!path.join(".tmp-0123").exists());
    let past: Vec<_> = second.marker.past.iter().map(|it| (&it.key_id, it.until)).collect();
    assert_eq!(past, [(&first.marker.current, NOW)]);
}

#[test]
fn another_algorithm_gets_a_key_of_its_own_and_the_old_one_verifies() {
    let (_scratch, path) = scratch();
    open(&path).unwrap();
    for algorithm in [Algorithm::EdDSA, Algorithm::ES384, Algorithm::PS256, Algorithm::RS256] {
        let (_, changed, _) = Folder::open(&path, Terms { algorithm, ..AT_ONCE }, LATER).unwrap();
        assert_eq!(changed.marker.signer(&changed.keys).unwrap().key.algorithm(), algorithm);
        let (_, same, _) = Folder::open(&path, Terms { algorithm, ..AT_ONCE }, LATER).unwrap();
        assert_eq!((same.marker.current, same.keys.len()), (changed.marker.current, changed.keys.len()));
    }
    let (_, contents, _) = Folder::open(&path, Terms { algorithm: Algorithm::RS256, ..AT_ONCE }, LATER).unwrap();
    let mut algorithms: Vec<_> = contents.keys.iter().map(|it| it.key.algorithm()).collect();
    algorithms.sort();
    assert_eq!(
        algorithms,
        [Algorithm::EdDSA, Algorithm::ES256, Algorithm::ES384, Algorithm::PS256, Algorithm::RS256],
        "an RSA key keeps the algorithm it was made for"
    );
    let refused = Folder::open(&path, Terms { algorithm: Algorithm::HS256, ..AT_ONCE }, LATER);
    assert!(matches!(refused, Err(OpenError::Generate { .. })), "a secret cannot be published");
}

#[test]
fn a_key_without_a_preamble_is_taken_as_what_it_is() {
    let (_scratch, path) = scratch();
    open(&path).unwrap();
    for algorithm in [Algorithm::EdDSA, Algorithm::ES384, Algorithm::RS256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let file = path.join(format!("{}.pem", key.key_id()));
        put(&file, key.to_pkcs8_pem().as_bytes());
        set_mode(&file, 0o600);
        let found = open(&path).unwrap().keys.into_iter().find(|it| it.key.key_id() == key.key_id()).unwrap();
        assert_eq!(found.key.algorithm(), algorithm);
        assert!(found.created > NOW, "its file was made after this test was written");
    }
}

#[test]
fn rotation_keeps_the_old_key_until_it_is_pruned() {
    let (_scratch, path) = scratch();
    let (folder, first, _) = Folder::open(&path, AT_ONCE, NOW).unwrap();
    let second = folder.rotate(AT_ONCE, LATER).unwrap();
    assert_ne!(second.marker.current, first.marker.current);
    assert_eq!((second.marker.since, second.keys.len()), (LATER, 2));
    assert_eq!(open(&path).unwrap().marker.current, second.marker.current);
    let before = LATER.minus(Duration::from_millis(1));
    assert!(folder.prune(before, Algorithm::ES256).unwrap().is_none(), "it signed until then");
    let pruned = folder.prune(LATER, Algorithm::ES256).unwrap().unwrap();
    assert_eq!(pruned.keys.len(), 1);
    assert_eq!(pruned.marker.current, second.marker.current);
    assert!(!pem_of(&path, &first.marker).exists());
    assert!(folder.prune(Timestamp::MAX, Algorithm::ES256).unwrap().is_none(), "the current key stays");
    assert_eq!(open(&path).unwrap().keys.len(), 1);
}

#[test]
fn a_staged_key_signs_when_its_time_has_come_also_after_a_restart() {
    let staging = Terms { publish_before: Duration::from_secs(60), ..AT_ONCE };
    let (_scratch, path) = scratch();
    let (folder, first, _) = Folder::open(&path, staging, NOW).unwrap();
    assert_eq!(first.marker.staged, None, "the first key has nobody to wait for");
    let staged = folder.rotate(staging, NOW).unwrap().marker;
    let next = staged.staged.clone().unwrap();
    assert_eq!((&staged.current, next.from), (&first.marker.current, NOW.plus(Duration::from_secs(60))));
    // Asked again, it is the same one at the same moment.
    let again = folder.rotate(staging, NOW.plus(Duration::from_secs(30))).unwrap();
    assert_eq!((again.marker.staged.as_ref(), again.keys.len()), (Some(&next), 2));
    let early = NOW.plus(Duration::from_millis(59_999));
    assert!(folder.activate(Algorithm::ES256, early).unwrap().is_none());
    let (_, reopened, _) = Folder::open(&path, staging, early).unwrap();
    assert_eq!((reopened.marker.staged.as_ref(), &reopened.marker.current), (Some(&next), &staged.current));
    let (_, reopened, _) = Folder::open(&path, staging, next.from).unwrap();
    assert_eq!((reopened.marker.staged, &reopened.marker.current), (None, &next.key_id));
    assert_eq!(reopened.marker.past[0].until, next.from);
    assert!(folder.activate(Algorithm::ES256, next.from).unwrap().is_none(), "it signs already");
    // One that is staged can be brought forward.
    folder.rotate(staging, LATER).unwrap();
    let now = folder.rotate(AT_ONCE, LATER).unwrap();
    assert_eq!((now.marker.staged, now.keys.len(), now.marker.since), (None, 3, LATER));
}

#[test]
fn another_algorithm_is_staged_and_a_change_of_mind_is_too() {
    let staging = |algorithm| Terms { algorithm, publish_before: Duration::from_secs(60) };
    let (_scratch, path) = scratch();
    let (_, first, _) = Folder::open(&path, staging(Algorithm::ES256), NOW).unwrap();
    let staged = |algorithm| {
        let (_, contents, _) = Folder::open(&path, staging(algorithm), NOW).unwrap();
        assert_eq!(contents.marker.current, first.marker.current);
        let next = contents.marker.next_signer(&contents.keys).unwrap();
        assert_eq!(next.key.algorithm(), algorithm);
        contents.keys.len()
    };
    assert_eq!([staged(Algorithm::EdDSA), staged(Algorithm::EdDSA), staged(Algorithm::ES256)], [2, 2, 3]);
}

#[test]
fn a_retired_key_is_succeeded_at_once_and_stays_to_be_refused_by_name() {
    let staging = Terms { publish_before: Duration::from_secs(60), ..AT_ONCE };
    let (_scratch, path) = scratch();
    let (folder, first, _) = Folder::open(&path, staging, NOW).unwrap();
    let retire = |key_id: &str| folder.retire(key_id, Algorithm::ES256, LATER).unwrap();
    assert!(retire("nobody").is_none());
    // The one that signs, with nothing staged.
    let second = retire(&first.marker.current).unwrap().marker;
    assert!(second.current != first.marker.current && second.is_retired(&first.marker.current));
    // The one that signs, with another one staged: that one, at once.
    let staged = folder.rotate(staging, LATER).unwrap().marker.staged.unwrap();
    let third = retire(&second.current).unwrap().marker;
    assert_eq!((&third.current, &third.staged), (&staged.key_id, &None));
    // One that is staged, and one that verifies.
    let staged = folder.rotate(staging, LATER).unwrap().marker.staged.unwrap();
    let fourth = retire(&staged.key_id).unwrap().marker;
    assert_eq!((&fourth.current, &fourth.staged), (&third.current, &None));
    let (_, contents, _) = Folder::open(&path, staging, LATER).unwrap();
    for gone in [&first.marker.current, &second.current, &staged.key_id] {
        assert!(contents.marker.is_retired(gone), "{gone}");
        assert!(contents.keys.iter().any(|it| it.key.key_id() == gone.as_str()));
    }
    let pruned = folder.prune(LATER, Algorithm::ES256).unwrap().unwrap();
    assert_eq!(pruned.keys.len(), 1);
}

#[test]
fn a_key_that_never_signed_here_is_not_pruned() {
    let (_scratch, path) = scratch();
    let (folder, ..) = Folder::open(&path, AT_ONCE, NOW).unwrap();
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    folder.write(&format!("{}.pem", key.key_id()), key.to_pkcs8_pem().as_bytes()).unwrap();
    folder.rotate(AT_ONCE, NOW).unwrap();
    let pruned = folder.prune(Timestamp::MAX, Algorithm::ES256).unwrap().unwrap();
    assert!(pruned.keys.iter().any(|it| it.key.key_id() == key.key_id()));
    assert_eq!(pruned.keys.len(), 2);
}

#[test]
fn the_folder_holds_a_bounded_number_of_keys() {
    let (_scratch, path) = scratch();
    let (folder, ..) = Folder::open(&path, EDDSA, NOW).unwrap();
    for _ in 1..KEYS_MAX {
        folder.rotate(EDDSA, NOW).unwrap();
    }
    assert!(matches!(folder.rotate(EDDSA, NOW), Err(OpenError::TooManyKeys { .. })));
    let full = Folder::open(&path, EDDSA, NOW).unwrap().1;
    assert_eq!(full.keys.len(), KEYS_MAX);
    // One that leaked is succeeded all the same, and makes room.
    let leaked = full.marker.current;
    let retired = folder.retire(&leaked, Algorithm::EdDSA, LATER).unwrap().unwrap();
    assert_ne!(retired.marker.current, leaked);
    let after = Folder::open(&path, EDDSA, LATER).unwrap().1;
    assert_eq!((after.keys.len(), after.marker.current), (KEYS_MAX, retired.marker.current));
    assert!(!after.keys.iter().any(|it| it.key.key_id() == leaked));
}

/// A key that may be gone after a crash has not been staged: not for the caller, nor for whoever looks next.
#[test]
fn what_could_not_be_made_durable_was_not_done() {
    let (_scratch, path) = scratch();
    let later = Terms { publish_before: Duration::from_secs(60), ..AT_ONCE };
    let (mut folder, before, _) = Folder::open(&path, later, NOW).unwrap();
    let all = names(&path);
    folder.sync = |_| Err(io::Error::other("the disk is gone"));
    for terms in [later, AT_ONCE] {
        let failed = folder.rotate(terms, NOW);
        assert!(matches!(failed, Err(OpenError::Io { action: "write", .. })), "{terms:?}");
        assert_eq!(names(&path), all, "{terms:?}");
    }
    assert!(folder.bind_store_id("0193-a").is_err());
    assert_eq!(folder.store_id().unwrap(), None);
    // The key is durable, what names it is not.
    folder.sync = |folder| {
        let names = fs::read_to_string(folder.join(MARKER)).unwrap().contains("staged");
        if names { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    };
    assert!(folder.rotate(later, NOW).is_err());
    assert_eq!(names(&path), all);
    folder.sync = sync;
    assert_eq!(folder.activate(Algorithm::ES256, LATER).unwrap().map(|it| it.marker.current), None, "none is staged");
    let staged = folder.rotate(later, NOW).unwrap();
    assert_eq!((staged.keys.len(), staged.marker.current), (2, before.marker.current));
    assert_eq!(names(&path).len(), all.len() + 1, "nothing else is left");
}

#[test]
fn the_folder_belongs_to_one_store() {
    let (_scratch, path) = scratch();
    let (folder, ..) = Folder::open(&path, AT_ONCE, NOW).unwrap();
    assert_eq!(folder.store_id().unwrap(), None);
    folder.bind_store_id("0193-a").unwrap();
    folder.bind_store_id("0193-a").unwrap();
    assert!(matches!(folder.bind_store_id("0193-b"), Err(OpenError::OtherStore { .. })));
    assert_eq!(folder.store_id().unwrap().as_deref(), Some("0193-a"));
    for bad in ["", "a b", "a\n", &"x".repeat(129)] {
        assert!(matches!(folder.bind_store_id(bad), Err(OpenError::BadStoreId)), "{bad:?}");
    }
}
