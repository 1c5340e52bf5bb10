//! The seal on a message: an HMAC under the secret that the nodes of a cluster share.

use std::fmt;

use aws_lc_rs::hmac;
use bytes::{BufMut, Bytes, BytesMut};

use super::{Message, Unreadable};
use crate::secret::Secret;

/// Which seal this is; a later one begins with another byte.
const VERSION: u8 = 1;
const TAG: usize = 32;

/// No node of this cluster said it: the seal is missing, of another cluster, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not have the seal of this cluster")]
pub struct Forged;

/// Seals messages and opens them: HMAC-SHA256 (RFC 2104) over the cluster's name and the message.
#[derive(Clone)]
pub struct Seal {
    key: hmac::Key,
    cluster: String,
}

impl Seal {
    /// The seal of the cluster of this name, under its secret.
    #[must_use]
    pub fn new(cluster: &str, secret: &Secret) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), cluster: cluster.to_owned() }
    }

    /// The message, sealed.
    ///
    /// # Errors
    ///
    /// When it cannot be said in JSON.
    pub fn close(&self, message: &Message) -> serde_json::Result<Bytes> {
        let json = message.to_json()?;
        let tag = self.tag(&json);
        let mut sealed = BytesMut::with_capacity(1 + TAG + json.len());
        sealed.put_u8(VERSION);
        sealed.put_slice(tag.as_ref());
        sealed.put_slice(&json);
        Ok(sealed.freeze())
    }

    /// The message behind a seal.
    ///
    /// # Errors
    ///
    /// When a node of this cluster did not say it, or it makes no sense.
    pub fn open(&self, sealed: &[u8]) -> Result<Message, Unreadable> {
        let (tag, json) = match sealed.split_first() {
            Some((&VERSION, rest)) => rest.split_at_checked(TAG).ok_or(Forged)?,
            _ => return Err(Forged.into()),
        };
        aws_lc_rs::constant_time::verify_slices_are_equal(self.tag(json).as_ref(), tag).map_err(|_| Forged)?;
        Ok(Message::from_json(json)?)
    }

    fn tag(&self, json: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"portcullis/cluster/1");
        context.update(&(self.cluster.len() as u64).to_be_bytes());
        context.update(self.cluster.as_bytes());
        context.update(json);
        context.sign()
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
