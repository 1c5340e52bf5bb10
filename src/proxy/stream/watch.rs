//! The watch over an answer that goes on: a task of its own, so that an answer whose client does not
//! read, and which nobody asks for more, is cut as well.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::task::AbortHandle;

use super::Handover;
use super::held::Held;
use crate::gate::{Denial, Remembered};
use crate::proxy::snapshot::Shared;
use crate::telemetry::Counted;

/// The watch over one answer. It ends with the answer.
#[derive(Debug)]
pub(in crate::proxy) struct Watch {
    fate: Rc<Fate>,
    task: Option<AbortHandle>,
    _open: Counted,
}

#[derive(Debug, Default)]
struct Fate {
    denial: OnceCell<Denial>,
    /// Whoever drives the connection.
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    /// Begins to watch. When the token is no good already, the watch says so at once.
    pub(in crate::proxy) fn begin(shared: &Arc<Shared>, bearer: &Rc<Remembered>, handover: &Rc<Handover>) -> Self {
        let fate = Rc::<Fate>::default();
        let held = Held::new(shared, bearer);
        let open = shared.metrics.streams.opened();
        let (over, shared, handover) = (Rc::clone(&fate), Arc::clone(shared), Rc::clone(handover));
        let cut = move |denial: Denial| {
            shared.metrics.streams.cut(denial.reason());
            drop(over.denial.set(denial));
            handover.cut();
            if let Some(waker) = over.waker.take() {
                waker.wake();
            }
        };
        let task = match held.check() {
            Err(denial) => {
                cut(denial);
                None
            }
            Ok(()) => Some(tokio::task::spawn_local(async move { cut(held.ended().await) }).abort_handle()),
        };
        Self { fate, task, _open: open }
    }

    /// Why the answer must end; asked by whoever would hand on more of it, and woken when that changes.
    pub(in crate::proxy) fn denial(&self, cx: &Context<'_>) -> Option<&Denial> {
        let denial = self.fate.denial.get();
        if denial.is_none() {
            let mut waker = self.fate.waker.borrow_mut();
            match &mut *waker {
                Some(known) => known.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        denial
    }

    /// The name of what ended the answer.
    pub(in crate::proxy) fn reason(&self) -> Option<&'static str> {
        self.fate.denial.get().map(Denial::reason)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
