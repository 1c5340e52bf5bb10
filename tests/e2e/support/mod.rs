//! What the tests stand on: a gateway process, an upstream that records, an issuer, and a client that sends
//! exactly the bytes it is told to.

pub(crate) mod admin;
pub(crate) mod authority;
pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod document;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod holder;
pub(crate) mod http2;
pub(crate) mod issuer;
pub(crate) mod load;
pub(crate) mod multiplex;
pub(crate) mod patience;
pub(crate) mod postgres;
pub(crate) mod site;
pub(crate) mod upstream;

pub(crate) use admin::Admin;
pub(crate) use broker::{Broker, Engine};
pub(crate) use client::{Connection, Response, bearer, request};
pub(crate) use gateway::Gateway;
pub(crate) use http2::{Frames, Http2};
pub(crate) use issuer::{Issuer, now};
pub(crate) use load::Load;
pub(crate) use patience::{Latch, until};
pub(crate) use postgres::Database;
pub(crate) use site::Site;
pub(crate) use upstream::{Recorded, Upstream};
