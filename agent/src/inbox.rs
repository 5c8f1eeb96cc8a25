//! The one bounded queue into the control thread, with a descriptor that wakes it.

use crate::backoffice::Stamped;
use crate::lanes::OnVipLane;
use crate::queue::{Receiver, Sender, queue};
use failover_core::action::{Outcome, Refusal};
use failover_core::config::CoreConfig;
use failover_core::event::Command;
use failover_core::ids::{LinkId, OpId};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::sync::oneshot;

/// Work in flight is bounded by the disks and pools, requests by the control socket: this is beyond both.
const WAITING_MAX: usize = 8192;

/// What the control thread is told, apart from datagrams.
pub(crate) enum Input {
    /// Work ended; on a disk, after it had waited so long for its turn.
    Done {
        op: OpId,
        waited: Duration,
        outcome: Outcome,
    },
    /// An operator asks.
    Command {
        command: Command,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A reader wants a report that isn't old.
    Report(SyncSender<Stamped>),
    /// The clients' network.
    Lan { up: bool },
    /// The carrier of a heartbeat link.
    Link { link: LinkId, up: bool },
    /// End.
    Stop { restart: bool },
    /// New timers and bounds.
    Reconfigure(Box<CoreConfig>),
    /// To be run on the lane of the virtual addresses, between its work.
    OnVipLane(OnVipLane),
}

/// Where everybody else leaves inputs.
#[derive(Clone)]
pub(crate) struct Inbox {
    queue: Sender<Input>,
    bell: Arc<EventFd>,
    /// The control thread will look within moments, unrung.
    expected: Arc<AtomicBool>,
}

/// The control thread's end.
pub(crate) struct Inputs {
    queue: Receiver<Input>,
    bell: Arc<EventFd>,
    expected: Arc<AtomicBool>,
}

/// Both ends.
pub(crate) fn inbox() -> nix::Result<(Inbox, Inputs)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let bell = Arc::new(EventFd::from_flags(flags)?);
    let (sender, receiver) = queue(WAITING_MAX);
    let expected = Arc::new(AtomicBool::new(false));
    Ok((
        Inbox {
            queue: sender,
            bell: bell.clone(),
            expected: expected.clone(),
        },
        Inputs {
            queue: receiver,
            bell,
            expected,
        },
    ))
}

impl Inbox {
    /// Leaves an input; waits where the queue is full. Nobody may call it on the control thread.
    pub(crate) fn put(&self, input: Input) {
        // Without a reader the daemon ends, and nobody needs the input.
        if self.queue.send(input).is_ok() {
            self.ring();
        }
    }

    /// As [`Inbox::put`], for answers that come by the hundred: while the control thread looks by itself every few
    /// milliseconds, it isn't woken for each.
    pub(crate) fn put_soon(&self, input: Input) {
        // After the push: either that flag is seen lowered, or the input is there when the reader lowers it.
        if self.queue.send(input).is_ok() && !self.expected.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Leaves an input, or gives it back where the queue is full or the daemon ends.
    pub(crate) fn try_put(&self, input: Input) -> bool {
        let put = self.queue.try_send(input).is_ok();
        if put {
            self.ring();
        }
        put
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then the reader is woken anyway.
        let _ = self.bell.write(1);
    }
}

impl Inputs {
    /// Readable when something waits.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes note of all rings so far; to be called before the queue is read.
    pub(crate) fn hush(&self) {
        let _ = self.bell.read();
    }

    /// Says whether the reader comes back by itself soon. To be lowered before the queue is read.
    pub(crate) fn expect(&self, soon: bool) {
        self.expected.store(soon, Ordering::SeqCst);
    }

    /// The next input.
    pub(crate) fn next(&self) -> Option<Input> {
        self.queue.try_recv()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover_core::action::Outcome;
    use nix::poll::{PollFd, PollFlags, poll};

    fn rung(inputs: &Inputs) -> bool {
        let mut waiting = [PollFd::new(inputs.descriptor(), PollFlags::POLLIN)];
        poll(&mut waiting, 0_u8).expect("a poll") == 1
    }

    #[test]
    fn who_comes_back_by_itself_is_not_woken_for_each_answer() {
        let (inbox, inputs) = inbox().expect("an inbox");
        let done = |op| Input::Done {
            op: OpId(op),
            waited: Duration::ZERO,
            outcome: Outcome::Ok,
        };
        inbox.put_soon(done(1));
        assert!(rung(&inputs), "asleep");
        inputs.hush();
        inputs.expect(true);
        inbox.put_soon(done(2));
        assert!(!rung(&inputs), "it comes back soon");
        inbox.put(done(3));
        assert!(rung(&inputs), "what can't wait");
        inputs.expect(false);
        let ops = std::iter::from_fn(|| inputs.next());
        assert_eq!(ops.count(), 3);
    }
}
