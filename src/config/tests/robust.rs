//! Whatever the text is, it is refused or read, and nothing falls over.

use proptest::prelude::*;

use super::mutations::GOOD;
use super::*;

/// The text with some bytes of a line replaced, a line doubled, or a line taken out.
fn changed(line: usize, at: usize, piece: &str, how: u8) -> String {
    let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
    let line = line % lines.len();
    match how % 4 {
        0 => {
            lines.remove(line);
        }
        1 => lines.insert(line, lines[line].clone()),
        2 => {
            let at = at % (lines[line].len() + 1);
            lines[line].insert_str(at, piece);
        }
        _ => {
            let at = at % (lines[line].len() + 1);
            lines[line].truncate(at);
            lines[line].push_str(piece);
        }
    }
    lines.join("\n")
}

/// Every problem has a place that is in the text.
fn places_are_real(text: &str, base: &Path) {
    if let Err(problems) = read(text, base) {
        assert!(!problems.to_string().is_empty());
        for problem in problems.iter() {
            assert!(problem.line <= text.matches('\n').count() + 1, "{problem}");
            assert!(problem.line == 0 || problem.column >= 1, "{problem}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused_or_read(text in "(?s).{0,200}", yaml in "[-a-z:#\\[\\]{}\"'&*!|>%@ \n\t,?0-9]{0,120}") {
        places_are_real(&text, Path::new("."));
        places_are_real(&yaml, Path::new("."));
    }

    #[test]
    fn a_damaged_configuration_is_refused_or_read(
        line in 0..1000_usize,
        at in 0..200_usize,
        piece in "[-a-z:#\\[\\]{}\"'&*!|>%@ \n\t,?0-9äß]{0,6}",
        how in 0..4_u8,
    ) {
        let folder = folder();
        places_are_real(&changed(line, at, &piece, how), folder.path());
    }

    #[test]
    fn what_two_readers_of_yaml_both_take_they_read_alike(
        line in 0..1000_usize,
        at in 0..200_usize,
        piece in "[-a-z:,# ]{0,4}",
        how in 0..4_u8,
    ) {
        let text = changed(line, at, &piece, how);
        let mut findings = Findings::default();
        let tree = tree::read(&text, &mut findings);
        if let (Some(tree), 0, Ok(other)) = (tree, findings.errors(), serde_yaml::from_str::<serde_yaml::Value>(&text)) {
            prop_assert_eq!(tree.to_yaml(), other);
        }
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("latin.yaml"), b"a: \xff").unwrap();
    std::fs::write(folder.path().join("large.yaml"), vec![b'#'; 1 + (1 << 20)]).unwrap();
    for (name, wanted) in [
        ("absent.yaml", "No such file"),
        (".", "not a file"),
        ("latin.yaml", "byte 3 is not UTF-8"),
        ("large.yaml", "1 MiB"),
    ] {
        let problems = load(&folder.path().join(name)).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems.to_string().contains(wanted), "{problems}");
    }
    assert!(parse(&"#".repeat(1 + (1 << 20)), "x", Path::new(".")).unwrap_err().to_string().contains("1 MiB"));
}

#[test]
fn a_load_can_be_told_from_another_by_its_digest() {
    let folder = folder();
    let first = read(GOOD, folder.path()).unwrap().digest;
    assert_eq!(read(GOOD, folder.path()).unwrap().digest, first);
    assert_ne!(read(&format!("{GOOD}\n# more"), folder.path()).unwrap().digest, first);
    std::fs::write(folder.path().join("accounts.pem"), "-----BEGIN PUBLIC KEY-----\nBBBB\n").unwrap();
    assert_ne!(read(GOOD, folder.path()).unwrap().digest, first);
}

#[test]
fn a_file_of_mistakes_is_answered_with_a_hundred() {
    let size = 1 << 17;
    for line in ["a: 1\n", "- [\n", "- 1\n", "- {a: !b c}\n", "a: &b\n", "? ", "a:\n - b:\n"] {
        let text = line.repeat(size / line.len());
        let problems = read(&text, Path::new(".")).unwrap_err();
        assert!((1..=100).contains(&problems.iter().count()), "{line:?}");
        assert!(problems.to_string().len() < 1 << 20, "{line:?}");
    }
    let names: String = (0..5_000).map(|number| format!("key{number}: 1\n")).collect();
    assert_eq!(read(&names, Path::new(".")).unwrap_err().len(), 5_003, "each key, and the three that are missing");
}
