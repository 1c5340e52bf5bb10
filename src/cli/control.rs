//! The commands that are calls of the admin API.

use std::io::{BufRead, Read as _, Write};
use std::path::Path;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::args::{
    AdminArgs, ExplainArgs, KeysCommand, RevocationsCommand, RevokeArgs, SessionsCommand, SubjectsCommand,
};
use super::client::{Client, Reply, token_file};
use super::exit::{Exit, Failure};
use super::{Streams, show};
use crate::revocation::TargetKind;
use crate::secret::Secret;

/// What stands for itself in a path segment and a query value (RFC 3986 §2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The longest token read, in bytes.
const TOKEN_BYTES: u64 = 64 * 1024;
/// The longest line of an event stream, in bytes.
const EVENT_BYTES: usize = 1024 * 1024;

pub(super) fn explain(admin: &AdminArgs, args: &ExplainArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut question = json!({ "method": args.method, "path": args.path });
    if let Some(host) = &args.host {
        question["host"] = json!(host);
    }
    if let Some(file) = &args.token {
        question["token"] = json!(read_token(file, streams.stdin)?);
    }
    let reply = call(admin, Method::POST, "/v1/explain", Some(&question), None)?;
    print(admin, &reply.body, streams.stdout, show::explanation)
}

pub(super) fn revoke(admin: &AdminArgs, args: &RevokeArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut body = Map::new();
    match what(args, streams.stdin)? {
        What::Token(token) => body.insert("token".to_owned(), json!(token)),
        What::Target(target) => body.insert("target".to_owned(), target),
    };
    body.insert("reason".to_owned(), json!(args.reason.name()));
    if args.block {
        body.insert("block".to_owned(), json!(true));
    }
    for (name, at) in [
        ("issued_before", args.issued_before),
        ("authenticated_before", args.authenticated_before),
        ("expires_at", args.expires_at),
    ] {
        if let Some(at) = at {
            body.insert(name.to_owned(), json!(at));
        }
    }
    if let Some(note) = &args.note {
        body.insert("note".to_owned(), json!(note));
    }
    let key = args.id.as_ref().map(|id| id.as_str());
    let reply = call(admin, Method::POST, "/v1/revocations", Some(&Value::Object(body)), key)?;
    let verb = match reply.status {
        StatusCode::CREATED => "revoked",
        StatusCode::ACCEPTED => "revoked at this node, and on its way to the others",
        _ => "revoked before",
    };
    print(admin, &reply.body, streams.stdout, |body| format!("{verb}: {}\n", show::revocation(body)))
}

pub(super) fn revocations(
    admin: &AdminArgs,
    command: &RevocationsCommand,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    match command {
        RevocationsCommand::List { kind, issuer, value, limit, cursor } => {
            let mut path = format!("/v1/revocations?limit={limit}");
            let kind = kind.map(|kind| kind.name().to_owned());
            for (name, value) in [("kind", &kind), ("issuer", issuer), ("value", value), ("cursor", cursor)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", encoded(value)));
                }
            }
            let reply = call(admin, Method::GET, &path, None, None)?;
            print(admin, &reply.body, streams.stdout, |body| {
                let lines = body["items"].as_array().into_iter().flatten().map(|it| show::revocation(it) + "\n");
                let next = body["next"].as_str().map(|next| format!("more: --cursor {}\n", show::printable(next)));
                lines.chain(next).collect()
            })
        }
        RevocationsCommand::Get { id } => {
            let reply = call(admin, Method::GET, &record(id.as_str()), None, None)?;
            print(admin, &reply.body, streams.stdout, |body| show::revocation(body) + "\n")
        }
        RevocationsCommand::Lift { id, restore, note } => {
            let mut path = format!("{}?restore={restore}", record(id.as_str()));
            if let Some(note) = note {
                path.push_str(&format!("&note={}", encoded(note)));
            }
            let reply = call(admin, Method::DELETE, &path, None, None)?;
            print(admin, &reply.body, streams.stdout, |body| {
                let leaves = body["leaves_issued_before"].as_str().map(show::printable);
                let leaves =
                    leaves.map_or_else(String::new, |at| format!("; tokens issued at or before {at} stay refused"));
                format!("lifted: {}{leaves}\n", show::target(&body["target"]))
            })
        }
        RevocationsCommand::Watch => block_on(watch(admin, &client(admin)?, streams.stdout))?,
    }
}

pub(super) fn subjects(admin: &AdminArgs, command: &SubjectsCommand, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let path = |issuer: &str, subject: &str| format!("/v1/subjects/{}/{}", encoded(issuer), encoded(subject));
    match command {
        SubjectsCommand::Replace { subject, issuer, by, reason, note, id } => {
            let mut body = json!({ "by": by, "reason": reason.name() });
            if let Some(note) = note {
                body["note"] = json!(note);
            }
            let path = path(issuer, subject) + "/replace";
            let key = id.as_ref().map(|id| id.as_str());
            let reply = call(admin, Method::POST, &path, Some(&body), key)?;
            let verb = if reply.status == StatusCode::CREATED { "replaced" } else { "replaced before" };
            print(admin, &reply.body, streams.stdout, |body| {
                format!("{verb}: {}\naccount: {}\n", show::replacement(body), show::scalar(&body["account"]))
            })
        }
        SubjectsCommand::Undo { subject, issuer, reason, note } => {
            let given = [("reason", reason.map(|reason| reason.name().to_owned())), ("note", note.clone())];
            let query: Vec<_> =
                given.iter().filter_map(|(name, it)| Some(format!("{name}={}", encoded(it.as_ref()?)))).collect();
            let path = format!("{}/replace?{}", path(issuer, subject), query.join("&"));
            let reply = call(admin, Method::DELETE, &path, None, None)?;
            print(admin, &reply.body, streams.stdout, |body| format!("undone: {}\n", show::replacement(body)))
        }
        SubjectsCommand::Show { subject, issuer } => {
            let reply = call(admin, Method::GET, &path(issuer, subject), None, None)?;
            print(admin, &reply.body, streams.stdout, show::subject)
        }
    }
}

pub(super) fn sessions(admin: &AdminArgs, command: &SessionsCommand, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let query = |given: &[(&str, Option<&str>)]| {
        let parts = given.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded((*value)?))));
        parts.collect::<Vec<_>>().join("&")
    };
    match command {
        SessionsCommand::List { subject, issuer, limit, cursor } => {
            let (subject, issuer, cursor) = (subject.as_deref(), issuer.as_deref(), cursor.as_deref());
            let limit = limit.to_string();
            let query = query(&[("limit", Some(&limit)), ("subject", subject), ("issuer", issuer), ("cursor", cursor)]);
            let reply = call(admin, Method::GET, &format!("/v1/sessions?{query}"), None, None)?;
            print(admin, &reply.body, streams.stdout, |body| {
                let lines = body["items"].as_array().into_iter().flatten().map(|it| show::session(it) + "\n");
                let next = body["next"].as_str().map(|next| format!("more: --cursor {}\n", show::printable(next)));
                lines.chain(next).collect()
            })
        }
        SessionsCommand::End { sid, subject, issuer, reason, note } => {
            let place = sid.as_ref().map_or_else(String::new, |sid| format!("/{}", encoded(sid)));
            let query = query(&[
                ("subject", subject.as_deref()),
                ("issuer", issuer.as_deref()),
                ("reason", Some(reason.name())),
                ("note", note.as_deref()),
            ]);
            let reply = call(admin, Method::DELETE, &format!("/v1/sessions{place}?{query}"), None, None)?;
            print(admin, &reply.body, streams.stdout, |body| {
                let ended = format!("sessions ended: {}\n", show::scalar(&body["ended"]));
                let revocations = body["revocations"].as_array().into_iter().flatten();
                std::iter::once(ended).chain(revocations.map(|it| show::revocation(it) + "\n")).collect()
            })
        }
    }
}

pub(super) fn keys(admin: &AdminArgs, command: &KeysCommand, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        KeysCommand::Generate { file } => {
            let folder = crate::app::generate_keys(file)?;
            Ok(writeln!(streams.stdout, "{}: the session keys are there", folder.display())?)
        }
        KeysCommand::List => {
            let reply = call(admin, Method::GET, "/v1/keys", None, None)?;
            print(admin, &reply.body, streams.stdout, |body| {
                body["keys"].as_array().into_iter().flatten().map(|key| show::key(key) + "\n").collect()
            })
        }
        KeysCommand::Rotate { now } => {
            let path = if *now { "/v1/keys:rotate?immediately=true" } else { "/v1/keys:rotate" };
            let reply = call(admin, Method::POST, path, None, None)?;
            print(admin, &reply.body, streams.stdout, |body| show::key(body) + "\n")
        }
        KeysCommand::Retire { issuer, kid, reason, note } => {
            let mut path = format!("/v1/keys/{}/{}:retire?reason={}", encoded(issuer), encoded(kid), reason.name());
            if let Some(note) = note {
                path += &format!("&note={}", encoded(note));
            }
            let reply = call(admin, Method::POST, &path, None, None)?;
            print(admin, &reply.body, streams.stdout, |body| {
                body["retired"].as_array().into_iter().flatten().map(|it| show::revocation(it) + "\n").collect()
            })
        }
    }
}

pub(super) fn status(admin: &AdminArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let reply = call(admin, Method::GET, "/v1/status", None, None)?;
    print(admin, &reply.body, streams.stdout, |body| show::members(body, 0))
}

/// What a `revoke` names.
enum What {
    Token(String),
    Target(Value),
}

fn what(args: &RevokeArgs, stdin: &mut dyn BufRead) -> Result<What, Failure> {
    let usage = |message: &str| Failure::new(Exit::Usage, message);
    let kind = args.kind;
    let target = match (kind, args.value.as_deref(), args.issuer.as_deref()) {
        (TargetKind::Token, Some("-"), None) => return Ok(What::Token(read_token(Path::new("-"), stdin)?)),
        (TargetKind::Token, Some(value), _) if looks_like_a_token(value) => {
            return Err(usage("give the token on standard input (`-`): other users can see arguments"));
        }
        (
            TargetKind::Token | TargetKind::Session | TargetKind::Subject | TargetKind::Client,
            Some(value),
            Some(issuer),
        ) => {
            json!({ "kind": kind.name(), "issuer": issuer, "value": value })
        }
        (TargetKind::Token | TargetKind::Session | TargetKind::Subject | TargetKind::Client, _, _) => {
            return Err(usage("a token, session, subject or client needs its value and --issuer"));
        }
        (TargetKind::Key, Some(value), None) => json!({ "kind": kind.name(), "value": value }),
        (TargetKind::Key, _, _) => return Err(usage("a key needs its thumbprint, and no --issuer")),
        (TargetKind::Issuer, Some(issuer), None) | (TargetKind::Issuer, None, Some(issuer)) => {
            json!({ "kind": kind.name(), "issuer": issuer })
        }
        (TargetKind::Issuer, _, _) => return Err(usage("an issuer needs its config name or URL, once")),
        (TargetKind::All, None, None) => json!({ "kind": kind.name() }),
        (TargetKind::All, _, _) => return Err(usage("everything needs no value and no --issuer")),
    };
    Ok(What::Target(target))
}

fn looks_like_a_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn read_token(file: &Path, stdin: &mut dyn BufRead) -> Result<String, Failure> {
    let mut token = String::new();
    let read = if file == Path::new("-") {
        stdin.take(TOKEN_BYTES).read_to_string(&mut token)
    } else if file.to_str().is_some_and(looks_like_a_token) {
        return Err(Failure::new(
            Exit::Usage,
            "give the token in a file or on standard input (`-`), not as an argument",
        ));
    } else {
        std::fs::File::open(file).and_then(|file| file.take(TOKEN_BYTES).read_to_string(&mut token))
    };
    read.map_err(|error| Failure::of(Exit::Usage, "cannot read the token", &error))?;
    token.truncate(token.trim_ascii_end().len());
    if token.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no token on standard input or in the file"));
    }
    Ok(token)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn record(id: &str) -> String {
    format!("/v1/revocations/{}", encoded(id))
}

fn client(admin: &AdminArgs) -> Result<Client, Failure> {
    let token = match &admin.token_file {
        Some(file) => Some(token_file(file)?),
        None => std::env::var_os("PORTCULLIS_ADMIN_TOKEN")
            .map(|token| Secret::new(std::os::unix::ffi::OsStringExt::into_vec(token))),
    };
    Ok(Client::new(admin.admin.clone(), token))
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Failed, "cannot start", &error))?;
    Ok(runtime.block_on(work))
}

fn call(
    admin: &AdminArgs,
    method: Method,
    path: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> Result<Reply, Failure> {
    let client = client(admin)?;
    block_on(client.ask(method, path, body, key))?
}

fn print(
    admin: &AdminArgs,
    body: &Value,
    stdout: &mut dyn Write,
    show: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    if admin.json {
        writeln!(stdout, "{body}")?;
    } else {
        stdout.write_all(show(body).as_bytes())?;
    }
    stdout.flush()?;
    Ok(())
}

/// Prints events until the gateway closes the stream.
async fn watch(admin: &AdminArgs, client: &Client, stdout: &mut dyn Write) -> Result<(), Failure> {
    let mut body = client.follow("/v1/revocations:watch").await?;
    let broke_off = || Failure::new(Exit::Unavailable, "the gateway closed the stream");
    let mut pending = Vec::new();
    let mut name = String::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| broke_off())?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            if let Some(event) = line.strip_prefix("event:") {
                name = event.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data:") {
                let data: Value = serde_json::from_str(data.trim()).unwrap_or_default();
                if admin.json {
                    writeln!(stdout, "{}", json!({ "event": name, "data": data }))?;
                } else {
                    writeln!(stdout, "{}", event_line(&name, &data))?;
                }
                stdout.flush()?;
            }
        }
        if pending.len() > EVENT_BYTES {
            return Err(broke_off());
        }
    }
    Err(broke_off())
}

fn event_line(name: &str, data: &Value) -> String {
    match name {
        "revocation" => format!("revoked: {}", show::revocation(data)),
        "lift" => format!("lifted: {}", show::target(&data["target"])),
        "replacement" => format!("replaced: {}", show::replacement(data)),
        "replacement_undone" => format!("undone: {}", show::replacement(data)),
        "lagged" => format!("missed: {}", data["missed"]),
        _ => format!("{}: {}", show::printable(name), show::printable(&data.to_string())),
    }
}
