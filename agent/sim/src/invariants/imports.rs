//! Imports, their epochs and what they trust.

use super::Import;
use crate::disk_set::DiskSet;
use crate::machine::disk_set;
use crate::world::World;
use failover_core::action::Work;
use failover_core::ids::{DiskId, Node, PoolId};

impl World {
    /// Judges an import when it begins.
    pub(crate) fn import_begins(&mut self, node: Node, pool: usize, won: &[DiskId]) {
        let won = disk_set(won);
        self.fence_before_import(node, won);
        self.epoch_advances(node);
        self.remembered_before_import(node);
        let plan = &self.plan.pools[pool];
        let already = self.machines[node as usize].kernel.imported[pool].is_some();
        if !already && plan.can_do_with(won) {
            self.ledger.imports[pool] = Some(Import {
                node,
                // What another host took since it was won keeps nobody from writing.
                disks: (plan.disks & won) - self.tampered(),
            });
        }
    }

    /// fence-before-import: an import names only disks that were reported as taken in this takeover (or stand in the
    /// owner record of this boot), and they are more than half of all.
    fn fence_before_import(&mut self, node: Node, won: DiskSet) {
        let taken = self.ledger.taken[node as usize];
        let owner = &self.machines[node as usize].kernel.owner;
        let recorded = owner.as_ref();
        let recorded = recorded.map_or(DiskSet::EMPTY, |owner| disk_set(&owner.won));
        if !(won - (taken | recorded)).is_empty() {
            self.violate(
                "fence-before-import",
                format!("{node} imports with disks {won:?}; it had taken {taken:?}"),
            );
        }
        if 2 * won.len() <= self.bays.len() {
            let all = self.bays.len();
            self.violate(
                "fence-before-import",
                format!("{node} imports with {} of {all} disks", won.len()),
            );
        }
    }

    /// remembered-before-import: an import begins only with an owner record in the runtime folder, by which a later run
    /// knows that something may be left.
    fn remembered_before_import(&mut self, node: Node) {
        let kernel = &self.machines[node as usize].kernel;
        if kernel.owner.is_none() && !kernel.owner_damaged {
            let text = format!("{node} imports without an owner record");
            self.violate("remembered-before-import", text);
        }
    }

    /// A host that isn't of the pair took these disks: no reservation of ours keeps anybody from them. With a jury in its
    /// hands the memory of past epochs is gone.
    pub(crate) fn no_longer_fenced(&mut self, disks: DiskSet) {
        for import in self.ledger.imports.iter_mut().flatten() {
            import.disks = import.disks - disks;
        }
        if self.is_a_jury(self.tampered()) {
            self.keys_are_gone();
        }
    }

    /// Disks that another host took and no controller has taken since.
    fn tampered(&self) -> DiskSet {
        let bays = self.bays.iter().enumerate();
        bays.filter(|(_, bay)| bay.tampered)
            .map(|(disk, _)| disk)
            .collect()
    }

    /// A majority of some arbiter list is among these disks.
    fn is_a_jury(&self, disks: DiskSet) -> bool {
        let most = |list: &[DiskId]| 2 * (disk_set(list) & disks).len() > list.len();
        let mut lists = self.ledger.arbiters.iter();
        lists.any(|list| most(&list.disks) || most(&list.previous))
    }

    /// With the keys of volatile disks the memory of past epochs goes: a controller that was off meanwhile can't know
    /// them. `accept_volatile_reservations` accepts that; the watchdog has reset whoever might still write.
    pub(crate) fn keys_are_gone(&mut self) {
        self.ledger.import_epochs = [0; 2];
    }

    /// epoch-advances: every import is in a greater epoch than every import of the other controller before it.
    fn epoch_advances(&mut self, node: Node) {
        let epoch = self.ledger.epochs[node as usize];
        let other = self.ledger.import_epochs[node.other() as usize];
        let own = self.ledger.import_epochs[node as usize];
        if epoch <= other || epoch < own {
            self.violate(
                "epoch-advances",
                format!(
                    "{node} imports in epoch {epoch}, after imports in {other} and its own in {own}"
                ),
            );
        }
        // With a jury in another host's hands nobody can see this epoch.
        if !self.is_a_jury(self.tampered()) {
            self.ledger.import_epochs[node as usize] = own.max(epoch);
        }
    }

    /// nothing-comes-up: no planned handover begins while an import of this run is under way, overdue or not; but for a
    /// lost clients' network, which leaves nobody served.
    pub(crate) fn nothing_comes_up(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        let Some(daemon) = machine.daemon.as_ref().filter(|_| machine.lan_up) else {
            return;
        };
        let life = daemon.life;
        let lanes = machine.lanes.iter();
        let mut works = lanes.flat_map(|lane| lane.running.iter().chain(&lane.waiting));
        let imports = works.any(|run| run.life == life && matches!(run.work, Work::Import { .. }));
        if imports {
            let text = format!("{node} begins to hand over while a pool is being imported there");
            self.violate("nothing-comes-up", text);
        }
    }

    pub(crate) fn import_ended(&mut self, node: Node) {
        self.exclusive_writer();
        self.fresh_import(node);
    }

    /// fresh-import: an import trusts nothing that was read before the last disk was fenced.
    fn fresh_import(&mut self, node: Node) {
        if std::mem::take(&mut self.machines[node as usize].kernel.stale_import) {
            self.violate(
                "fresh-import",
                format!("{node} imported blocks that the other controller wrote over after they were read ahead"),
            );
        }
    }

    /// import-before-address: services start and addresses come up only where a pool is imported, those of a pool only
    /// where that one is.
    pub(crate) fn services_begin(&mut self, node: Node, pools: &[PoolId]) {
        self.import_before(node, pools, "services start");
    }

    /// import-before-address, of addresses.
    pub(crate) fn vips_begin(&mut self, node: Node, pools: &[PoolId]) {
        self.import_before(node, pools, "addresses come up");
    }

    fn import_before(&mut self, node: Node, pools: &[PoolId], what: &str) {
        let kernel = &self.machines[node as usize].kernel;
        let absent = |pool: &&PoolId| kernel.imported[usize::from(pool.0)].is_none();
        let text = match pools.iter().find(absent) {
            Some(pool) => format!("{what} on {node} for pool {}, which isn't imported", pool.0),
            None if !kernel.has_pool() => format!("{what} on {node} without any imported pool"),
            None => return,
        };
        self.violate("import-before-address", text);
    }

    /// pool-with-its-address: the address of a pool answers only where and while that pool is imported.
    pub(crate) fn pool_with_its_address(&mut self, node: Node) {
        let kernel = &self.machines[node as usize].kernel;
        if !kernel.answers(self.now) {
            return;
        }
        let mut pools = kernel.vips.of_pools.iter().zip(&kernel.imported);
        if let Some(pool) = pools.position(|(on, imported)| *on && imported.is_none()) {
            let text = format!("{node} answers for pool {pool}, which isn't imported there");
            self.violate("pool-with-its-address", text);
        }
    }
}
