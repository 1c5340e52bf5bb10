//! A changed configuration, or a file that it names, is taken up by itself.
//!
//! Folders are watched, not files: files are replaced by others of their name, and Kubernetes replaces a link that
//! all of them lie behind. What happens there only says that it is time to look; whether anything has changed is
//! decided by reading. A reload that fails, because a file was half written, is tried again at the next change.

mod places;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{Instant, timeout};

use super::control::Control;

/// Room for the events that are read at once.
const BUFFER: usize = 4096;
/// How many times `reload.debounce` a change waits at most, where changes do not cease.
const PATIENCE: u32 = 4;
/// Nothing that is merely written to is asked about before it is closed: logs grow here, too.
const CHANGES: WatchMask = WatchMask::CREATE
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::DELETE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::ONLYDIR);

/// Takes up changes for as long as the gateway runs.
pub(super) async fn keep(control: &Control) {
    if control.file.is_none() {
        return;
    }
    let mut watch = match Watch::new() {
        Ok(watch) => watch,
        Err(error) => {
            return tracing::warn!(%error, "files cannot be watched: changes are taken up on SIGHUP and by call alone");
        }
    };
    let mut files = control.files.subscribe();
    files.mark_changed();
    loop {
        // Where a place is new, what happened before it was watched is not known.
        let mut due = tokio::select! {
            changed = files.changed() => match changed {
                Ok(()) => watch.cover(&files.borrow_and_update()),
                Err(_) => return,
            },
            touched = watch.next() => touched,
        };
        if !due {
            continue;
        }
        let began = Instant::now();
        let debounce = control.shared.snapshot.load().config.reload.debounce;
        while due && began.elapsed() < debounce * PATIENCE {
            due = timeout(debounce, watch.touched()).await.is_ok();
        }
        if control.shared.snapshot.load().config.reload.watch {
            control.take_up_changes().await;
        }
    }
}

/// The folders that what is read depends on.
struct Watch {
    events: EventStream<[u8; BUFFER]>,
    /// In each the names that matter.
    names: HashMap<WatchDescriptor, HashSet<OsString>>,
}

impl Watch {
    fn new() -> std::io::Result<Self> {
        Ok(Self { events: Inotify::init()?.into_event_stream([0; BUFFER])?, names: HashMap::new() })
    }

    /// Watches what leads to `files` from now on; whether some of that was not watched.
    fn cover(&mut self, files: &[PathBuf]) -> bool {
        let mut folders: HashMap<PathBuf, HashSet<OsString>> = HashMap::new();
        for (folder, name) in files.iter().flat_map(|file| places::on_the_way(file)) {
            folders.entry(folder).or_default().insert(name);
        }
        let mut now: HashMap<WatchDescriptor, HashSet<OsString>> = HashMap::new();
        for (folder, names) in folders {
            match self.events.watches().add(&folder, CHANGES) {
                Ok(watched) => now.entry(watched).or_default().extend(names),
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "a folder cannot be watched"),
            }
        }
        let is_new = |(watched, names): (&WatchDescriptor, &HashSet<OsString>)| {
            self.names.get(watched).is_none_or(|before| !names.is_subset(before))
        };
        let news = now.iter().any(is_new);
        let before = std::mem::replace(&mut self.names, now);
        for watched in before.into_keys().filter(|watched| !self.names.contains_key(watched)) {
            // One whose folder is gone is gone itself.
            drop(self.events.watches().remove(watched));
        }
        news
    }

    /// Waits for the next event; whether it is about something that matters.
    async fn next(&mut self) -> bool {
        let event = match self.events.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                tracing::warn!(%error, "failed to hear what has changed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                return true;
            }
            None => std::future::pending().await,
        };
        // Too much has happened to be told, or a folder itself was moved away.
        if event.mask.intersects(EventMask::Q_OVERFLOW | EventMask::MOVE_SELF | EventMask::DELETE_SELF) {
            return true;
        }
        let named = |name: &OsString| self.names.get(&event.wd).is_some_and(|names| names.contains(name));
        event.name.as_ref().is_some_and(named)
    }

    /// Waits until something that matters has happened.
    async fn touched(&mut self) {
        while !self.next().await {}
    }
}
