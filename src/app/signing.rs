//! Keys as operators see and change them: listed, rotated, withdrawn.

use std::sync::Arc;
use std::time::Duration;

use super::control::Control;
use crate::admin::{KeyInfo, KeyState, RotateError};
use crate::gate::{Kind, TrustedIssuer};
use crate::proxy::Snapshot;
use crate::revocation::{Form, RevocationMap, TargetKind};
use crate::session::{self, OpenError, Sessions};

/// How often it is looked whether a staged key is to sign.
const LOOK: Duration = Duration::from_millis(500);

/// Every key that verifies, own ones first.
pub(super) fn keys(snapshot: &Snapshot, map: &RevocationMap) -> Vec<KeyInfo> {
    let own = snapshot.sessions.iter().flat_map(|sessions| {
        let life = sessions.config().absolute_timeout;
        sessions.keys().into_iter().map(move |info| own_key(info, life))
    });
    let issuers = snapshot.gate.issuers().iter().filter(|issuer| issuer.kind == Kind::Foreign);
    let foreign = issuers.flat_map(|issuer| foreign_keys(issuer, snapshot));
    let mut all: Vec<_> = own.chain(foreign).collect();
    // Whoever revoked the key itself has retired it too.
    for key in &mut all {
        let target = map.reference(TargetKind::Key, "", &key.thumbprint);
        if map.in_force(target).is_some_and(|effect| effect.form == Form::Block) {
            key.state = KeyState::Retired;
        }
    }
    all
}

fn foreign_keys(issuer: &TrustedIssuer, snapshot: &Snapshot) -> Vec<KeyInfo> {
    let published = snapshot.published.iter().flatten().find(|it| it.issuer().url == issuer.url);
    let fetched_at = published.and_then(|it| it.standing().fetched);
    let info = |key: &Arc<crate::keys::VerifyingKey>| KeyInfo {
        issuer: issuer.name.clone(),
        kid: key.key_id().map(ToOwned::to_owned),
        thumbprint: key.thumbprint().to_owned(),
        algorithm: key.algorithm().name().to_owned(),
        state: KeyState::Verifying,
        created_at: None,
        signs_from: None,
        verifies_until: None,
        fetched_at,
    };
    issuer.keys.load().keys().iter().map(info).collect()
}

fn own_key(info: session::KeyInfo, life: Duration) -> KeyInfo {
    KeyInfo {
        issuer: "session".to_owned(),
        kid: Some(info.key_id),
        thumbprint: info.thumbprint,
        algorithm: info.algorithm.name().to_owned(),
        state: match info.state {
            session::KeyState::Staged => KeyState::Staged,
            session::KeyState::Signing => KeyState::Signing,
            session::KeyState::Verifying => KeyState::Verifying,
            session::KeyState::Retired => KeyState::Retired,
        },
        created_at: Some(info.created),
        signs_from: info.signs_from,
        verifies_until: info.signed_until.map(|until| until.plus(life)),
        fetched_at: None,
    }
}

/// Makes a new key that signs after its time of being published, or now.
pub(super) async fn rotate(control: &Control, immediately: bool) -> Result<KeyInfo, RotateError> {
    let now = control.shared.clock.now();
    let life = |sessions: &Sessions| sessions.config().absolute_timeout;
    change(control, move |it| it.rotate(now, immediately).map(|info| own_key(info, life(it)))).await
}

/// Publishes a key no more, and signs with another one from now on if it signed.
pub(super) async fn withdraw(control: &Control, thumbprint: &str) -> Result<bool, RotateError> {
    let now = control.shared.clock.now();
    let thumbprint = thumbprint.to_owned();
    // The id of an own key is its thumbprint.
    change(control, move |it| it.retire(&thumbprint, now)).await
}

/// Changes the keys in the one place that does, beside no reload and no other change.
async fn change<T: Send + 'static>(
    control: &Control,
    how: impl FnOnce(&Sessions) -> Result<T, OpenError> + Send + 'static,
) -> Result<T, RotateError> {
    let _turn = control.reloading.lock().await;
    let sessions = control.shared.snapshot.load().sessions.clone().ok_or(RotateError::NoSessions)?;
    let changed = tokio::task::spawn_blocking(move || how(&sessions)).await;
    // Whatever was judged under the old keys is judged again.
    control.parts.map.bump();
    match changed {
        Ok(Ok(changed)) => Ok(changed),
        Ok(Err(error)) => Err(RotateError::Failed(described(&error))),
        Err(error) => Err(RotateError::Failed(error.to_string())),
    }
}

fn described(error: &OpenError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Takes up the keys that another node has made, in the folder that they share.
async fn follow_folder(control: &Control) {
    let sessions = control.shared.snapshot.load().sessions.clone();
    if sessions.is_none_or(|sessions| !sessions.is_behind()) {
        return;
    }
    if let Err(error) = change(control, Sessions::follow_folder).await {
        tracing::error!(%error, "failed to read the session keys that the nodes share");
    }
}

/// Whether every node that is there has the staged key: what is signed with it verifies everywhere.
fn everybody_has_it(control: &Control, snapshot: &Snapshot) -> bool {
    let Some(cluster) = control.cluster.get() else { return true };
    let staged = snapshot.sessions.as_ref().and_then(|sessions| sessions.staged());
    staged.is_none_or(|staged| cluster.all_have_key(&staged))
}

/// Lets staged keys sign when their time has come.
pub(super) async fn keep_time(control: &Control) {
    loop {
        tokio::time::sleep(LOOK).await;
        if control.cluster.get().is_some() {
            follow_folder(control).await;
        }
        let due = {
            let snapshot = control.shared.snapshot.load();
            let next = snapshot.sessions.as_ref().and_then(|sessions| sessions.next_activation());
            next.is_some_and(|next| next <= control.shared.clock.now()) && everybody_has_it(control, &snapshot)
        };
        if !due {
            continue;
        }
        let now = control.shared.clock.now();
        match change(control, move |it| it.activate(now)).await {
            Ok(true) => tracing::info!("the staged session key signs from now on"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "failed to sign with the staged session key; the old one goes on");
                // The folder is not asked twice a second while it is broken.
                tokio::time::sleep(20 * LOOK).await;
            }
        }
    }
}
