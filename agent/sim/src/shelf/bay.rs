//! One disk in its bay: a queue, one command per latency, reservations and its part of the log.
//!
//! ```text
//!   arrive ──▶ may it write? ──▶ queue ──▶ being served (latency) ──▶ takes effect, is answered
//!                 │ no: conflict              ▲ reservation commands first (SAM-5 HEAD OF QUEUE)
//! ```
//!
//! A write is judged when it arrives and lands later: without an abort it lands even if its writer's registration
//! is gone by then.

use super::log::{Landed, LogPart, Record};
use super::wire::{RECORDS_MAX, Reply};
use crate::disk::{Disk, Nexus};
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::collections::VecDeque;

/// Commands that wait in one disk; more answer BUSY.
const QUEUE_MAX: usize = 4096;
/// Records per disk that stay after an audit, for imports to read.
const KEPT: usize = 4096;

/// To whom an answer goes: connection and request.
pub type Asker = (u64, u64);

/// A command to a disk.
#[derive(Clone, Debug)]
pub enum What {
    /// A reservation command.
    Reserve(PrCommand),
    /// A write of records that follow each other.
    Append(Vec<Record>),
    /// A read of the last records.
    Tail(usize),
}

#[derive(Debug)]
struct Queued {
    asker: Asker,
    nexus: Nexus,
    what: What,
    /// Key registered over the path when it arrived.
    key: Option<u64>,
}

/// One disk.
#[derive(Debug)]
pub struct Bay {
    disk: Disk,
    latency_micros: u64,
    waiting: VecDeque<Queued>,
    served: Option<(Queued, u64)>,
    log: VecDeque<Landed>,
    /// Writes that landed and were forgotten.
    forgotten: u64,
    refused: [u64; 2],
}

impl Bay {
    /// An empty disk whose keys persist through power loss.
    pub fn new(latency_micros: u64) -> Bay {
        Bay {
            disk: Disk::new(true),
            latency_micros,
            waiting: VecDeque::new(),
            served: None,
            log: VecDeque::new(),
            forgotten: 0,
            refused: [0; 2],
        }
    }

    /// The same, but it takes every write: a control.
    pub fn that_refuses_nobody(latency_micros: u64) -> Bay {
        let mut bay = Bay::new(latency_micros);
        bay.disk.refuse_nobody();
        bay
    }

    /// A command arrives. Answers it at once if the disk refuses it.
    pub fn arrive(&mut self, now: u64, asker: Asker, nexus: Nexus, what: What) -> Option<Reply> {
        // A reservation command is told its unit attention when its turn comes.
        if !matches!(what, What::Reserve(_))
            && let Some(attention) = self.disk.take_unit_attention(nexus)
        {
            let told = PrError::UnitAttention(attention.sentence().to_owned());
            return Some(Reply::Disk(Err(told)));
        }
        if let What::Append(records) = &what
            && !self.disk.may_write(nexus)
        {
            self.refused[nexus.node as usize] += records.len() as u64;
            return Some(Reply::Disk(Err(PrError::Conflict)));
        }
        if self.waiting.len() >= QUEUE_MAX {
            let busy = PrError::Transport("BUSY: the disk's queue is full".to_owned());
            return Some(Reply::Disk(Err(busy)));
        }
        let key = self.disk.key_of(nexus);
        self.waiting.push_back(Queued {
            asker,
            nexus,
            what,
            key,
        });
        self.serve_next(now);
        None
    }

    /// When the command being served takes effect.
    pub fn due(&self) -> Option<u64> {
        self.served.as_ref().map(|(_, due)| *due)
    }

    /// Completes what is due by `now`.
    pub fn advance(&mut self, now: u64, answers: &mut Vec<(Asker, Reply)>) {
        while let Some((_, due)) = &self.served
            && *due <= now
        {
            let due = *due;
            if let Some((command, _)) = self.served.take() {
                self.complete(due, command, answers);
            }
            // The next one began when this one ended, not when we looked.
            self.serve_next(due);
        }
    }

    fn serve_next(&mut self, now: u64) {
        if self.served.is_some() {
            return;
        }
        let reserve = |queued: &Queued| matches!(queued.what, What::Reserve(_));
        let first = self.waiting.iter().position(reserve).unwrap_or(0);
        if let Some(next) = self.waiting.remove(first) {
            self.served = Some((next, now + self.latency_micros));
        }
    }

    fn complete(&mut self, now: u64, command: Queued, answers: &mut Vec<(Asker, Reply)>) {
        let reply = match command.what {
            What::Reserve(pr) => {
                self.abort(command.nexus, pr, answers);
                Reply::Disk(self.disk.execute(command.nexus, pr))
            }
            What::Append(records) => {
                self.log.extend(records.into_iter().map(|record| Landed {
                    record,
                    node: command.nexus.node,
                    key: command.key,
                    at_micros: now,
                }));
                Reply::Disk(Ok(PrReply::Good))
            }
            What::Tail(count) => {
                let skip = self.log.len().saturating_sub(count.min(RECORDS_MAX));
                let tail = self.log.iter().skip(skip);
                Reply::Records(tail.map(|landed| landed.record.clone()).collect())
            }
        };
        answers.push((command.asker, reply));
    }

    /// SPC-4 5.13.11.5: PREEMPT AND ABORT ends the commands of the nexuses that it preempts.
    fn abort(&mut self, nexus: Nexus, pr: PrCommand, answers: &mut Vec<(Asker, Reply)>) {
        let victims = self.disk.aborts(nexus, pr);
        self.end_waiting(|nexus| victims.contains(&nexus), answers);
    }

    /// Ends what waits of these nexuses.
    fn end_waiting(&mut self, of: impl Fn(Nexus) -> bool, answers: &mut Vec<(Asker, Reply)>) {
        let refused = &mut self.refused;
        self.waiting.retain(|queued| {
            let gone = of(queued.nexus);
            if gone {
                let aborted = PrError::Transport("aborted by another initiator".to_owned());
                answers.push((queued.asker, Reply::Disk(Err(aborted))));
                if let What::Append(records) = &queued.what {
                    refused[queued.nexus.node as usize] += records.len() as u64;
                }
            }
            !gone
        });
    }

    /// Logical unit reset: what is inside is gone.
    pub fn reset(&mut self, answers: &mut Vec<(Asker, Reply)>) {
        self.waiting
            .extend(self.served.take().map(|(command, _)| command));
        self.end_waiting(|_| true, answers);
        self.disk.reset();
    }

    /// Power off and on: what is inside is gone.
    pub fn power_cycle(&mut self, answers: &mut Vec<(Asker, Reply)>) {
        self.waiting
            .extend(self.served.take().map(|(command, _)| command));
        self.end_waiting(|_| true, answers);
        self.disk.power_cycle();
    }

    /// Whether registrations outlive a power cycle.
    pub fn set_aptpl(&mut self, aptpl: bool) {
        self.disk.set_aptpl(aptpl);
    }

    /// What landed since the count `from`; forgets what the audit before saw and no import needs.
    pub fn audit(&mut self, from: u64) -> LogPart {
        while self.forgotten < from && self.log.len() > KEPT {
            self.log.pop_front();
            self.forgotten += 1;
        }
        let skip = from.saturating_sub(self.forgotten) as usize;
        let new = self.log.iter().skip(skip).take(RECORDS_MAX);
        LogPart {
            from: self.forgotten + skip as u64,
            landed: new.cloned().collect(),
        }
    }

    /// Records refused or aborted, of A and of B.
    pub fn refused(&self) -> [u64; 2] {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover_core::ids::Node;

    const A: Nexus = Nexus::new(Node::A, 0);
    const B: Nexus = Nexus::new(Node::B, 0);

    fn run(bay: &mut Bay, now: u64) -> Vec<(Asker, Reply)> {
        let mut answers = Vec::new();
        bay.advance(now, &mut answers);
        answers
    }

    fn reserve(bay: &mut Bay, now: &mut u64, nexus: Nexus, command: PrCommand) -> Reply {
        assert_eq!(
            bay.arrive(*now, (9, 9), nexus, What::Reserve(command)),
            None
        );
        loop {
            *now = bay.due().expect("busy");
            let answers = run(bay, *now);
            let ours = answers.into_iter().find(|(asker, _)| *asker == (9, 9));
            if let Some((_, reply)) = ours {
                return reply;
            }
        }
    }

    fn append(n: u64) -> What {
        What::Append(vec![Record::new(n, n, "x".to_owned())])
    }

    fn held_by_a(now: &mut u64) -> Bay {
        let mut bay = Bay::new(2000);
        reserve(&mut bay, now, A, PrCommand::RegisterIgnore { new: 1 });
        reserve(&mut bay, now, A, PrCommand::Reserve { key: 1 });
        reserve(&mut bay, now, B, PrCommand::RegisterIgnore { new: 2 });
        bay
    }

    #[test]
    fn one_command_per_latency() {
        let mut bay = Bay::new(2000);
        for n in 0..3 {
            assert_eq!(bay.arrive(0, (1, n), A, append(n)), None);
        }
        assert!(run(&mut bay, 1999).is_empty());
        assert_eq!(run(&mut bay, 2000).len(), 1);
        assert_eq!(run(&mut bay, 6000).len(), 2);
        assert_eq!(bay.audit(0).landed.len(), 3);
    }

    #[test]
    fn preempt_and_abort_ends_the_commands_inside() {
        let mut now = 0;
        let mut bay = held_by_a(&mut now);
        for n in 0..3 {
            assert_eq!(bay.arrive(now, (1, n), A, append(n)), None);
        }
        let taken = reserve(
            &mut bay,
            &mut now,
            B,
            PrCommand::PreemptAbort { own: 2, victim: 1 },
        );
        assert_eq!(taken, Reply::Disk(Ok(PrReply::Good)));
        run(&mut bay, now + 100_000);
        assert_eq!(
            bay.audit(0).landed.len(),
            1,
            "only the write being served landed"
        );
        assert_eq!(bay.refused(), [2, 0]);
        let told = bay.arrive(now, (1, 7), A, append(7));
        assert!(matches!(
            told,
            Some(Reply::Disk(Err(PrError::UnitAttention(_))))
        ));
        let told = bay.arrive(now, (1, 8), A, append(8));
        assert_eq!(told, Some(Reply::Disk(Err(PrError::Conflict))));
    }

    #[test]
    fn after_a_plain_preempt_they_land_late() {
        let mut now = 0;
        let mut bay = held_by_a(&mut now);
        for n in 0..3 {
            assert_eq!(bay.arrive(now, (1, n), A, append(n)), None);
        }
        reserve(
            &mut bay,
            &mut now,
            B,
            PrCommand::Preempt { own: 2, victim: 1 },
        );
        run(&mut bay, now + 100_000);
        assert_eq!(bay.audit(0).landed.len(), 3);
    }

    #[test]
    fn an_audit_forgets_only_what_was_seen_and_is_not_needed() {
        let mut bay = Bay::new(0);
        let count = KEPT as u64 + 100;
        for n in 0..count {
            bay.arrive(n, (1, n), A, append(n));
            run(&mut bay, n);
        }
        assert_eq!(bay.audit(0).landed.len() as u64, count);
        let part = bay.audit(count - 10);
        assert_eq!((part.from, part.landed.len()), (count - 10, 10));
        assert_eq!(bay.log.len(), KEPT);
    }
}
