//! A walk over everything that a controller remembers, for whoever compares controllers: two that differ only by when they
//! are, by how they number things or by how often a key was rolled do the same from there on.
//!
//! Each part lists its fields without `..`: a new field doesn't compile before somebody said what it is.

use crate::beat::Beat;
use crate::disk_work::Survey;
use crate::ids::{Epoch, Node, OpId, Session};
use crate::key::{EpochBits, Key};
use crate::pr::PrCommand;
use crate::time::Instant;

/// Whose keys a counter is in: the counters of two holders are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Which controller.
    pub node: Node,
    /// Its boot counter.
    pub incarnation: u16,
    /// The takeover's epoch.
    pub epoch: Epoch,
}

/// What is met on the walk. Each may be replaced, by a function that keeps the order of what it is given.
pub trait Visitor {
    /// A moment.
    fn instant(&mut self, at: &mut Instant);
    /// A full epoch; 0 is none.
    fn epoch(&mut self, epoch: &mut Epoch);
    /// The counter in the keys of one takeover.
    fn key_beat(&mut self, of: Holder, beat: &mut u16);
    /// Number of a beat that this run of a daemon sent.
    fn seq(&mut self, run: Session, seq: &mut u64);
    /// Number of a piece of work of the walked controller.
    fn op(&mut self, op: &mut OpId);
    /// Whether an echo of the beat that this run sent with this number may still come.
    fn may_be_echoed(&self, run: Session, seq: u64) -> bool;
    /// 16 bits of the pair, by which its keys are known.
    fn pair(&self) -> u16;
    /// An epoch near all that are in use, to read those in keys.
    fn reference(&self) -> Epoch;
}

/// What more may be met, made of the above.
pub(crate) trait Walk: Visitor + Sized {
    fn instants<'a>(&mut self, all: impl IntoIterator<Item = &'a mut Instant>) {
        all.into_iter().for_each(|at| self.instant(at));
    }

    fn maybe<'a>(&mut self, all: impl IntoIterator<Item = &'a mut Option<Instant>>) {
        all.into_iter().flatten().for_each(|at| self.instant(at));
    }

    fn key(&mut self, key: &mut Key) {
        let mut epoch = key.epoch.expand(self.reference()).unwrap_or_default();
        let of = Holder {
            node: key.node,
            incarnation: key.incarnation,
            epoch,
        };
        self.key_beat(of, &mut key.beat);
        self.epoch(&mut epoch);
        key.epoch = EpochBits::of(epoch);
    }

    fn survey(&mut self, survey: &mut Survey) {
        let Survey {
            generation,
            keys,
            holder,
            wero: _,
        } = survey;
        // Pairs the two reads of one look, which is over.
        *generation = 0;
        keys.iter_mut()
            .chain(holder)
            .for_each(|bits| walk_bits(self, bits));
    }
}

impl<V: Visitor> Walk for V {}

/// A key as it is on a disk, or a stranger's.
pub fn walk_bits(visitor: &mut impl Visitor, bits: &mut u64) {
    if let Some(mut key) = Key::from_bits(*bits, visitor.pair()) {
        visitor.key(&mut key);
        *bits = key.to_bits();
    }
}

/// A beat.
pub fn walk_beat(visitor: &mut impl Visitor, beat: &mut Beat) {
    visitor.seq(beat.session, &mut beat.seq);
    if let Some(echo) = &mut beat.echo {
        visitor.seq(echo.session, &mut echo.seq);
    }
    visitor.epoch(&mut beat.epoch);
    walk_number(visitor, &mut beat.settings.version.epoch);
}

/// An epoch that stands as a number.
pub(crate) fn walk_number(visitor: &mut impl Visitor, number: &mut u64) {
    let mut epoch = Epoch(*number);
    visitor.epoch(&mut epoch);
    *number = epoch.0;
}

/// The keys in a command.
pub fn walk_command(visitor: &mut impl Visitor, command: &mut PrCommand) {
    match command {
        PrCommand::ReadKeys | PrCommand::ReadReservation | PrCommand::ReadFull => {}
        PrCommand::Register { old: one, new: two }
        | PrCommand::Preempt {
            own: one,
            victim: two,
        }
        | PrCommand::PreemptAbort {
            own: one,
            victim: two,
        } => {
            walk_bits(visitor, one);
            walk_bits(visitor, two);
        }
        PrCommand::RegisterIgnore { new: key }
        | PrCommand::Reserve { key }
        | PrCommand::Release { key }
        | PrCommand::Clear { key } => walk_bits(visitor, key),
    }
}
