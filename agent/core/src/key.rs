//! The registration key: 64 bits that say who holds a disk, since which takeover, and that it is alive.
//!
//! Most significant first: pair tag 16 · node 1 · held 1 · phase 4 · incarnation 10 · epoch 20 · beat 12.

use crate::ids::{Epoch, Node};
use serde::{Deserialize, Serialize};
use std::fmt;

const EPOCH_BITS: u32 = 20;
const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;
const BEAT_MASK: u16 = (1 << 12) - 1;
const INCARNATION_MASK: u16 = (1 << 10) - 1;

/// What the holder of a key is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Takes the disks; hasn't won yet.
    Candidate,
    /// Owns the disks.
    Owner,
    /// Owns the disks, has had no peer for long and rolls its key slowly.
    OwnerSlow,
    /// Owns the disks but has lost its clients' network: asks the peer to answer on the disks.
    Offering,
    /// Has exported; the peer may take the disks.
    HandingOver,
    /// Owns the disks while its daemon restarts.
    Restarting,
    /// Gave up a takeover.
    Yielded,
}

impl Phase {
    const ALL: [Phase; 7] = [
        Phase::Candidate,
        Phase::Owner,
        Phase::OwnerSlow,
        Phase::Offering,
        Phase::HandingOver,
        Phase::Restarting,
        Phase::Yielded,
    ];

    const fn code(self) -> u64 {
        match self {
            Phase::Candidate => 1,
            Phase::Owner => 2,
            Phase::OwnerSlow => 3,
            Phase::Offering => 4,
            Phase::HandingOver => 5,
            Phase::Restarting => 6,
            Phase::Yielded => 7,
        }
    }

    fn from_code(code: u64) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| phase.code() == code)
    }

    /// The word in tables and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Candidate => "candidate",
            Phase::Owner => "owner",
            Phase::OwnerSlow => "owner-slow",
            Phase::Offering => "offering",
            Phase::HandingOver => "handing-over",
            Phase::Restarting => "restarting",
            Phase::Yielded => "yielded",
        }
    }
}

/// A registration key of this product, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// 16 bits of the pair id.
    pub pair: u16,
    /// Whose key it is.
    pub node: Node,
    /// Automatic failover is disabled.
    pub held: bool,
    /// What its holder is doing.
    pub phase: Phase,
    /// Boot counter of the holder, 10 bits.
    pub incarnation: u16,
    /// Low 20 bits of the takeover's epoch.
    pub epoch: EpochBits,
    /// Counter that the owner rolls to show that it lives, 12 bits.
    pub beat: u16,
}

impl Key {
    /// The 64 bits that go on the disk. Never zero: no phase has code zero.
    pub fn to_bits(self) -> u64 {
        u64::from(self.pair) << 48
            | u64::from(self.node == Node::B) << 47
            | u64::from(self.held) << 46
            | self.phase.code() << 42
            | u64::from(self.incarnation & INCARNATION_MASK) << 32
            | u64::from(self.epoch.0) << 12
            | u64::from(self.beat & BEAT_MASK)
    }

    /// Reads a key of the pair `pair`; `None` for anything that isn't one (a foreign key).
    pub fn from_bits(bits: u64, pair: u16) -> Option<Key> {
        if (bits >> 48) as u16 != pair {
            return None;
        }
        Some(Key {
            pair,
            node: if bits >> 47 & 1 == 1 {
                Node::B
            } else {
                Node::A
            },
            held: bits >> 46 & 1 == 1,
            phase: Phase::from_code(bits >> 42 & 0xf)?,
            incarnation: (bits >> 32) as u16 & INCARNATION_MASK,
            epoch: EpochBits((bits >> 12) as u32 & EPOCH_MASK),
            beat: bits as u16 & BEAT_MASK,
        })
    }

    /// The same holder in the same takeover; phase, beat and `held` may differ.
    pub fn same_holder(self, other: Key) -> bool {
        self.pair == other.pair
            && self.node == other.node
            && self.incarnation == other.incarnation
            && self.epoch == other.epoch
    }

    /// A key of the same run of the same controller, whatever its epoch. An incarnation is never
    /// used by two runs, except by one that adopts what the other owned.
    pub fn same_run(self, other: Key) -> bool {
        self.pair == other.pair && self.node == other.node && self.incarnation == other.incarnation
    }

    /// The key after one roll.
    pub fn rolled(self) -> Key {
        Key {
            beat: (self.beat + 1) & BEAT_MASK,
            ..self
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}{}/i{}/e{}/b{}",
            self.node,
            self.phase.word(),
            if self.held { ".held" } else { "" },
            self.incarnation,
            self.epoch.0,
            self.beat
        )
    }
}

/// The 20 bits of an epoch that fit into a key.
/// No order by its bits: they wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EpochBits(pub u32);

impl EpochBits {
    /// The bits of a full epoch.
    pub const fn of(epoch: Epoch) -> EpochBits {
        EpochBits(epoch.0 as u32 & EPOCH_MASK)
    }

    /// Whether it is a later epoch, by serial-number arithmetic (RFC 1982 section 3.2).
    pub fn is_after(self, other: EpochBits) -> bool {
        let ahead = self.0.wrapping_sub(other.0) & EPOCH_MASK;
        ahead != 0 && ahead < 1_u32 << (EPOCH_BITS - 1)
    }

    /// The full epoch nearest to `reference` that has these bits, by serial-number arithmetic (RFC 1982 section 3.2);
    /// `None` where the distance is 2¹⁹, which that arithmetic can't order.
    pub fn expand(self, reference: Epoch) -> Option<Epoch> {
        let ahead = self.0.wrapping_sub(EpochBits::of(reference).0) & EPOCH_MASK;
        let half = 1_u32 << (EPOCH_BITS - 1);
        if ahead == half {
            None
        } else if ahead < half {
            Some(Epoch(reference.0 + u64::from(ahead)))
        } else {
            let behind = u64::from((1 << EPOCH_BITS) - ahead);
            reference.0.checked_sub(behind).map(Epoch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_bits() {
        for phase in Phase::ALL {
            let key = Key {
                pair: 0xbeef,
                node: Node::B,
                held: true,
                phase,
                incarnation: 1023,
                epoch: EpochBits(EPOCH_MASK),
                beat: 4095,
            };
            assert_eq!(Key::from_bits(key.to_bits(), 0xbeef), Some(key));
            assert_eq!(Key::from_bits(key.to_bits(), 0xbeee), None);
        }
        assert_eq!(
            Key::from_bits(0xbeef_0000_0000_0000, 0xbeef),
            None,
            "phase 0 is nobody's"
        );
    }

    #[test]
    fn epochs_wrap_by_serial_number_arithmetic() {
        let near_wrap = Epoch(0x10_0000 * 3 - 1);
        assert_eq!(EpochBits(0).expand(near_wrap), Some(Epoch(0x10_0000 * 3)));
        assert_eq!(
            EpochBits(0xf_fffe).expand(near_wrap),
            Some(Epoch(near_wrap.0 - 1))
        );
        assert_eq!(
            EpochBits(0x8_0000).expand(Epoch(0)),
            None,
            "half way round has no order"
        );
        assert_eq!(
            EpochBits(0xf_ffff).expand(Epoch(0)),
            None,
            "older than the first epoch"
        );
        let mut beat = Key::from_bits(0x0001_0800_0000_0fff, 1).expect("a candidate key");
        beat = beat.rolled();
        assert_eq!(beat.beat, 0);
    }
}
