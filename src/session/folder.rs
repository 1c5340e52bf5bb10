//! The folder of the signing keys: what is in it, and how it changes without ever being half changed.
//!
//! | file | what |
//! | --- | --- |
//! | `<kid>.pem` | one PKCS#8 key; two lines of text before it name its algorithm and creation |
//! | `current` | JSON: which key signs since when, which one will, and until when the others did |
//! | `session.secret` | 32 random bytes, from which session ids of exchanges are derived |
//! | `store.id` | the id of the revocation store that belongs to these keys, once bound |
//!
//! Every file is readable by its owner alone, or refused. A file is written beside its place, synced
//! and renamed; whoever reads to change holds a lock on the folder, so that two processes that start
//! on an empty one end with the same key. `current` is written last: where it is there, the secret and
//! the key it names are too, and their absence is a loss, not a first start.

mod error;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use error::OpenError;

use crate::keys::SigningKey;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::token::Algorithm;

/// Keys that a folder may hold; past it, rotation is refused until some are pruned.
pub(super) const KEYS_MAX: usize = 64;
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Length of the session secret.
const SECRET_BYTES: usize = 32;

const MARKER: &str = "current";
const SECRET: &str = "session.secret";
const STORE_ID: &str = "store.id";
const TEMPORARY: &str = ".tmp-";

/// One key of the folder.
pub(super) struct StoredKey {
    pub(super) key: SigningKey,
    pub(super) created: Timestamp,
}

/// What the folder holds.
pub(super) struct Contents {
    pub(super) keys: Vec<StoredKey>,
    pub(super) marker: Marker,
}

/// The marker's file, and when it was written: a new one is another file.
pub(super) type Stamp = (u64, i64, i64);

/// What is wanted of keys that are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// What they sign with.
    pub(super) algorithm: Algorithm,
    /// How long one is published before it signs.
    pub(super) publish_before: Duration,
}

/// Which key signs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    /// The key id of the signing key.
    pub(super) current: String,
    /// Since when it signs.
    pub(super) since: Timestamp,
    /// The key that is to sign next: published already, so that whoever verifies has it by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) staged: Option<Staged>,
    /// The keys that signed before it.
    #[serde(default)]
    pub(super) past: Vec<Past>,
}

/// A key that signs from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Staged {
    pub(super) key_id: String,
    /// When it begins to sign.
    pub(super) from: Timestamp,
}

/// A key that signs no more.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Past {
    pub(super) key_id: String,
    /// When it was signed with last, at the latest.
    pub(super) until: Timestamp,
    /// Retired: it is published no more. That nothing of it is honoured is a revocation, not said here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) retired: bool,
}

/// The folder itself.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Makes durable what the folder lists; a test has it fail.
    sync: fn(&Path) -> io::Result<()>,
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Folder {
    /// Makes the folder where it is missing, and what belongs in it: the secret, and a key. Where the
    /// current key is not for `algorithm`, one that is gets staged; one whose time has come signs.
    pub(super) fn open(path: &Path, wanted: Terms, now: Timestamp) -> Result<(Self, Contents, Secret), OpenError> {
        let folder = Self { path: path.to_owned(), sync };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| folder.io("make the folder", "", e))?;
        let _lock = folder.lock()?;
        folder.remove_leftovers()?;
        let marker = folder.marker()?;
        let secret = folder.secret(marker.is_some())?;
        let keys = folder.keys(wanted.algorithm)?;
        let contents = match marker {
            None => folder.begin(keys, wanted.algorithm, now)?,
            Some(marker) if marker.signer(&keys).is_none() => {
                return Err(OpenError::CurrentKeyMissing { path: folder.file(MARKER), key_id: marker.current });
            }
            Some(marker) => {
                let mut contents = folder.advance(Contents { keys, marker }, now)?;
                let next = contents.marker.next_signer(&contents.keys);
                if next.is_none_or(|it| it.key.algorithm() != wanted.algorithm) {
                    contents = folder.stage(contents, wanted, now)?;
                }
                contents
            }
        };
        Ok((folder, contents, secret))
    }

    /// What changes whenever somebody changes the folder.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let marker = fs::metadata(self.file(MARKER)).ok()?;
        Some((marker.ino(), marker.mtime(), marker.mtime_nsec()))
    }

    /// What the folder holds by now.
    pub(super) fn read_again(&self, algorithm: Algorithm) -> Result<Contents, OpenError> {
        let _lock = self.lock()?;
        self.contents(algorithm)
    }

    /// Whether a folder has been made use of.
    pub(super) fn is_begun(path: &Path) -> bool {
        path.join(MARKER).exists()
    }

    /// Makes a key that signs once it has been published for long enough. Where one is staged already, that
    /// is the one, and asking again may bring its moment forward, never put it off.
    pub(super) fn rotate(&self, wanted: Terms, now: Timestamp) -> Result<Contents, OpenError> {
        let _lock = self.lock()?;
        let mut contents = self.advance(self.contents(wanted.algorithm)?, now)?;
        let from = now.plus(wanted.publish_before);
        match &mut contents.marker.staged {
            None => self.stage(contents, wanted, now),
            Some(staged) => {
                staged.from = staged.from.min(from);
                self.write_marker(&contents.marker)?;
                self.advance(contents, now)
            }
        }
    }

    /// Lets a staged key sign whose time has come; `None` when there is none.
    pub(super) fn activate(&self, algorithm: Algorithm, now: Timestamp) -> Result<Option<Contents>, OpenError> {
        let _lock = self.lock()?;
        let contents = self.contents(algorithm)?;
        let staged = contents.marker.staged.clone();
        let contents = self.advance(contents, now)?;
        Ok((contents.marker.staged != staged).then_some(contents))
    }

    /// Takes a key out of use: it is published no more, and where it signs, or was to sign, a new one does
    /// at once. `None` when the folder has no such key.
    pub(super) fn retire(
        &self,
        key_id: &str,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Option<Contents>, OpenError> {
        let _lock = self.lock()?;
        let mut contents = self.contents(algorithm)?;
        if !contents.keys.iter().any(|it| it.key.key_id() == key_id) {
            return Ok(None);
        }
        if contents.marker.staged.as_ref().is_some_and(|staged| staged.key_id == key_id) {
            contents.marker.staged = None;
        }
        if contents.marker.current == key_id {
            // The staged one, if it is published already: the sooner everybody has it.
            match contents.marker.staged.take() {
                Some(staged) => contents.marker.sign_with(staged.key_id, now),
                None => {
                    // One more than otherwise: a full folder keeps no leaked key in use.
                    let key = self.make(&mut contents.keys, algorithm, now, KEYS_MAX + 1)?;
                    contents.marker.sign_with(key, now);
                }
            }
        }
        match contents.marker.past.iter_mut().find(|it| it.key_id == key_id) {
            Some(past) => past.retired = true,
            None => contents.marker.past.push(Past { key_id: key_id.to_owned(), until: now, retired: true }),
        }
        if contents.keys.len() > KEYS_MAX {
            // It is refused as an unknown one then, instead of by name.
            contents.marker.past.retain(|it| it.key_id != key_id);
            contents.keys.retain(|it| it.key.key_id() != key_id);
        }
        self.write_marker(&contents.marker)?;
        if contents.keys.len() == KEYS_MAX && !contents.keys.iter().any(|it| it.key.key_id() == key_id) {
            self.remove(&format!("{key_id}.pem"))?;
        }
        Ok(Some(contents))
    }

    /// Deletes the keys that signed for the last time at or before `before`. A key that never signed
    /// here stays: it may be there to verify what another node signed.
    pub(super) fn prune(&self, before: Timestamp, algorithm: Algorithm) -> Result<Option<Contents>, OpenError> {
        let _lock = self.lock()?;
        let Some(mut marker) = self.marker()? else { return Ok(None) };
        let (lapsed, kept): (Vec<_>, Vec<_>) = marker.past.into_iter().partition(|past| past.until <= before);
        if lapsed.is_empty() {
            return Ok(None);
        }
        marker.past = kept;
        for past in lapsed {
            let name = format!("{}.pem", past.key_id);
            self.remove(&name)?;
        }
        // After the files: a crash in between leaves names without files, which the next round drops.
        self.write_marker(&marker)?;
        Ok(Some(Contents { keys: self.keys(algorithm)?, marker }))
    }

    /// The id of the revocation store that belongs to these keys, once there is one.
    pub(super) fn store_id(&self) -> Result<Option<String>, OpenError> {
        let Some(bytes) = self.read(STORE_ID)? else { return Ok(None) };
        let id = std::str::from_utf8(&bytes).map_err(|_| OpenError::BadStoreId)?.trim_end();
        check_store_id(id)?;
        Ok(Some(id.to_owned()))
    }

    /// Remembers which revocation store belongs to these keys; never changes its mind by itself.
    pub(super) fn bind_store_id(&self, id: &str) -> Result<(), OpenError> {
        check_store_id(id)?;
        let _lock = self.lock()?;
        match self.store_id()? {
            Some(bound) if bound == id => Ok(()),
            Some(_) => Err(OpenError::OtherStore { path: self.file(STORE_ID) }),
            None => self.write(STORE_ID, format!("{id}\n").as_bytes()),
        }
    }

    pub(super) fn rebind_store_id(&self, id: &str) -> Result<(), OpenError> {
        check_store_id(id)?;
        let _lock = self.lock()?;
        self.write(STORE_ID, format!("{id}\n").as_bytes())
    }

    /// What a folder that was opened before holds.
    fn contents(&self, algorithm: Algorithm) -> Result<Contents, OpenError> {
        let keys = self.keys(algorithm)?;
        match self.marker()? {
            Some(marker) if marker.signer(&keys).is_some() => Ok(Contents { keys, marker }),
            Some(Marker { current: key_id, .. }) => {
                Err(OpenError::CurrentKeyMissing { path: self.file(MARKER), key_id })
            }
            None => Err(OpenError::MarkerMissing { path: self.file(MARKER) }),
        }
    }

    /// The first key. Whatever signed before the marker was lost signs no more from now on.
    fn begin(&self, mut keys: Vec<StoredKey>, algorithm: Algorithm, now: Timestamp) -> Result<Contents, OpenError> {
        let past = |it: &StoredKey| Past { key_id: it.key.key_id().to_owned(), until: now, retired: false };
        let past = keys.iter().map(past).collect();
        let current = self.make(&mut keys, algorithm, now, KEYS_MAX)?;
        let marker = Marker { current, since: now, staged: None, past };
        self.write_marker(&marker)?;
        Ok(Contents { keys, marker })
    }

    /// Stages a new key in the place of one that is staged, if any; at once where nobody is to be waited for.
    fn stage(&self, mut contents: Contents, wanted: Terms, now: Timestamp) -> Result<Contents, OpenError> {
        let key_id = self.make(&mut contents.keys, wanted.algorithm, now, KEYS_MAX)?;
        let marker = &mut contents.marker;
        // It may have been seen as published, and has signed nothing.
        marker.past.extend(marker.staged.take().map(|it| Past { key_id: it.key_id, until: now, retired: false }));
        if wanted.publish_before.is_zero() {
            marker.sign_with(key_id.clone(), now);
        } else {
            marker.staged = Some(Staged { key_id: key_id.clone(), from: now.plus(wanted.publish_before) });
        }
        self.write_marker(&contents.marker).inspect_err(|_| {
            // A key that nothing names would be published by the next start.
            let _ = self.remove(&format!("{key_id}.pem"));
        })?;
        Ok(contents)
    }

    /// Lets the staged key sign if its time has come.
    fn advance(&self, mut contents: Contents, now: Timestamp) -> Result<Contents, OpenError> {
        let Some(staged) = contents.marker.staged.take_if(|staged| staged.from <= now) else { return Ok(contents) };
        if !contents.keys.iter().any(|it| it.key.key_id() == staged.key_id) {
            return Err(OpenError::CurrentKeyMissing { path: self.file(MARKER), key_id: staged.key_id });
        }
        contents.marker.sign_with(staged.key_id, now);
        self.write_marker(&contents.marker)?;
        Ok(contents)
    }

    /// Makes a key, writes it and adds it to `keys`; its id. It does nothing before the marker says so.
    fn make(
        &self,
        keys: &mut Vec<StoredKey>,
        algorithm: Algorithm,
        now: Timestamp,
        most: usize,
    ) -> Result<String, OpenError> {
        if keys.len() >= most {
            return Err(OpenError::TooManyKeys { path: self.path.clone() });
        }
        let key = SigningKey::generate(algorithm).map_err(|source| OpenError::Generate { algorithm, source })?;
        let key_id = key.key_id().to_owned();
        let text = Zeroizing::new(format!("algorithm: {algorithm}\ncreated: {now}\n{}", *key.to_pkcs8_pem()));
        self.write(&format!("{key_id}.pem"), text.as_bytes())?;
        keys.push(StoredKey { key, created: now });
        Ok(key_id)
    }

    /// Every key of the folder. `preferred` is tried first for a key that does not name its algorithm:
    /// an RSA key fits several.
    fn keys(&self, preferred: Algorithm) -> Result<Vec<StoredKey>, OpenError> {
        let mut keys = Vec::new();
        for name in self.names()? {
            let Some(key_id) = name.strip_suffix(".pem") else { continue };
            let Some(text) = self.read(&name)? else { continue };
            // One more may be there for a moment, while a key is retired.
            if keys.len() == KEYS_MAX + 1 {
                return Err(OpenError::TooManyKeys { path: self.path.clone() });
            }
            let stored = self.key(&name, &text, preferred)?;
            if stored.key.key_id() != key_id {
                let key_id = stored.key.key_id().to_owned();
                return Err(OpenError::Misnamed { path: self.file(&name), key_id });
            }
            keys.push(stored);
        }
        Ok(keys)
    }

    fn key(&self, name: &str, text: &[u8], preferred: Algorithm) -> Result<StoredKey, OpenError> {
        let path = self.file(name);
        let bad = || OpenError::BadPreamble { path: path.clone() };
        let text = std::str::from_utf8(text).map_err(|_| bad())?;
        let (preamble, pem) = text.split_at(text.find("-----BEGIN").unwrap_or(0));
        let mut algorithm = None;
        let mut created = None;
        for line in preamble.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_once(": ") {
                Some(("algorithm", value)) => algorithm = Some(value.parse().map_err(|_| bad())?),
                Some(("created", value)) => created = Some(value.parse().map_err(|_| bad())?),
                Some(_) | None => return Err(bad()),
            }
        }
        let key = match algorithm {
            Some(algorithm) => SigningKey::from_pkcs8_pem(pem, algorithm),
            None => [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256]
                .into_iter()
                .fold(SigningKey::from_pkcs8_pem(pem, preferred), |found, algorithm| {
                    found.or_else(|error| SigningKey::from_pkcs8_pem(pem, algorithm).map_err(|_| error))
                }),
        };
        let key = key.map_err(|source| OpenError::BadKey { path: path.clone(), source })?;
        let created = match created {
            Some(created) => created,
            None => self.modified(name)?,
        };
        Ok(StoredKey { key, created })
    }

    fn remove(&self, name: &str) -> Result<(), OpenError> {
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io("delete", name, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn secret(&self, in_use: bool) -> Result<Secret, OpenError> {
        if let Some(bytes) = self.read(SECRET)? {
            if bytes.len() != SECRET_BYTES {
                return Err(OpenError::BadSecret { path: self.file(SECRET) });
            }
            return Ok(Secret::new(bytes.to_vec()));
        }
        if in_use {
            return Err(OpenError::SecretMissing { path: self.file(SECRET) });
        }
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| OpenError::NoRandomness)?;
        self.write(SECRET, &*bytes)?;
        Ok(Secret::new(bytes.to_vec()))
    }

    fn marker(&self) -> Result<Option<Marker>, OpenError> {
        let Some(bytes) = self.read(MARKER)? else { return Ok(None) };
        let marker = serde_json::from_slice(&bytes);
        marker.map(Some).map_err(|source| OpenError::BadMarker { path: self.file(MARKER), source })
    }

    fn write_marker(&self, marker: &Marker) -> Result<(), OpenError> {
        let mut text = serde_json::to_vec_pretty(marker)
            .map_err(|source| OpenError::BadMarker { path: self.file(MARKER), source })?;
        text.push(b'\n');
        self.write(MARKER, &text)
    }

    /// Held as long as the file lives; waits for whoever has it.
    fn lock(&self) -> Result<File, OpenError> {
        let folder = File::open(&self.path).map_err(|e| self.io("open", "", e))?;
        let mode = folder.metadata().map_err(|e| self.io("look at", "", e))?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(OpenError::FolderTooOpen { path: self.path.clone(), mode });
        }
        folder.lock().map_err(|e| self.io("lock", "", e))?;
        Ok(folder)
    }

    /// A process that died while writing leaves a file under a temporary name, maybe with a key in it.
    fn remove_leftovers(&self) -> Result<(), OpenError> {
        for name in self.names()?.into_iter().filter(|name| name.starts_with(TEMPORARY)) {
            fs::remove_file(self.file(&name)).map_err(|e| self.io("delete", &name, e))?;
        }
        Ok(())
    }

    /// The names in the folder, sorted; those that are not text are not ours.
    fn names(&self) -> Result<Vec<String>, OpenError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| self.io("list", "", e))? {
            let entry = entry.map_err(|e| self.io("list", "", e))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The bytes of a file that only its owner can read; `None` when there is none.
    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, OpenError> {
        let file = match File::open(self.file(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("open", name, error)),
        };
        // Of the open file, not of its name: what is judged is what is read.
        let metadata = file.metadata().map_err(|e| self.io("look at", name, e))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(OpenError::FileTooOpen { path: self.file(name), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(OpenError::FileTooLong { path: self.file(name) });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| self.io("read", name, e))?;
        Ok(Some(bytes))
    }

    /// Puts a whole file in its place, durably, or leaves the place as it was: what is told as a failure is
    /// not read as a success by whoever looks next.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OpenError> {
        let temporary = || self.file(&format!("{TEMPORARY}{:032x}", rand::random::<u128>()));
        let (place, new, before) = (self.file(name), temporary(), temporary());
        let put = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // Kept until its successor is durable. Where a file cannot have two names there is no way back.
            let earlier = fs::hard_link(&place, &before);
            fs::rename(&new, &place)?;
            (self.sync)(&self.path).inspect_err(|_| {
                let _ = match earlier {
                    Ok(()) => fs::rename(&before, &place),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(&place),
                    Err(_) => Ok(()),
                };
            })
        };
        let outcome = put();
        // What is already amiss is reported; a second failure adds nothing.
        for left in [&new, &before] {
            let _ = fs::remove_file(left);
        }
        outcome.map_err(|e| self.io("write", name, e))
    }

    fn modified(&self, name: &str) -> Result<Timestamp, OpenError> {
        let modified =
            fs::metadata(self.file(name)).and_then(|it| it.modified()).map_err(|e| self.io("look at", name, e))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Timestamp::MIN.plus(since))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn io(&self, action: &'static str, name: &str, source: io::Error) -> OpenError {
        OpenError::Io { action, path: if name.is_empty() { self.path.clone() } else { self.file(name) }, source }
    }
}

impl Marker {
    /// The key that signs.
    pub(super) fn signer<'a>(&self, keys: &'a [StoredKey]) -> Option<&'a StoredKey> {
        keys.iter().find(|it| it.key.key_id() == self.current)
    }

    /// The key that signs once nothing is staged any more.
    fn next_signer<'a>(&self, keys: &'a [StoredKey]) -> Option<&'a StoredKey> {
        let next = self.staged.as_ref().map_or(&self.current, |staged| &staged.key_id);
        keys.iter().find(|it| it.key.key_id() == next)
    }

    /// Has this key sign from now on.
    fn sign_with(&mut self, key_id: String, now: Timestamp) {
        let before = std::mem::replace(&mut self.current, key_id);
        self.past.retain(|it| it.key_id != before && it.key_id != self.current);
        self.past.push(Past { key_id: before, until: now, retired: false });
        self.since = now;
    }

    /// Whether the key of this id was retired.
    pub(super) fn is_retired(&self, key_id: &str) -> bool {
        self.past.iter().any(|it| it.key_id == key_id && it.retired)
    }
}

fn check_store_id(id: &str) -> Result<(), OpenError> {
    if (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(OpenError::BadStoreId)
}

#[cfg(test)]
mod tests;
