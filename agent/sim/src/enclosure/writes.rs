//! What the pools write: accepted or refused by the reservation, landed at once, or later unless aborted.

use super::Flight;
use crate::disk::Nexus;
use crate::disk_set::DiskSet;
use crate::queue::Happening;
use crate::world::{NODES, World};
use failover_core::ids::Node;

/// Longest stay of a write inside a disk, microseconds.
const FLIGHT_US: u64 = 1_500_000;

impl World {
    /// Every pool that can be written here writes to each of its disks.
    pub(crate) fn write_all(&mut self) {
        for node in NODES {
            if !self.machines[node as usize].powered {
                continue;
            }
            for pool in 0..self.plan.pools.len() {
                let Some(disks) = self.machines[node as usize].kernel.writes(pool) else {
                    continue;
                };
                for disk in disks.iter() {
                    self.write(node, pool, disk);
                }
            }
        }
    }

    fn write(&mut self, node: Node, pool: usize, disk: usize) {
        let condition = self.conditions.disks[node as usize][disk];
        if self.conditions.shelf_down || condition.missing || condition.stuck {
            return;
        }
        // Any path serves; a retry over another one follows a refusal.
        let first = self.rng.below(self.plan.paths.into()) as u8;
        for turn in 0..self.plan.paths {
            let path = (first + turn) % self.plan.paths;
            if condition.is_shut(path) {
                continue;
            }
            let nexus = Nexus::new(node, path);
            let bay = &mut self.bays[disk];
            if bay.disk.take_unit_attention(nexus).is_some() {
                continue;
            }
            if !bay.disk.may_write(nexus) {
                self.coverage.refused_writes += 1;
                continue;
            }
            self.coverage.writes += 1;
            let write = self.coverage.writes as u32;
            let flight = Flight { write, nexus, pool };
            // No abort reaches what a disk accepted while nobody held it: such writes are assumed to land at once. Only
            // disks that lose their keys with the power are ever in that state under an imported pool.
            let held = self.bays[disk].disk.holder().is_some();
            let slow = self.plan.slow_writes > 0 && self.rng.percent(self.plan.slow_writes);
            if held && slow {
                let at = self.now + self.rng.below(FLIGHT_US);
                let disk_number = disk as u16;
                self.queue.push(
                    at,
                    Happening::Land {
                        disk: disk_number,
                        write,
                    },
                );
                self.bays[disk].flights.push(flight);
            } else {
                self.landed(disk, flight);
            }
            return;
        }
    }

    /// A write inside a disk lands, unless it was aborted.
    pub(crate) fn land(&mut self, disk: usize, write: u32) {
        let flights = &mut self.bays[disk].flights;
        if let Some(index) = flights.iter().position(|flight| flight.write == write) {
            let flight = flights.swap_remove(index);
            self.landed(disk, flight);
        }
    }

    /// Lands every write of a pool's machine that is still inside a disk: its export waits for them.
    pub(crate) fn land_own(&mut self, node: Node, pool: usize) {
        for disk in 0..self.bays.len() {
            let all = std::mem::take(&mut self.bays[disk].flights);
            for flight in all {
                if flight.nexus.node == node && flight.pool == pool {
                    self.landed(disk, flight);
                } else {
                    self.bays[disk].flights.push(flight);
                }
            }
        }
    }

    /// Disks that refuse a machine's writes on every path.
    pub(crate) fn refusing(&self, node: Node) -> DiskSet {
        let mut refusing = DiskSet::EMPTY;
        for (index, bay) in self.bays.iter().enumerate() {
            let condition = self.conditions.disks[node as usize][index];
            let open = |path: &u8| {
                !condition.is_shut(*path) && bay.disk.may_write(Nexus::new(node, *path))
            };
            let reachable = !self.conditions.shelf_down && !condition.missing && !condition.stuck;
            if !(reachable && (0..self.plan.paths).any(|path| open(&path))) {
                refusing.insert(index);
            }
        }
        refusing
    }
}
