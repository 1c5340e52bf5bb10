//! Revocations from outside: the only way one comes in.
//!
//! A request is understood, put in force in memory, made durable, and only then answered. In this
//! order, because the failure between two steps must err on the side of refusing: what is in force
//! but not durable is refused until the restart, and the caller is told so.

mod claim;
mod ledger;
mod limits;
mod outcome;
mod replace;
mod replication;
mod request;

pub use ledger::{Ledger, UnreadableReplacement};
pub use outcome::{Accepted, Event, ExchangeError, FollowError, LedgerError, LiftError, Lifted, RevokeError, Swept};
pub use replace::{ReplaceError, ReplaceRequest, Replaced, UndoError, UndoRequest, Undone};
pub use replication::{Level, Reached, Replication, UnknownLevel, Unreachable};
pub use request::{InvalidRequest, Request};

pub use crate::store::{
    Adopted, Adoption, Appended, Body, Cursor, Document, DocumentKind, DocumentWrite, Entry, Filter, Kept, Page, Put,
    StoreError, StoreStatus, Written, WrittenWhat,
};
