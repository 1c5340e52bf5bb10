//! `portcullis store`: copies of the revocation store as lines of JSON, and what to do about a damaged one.

use std::io::{BufRead, BufWriter, Read as _, Write};
use std::path::PathBuf;

use super::args::{StoreArgs, StoreCommand};
use super::{Exit, Failure, Streams};
use crate::config::{self, StoreConfig};
use crate::store::{
    AcceptLoss, Adopted, Adoption, Appended, Entry, LINES_VERSION, Line, MAX_LINE_BYTES, OpenError, Snapshot,
    SqliteStore, Store, StoreError, rebuild,
};

/// What is written in one transaction.
const BATCH: usize = 1_000;

pub(super) fn run(command: &StoreCommand, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        StoreCommand::Export(args) => export(args, streams.stdout),
        StoreCommand::Import(args) => import(args, streams.stdin, streams.stdout),
        StoreCommand::Rebuild(args) => rebuild_damaged(args, streams.stdout),
        StoreCommand::Verify(args) => verify(args, streams.stdout),
    }
}

impl StoreArgs {
    fn folder(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.path {
            return Ok(path.clone());
        }
        let loaded = config::load(&self.config).map_err(|problems| Failure::new(Exit::Config, problems.to_string()))?;
        match loaded.config.revocation.store {
            StoreConfig::Memory => {
                Err(Failure::new(Exit::Config, "the configuration has no store on disk: it is kept in memory"))
            }
            StoreConfig::Sqlite(folder) => Ok(folder),
        }
    }
}

fn refused(what: &str, error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::Damaged { .. } | OpenError::Earlier { .. } | OpenError::Hopeless { .. } => Exit::Data,
        OpenError::InUse { .. } => Exit::Unavailable,
        OpenError::Database { .. } | OpenError::Files { .. } => Exit::Failed,
    };
    Failure::of(exit, what, error)
}

fn failed(error: &StoreError) -> Failure {
    match error {
        StoreError::Damaged(why) => refused("cannot use the store", why),
        _ => Failure::of(Exit::Failed, "cannot use the store", error),
    }
}

fn export(args: &StoreArgs, stdout: &mut dyn Write) -> Result<(), Failure> {
    let what = "cannot export the store";
    let snapshot = Snapshot::open(&args.folder()?).map_err(|error| refused(what, &error))?;
    // Of a damaged store nothing is printed: half of it would look like all of it.
    snapshot.verify().map_err(|error| refused(what, &error))?;
    let mut out = BufWriter::new(stdout);
    let mut written = Ok(());
    let read = snapshot.lines(&mut |line| {
        if written.is_ok() {
            written = line.to_json().map_err(Into::into).and_then(|line| writeln!(out, "{line}"));
        }
    });
    read.map_err(|error| refused(what, &error))?;
    written?;
    Ok(out.flush()?)
}

fn verify(args: &StoreArgs, stdout: &mut dyn Write) -> Result<(), Failure> {
    let folder = args.folder()?;
    let verified = Snapshot::open(&folder).and_then(|snapshot| snapshot.verify().map(|()| snapshot));
    let snapshot = verified.map_err(|error| refused("the store is not whole", &error))?;
    let (id, sequence, records) = (snapshot.store_id(), snapshot.sequence(), snapshot.records());
    writeln!(stdout, "{}: whole (store {id}, sequence {sequence}, {records} rows)", folder.display())?;
    Ok(())
}

fn rebuild_damaged(args: &StoreArgs, stdout: &mut dyn Write) -> Result<(), Failure> {
    let folder = args.folder()?;
    let rebuilt = rebuild(&folder).map_err(|error| refused("cannot rebuild the store", &error))?;
    let kept = rebuilt.kept;
    let Some(aside) = rebuilt.aside else {
        writeln!(stdout, "{}: whole ({kept} rows), nothing was changed", folder.display())?;
        return Ok(());
    };
    // What was lost is had again from the cluster, where there is one.
    let store =
        SqliteStore::open(&folder, AcceptLoss::No).map_err(|error| refused("cannot rebuild the store", &error))?;
    if store.setting(crate::cluster::PROGRESS).map_err(|error| failed(&error))?.is_some() {
        store.set_setting(crate::cluster::PROGRESS, "").map_err(|error| failed(&error))?;
    }
    let folder = folder.display();
    writeln!(stdout, "{folder}: kept {kept} rows; the damaged files are beside it: {}", aside.display())?;
    match rebuilt.lost {
        Some(0) => Ok(()),
        Some(lost) => {
            Err(Failure::new(Exit::Data, format!("{lost} rows were lost: what they refused is honoured again")))
        }
        None => Err(Failure::new(
            Exit::Data,
            "rows may have been lost, and it cannot be told how many: what they refused is honoured again",
        )),
    }
}

fn import(args: &StoreArgs, stdin: &mut dyn BufRead, stdout: &mut dyn Write) -> Result<(), Failure> {
    let folder = args.folder()?;
    let lines = read(stdin)?;
    let what = "cannot import into the store";
    let store = SqliteStore::open(&folder, AcceptLoss::No).map_err(|error| refused(what, &error))?;
    // A store that is damaged takes nothing in.
    store.replay(&|_| {}).map_err(|error| failed(&error))?;
    let Lines { entries, documents } = lines;
    let mut all = Adoption::default();
    let mut adopt = |entries: &[Entry], documents: &[Adopted]| {
        let answer = store.adopt(entries.to_vec(), documents.to_vec(), Vec::new()).blocking_recv();
        let adopted = answer.unwrap_or(Err(StoreError::Stopped)).map_err(|error| failed(&error))?;
        all.entries.extend(adopted.entries);
        all.documents.extend(adopted.documents);
        Ok::<_, Failure>(())
    };
    entries.chunks(BATCH).try_for_each(|entries| adopt(entries, &[]))?;
    documents.chunks(BATCH).try_for_each(|documents| adopt(&[], documents))?;
    let new = all.entries.iter().filter(|it| **it == Appended::New).count();
    let taken = all.documents.iter().filter(|it| **it).count();
    let (known, left) = (all.entries.len() - new, all.documents.len() - taken);
    writeln!(
        stdout,
        "{}: {new} records are new, {known} were there; {taken} documents took their place, {left} did not",
        folder.display()
    )?;
    Ok(())
}

/// What was given, all of it judged.
#[derive(Default)]
struct Lines {
    entries: Vec<Entry>,
    documents: Vec<Adopted>,
}

fn read(stdin: &mut dyn BufRead) -> Result<Lines, Failure> {
    let mut lines = Lines::default();
    let mut expected = None;
    let mut text = Vec::new();
    for number in 1_u64.. {
        let wrong = |why: &str| Failure::new(Exit::Data, format!("line {number}: {why}; nothing was imported"));
        text.clear();
        let length = stdin
            .take(MAX_LINE_BYTES as u64 + 1)
            .read_until(b'\n', &mut text)
            .map_err(|error| Failure::of(Exit::Failed, "cannot read standard input", &error))?;
        if length == 0 {
            if number == 1 {
                return Err(wrong("there is none"));
            }
            break;
        }
        if length > MAX_LINE_BYTES {
            return Err(wrong(&format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        let line = std::str::from_utf8(&text).map_err(|_| wrong("not UTF-8"))?;
        let line = Line::parse(line.trim_end()).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|it| format!(": {it}"));
            wrong(&format!("{error}{}", cause.unwrap_or_default()))
        })?;
        match line {
            Line::Header(header) if number == 1 && header.version <= LINES_VERSION => expected = header.lines,
            Line::Header(header) if number == 1 => {
                return Err(wrong(&format!("written by a later release (version {})", header.version)));
            }
            _ if number == 1 => return Err(wrong("not the header that an export begins with")),
            Line::Document(document) => lines.documents.push(document),
            Line::Entry(entry) => lines.entries.push(entry),
            Line::Header(_) => return Err(wrong("a second header")),
        }
    }
    let found = (lines.entries.len() + lines.documents.len()) as u64;
    match expected {
        Some(expected) if expected != found => Err(Failure::new(
            Exit::Data,
            format!("{found} lines follow the header, which says {expected}; nothing was imported"),
        )),
        _ => Ok(lines),
    }
}

#[cfg(test)]
mod tests;
