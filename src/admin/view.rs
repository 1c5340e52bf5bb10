//! Records as the API shows them.

use serde_json::{Value, json};

use crate::cluster::ClusterStatus;
use crate::intake::{Accepted, Kept, Replaced, StoreStatus, Undone};
use crate::revocation::{Form, Lift, Replacement, Revocation, Target};
use crate::session::Open;

/// A target; parts that its kind does not have are left out.
pub(super) fn target(target: &Target) -> Value {
    let mut view = json!({ "kind": target.kind.name() });
    for (name, part) in [("issuer", &target.issuer), ("value", &target.value)] {
        if !part.is_empty() {
            view[name] = json!(part);
        }
    }
    view
}

/// A form, as it would be asked for.
fn form(form: &Form) -> Value {
    match form {
        Form::Block => json!({ "block": true }),
        Form::Before { issued, authenticated } => {
            let mut view = json!({});
            for (name, cutoff) in [("issued_before", issued), ("authenticated_before", authenticated)] {
                if let Some(cutoff) = cutoff {
                    view[name] = json!(cutoff);
                }
            }
            view
        }
    }
}

/// What was understood of a request. `effective_until` is `null` for what stays until lifted.
pub(super) fn accepted(accepted: &Accepted) -> Value {
    json!({
        "id": accepted.id.as_str(),
        "target": target(&accepted.target),
        "form": form(&accepted.form),
        "effective_until": accepted.effective_until,
        "durable": accepted.durable,
        "existing": accepted.existing,
        "reached": accepted.reached.level.name(),
    })
}

/// A record.
pub(super) fn revocation(record: &Revocation) -> Value {
    let mut view = json!({
        "id": record.id.as_str(),
        "target": target(&record.target),
        "form": form(&record.form),
        "effective_until": record.forget_at,
        "reason": record.reason.name(),
        "source": record.source.name(),
        "actor": record.actor,
        "at": record.at,
    });
    if let Some(note) = &record.note {
        view["note"] = json!(note);
    }
    view
}

/// A record, and what undid it.
pub(super) fn kept(kept: &Kept) -> Value {
    let mut view = revocation(&kept.revocation);
    view["in_force"] = json!(kept.lifted.is_none());
    if let Some(tombstone) = &kept.lifted {
        view["lifted"] = lift(tombstone);
    }
    view
}

/// A tombstone.
pub(super) fn lift(record: &Lift) -> Value {
    let mut view = json!({
        "id": record.id.as_str(),
        "lifts": record.of.as_str(),
        "target": target(&record.target),
        "leaves_issued_before": record.leaves,
        "actor": record.actor,
        "at": record.at,
    });
    if let Some(note) = &record.note {
        view["note"] = json!(note);
    }
    view
}

/// A replacement of one subject by another.
pub(super) fn replacement(link: &Replacement) -> Value {
    let mut view = json!({
        "id": link.id.as_str(),
        "issuer": link.issuer,
        "subject": link.old,
        "by": link.new,
        "reason": link.reason.name(),
        "actor": link.actor,
        "at": link.at,
    });
    if let Some(note) = &link.note {
        view["note"] = json!(note);
    }
    view
}

/// What was understood of a request to replace a subject.
pub(super) fn replaced(replaced: &Replaced) -> Value {
    let mut view = replacement(&replaced.replacement);
    view["account"] = json!(replaced.account);
    view["cutoff"] = replaced.cutoff.as_ref().map(accepted).unwrap_or_default();
    view["durable"] = json!(replaced.durable);
    view["existing"] = json!(replaced.existing);
    view
}

/// What undoing a replacement did.
pub(super) fn undone(undone: &Undone) -> Value {
    let mut view = replacement(&undone.replacement);
    view["undone_at"] = json!(undone.at);
    view["cutoffs"] = undone.cutoffs.iter().map(accepted).collect();
    view["durable"] = json!(undone.durable);
    view["existing"] = json!(undone.existing);
    view
}

/// An open session.
pub(super) fn session(open: &Open) -> Value {
    let mut view = json!({
        "sid": &*open.session,
        "subject": &*open.subject,
        "how": open.how(),
        "began_at": open.lineage.origin_issued,
        "opened_at": open.opened,
        "last_seen_at": open.last_seen(),
        "expires_at": open.expires(),
    });
    if let Some(origin) = &open.lineage.origin {
        view["opened_with"] = json!({ "issuer": origin.issuer, "subject": origin.subject });
    }
    if let Some(authenticated) = open.authenticated {
        view["authenticated_at"] = json!(authenticated);
    }
    let texts = [("client", &open.client), ("agent", &open.device.agent), ("network", &open.device.network)];
    for (name, text) in texts {
        if let Some(text) = text {
            view[name] = json!(text);
        }
    }
    view
}

/// How a node stands in its cluster.
pub(super) fn cluster(status: &ClusterStatus) -> Value {
    let nodes = status.nodes.iter().map(|node| {
        let shown = json!({
            "store": node.said.store,
            "version": node.said.version,
            "here": node.here,
            "live": node.live,
            "leaving": node.said.leaving,
            "ready": node.said.ready,
            "position": node.said.position,
            "lag": node.lag,
            "last_seen_at": node.heard,
            "clock_ahead_ms": node.offset,
        });
        (node.said.node.clone(), shown)
    });
    json!({
        "engine": status.engine,
        "joined": status.joined,
        "broker_reachable": status.reachable,
        "staleness_seconds": status.staleness.map(|it| it.as_secs_f64()),
        "stale": status.stale,
        "clock_skewed": status.skewed,
        "position": status.position.to_string(),
        "failure": status.failure,
        "nodes": nodes.collect::<serde_json::Map<_, _>>(),
    })
}

/// What the store says about itself.
pub(super) fn store(status: &StoreStatus) -> Value {
    json!({
        "engine": status.engine,
        "survives": status.survives,
        "id": status.store_id,
        "sequence": status.sequence,
        "records": status.records,
        "failure": status.failure,
    })
}

/// A target on an audit line.
pub(super) fn line(target: &Target) -> String {
    format!("{} {} {}", target.kind, target.issuer, target.value).trim_end().to_owned()
}
