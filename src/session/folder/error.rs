//! Why a key folder is refused, and the way out.

use std::io;
use std::path::PathBuf;

use super::{FILE_BYTES_MAX, KEYS_MAX, SECRET_BYTES};
use crate::keys::SigningKeyError;
use crate::token::Algorithm;

/// Why the key folder could not be opened or changed. Read as "failed to open the session keys: {self}".
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may put files into the folder.
    #[error("others may write to `{path}` (mode {mode:04o}); run `chmod 700` on it and check what is in it")]
    FolderTooOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others may read or change a file.
    #[error(
        "others may read or change `{path}` (mode {mode:04o}); run `chmod 600` on it, and rotate the key if anybody may have seen it"
    )]
    FileTooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is longer than any that belongs here.
    #[error("`{path}` is longer than {FILE_BYTES_MAX} bytes")]
    FileTooLong {
        /// The file.
        path: PathBuf,
    },
    /// A `.pem` file is not a usable PKCS#8 signing key.
    #[error("`{path}` is not a usable PKCS#8 signing key; restore it, or move it out of the folder")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SigningKeyError,
    },
    /// A `.pem` file names no algorithm that is known, or a time that is none.
    #[error("`{path}` begins with a line that is neither `algorithm:` nor `created:` with a valid value")]
    BadPreamble {
        /// The file.
        path: PathBuf,
    },
    /// A `.pem` file is not named after its key.
    #[error("`{path}` holds the key `{key_id}`; name it `{key_id}.pem`")]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// The id of the key in it.
        key_id: String,
    },
    /// The secret does not have its 32 bytes.
    #[error("`{path}` does not hold exactly {SECRET_BYTES} bytes; restore it")]
    BadSecret {
        /// The file.
        path: PathBuf,
    },
    /// The secret is gone, though keys have been in use.
    ///
    /// A new one would give exchanged sessions new ids, and a revoked session would come back under one.
    #[error("`{path}` is missing; restore it, or remove `current` beside it to start afresh and revoke what was open")]
    SecretMissing {
        /// The file.
        path: PathBuf,
    },
    /// `current` cannot be read.
    #[error("`{path}` is damaged; restore it, or remove it to sign with a new key")]
    BadMarker {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: serde_json::Error,
    },
    /// `current` is gone, though the folder was open.
    #[error("`{path}` is missing; restore it, or start anew to sign with a new key")]
    MarkerMissing {
        /// The file.
        path: PathBuf,
    },
    /// The key that should sign is gone.
    #[error(
        "`{path}` names the key `{key_id}`, which is not in the folder; restore it, or remove `current` to sign with a new key"
    )]
    CurrentKeyMissing {
        /// The marker.
        path: PathBuf,
        /// The key it names.
        key_id: String,
    },
    /// The folder holds more keys than are ever tried.
    #[error("`{path}` holds more than {KEYS_MAX} keys; prune it")]
    TooManyKeys {
        /// The folder.
        path: PathBuf,
    },
    /// A new key could not be made.
    #[error("cannot make a key for {algorithm}")]
    Generate {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// Why not.
        source: SigningKeyError,
    },
    /// The system gave no random bytes.
    #[error("the system has no random bytes to give")]
    NoRandomness,
    /// The folder belongs to another revocation store.
    #[error(
        "`{path}` names another revocation store; restore the store that belongs to these keys, or remove the file to accept this one"
    )]
    OtherStore {
        /// The file.
        path: PathBuf,
    },
    /// An id that could not be read back.
    #[error("a store id is 1 to 128 visible characters")]
    BadStoreId,
}
