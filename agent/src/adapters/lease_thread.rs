//! A lease in a thread of its own, so that the control thread never waits for the kernel's nf_tables.
//!
//! ```text
//!   control thread ── request ──▶ one slot ──▶ lease thread ──▶ kernel (a foreign transaction may hold it up)
//!        ▲ waits ANSWER_WAIT at most                │
//!        └──────────────── result ◀────────────────┘
//! ```
//!
//! Normally the answer comes within a tenth of a millisecond. While another program loads a large rule set, the
//! kernel makes everybody wait (measured: 0.2 s for 60,000 elements and 3,000 rules); beats must not stop for that.
//! A renewal that is answered late counts as under way, and its failure is told at the next call. That is safe: the
//! kernel judges a renewal when it carries it out, not when it was asked for.

use failover_core::adapters::{Clock, Failure, Lease};
use failover_core::time::Instant;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest time that a call holds up its caller.
pub const ANSWER_WAIT: Duration = Duration::from_millis(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Grant(Instant),
    Renew(Instant),
    End,
}

#[derive(Debug, Default)]
struct Slot {
    /// What waits for the thread, and its number.
    pending: Option<(u64, Request)>,
    /// Number of the last request that was made.
    made: u64,
    /// Number of the last request that was carried out, and its result.
    done: u64,
    result: Option<Result<(), Failure>>,
    /// A failure that nobody waited for.
    unreported: Option<Failure>,
    /// Number of the last request whose result was taken.
    told: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease whose calls return within a few milliseconds whatever the kernel does.
#[derive(Debug)]
pub struct LeaseThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LeaseThread {
    /// Moves `lease` into a thread. `prepare` runs there first: real-time priority, as the control thread has it.
    /// `clock` must be the lease's own.
    pub fn start(
        mut lease: impl Lease + 'static,
        clock: Arc<dyn Clock>,
        prepare: impl FnOnce() + Send + 'static,
    ) -> Result<LeaseThread, Failure> {
        let shared = Arc::new(Shared::default());
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name("vip-lease".to_owned())
            .spawn(move || {
                prepare();
                while let Some((number, request)) = next(&worker) {
                    let result = match request {
                        Request::Grant(until) => lease.grant(clock.now(), until),
                        Request::Renew(until) => lease.renew(clock.now(), until),
                        Request::End => lease.end(),
                    };
                    let mut slot = worker.lock();
                    // The result before this one was not taken by anybody: its failure must not be lost.
                    if slot.told < slot.done
                        && let Some(Err(failure)) = slot.result.take()
                    {
                        slot.unreported = Some(failure);
                    }
                    slot.done = number;
                    slot.result = Some(result);
                    drop(slot);
                    worker.changed.notify_all();
                }
            })
            .map_err(|error| Failure(format!("no thread for the VIP lease: {error}")))?;
        Ok(LeaseThread {
            shared,
            thread: Some(thread),
        })
    }

    fn ask(&self, request: Request) -> Result<(), Failure> {
        let mut slot = self.shared.lock();
        let request = merge(slot.pending.map(|(_, waiting)| waiting), request)?;
        slot.made += 1;
        let number = slot.made;
        slot.pending = Some((number, request));
        self.shared.changed.notify_all();
        let unanswered = |slot: &mut Slot| slot.done < number && !slot.closed;
        let (mut slot, _) = self
            .shared
            .changed
            .wait_timeout_while(slot, ANSWER_WAIT, unanswered)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = slot.unreported.take() {
            return Err(earlier);
        }
        let answered = slot.done == number;
        if slot.told < slot.done {
            slot.told = slot.done;
            if let Some(Err(failure)) = slot.result.take() {
                return Err(failure);
            }
        }
        if answered || request != Request::End {
            return Ok(());
        }
        Err(Failure(
            "the lease of the virtual addresses was not ended yet: the kernel's nf_tables is busy with another \
             program's rule set; it ends as soon as that is done, or by itself"
                .to_owned(),
        ))
    }
}

/// What remains to be done when `new` is asked while `waiting` was not begun.
fn merge(waiting: Option<Request>, new: Request) -> Result<Request, Failure> {
    match (waiting, new) {
        // Renewing what is about to be granted: granted until then.
        (Some(Request::Grant(_)), Request::Renew(until)) => Ok(Request::Grant(until)),
        (Some(Request::End), Request::Renew(_)) => Err(Failure(
            "the lease of the virtual addresses was ended; only a grant revives it".to_owned(),
        )),
        (
            None | Some(Request::Grant(_) | Request::Renew(_) | Request::End),
            new @ (Request::Grant(_) | Request::Renew(_) | Request::End),
        ) => Ok(new),
    }
}

fn next(shared: &Shared) -> Option<(u64, Request)> {
    let idle = |slot: &mut Slot| slot.pending.is_none() && !slot.closed;
    let mut slot = shared
        .changed
        .wait_while(shared.lock(), idle)
        .unwrap_or_else(PoisonError::into_inner);
    slot.pending.take()
}

impl Lease for LeaseThread {
    fn grant(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
        self.ask(Request::Grant(until))
    }

    fn renew(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
        self.ask(Request::Renew(until))
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.ask(Request::End)
    }
}

impl Drop for LeaseThread {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::clock::BootClock;
    use failover_core::time::ms;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A kernel that carries out a request when the test lets it.
    struct Slow {
        begun: Sender<Request>,
        results: Receiver<Result<(), Failure>>,
    }

    impl Slow {
        fn act(&mut self, request: Request) -> Result<(), Failure> {
            self.begun.send(request).expect("the test listens");
            self.results.recv().expect("the test answers")
        }
    }

    impl Lease for Slow {
        fn grant(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
            self.act(Request::Grant(until))
        }
        fn renew(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
            self.act(Request::Renew(until))
        }
        fn end(&mut self) -> Result<(), Failure> {
            self.act(Request::End)
        }
    }

    type Parts = (LeaseThread, Receiver<Request>, Sender<Result<(), Failure>>);

    fn slow() -> Parts {
        let (begun, seen) = channel();
        let (answer, results) = channel();
        let lease = Slow { begun, results };
        let thread = LeaseThread::start(lease, Arc::new(BootClock), || ());
        (thread.expect("a thread"), seen, answer)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn until_done(lease: &LeaseThread, number: u64) {
        while lease.shared.lock().done < number {
            std::thread::sleep(ms(1));
        }
    }

    #[test]
    fn an_answer_in_time_is_the_result() {
        let (mut lease, _seen, answer) = slow();
        // Where this machine holds the thread up, the result comes with the next call instead.
        answer
            .send(Err(Failure("lapsed".to_owned())))
            .expect("sent");
        let first = lease.renew(at(0), at(200));
        until_done(&lease, 1);
        answer.send(Ok(())).expect("sent");
        let second = lease.grant(at(0), at(200));
        let told = [first, second];
        assert_eq!(
            told.iter().filter(|result| result.is_err()).count(),
            1,
            "{told:?}"
        );
    }

    #[test]
    fn a_busy_kernel_holds_nobody_up_and_its_failure_is_told_later() {
        let (mut lease, seen, answer) = slow();
        assert_eq!(lease.renew(at(0), at(200)), Ok(()), "under way");
        assert_eq!(seen.recv(), Ok(Request::Renew(at(200))));
        assert_eq!(lease.renew(at(50), at(250)), Ok(()), "waits behind it");
        assert_eq!(lease.renew(at(100), at(300)), Ok(()), "takes its place");
        answer
            .send(Err(Failure("lapsed".to_owned())))
            .expect("sent");
        assert_eq!(seen.recv(), Ok(Request::Renew(at(300))), "the newest alone");
        answer.send(Ok(())).expect("sent");
        until_done(&lease, 3);
        answer.send(Ok(())).expect("sent");
        let told = lease.renew(at(150), at(350)).expect_err("of the first");
        assert_eq!(told.0, "lapsed");
    }

    #[test]
    fn an_end_takes_the_place_of_all_that_waits_and_says_when_it_is_late() {
        let (mut lease, seen, answer) = slow();
        assert_eq!(lease.grant(at(0), at(200)), Ok(()));
        assert_eq!(seen.recv(), Ok(Request::Grant(at(200))));
        assert_eq!(lease.renew(at(50), at(250)), Ok(()));
        let late = lease.end().expect_err("not yet");
        assert!(late.0.contains("not ended yet"), "{late}");
        lease.renew(at(100), at(300)).expect_err("ended");
        answer.send(Ok(())).expect("sent");
        assert_eq!(seen.recv(), Ok(Request::End));
        answer.send(Ok(())).expect("sent");
    }

    #[test]
    fn a_renewal_behind_a_grant_makes_it_longer() {
        let grant = Some(Request::Grant(at(200)));
        assert_eq!(
            merge(grant, Request::Renew(at(250))),
            Ok(Request::Grant(at(250)))
        );
        assert_eq!(
            merge(Some(Request::End), Request::Grant(at(9))),
            Ok(Request::Grant(at(9)))
        );
    }
}
