//! The shelf's power, resets, and a host that isn't of the pair.

use super::STRANGER;
use crate::disk_set::DiskSet;
use crate::world::World;
use failover_core::pr::PrCommand;

/// The key of that host: no key of the pair.
const STRANGER_KEY: u64 = 0x0bad_0000_0000_0001;

impl World {
    pub(crate) fn shelf_off(&mut self) {
        for bay in &mut self.bays {
            bay.flights.clear();
        }
    }

    pub(crate) fn shelf_on(&mut self) {
        for bay in &mut self.bays {
            bay.disk.power_cycle();
        }
        if !self.plan.aptpl {
            self.keys_are_gone();
        }
    }

    pub(crate) fn reset_disk(&mut self, disk: usize) {
        self.bays[disk].disk.reset();
        self.bays[disk].flights.clear();
        if self.plan.temper.forgets_on_reset {
            // What protocol.md section 4 demands of a target doesn't hold: until the pair takes the disk again nothing
            // protects it, as where another host took it and went.
            let bay = &mut self.bays[disk];
            bay.disk.forget();
            bay.tampered = true;
            self.no_longer_fenced([disk].into_iter().collect());
            self.conditions_changed();
        }
    }

    // ---- a host that isn't of the pair ---------------------------------------------------------------------

    /// It registers on disks; where it takes them everybody else's registration and commands are gone.
    pub(crate) fn stranger_comes(&mut self, disks: DiskSet, takes: bool) {
        for index in disks.iter() {
            let bay = &mut self.bays[index];
            while bay.disk.take_unit_attention(STRANGER).is_some() {}
            let new = STRANGER_KEY;
            let registers = PrCommand::RegisterIgnore { new };
            let mut done = bay.disk.execute(STRANGER, registers).is_ok();
            if takes {
                let others: Vec<u64> = bay.disk.registrations().map(|(_, key)| key).collect();
                for victim in others.into_iter().filter(|key| *key != new) {
                    // A key on several paths goes at once; the second preempt of it is a conflict.
                    let _ = bay
                        .disk
                        .execute(STRANGER, PrCommand::PreemptAbort { own: new, victim });
                }
                done &= bay
                    .disk
                    .execute(STRANGER, PrCommand::Reserve { key: new })
                    .is_ok();
                bay.flights.clear();
                bay.tampered = true;
            }
            debug_assert!(done, "nobody stops it");
        }
        if takes {
            self.no_longer_fenced(disks);
            self.conditions_changed();
        }
    }

    pub(crate) fn stranger_goes(&mut self, disks: DiskSet) {
        for index in disks.iter() {
            let disk = &mut self.bays[index].disk;
            while disk.take_unit_attention(STRANGER).is_some() {}
            let leaves = PrCommand::Register {
                old: STRANGER_KEY,
                new: 0,
            };
            // A shelf that forgot everything refuses it.
            let _ = disk.execute(STRANGER, leaves);
        }
        self.conditions_changed();
    }
}
