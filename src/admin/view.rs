//! Records as the API shows them.

use serde_json::{Value, json};

use crate::intake::{Accepted, Kept, StoreStatus};
use crate::revocation::{Form, Lift, Revocation, Target};

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
