//! Who may write: the rule everything else serves.

use crate::disk::Nexus;
use crate::enclosure::Flight;
use crate::world::World;
use failover_core::ids::Node;

impl World {
    /// no-write-after-loss: no write of one controller lands on a disk of a pool once the other began to import that
    /// pool with that disk. Commands that were inside the disk when it was fenced count: only an abort removes them.
    pub(crate) fn landed(&mut self, disk: usize, flight: Flight) {
        let writer = flight.nexus.node;
        self.landed_writes[flight.pool] += 1;
        let Some(import) = self.ledger.imports[flight.pool] else {
            return;
        };
        if import.node != writer && import.disks.contains(disk) {
            let other = import.node;
            self.violate(
                "no-write-after-loss",
                format!(
                    "a write of {writer} landed on d{disk} (pool {}) after {other} began its import",
                    flight.pool
                ),
            );
        }
    }

    /// exclusive-writer: never have both controllers a pool imported and most of its disks accept both.
    pub(crate) fn exclusive_writer(&mut self) {
        for pool in 0..self.plan.pools.len() {
            let imported = |node: Node| self.machines[node as usize].kernel.imported[pool];
            let (Some(a), Some(b)) = (imported(Node::A), imported(Node::B)) else {
                continue;
            };
            let writes = |node: Node, disk: usize| {
                let paths = 0..self.plan.paths;
                let bay = &self.bays[disk].disk;
                paths
                    .map(|path| Nexus::new(node, path))
                    .any(|nexus| bay.may_write(nexus))
            };
            let both = (a & b)
                .iter()
                .filter(|disk| !self.bays[*disk].tampered)
                .filter(|disk| writes(Node::A, *disk) && writes(Node::B, *disk))
                .count();
            if 2 * both > self.plan.pools[pool].disks.len() {
                self.violate(
                    "exclusive-writer",
                    format!("both have pool {pool} imported and {both} of its disks accept both"),
                );
            }
        }
    }
}
