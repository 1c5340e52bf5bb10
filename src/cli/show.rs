//! Answers of the admin API as text for people. What others have put into them does not reach the
//! terminal as control characters.

use std::fmt::Write as _;

use serde_json::Value;

/// `text` with control characters escaped.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        shown
    })
}

/// A value in a line: texts bare, the rest as JSON.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => printable(&value.to_string()),
    }
}

/// What a record names: `subject alice of https://accounts.example.com/`.
pub(super) fn target(target: &Value) -> String {
    let mut text = scalar(&target["kind"]);
    if let Some(value) = target["value"].as_str().filter(|value| !value.is_empty()) {
        text.push(' ');
        text.push_str(&printable(value));
    }
    if let Some(issuer) = target["issuer"].as_str().filter(|issuer| !issuer.is_empty()) {
        text.push_str(if target["kind"] == "issuer" { " " } else { " of " });
        text.push_str(&printable(issuer));
    }
    text
}

/// What a record does: `blocked`, `issued at or before …`.
fn form(form: &Value) -> String {
    if form["block"] == true {
        return "every token".to_owned();
    }
    let cutoff =
        |name: &str, words: &str| form[name].as_str().map(|at| format!("{words} at or before {}", printable(at)));
    let cutoffs: Vec<_> = [cutoff("issued_before", "issued"), cutoff("authenticated_before", "logged in")]
        .into_iter()
        .flatten()
        .collect();
    format!("tokens {}", cutoffs.join(" or "))
}

/// One revocation, as a line.
pub(super) fn revocation(record: &Value) -> String {
    let until = record["effective_until"].as_str().map_or_else(|| "lifted".to_owned(), printable);
    let mut line =
        format!("{}  {}: {}, until {until}", scalar(&record["id"]), target(&record["target"]), form(&record["form"]));
    for (name, words) in [("reason", "reason"), ("actor", "by"), ("at", "at"), ("note", "note")] {
        if let Some(text) = record[name].as_str() {
            // Writing to a String does not fail.
            let _ = write!(line, ", {words} {}", printable(text));
        }
    }
    line
}

/// A replacement of one subject by another, as a line.
pub(super) fn replacement(link: &Value) -> String {
    let mut line = format!(
        "{}  subject {} of {} by {}",
        scalar(&link["id"]),
        scalar(&link["subject"]),
        scalar(&link["issuer"]),
        scalar(&link["by"])
    );
    for (name, words) in [("reason", "reason"), ("actor", "by"), ("at", "at"), ("note", "note")] {
        if let Some(text) = link[name].as_str() {
            // Writing to a String does not fail.
            let _ = write!(line, ", {words} {}", printable(text));
        }
    }
    line
}

/// An open session, as a line.
pub(super) fn session(open: &Value) -> String {
    let mut line = format!(
        "{}  {}, opened {}, last seen {}, until {}",
        scalar(&open["sid"]),
        scalar(&open["subject"]),
        scalar(&open["opened_at"]),
        scalar(&open["last_seen_at"]),
        scalar(&open["expires_at"])
    );
    let origin = &open["opened_with"];
    if origin.is_object() {
        let _ = write!(line, ", with {} of {}", scalar(&origin["subject"]), scalar(&origin["issuer"]));
    }
    for (name, words) in [("client", "client"), ("agent", "on"), ("network", "from")] {
        if let Some(text) = open[name].as_str() {
            // Writing to a String does not fail.
            let _ = write!(line, ", {words} {}", printable(text));
        }
    }
    line
}

/// A subject with its chain.
pub(super) fn subject(body: &Value) -> String {
    let mut text = format!(
        "subject: {} of {}\naccount: {}\n",
        scalar(&body["subject"]),
        scalar(&body["issuer"]),
        scalar(&body["account"])
    );
    if let Some(by) = body["replaced_by"].as_str() {
        let _ = writeln!(text, "refused: it was replaced by {}", printable(by));
    }
    for link in body["chain"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "replaced: {}", replacement(link));
    }
    for record in body["revocations"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "in force: {}", revocation(record));
    }
    text
}

/// What the gateway would do, step by step.
pub(super) fn explanation(body: &Value) -> String {
    let mut text = String::new();
    let verdict =
        if body["admitted"] == true { "admitted".to_owned() } else { format!("refused: {}", scalar(&body["reason"])) };
    text.push_str(&verdict);
    if let Some(status) = body["status"].as_u64() {
        let _ = write!(text, " (status {status})");
    }
    text.push('\n');
    for (name, words) in [("route", "route"), ("upstream", "upstream"), ("issuer", "issuer"), ("account", "account")] {
        if let Some(value) = body[name].as_str() {
            let _ = writeln!(text, "{words}: {}", printable(value));
        }
    }
    for step in body["steps"].as_array().into_iter().flatten() {
        let mark = if step["passed"] == true { "ok    " } else { "failed" };
        let _ = writeln!(text, "  {mark} {}: {}", scalar(&step["name"]), scalar(&step["detail"]));
    }
    for link in body["replacements"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "replaced: {}", replacement(link));
    }
    for record in body["revocations"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "in force: {}", revocation(record));
    }
    if let Some(claims) = body["claims"].as_object() {
        let believed = if body["verified"] == true { "" } else { " (not verified)" };
        let _ = writeln!(text, "claims{believed}:");
        for (name, value) in claims {
            let _ = writeln!(text, "  {}: {}", printable(name), scalar(value));
        }
    }
    text
}

/// One key, as a line.
pub(super) fn key(key: &Value) -> String {
    let at = |name: &str| key[name].as_str().map(printable);
    let does = match (key["state"].as_str(), at("signs_from"), at("verifies_until")) {
        (Some("signing"), _, _) => "signs".to_owned(),
        (Some("staged"), Some(from), _) => format!("signs from {from} on"),
        (Some("verifying"), _, Some(until)) => format!("verifies until {until}"),
        (Some("verifying"), _, None) => "verifies".to_owned(),
        (_, _, _) => scalar(&key["state"]),
    };
    let kid = at("kid").unwrap_or_else(|| "(no kid)".to_owned());
    format!(
        "{}  {kid}  {} {does}, thumbprint {}",
        scalar(&key["issuer"]),
        scalar(&key["algorithm"]),
        scalar(&key["thumbprint"])
    )
}

/// Members of an object, one a line, nested ones indented.
pub(super) fn members(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let margin = " ".repeat(indent);
        if value.as_object().is_some_and(|object| !object.is_empty()) {
            let _ = write!(text, "{margin}{}:\n{}", printable(name), members(value, indent + 2));
        } else {
            let _ = writeln!(text, "{margin}{}: {}", printable(name), scalar(value));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_revocation_reads_as_a_sentence_and_cannot_drive_the_terminal() {
        let record = json!({
            "id": "r-1",
            "target": {"kind": "subject", "issuer": "https://a.example/", "value": "al\u{1b}[2Jice"},
            "form": {"issued_before": "2026-01-01T00:00:00Z"},
            "effective_until": "2026-01-02T00:00:00Z",
            "reason": "password_changed",
            "note": "line\nbreak",
        });
        assert_eq!(
            revocation(&record),
            "r-1  subject al\\u{1b}[2Jice of https://a.example/: tokens issued at or before 2026-01-01T00:00:00Z, \
             until 2026-01-02T00:00:00Z, reason password_changed, note line\\nbreak"
        );
        let block = json!({"id": "r-2", "target": {"kind": "issuer", "issuer": "https://a.example/", "value": ""},
            "form": {"block": true}, "effective_until": null});
        assert_eq!(revocation(&block), "r-2  issuer https://a.example/: every token, until lifted");
    }

    #[test]
    fn an_explanation_says_the_verdict_first() {
        let body = json!({
            "admitted": false, "status": 401, "reason": "revoked_subject", "route": "shop", "verified": true,
            "steps": [{"name": "signature", "passed": true, "detail": "ES256"},
                {"name": "standing", "passed": false, "detail": "subject"}],
            "claims": {"sub": "alice", "aud": ["shop"]},
        });
        assert_eq!(
            explanation(&body),
            "refused: revoked_subject (status 401)\nroute: shop\n  ok     signature: ES256\n  failed standing: \
             subject\nclaims:\n  sub: alice\n  aud: [\"shop\"]\n"
        );
    }
}
