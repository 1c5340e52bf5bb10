//! The six things to see: as `curl` lines, and as a script that checks what comes back.

use std::io::Write;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::Scene;
use super::client::{Answer, send};
use crate::cli::{Exit, Failure};

/// One step, for a reader.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) curl: &'static str,
}

/// The steps, in their order.
pub(super) const STEPS: [Step; 6] = [
    Step {
        title: "1. admitted: alice's token passes; the service sees who she is, and no token",
        curl: r#"curl -si $GATE/orders -H "Authorization: Bearer $TOKEN""#,
    },
    Step {
        title: "2. slid: bob logs in, and each use brings a fresh token (X-Session-Token)",
        curl: r#"SESSION=$(curl -si $GATE/login -d user=bob | sed -n 's/^x-session-token: //p' | tr -d '\r'); sleep 4; curl -si $GATE/orders -H "Authorization: Bearer $SESSION""#,
    },
    Step {
        title: "3. one token revoked: alice's token is refused from the next request on",
        curl: r#"curl -si $ADMIN/v1/revocations -H "Authorization: Bearer $OPS" -H 'Content-Type: application/json' -d '{"token":"'$TOKEN'","reason":"admin"}'; curl -si $GATE/orders -H "Authorization: Bearer $TOKEN""#,
    },
    Step {
        title: "4. a whole user revoked: bob's tokens are refused, his next login is admitted",
        curl: r#"curl -si $ADMIN/v1/revocations -H "Authorization: Bearer $OPS" -H 'Content-Type: application/json' -d '{"target":{"kind":"subject","issuer":"session","value":"bob"},"reason":"password_changed"}'; curl -si $GATE/orders -H "Authorization: Bearer $SESSION"; SESSION=$(curl -si $GATE/login -d user=bob | sed -n 's/^x-session-token: //p' | tr -d '\r'); curl -si $GATE/orders -H "Authorization: Bearer $SESSION""#,
    },
    Step {
        title: "5. logout: the session is over, here and in every copy of its token",
        curl: r#"curl -si -X POST $GATE/session/logout -H "Authorization: Bearer $SESSION"; curl -si $GATE/orders -H "Authorization: Bearer $SESSION""#,
    },
    Step {
        title: "6. explained: why alice's token is refused, and by which record",
        curl: r#"curl -s $ADMIN/v1/explain -H "Authorization: Bearer $OPS" -H 'Content-Type: application/json' -d '{"token":"'$TOKEN'","path":"/orders"}'"#,
    },
];

/// Carries out the six steps and checks each answer.
pub(super) async fn carry_out(scene: &Scene, stdout: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let mut told = Told { number: 0, stdout };
    let orders = format!("{}/orders", scene.gateway);

    let answer = send("GET", &orders, Some(&scene.token), None).await?;
    let seen = json_of(&answer)?;
    let user = seen.pointer("/headers/x-auth-request-user");
    told.check(&answer, StatusCode::OK, user == Some(&json!("alice")), "the service is told that it is alice")?;
    let hidden = seen.pointer("/headers/authorization").is_none();
    told.step(hidden, "her token stays at the gateway")?;

    let session = log_in(scene).await?;
    // A successor is due after one per cent of five minutes.
    tokio::time::sleep(Duration::from_millis(4100)).await;
    let answer = send("GET", &orders, Some(&session), None).await?;
    let fresh = header(&answer, "x-session-token");
    told.check(&answer, StatusCode::OK, fresh.is_some_and(|it| it != session), "bob's request brings a fresh token")?;
    let successor = fresh.unwrap_or_default().to_owned();
    let uncached = header(&answer, "cache-control") == Some("no-store");
    told.step(uncached, "and no cache may keep it")?;

    let request = json!({ "token": scene.token, "reason": "admin" });
    revoke(scene, &request).await?;
    let answer = send("GET", &orders, Some(&scene.token), None).await?;
    let why = json_of(&answer)?["reason"] == "revoked_token";
    told.check(&answer, StatusCode::UNAUTHORIZED, why, "alice's token is refused")?;
    let answer = send("GET", &orders, Some(&successor), None).await?;
    told.check(&answer, StatusCode::OK, true, "bob's is not")?;

    let target = json!({ "kind": "subject", "issuer": "session", "value": "bob" });
    revoke(scene, &json!({ "target": target, "reason": "password_changed" })).await?;
    for token in [&session, &successor] {
        let answer = send("GET", &orders, Some(token), None).await?;
        let why = json_of(&answer)?["reason"] == "revoked_subject";
        told.check(&answer, StatusCode::UNAUTHORIZED, why, "a token of bob from before is refused")?;
    }
    let session = log_in(scene).await?;
    let answer = send("GET", &orders, Some(&session), None).await?;
    told.check(&answer, StatusCode::OK, true, "bob's new login is admitted")?;

    let answer = send("POST", &format!("{}/session/logout", scene.gateway), Some(&session), None).await?;
    let cleared = header(&answer, "clear-site-data").is_some();
    told.check(&answer, StatusCode::NO_CONTENT, cleared, "bob logs out, and his browser is cleared")?;
    let answer = send("GET", &orders, Some(&session), None).await?;
    let why = json_of(&answer)?["reason"] == "revoked_session";
    told.check(&answer, StatusCode::UNAUTHORIZED, why, "his token is refused")?;

    let question = json!({ "token": scene.token, "path": "/orders" });
    let answer = ask(scene, "/v1/explain", &question).await?;
    let explained = json_of(&answer)?;
    let why = explained["admitted"] == false && explained["reason"] == "revoked_token";
    told.check(&answer, StatusCode::OK, why, "the refusal of alice's token is explained")?;
    writeln!(told.stdout, "{} checks, all as they should be", told.number)?;
    Ok(())
}

/// Prints what was seen, and fails at the first thing that is not as it should be.
struct Told<'a> {
    number: u32,
    stdout: &'a mut (dyn Write + Send),
}

impl Told<'_> {
    fn check(&mut self, answer: &Answer, status: StatusCode, also: bool, what: &str) -> Result<(), Failure> {
        if answer.status != status {
            let seen = format!("{what}: expected {status}, got {}: {}", answer.status, answer.body);
            return Err(Failure::new(Exit::Failed, seen));
        }
        self.step(also, &format!("{what} ({})", status.as_u16()))
    }

    fn step(&mut self, holds: bool, what: &str) -> Result<(), Failure> {
        if !holds {
            return Err(Failure::new(Exit::Failed, format!("not so: {what}")));
        }
        self.number += 1;
        writeln!(self.stdout, "ok {} - {what}", self.number)?;
        Ok(())
    }
}

async fn log_in(scene: &Scene) -> Result<String, Failure> {
    let form = Some(("application/x-www-form-urlencoded", "user=bob".to_owned()));
    let answer = send("POST", &format!("{}/login", scene.gateway), None, form).await?;
    let token = header(&answer, "x-session-token");
    token.map(str::to_owned).ok_or_else(|| Failure::new(Exit::Failed, format!("no session: {}", answer.body)))
}

async fn ask(scene: &Scene, path: &str, question: &Value) -> Result<Answer, Failure> {
    let body = Some(("application/json", question.to_string()));
    send("POST", &format!("{}{path}", scene.admin), Some(&scene.operator), body).await
}

async fn revoke(scene: &Scene, request: &Value) -> Result<(), Failure> {
    let answer = ask(scene, "/v1/revocations", request).await?;
    if answer.status == StatusCode::CREATED {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("not revoked: {} {}", answer.status, answer.body)))
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).and_then(|value| value.to_str().ok())
}

fn json_of(answer: &Answer) -> Result<Value, Failure> {
    serde_json::from_str(&answer.body).map_err(|error| Failure::of(Exit::Failed, "not a JSON answer", &error))
}
