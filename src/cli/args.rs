//! What can be said on the command line. Tokens and secrets cannot: other users see arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::client::Address;
use super::token::TokenArgs;
use crate::revocation::{Reason, RecordId, TargetKind};
use crate::time::Timestamp;

/// A reverse proxy that makes JWT sessions revocable before they expire
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, disable_help_subcommand = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "PORTCULLIS_CONFIG", default_value = "/etc/portcullis/portcullis.yaml")]
        config: PathBuf,
        /// Start although the store or the session keys were lost, and begin anew
        #[arg(long)]
        accept_loss: bool,
    },
    /// Check a configuration file: exit 0, or 78 with every problem
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Run a gateway, an upstream and an issuer on free ports, and show what to try
    Demo {
        /// Try it all and check the answers
        #[arg(long)]
        script: bool,
    },
    /// Ask what the gateway would decide about a request, and why
    Explain {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        explain: ExplainArgs,
    },
    /// Revoke a token, session, subject, client, key, issuer or everything
    Revoke {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        revoke: RevokeArgs,
    },
    /// List, show, lift and watch revocations
    Revocations {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(subcommand)]
        command: RevocationsCommand,
    },
    /// Put one subject in the place of another after a compromise, undo that, and show the chain
    Subjects {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(subcommand)]
        command: SubjectsCommand,
    },
    /// List open sessions, and end them
    Sessions {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// List every key that verifies, rotate the gateway's own, retire one that leaked
    Keys {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Copy, check and repair the revocation store on this machine
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Verify, decode and mint tokens, offline
    Token(TokenArgs),
    /// Show what runs
    Status {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Print the JSON Schema of the configuration file
    Schema,
}

/// How to reach the admin API.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The admin API: http://HOST:PORT or unix:PATH
    #[arg(long, global = true, value_name = "URL", env = "PORTCULLIS_ADMIN", default_value = "http://127.0.0.1:9901")]
    pub(super) admin: Address,
    /// A file with the admin token; else the variable PORTCULLIS_ADMIN_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Print the API's own JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// A file with the token, or `-` for standard input; without it, the request has none
    #[arg(value_name = "FILE|-")]
    pub(super) token: Option<PathBuf>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    pub(super) method: String,
    /// The request's host
    #[arg(long)]
    pub(super) host: Option<String>,
    /// The request's path
    #[arg(long, default_value = "/")]
    pub(super) path: String,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// token, session, subject, client, key, issuer or all
    pub(super) kind: TargetKind,
    /// What to revoke: the jti, sid, sub, client id, key thumbprint or issuer; `-` reads a token from
    /// standard input
    #[arg(allow_hyphen_values = true)]
    pub(super) value: Option<String>,
    /// The issuer it belongs to, by config name or URL
    #[arg(long)]
    pub(super) issuer: Option<String>,
    /// Why
    #[arg(long, default_value = "admin")]
    pub(super) reason: Reason,
    /// Refuse every token of it until lifted
    #[arg(long, conflicts_with_all = ["issued_before", "authenticated_before"])]
    pub(super) block: bool,
    /// Refuse its tokens issued at or before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) issued_before: Option<Timestamp>,
    /// Refuse its tokens whose login was at or before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) authenticated_before: Option<Timestamp>,
    /// Remember it at least until then (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) expires_at: Option<Timestamp>,
    /// A remark
    #[arg(long)]
    pub(super) note: Option<String>,
    /// The record's id: the same call again does nothing more
    #[arg(long)]
    pub(super) id: Option<RecordId>,
}

#[derive(Debug, Subcommand)]
pub(super) enum RevocationsCommand {
    /// List revocations
    List {
        /// Of this kind
        #[arg(long)]
        kind: Option<TargetKind>,
        /// Of this issuer, by config name or URL
        #[arg(long)]
        issuer: Option<String>,
        /// Of this value
        #[arg(long)]
        value: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Go on where an earlier list ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show one revocation
    Get {
        /// Its id
        id: RecordId,
    },
    /// Lift one revocation; a lifted block leaves a cutoff at this moment
    Lift {
        /// Its id
        id: RecordId,
        /// Leave nothing: tokens that were refused are honoured again
        #[arg(long)]
        restore: bool,
        /// A remark
        #[arg(long)]
        note: Option<String>,
    },
    /// Print revocations and lifts as they come into force
    Watch,
}

#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// List open sessions
    List {
        /// Of this subject: the gateway's own with its prefix, or with --issuer that issuer's
        #[arg(long)]
        subject: Option<String>,
        /// Opened with a token of this issuer, by config name or URL
        #[arg(long)]
        issuer: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Go on where an earlier list ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// End one session, or all of a subject
    End {
        /// The sid of one
        #[arg(
            required_unless_present = "subject",
            conflicts_with_all = ["subject", "issuer"],
            allow_hyphen_values = true
        )]
        sid: Option<String>,
        /// All of this subject: the gateway's own with its prefix, or with --issuer that issuer's
        #[arg(long)]
        subject: Option<String>,
        /// The issuer whose subject it is, by config name or URL
        #[arg(long)]
        issuer: Option<String>,
        /// Why
        #[arg(long, default_value = "admin")]
        reason: Reason,
        /// A remark
        #[arg(long)]
        note: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SubjectsCommand {
    /// Refuse everything of a subject, and let another one carry on its account
    Replace {
        /// The sub that is given up
        subject: String,
        /// The issuer of both, by config name or URL
        #[arg(long)]
        issuer: String,
        /// The sub in its place: a fresh one
        #[arg(long, value_name = "SUBJECT")]
        by: String,
        /// Why
        #[arg(long, default_value = "credential_compromised")]
        reason: Reason,
        /// A remark
        #[arg(long)]
        note: Option<String>,
        /// The replacement's id: the same call again does nothing more
        #[arg(long)]
        id: Option<RecordId>,
    },
    /// Take a replacement back; both subjects begin anew
    Undo {
        /// The sub that was given up
        subject: String,
        /// Its issuer, by config name or URL
        #[arg(long)]
        issuer: String,
        /// Why; the reason it was replaced for, unless given
        #[arg(long)]
        reason: Option<Reason>,
        /// A remark
        #[arg(long)]
        note: Option<String>,
    },
    /// Show the account and the chain of a subject, and what is in force for it
    Show {
        /// The sub
        subject: String,
        /// Its issuer, by config name or URL
        #[arg(long)]
        issuer: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make the first signing key of a configuration, offline: the nodes of a cluster share one folder of keys
    Generate {
        /// The configuration file
        file: PathBuf,
    },
    /// List the gateway's keys and those of the issuers
    List,
    /// Make a new key, publish it, and sign with it once whoever verifies has had time to fetch it
    Rotate {
        /// Sign with it at once
        #[arg(long)]
        now: bool,
    },
    /// Refuse everything that a key signed, and everything that descends from that, for good
    Retire {
        /// The key's issuer, by config name or URL; `session` for the gateway's own
        issuer: String,
        /// Its kid, or its thumbprint; either may begin with a hyphen
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Why
        #[arg(long, default_value = "key_compromised")]
        reason: Reason,
        /// A remark
        #[arg(long)]
        note: Option<String>,
    },
}

/// Which store.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The store's folder, instead of the one that the configuration names
    #[arg(long, value_name = "DIR")]
    pub(super) path: Option<PathBuf>,
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_CONFIG", default_value = "/etc/portcullis/portcullis.yaml")]
    pub(super) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Print everything in it as lines of JSON; the gateway may be running
    Export(StoreArgs),
    /// Take in lines of JSON from standard input; the gateway must be stopped
    Import(StoreArgs),
    /// Set a damaged store aside and make a new one of all that is whole in it; the gateway must be stopped
    Rebuild(StoreArgs),
    /// Check everything that a start does: exit 0, or 65 if it is damaged; the gateway may be running
    Verify(StoreArgs),
}
